//! Networks of actions: none but loopback.
//!
//! A new network costs more than all other namespaces together, so one that an action left clean is used again: its
//! init sends it back to the launcher. Actions have no rights over it that could leave traces but sockets, and these
//! are gone with the processes, save for closed TCP connections that linger. With such it is thrown away.

use std::fs;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
    SocketType,
};

use super::groups;
use crate::fault::{During, Fault, Step};
use crate::sys;

/// Networks that are kept for later, at most.
const MAX_SPARE: usize = 256;

/// The launcher's stock of networks.
pub(crate) struct Networks {
    spare: Vec<OwnedFd>,
    from_inits: OwnedFd,
    to_launcher: OwnedFd,
}

impl Networks {
    pub(crate) fn new() -> Result<Self, Fault> {
        let (from_inits, to_launcher) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .during(Step::NetworkNamespace)?;
        Ok(Networks { spare: Vec::new(), from_inits, to_launcher })
    }

    /// Takes in what inits have sent back.
    pub(crate) fn collect(&mut self) {
        while let Ok((_, networks)) = groups::receive(&self.from_inits, RecvFlags::DONTWAIT) {
            if networks.is_empty() {
                return;
            }
            self.spare.extend(networks);
        }
        self.spare.truncate(MAX_SPARE);
    }

    /// A network that was used before, if there is one.
    pub(crate) fn take(&mut self) -> Option<OwnedFd> {
        self.spare.pop()
    }

    /// Moves this init into `network`, or a new one; what to give back later.
    pub(crate) fn enter(&self, network: Option<OwnedFd>) -> Result<OwnedFd, Fault> {
        if let Some(network) = network {
            sys::enter(network.as_fd(), libc::CLONE_NEWNET, Step::NetworkNamespace)?;
            return Ok(network);
        }
        sys::unshare(libc::CLONE_NEWNET, Step::NetworkNamespace)?;
        let socket = rustix::net::socket_with(
            AddressFamily::INET,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .during(Step::Loopback)?;
        sys::raise_loopback(socket.as_fd())?;
        fs::File::open("/proc/self/ns/net").map(OwnedFd::from).during(Step::NetworkNamespace)
    }

    /// Sends this init's network back, if nothing of the action is left in it.
    pub(crate) fn give_back(&self, network: &OwnedFd) {
        if !is_clean() {
            return;
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let networks = [network.as_fd()];
        ancillary.push(SendAncillaryMessage::ScmRights(&networks));
        // If the launcher does not keep up, the network goes the way of all others.
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let _ =
            rustix::net::sendmsg(&self.to_launcher, &[IoSlice::new(b"n")], &mut ancillary, flags);
    }
}

/// Whether no socket is left in this process's network, not even one that only waits to be forgotten.
fn is_clean() -> bool {
    ["/proc/net/sockstat", "/proc/net/sockstat6"].into_iter().all(|path| {
        match fs::read_to_string(path) {
            Ok(text) => is_unused(&text),
            // Without the second version of the protocol there is no such file.
            Err(error) => path.ends_with('6') && error.kind() == std::io::ErrorKind::NotFound,
        }
    })
}

/// Whether a table such as `TCP: inuse 0 orphan 0 tw 0 alloc 5 mem 0` has no socket of this network.
fn is_unused(sockstat: &str) -> bool {
    sockstat.lines().filter(|line| !line.starts_with("sockets:")).all(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        words.windows(2).filter(|pair| matches!(pair[0], "inuse" | "tw")).all(|pair| pair[1] == "0")
    })
}

#[cfg(test)]
mod tests {
    use super::is_unused;

    #[test]
    fn lingering_sockets_are_seen() {
        let clean = "sockets: used 7\nTCP: inuse 0 orphan 3 tw 0 alloc 9 mem 0\nUDP: inuse 0 mem 2\nFRAG: inuse 0 memory 0\n";
        assert!(is_unused(clean));
        assert!(!is_unused(&clean.replace("tw 0", "tw 1")));
        assert!(!is_unused(&clean.replace("UDP: inuse 0", "UDP: inuse 1")));
        assert!(is_unused("TCP6: inuse 0\nUDP6: inuse 0\n"));
    }
}
