//! The sockets of announcements: an ear that shares its port with those of other nodes of the host, and a mouth with a
//! port of its own, to which answers come.
//!
//! An ear listens on all addresses: a socket that is bound to an address of an interface hears no broadcast, and
//! interfaces come and go. It hears the groups that it joined and no others. With SO_REUSEADDR each ear of the host
//! hears all announcements; a packet to this host alone goes to one of them, which is why answers go to mouths.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
};

use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockRef, Socket, Type};
use tokio::net::UdpSocket;

use super::{networks::Networks, target::UdpTarget};

/// How many bytes of packets wait to be read: some hundred announcements.
const RECEIVE_BYTES: usize = 256 << 10;
/// How many routers an announcement to a group may pass: a site. Groups of the local network pass none.
const SITE_HOPS: u32 = 8;

/// Hears announcements to one port.
#[derive(Debug)]
pub(super) struct Ear {
    pub(super) socket: UdpSocket,
    joined: BTreeSet<(IpAddr, u32)>,
}

impl Ear {
    /// Listens on the target's port in the target's family.
    pub(super) fn bind(target: &UdpTarget) -> io::Result<Self> {
        let socket = new_socket(target.address())?;
        // Not SO_REUSEPORT: it would share packets out instead of giving them to all.
        socket.set_reuse_address(true)?;
        socket.set_recv_buffer_size(RECEIVE_BYTES)?;
        if target.address().is_ipv4() {
            socket.set_multicast_all_v4(false)?;
        } else {
            socket.set_multicast_all_v6(false)?;
        }
        Ok(Self {
            socket: bound(&socket, any(target.address(), target.address().port()))?,
            joined: BTreeSet::new(),
        })
    }

    /// Hears `groups`, each on an interface, and no others any more. Returns how many are heard, and what failed last.
    pub(super) fn hear(&mut self, groups: &BTreeSet<(IpAddr, u32)>) -> (usize, Option<io::Error>) {
        let socket = SockRef::from(&self.socket);
        for (group, index) in self.joined.difference(groups) {
            // It fails where the interface is gone, and that is as good.
            let _ = match group {
                IpAddr::V4(v4) => {
                    socket.leave_multicast_v4_n(v4, &InterfaceIndexOrAddress::Index(*index))
                }
                IpAddr::V6(v6) => socket.leave_multicast_v6(v6, *index),
            };
        }
        self.joined.retain(|known| groups.contains(known));
        let mut fault = None;
        for (group, index) in groups {
            let joined = match group {
                IpAddr::V4(v4) => {
                    socket.join_multicast_v4_n(v4, &InterfaceIndexOrAddress::Index(*index))
                }
                IpAddr::V6(v6) => socket.join_multicast_v6(v6, *index),
            };
            match joined {
                Err(error) if error.kind() != io::ErrorKind::AddrInUse => fault = Some(error),
                Ok(()) | Err(_) => _ = self.joined.insert((*group, *index)),
            }
        }
        (self.joined.len(), fault)
    }
}

/// Sends announcements and answers of one family.
#[derive(Debug)]
pub(super) struct Mouth {
    pub(super) socket: UdpSocket,
}

impl Mouth {
    /// A socket of the family of `target`, with a port of its own.
    pub(super) fn bind(target: &UdpTarget) -> io::Result<Self> {
        let socket = new_socket(target.address())?;
        if target.address().is_ipv4() {
            socket.set_broadcast(true)?;
            socket.set_multicast_loop_v4(true)?;
        } else {
            socket.set_multicast_loop_v6(true)?;
        }
        Ok(Self { socket: bound(&socket, any(target.address(), 0))? })
    }

    /// Sends to everyone whom `target` reaches in `networks`. Returns how many packets went, and what failed last.
    pub(super) async fn announce(
        &self,
        target: &UdpTarget,
        networks: &Networks,
        packet: &[u8],
    ) -> (usize, Option<io::Error>) {
        let mut sent = (0, None);
        for (interface, address) in ways(target, networks) {
            let said = match self.choose(&interface, target) {
                Ok(()) => self.socket.send_to(packet, address).await,
                Err(error) => Err(error),
            };
            match said {
                Ok(_) => sent.0 += 1,
                Err(error) => sent.1 = Some(error),
            }
        }
        sent
    }

    /// Makes the next packet to a group leave by an interface, and reach as far as it should.
    fn choose(&self, interface: &Interface, target: &UdpTarget) -> io::Result<()> {
        let socket = SockRef::from(&self.socket);
        match interface {
            Interface::Routed => Ok(()),
            Interface::V4(address) => {
                socket.set_multicast_if_v4(address)?;
                socket.set_multicast_ttl_v4(hops(target.address().ip()))
            }
            Interface::V6(index) => {
                socket.set_multicast_if_v6(*index)?;
                socket.set_multicast_hops_v6(hops(target.address().ip()))
            }
        }
    }
}

/// By which interface a packet leaves.
enum Interface {
    /// As the routes say.
    Routed,
    /// The one with this address.
    V4(Ipv4Addr),
    /// The one with this number.
    V6(u32),
}

/// The packets that reach everyone whom `target` should.
fn ways(target: &UdpTarget, networks: &Networks) -> Vec<(Interface, SocketAddr)> {
    let address = target.address();
    match address {
        SocketAddr::V4(v4) if target.is_group() => {
            networks.group_links_v4().map(|(_, own)| (Interface::V4(own), v4.into())).collect()
        }
        SocketAddr::V6(v6) => {
            // Some groups are another one on each interface: their address says which.
            let on = |index| SocketAddrV6::new(*v6.ip(), v6.port(), 0, index);
            let links = networks.group_links_v6(v6.scope_id());
            links.map(|index| (Interface::V6(index), on(index).into())).collect()
        }
        SocketAddr::V4(v4) if target.is_limited_broadcast() => {
            let own = networks.broadcasts();
            own.map(|ip| (Interface::Routed, (ip, v4.port()).into())).collect()
        }
        SocketAddr::V4(_) => vec![(Interface::Routed, address)],
    }
}

/// The group of `target` on each interface where it can be joined; none if it is no group.
pub(super) fn groups(target: &UdpTarget, networks: &Networks) -> Vec<(IpAddr, u32)> {
    let ip = target.address().ip();
    match target.address() {
        _ if !target.is_group() => Vec::new(),
        SocketAddr::V4(_) => networks.group_links_v4().map(|(index, _)| (ip, index)).collect(),
        SocketAddr::V6(v6) => {
            networks.group_links_v6(v6.scope_id()).map(|index| (ip, index)).collect()
        }
    }
}

/// How many routers plus one a packet to a group may pass. Those of IPv6 have their scope, too.
const fn hops(group: IpAddr) -> u32 {
    match group {
        IpAddr::V4(v4) if matches!(v4.octets(), [224, 0, 0, _]) => 1,
        IpAddr::V6(v6) if v6.octets()[1] & 0x0f <= 2 => 1,
        _ => SITE_HOPS,
    }
}

/// Any address of the family of `like`.
fn any(like: SocketAddr, port: u16) -> SocketAddr {
    match like {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, port).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, port).into(),
    }
}

fn new_socket(like: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(like), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if like.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

fn bound(socket: &Socket, address: SocketAddr) -> io::Result<UdpSocket> {
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.try_clone()?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_groups_stay_local() {
        for (group, allowed) in [
            ("224.0.0.251", 1),
            ("239.1.2.3", SITE_HOPS),
            ("ff02::b3b", 1),
            ("ff12::b3b", 1),
            ("ff05::b3b", SITE_HOPS),
        ] {
            assert_eq!(hops(group.parse().unwrap()), allowed, "{group}");
        }
    }
}
