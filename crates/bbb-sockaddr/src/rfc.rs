//! Address blocks by the RFC that set them aside, as far as go-sockaddr's `rfc` filter knows them.
//!
//! Source: the RFCs themselves, and the IANA special-purpose address registries. One block is wider
//! than its registry says because go-sockaddr has it so: 2001::/16 in RFC 2928 and RFC 6890.

use std::net::IpAddr;
use std::sync::LazyLock;

use crate::address::SockAddr;

/// The blocks that routers do not forward; a pseudo RFC of go-sockaddr's, with its number there.
pub(crate) const NOT_FORWARDABLE: u64 = 4_294_967_295;

/// What "private" means to `GetPrivateInterfaces`.
pub(crate) const SPECIAL_PURPOSE: u64 = 6890;

const RFCS: &[(u64, &[&str])] = &[
    (919, &["255.255.255.255/32"]),
    (1112, &["224.0.0.0/4"]),
    (1122, &["0.0.0.0/8", "127.0.0.0/8"]),
    (1918, &["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]),
    (2544, &["198.18.0.0/15"]),
    (2765, &["::ffff:0:0/96"]),
    (2928, &["2001::/16"]),
    (3056, &["2002::/16"]),
    (3068, &["192.88.99.0/24", "2002:c058:6301::/120"]),
    (3171, &["224.0.0.0/4"]),
    (
        3330,
        &[
            "0.0.0.0/8",
            "10.0.0.0/8",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.0.2.0/24",
            "192.88.99.0/24",
            "192.168.0.0/16",
            "198.18.0.0/15",
            "224.0.0.0/4",
            "240.0.0.0/4",
        ],
    ),
    (3849, &["2001:db8::/32"]),
    (3927, &["169.254.0.0/16"]),
    (4038, &["::ffff:0:0/96"]),
    (4193, &["fc00::/7"]),
    (4291, &["::/128", "::1/128", "::/96", "::ffff:0:0/96", "fe80::/10", "fec0::/10", "ff00::/8"]),
    (4380, &["2001::/32"]),
    (4773, &["2001::/23"]),
    (4843, &["2001:10::/28"]),
    (5180, &["2001:200::/48"]),
    (5735, &["192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "198.18.0.0/15"]),
    (5737, &["192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"]),
    (6052, &["64:ff9b::/96"]),
    (6333, &["192.0.0.0/29"]),
    (6598, &["100.64.0.0/10"]),
    (6666, &["100::/64"]),
    (
        SPECIAL_PURPOSE,
        &[
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.88.99.0/24",
            "192.168.0.0/16",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "240.0.0.0/4",
            "::1/128",
            "::/128",
            "64:ff9b::/96",
            "::ffff:0:0/96",
            "100::/64",
            "2001::/16",
            "2002::/16",
            "fc00::/7",
            "fe80::/10",
        ],
    ),
    (7335, &["192.0.0.0/29"]),
    (
        NOT_FORWARDABLE,
        &[
            "0.0.0.0/8",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "240.0.0.0/4",
            "::1/128",
            "::/128",
            "::ffff:0:0/96",
            "2001:db8::/32",
            "2001:10::/28",
            "fe80::/10",
        ],
    ),
];

static BLOCKS: LazyLock<Vec<(u64, Vec<SockAddr>)>> = LazyLock::new(|| {
    let parse = |blocks: &[&str]| blocks.iter().filter_map(|block| block_of(block)).collect();
    RFCS.iter().map(|(number, blocks)| (*number, parse(blocks))).collect()
});

/// Whether the whole network of `address` lies in a block of that RFC; none for an RFC that is not
/// known here.
pub(crate) fn contains(rfc: u64, address: &SockAddr) -> Option<bool> {
    let (_, blocks) = BLOCKS.iter().find(|(number, _)| *number == rfc)?;
    Some(blocks.iter().any(|block| block.contains(address)))
}

/// The numbers of all known RFCs, for messages.
pub(crate) fn known() -> impl Iterator<Item = u64> {
    RFCS.iter().map(|(number, _)| *number).filter(|number| *number != NOT_FORWARDABLE)
}

/// Unlike a network that a user writes, `::ffff:0:0/96` stays an IPv6 network here.
fn block_of(text: &str) -> Option<SockAddr> {
    let (ip, prefix) = text.split_once('/')?;
    let prefix = prefix.parse().ok()?;
    match ip.parse().ok()? {
        IpAddr::V4(ip) => Some(SockAddr::v4(ip, prefix)),
        IpAddr::V6(ip) => Some(SockAddr::v6(ip, prefix)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_parses_and_numbers_are_in_order() {
        for (_, blocks) in RFCS {
            assert!(blocks.iter().all(|block| block_of(block).is_some()), "{blocks:?}");
        }
        assert!(RFCS.is_sorted_by_key(|(number, _)| *number));
    }

    #[test]
    fn a_network_is_in_a_block_only_as_a_whole() {
        let in_1918 = |text: &str| contains(1918, &text.parse().unwrap()).unwrap();
        assert!(in_1918("10.1.2.3/16"));
        assert!(in_1918("172.31.0.1"));
        assert!(!in_1918("172.32.0.1"));
        assert!(!in_1918("192.168.1.1/8"));
        assert_eq!(contains(1, &"10.0.0.1".parse().unwrap()), None);
    }
}
