//! Digests of blobs, the functions that compute them, and instance names.
