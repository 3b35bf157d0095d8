//! Which hosts and addresses may be fetched from. Pure: names are looked up elsewhere, and every address that is about to be
//! connected to is judged here.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use crate::place::{Place, bare, canonical, is_within, normal};

/// Why something is not fetched from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// `--fetch_only` does not list it.
    #[error("{0} is not among the hosts that may be fetched from (--fetch_only)")]
    NotListed(String),
    /// It is not an address of the public internet.
    #[error("{0} leads to an address that is not public (--fetch_allow lists exceptions)")]
    NotPublic(String),
    /// It is an address of the cluster.
    #[error("{0} leads to this cluster itself (--fetch_allow lists exceptions)")]
    Cluster(String),
}

/// Tells whether an address is one of the cluster's own.
pub type IsOwn = Arc<dyn Fn(IpAddr) -> bool + Send + Sync>;

/// What may be fetched from.
#[derive(Clone)]
pub struct Reach {
    allow: Vec<Place>,
    only: Vec<Place>,
    is_own: IsOwn,
}

impl Reach {
    /// The public internet, `allow` besides; if there is any `only`, nothing but that and `allow`. `is_own` tells which
    /// addresses are the cluster's.
    pub fn new(allow: Vec<Place>, only: Vec<Place>, is_own: IsOwn) -> Self {
        Self { allow, only, is_own }
    }

    /// Judges a connection to `address`, which `host` has been looked up as.
    ///
    /// # Errors
    /// If it is not to be made.
    pub fn judge(&self, host: &str, port: u16, address: IpAddr) -> Result<(), Refused> {
        let address = canonical(address);
        if self.is_settled_by_lists(host, port, Some(address))? {
            return Ok(());
        }
        if !is_public(address) {
            return Err(Refused::NotPublic(named(host, port)));
        }
        if (self.is_own)(address) {
            return Err(Refused::Cluster(named(host, port)));
        }
        Ok(())
    }

    /// Whether a connection is listed as allowed, wherever it goes.
    pub(crate) fn allows(&self, host: &str, port: u16, address: Option<IpAddr>) -> bool {
        self.allow.iter().any(|place| place.holds(host, port, address))
    }

    /// Whether a connection is allowed by a list, so that it does not matter where it goes. An error if a list leaves it out.
    fn is_settled_by_lists(
        &self,
        host: &str,
        port: u16,
        address: Option<IpAddr>,
    ) -> Result<bool, Refused> {
        if self.allows(host, port, address) {
            return Ok(true);
        }
        let holds = |place: &Place| place.holds(host, port, address);
        match self.only.is_empty() || self.only.iter().any(holds) {
            true => Ok(false),
            false => Err(Refused::NotListed(named(host, port))),
        }
    }

    /// Judges a host that a proxy will look up: by its name alone, or by the address that the name is.
    ///
    /// # Errors
    /// If it is not to be asked for.
    pub fn judge_name(&self, host: &str, port: u16) -> Result<(), Refused> {
        if let Ok(address) = bare(host).parse() {
            return self.judge(host, port, address);
        }
        if self.is_settled_by_lists(host, port, None)? {
            return Ok(());
        }
        let name = normal(host);
        match name == "localhost" || name.ends_with(".localhost") {
            true => Err(Refused::NotPublic(named(host, port))),
            false => Ok(()),
        }
    }
}

fn named(host: &str, port: u16) -> String {
    format!("{host}:{port}")
}

impl fmt::Debug for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reach")
            .field("allow", &self.allow)
            .field("only", &self.only)
            .finish_non_exhaustive()
    }
}

/// Networks that are not of the public internet, after IANA's registry of special-purpose addresses (RFC 6890).
const SPECIAL_V4: [(Ipv4Addr, u8); 15] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];

/// The same within 2000::/3, outside of which nothing is public but what wraps an IPv4 address.
const SPECIAL_V6: [(Ipv6Addr, u8); 3] = [
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
];

/// Whether an address is one of the public internet.
fn is_public(address: IpAddr) -> bool {
    match canonical(address) {
        IpAddr::V4(v4) => !SPECIAL_V4
            .iter()
            .any(|(network, prefix)| is_within(v4.into(), (*network).into(), *prefix)),
        IpAddr::V6(v6) => {
            let [a, b, c, d, e, f, g, h] = v6.segments();
            let inner = match [a, b, c, d, e, f] {
                // NAT64 (RFC 6052) and 6to4 (RFC 3056).
                [0x64, 0xff9b, 0, 0, 0, 0] => Some([g, h]),
                [0x2002, ..] => Some([b, c]),
                _ => None,
            };
            if let Some([high, low]) = inner {
                return is_public(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)).into());
            }
            a & 0xe000 == 0x2000
                && !SPECIAL_V6
                    .iter()
                    .any(|(network, prefix)| is_within(v6.into(), (*network).into(), *prefix))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(allow: &[&str], only: &[&str]) -> Reach {
        let places = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let own: IpAddr = "8.8.4.4".parse().unwrap();
        Reach::new(places(allow), places(only), Arc::new(move |address| address == own))
    }

    fn judge(reach: &Reach, host: &str, port: u16, address: &str) -> Result<(), Refused> {
        reach.judge(host, port, address.parse().unwrap())
    }

    #[test]
    fn only_public_addresses_are_reached() {
        let reach = reach(&[], &[]);
        for address in
            ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "64:ff9b::808:808", "2002:808:808::1"]
        {
            assert_eq!(judge(&reach, "a.com", 443, address), Ok(()), "{address}");
        }
        for address in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "172.31.0.1",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "2002:7f00:1::1",
            "2001::1",
            "2001:db8::1",
            "fc00::1",
            "fd00::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "100::1",
            "3fff::1",
        ] {
            let refused = judge(&reach, "a.com", 443, address);
            assert_eq!(refused, Err(Refused::NotPublic("a.com:443".into())), "{address}");
        }
        assert_eq!(
            judge(&reach, "a.com", 443, "8.8.4.4"),
            Err(Refused::Cluster("a.com:443".into()))
        );
    }

    #[test]
    fn what_is_allowed_is_reached_wherever_it_is() {
        let reach =
            reach(&["127.0.0.1:8080", "10.0.0.0/8", "Files.Corp", "fd00::/8", "8.8.4.4"], &[]);
        for (host, port, address) in [
            ("localhost", 8080, "127.0.0.1"),
            ("x", 8080, "::ffff:127.0.0.1"),
            ("x", 1, "10.255.0.1"),
            ("files.corp.", 1, "192.168.0.1"),
            ("FILES.CORP", 1, "fe80::1"),
            ("x", 1, "fd12::1"),
            ("x", 1, "8.8.4.4"),
        ] {
            assert_eq!(judge(&reach, host, port, address), Ok(()), "{host} {port} {address}");
        }
        for (host, port, address) in [
            ("localhost", 8081, "127.0.0.1"),
            ("x", 8080, "127.0.0.2"),
            ("not.files.corp", 1, "192.168.0.1"),
        ] {
            assert!(judge(&reach, host, port, address).is_err(), "{host} {port} {address}");
        }
    }

    #[test]
    fn a_list_of_what_is_allowed_at_all_is_one() {
        let reach = reach(&["10.0.0.1"], &["github.com", "1.0.0.0/8", "127.0.0.0/8"]);
        assert_eq!(judge(&reach, "github.com", 443, "8.8.8.8"), Ok(()));
        assert_eq!(judge(&reach, "one", 443, "1.1.1.1"), Ok(()));
        assert_eq!(judge(&reach, "ten", 443, "10.0.0.1"), Ok(()));
        let refused = judge(&reach, "other.com", 443, "8.8.8.8");
        assert_eq!(refused, Err(Refused::NotListed("other.com:443".into())));
        // To be listed does not make it public.
        assert!(matches!(judge(&reach, "x", 1, "127.0.0.1"), Err(Refused::NotPublic(_))));
        assert!(matches!(judge(&reach, "github.com", 1, "127.0.0.1"), Err(Refused::NotPublic(_))));
    }

    #[test]
    fn behind_a_proxy_names_are_judged() {
        let open = reach(&[], &[]);
        assert_eq!(open.judge_name("a.com", 443), Ok(()));
        for host in ["localhost", "x.LOCALHOST.", "127.0.0.1", "[::1]", "10.0.0.1"] {
            assert!(open.judge_name(host, 443).is_err(), "{host}");
        }
        let closed = reach(&[], &["a.com:443"]);
        assert_eq!(closed.judge_name("a.com", 443), Ok(()));
        assert!(closed.judge_name("a.com", 80).is_err());
        assert!(closed.judge_name("b.com", 443).is_err());
    }
}
