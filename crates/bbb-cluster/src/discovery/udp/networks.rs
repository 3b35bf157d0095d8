//! The networks of this host, as far as announcements care.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr},
};

use getifs::Flags;

/// How many interfaces are announced on and listened to for each group: Linux lets a socket join 20 groups.
pub(super) const MAX_LINKS: usize = 16;
/// Networks without room for a broadcast address of their own have longer prefixes (RFC 3021).
const MAX_BROADCAST_PREFIX: u8 = 30;

/// An interface that is up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) is_loopback: bool,
    pub(super) is_multicast: bool,
    pub(super) v4: Vec<(Ipv4Addr, u8)>,
    pub(super) has_v6: bool,
}

/// The interfaces that are up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Networks(Vec<Link>);

/// Whom packets to an IPv4 address reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Every host in a network of this one.
    Network,
    /// Programs on this host.
    Loopback,
    /// This host alone: its address has no network around it.
    OneHost,
    /// It is no broadcast address of any network here now.
    Unknown,
}

impl Networks {
    /// The networks now. Asks the operating system, which blocks for a moment.
    ///
    /// # Errors
    /// If it does not say.
    pub(super) fn of_host() -> io::Result<Self> {
        let mut links: BTreeMap<u32, Link> = BTreeMap::new();
        for interface in getifs::interfaces()? {
            let flags = interface.flags();
            if flags.contains(Flags::UP) {
                let link = Link {
                    index: interface.index(),
                    is_loopback: flags.contains(Flags::LOOPBACK),
                    is_multicast: flags.contains(Flags::MULTICAST),
                    ..Link::default()
                };
                links.insert(link.index, link);
            }
        }
        for network in getifs::interface_addrs()? {
            let Some(link) = links.get_mut(&network.index()) else { continue };
            match network.addr() {
                IpAddr::V4(v4) => link.v4.push((v4, network.prefix_len())),
                IpAddr::V6(_) => link.has_v6 = true,
            }
        }
        Ok(Self(links.into_values().collect()))
    }

    /// The broadcast addresses of all networks but loopback, at most [`MAX_LINKS`].
    pub(super) fn broadcasts(&self) -> impl Iterator<Item = Ipv4Addr> {
        let outer = self.0.iter().filter(|link| !link.is_loopback);
        outer.flat_map(|link| &link.v4).filter_map(|network| broadcast(*network)).take(MAX_LINKS)
    }

    /// Interfaces with IPv4 where groups can be joined, with an address of each, at most [`MAX_LINKS`].
    pub(super) fn group_links_v4(&self) -> impl Iterator<Item = (u32, Ipv4Addr)> {
        let able = self.0.iter().filter(|link| link.is_multicast);
        able.filter_map(|link| Some((link.index, link.v4.first()?.0))).take(MAX_LINKS)
    }

    /// Interfaces with IPv6 where groups can be joined, at most [`MAX_LINKS`]; only that of `scope` if it is not 0.
    pub(super) fn group_links_v6(&self, scope: u32) -> impl Iterator<Item = u32> {
        let able = self.0.iter().filter(|link| link.is_multicast && link.has_v6);
        able.map(|link| link.index)
            .filter(move |index| scope == 0 || *index == scope)
            .take(MAX_LINKS)
    }

    /// Whom packets to `address` reach.
    pub(super) fn reach(&self, address: Ipv4Addr) -> Reach {
        let networks =
            self.0.iter().flat_map(|link| link.v4.iter().map(move |network| (link, *network)));
        let mut reach = Reach::Unknown;
        for (link, network) in networks {
            if broadcast(network) == Some(address) {
                return if link.is_loopback { Reach::Loopback } else { Reach::Network };
            }
            if network.0 == address {
                reach = Reach::OneHost;
            }
        }
        reach
    }
}

/// The broadcast address of a network, if it has one.
fn broadcast((address, prefix): (Ipv4Addr, u8)) -> Option<Ipv4Addr> {
    let hosts = u32::MAX.checked_shr(prefix.into()).filter(|_| prefix <= MAX_BROADCAST_PREFIX)?;
    Some(Ipv4Addr::from_bits(address.to_bits() | hosts))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Networks {
        let link = |index, address: &str, prefix| Link {
            index,
            is_multicast: true,
            v4: vec![(address.parse().unwrap(), prefix)],
            ..Link::default()
        };
        Networks(vec![
            Link { is_loopback: true, is_multicast: false, ..link(1, "127.0.0.1", 8) },
            Link { has_v6: true, ..link(2, "10.1.2.3", 16) },
            Link { is_multicast: false, ..link(3, "192.168.7.9", 32) },
            Link { index: 4, is_multicast: true, has_v6: true, ..Link::default() },
            link(5, "192.168.1.5", 31),
        ])
    }

    #[test]
    fn knows_broadcast_addresses() {
        assert!(host().broadcasts().eq(["10.1.255.255".parse::<Ipv4Addr>().unwrap()]));
        for (address, reach) in [
            ("10.1.255.255", Reach::Network),
            ("127.255.255.255", Reach::Loopback),
            ("192.168.7.9", Reach::OneHost),
            ("192.168.1.5", Reach::OneHost),
            ("10.1.2.3", Reach::OneHost),
            ("10.2.255.255", Reach::Unknown),
        ] {
            assert_eq!(host().reach(address.parse().unwrap()), reach, "{address}");
        }
        assert_eq!(broadcast((Ipv4Addr::new(1, 2, 3, 4), 0)), Some(Ipv4Addr::BROADCAST));
    }

    #[test]
    fn knows_where_groups_can_be_joined() {
        assert!(host().group_links_v4().map(|(index, _)| index).eq([2, 5]));
        assert!(host().group_links_v6(0).eq([2, 4]));
        assert!(host().group_links_v6(4).eq([4]));
        assert!(host().group_links_v6(3).next().is_none());
    }

    #[test]
    fn sees_this_host() {
        let networks = Networks::of_host().unwrap();
        assert_eq!(
            networks.reach(Ipv4Addr::new(127, 255, 255, 255)),
            Reach::Loopback,
            "{networks:?}"
        );
    }
}
