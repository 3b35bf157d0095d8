//! The go-sockaddr template language for host addresses.
