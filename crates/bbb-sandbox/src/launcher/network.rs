//! Networks of actions: none but loopback.

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::os::fd::AsFd;

use crate::fault::{During, Fault, Step};
use crate::sys;

/// Moves this process into a new network that has nothing but loopback, up.
pub(crate) fn isolate() -> Result<(), Fault> {
    sys::unshare(libc::CLONE_NEWNET, Step::NetworkNamespace)?;
    let socket = rustix::net::socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .during(Step::Loopback)?;
    sys::raise_loopback(socket.as_fd())
}
