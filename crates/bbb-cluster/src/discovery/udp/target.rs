//! Where announcements go: broadcast addresses and multicast groups.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    str::FromStr,
};

/// How many targets are taken.
const MAX_TARGETS: usize = 8;

/// What is wrong with where to announce.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UdpTargetError {
    /// An entry that cannot be read.
    #[error(
        "'{0}' is not a broadcast address or multicast group with a port, like 10.0.0.255:9876 or [ff02::b3b]:9876"
    )]
    NotAddressPort(String),
    /// An address that reaches one host.
    #[error(
        "{0} reaches one host only: give a broadcast address or a multicast group, or name hosts with --join"
    )]
    OneHost(IpAddr),
    /// More entries than are taken.
    #[error("{0} addresses to announce to: at most {MAX_TARGETS} are taken")]
    TooMany(usize),
}

/// A broadcast address of an IPv4 network, or a multicast group of either family, and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UdpTarget(SocketAddr);

impl UdpTarget {
    /// Reads what `--autojoin_udp` gives after its template is evaluated: targets with commas or spaces between; one
    /// without a port has that of the last. None if it is empty or `false`, or if its template gave no address.
    ///
    /// # Errors
    /// If it can be nothing of that.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, UdpTargetError> {
        let entries: Vec<&str> =
            text.split([',', ' ', '\t']).filter(|entry| !entry.is_empty()).collect();
        let port = match entries.last() {
            None | Some(&"false") => return Ok(Vec::new()),
            // All that is left of a template that gave nothing.
            Some(last) if entries.len() == 1 && last.starts_with(':') => return Ok(Vec::new()),
            Some(last) => last.rsplit_once(':').map_or("", |(_, port)| port),
        };
        if entries.len() > MAX_TARGETS {
            return Err(UdpTargetError::TooMany(entries.len()));
        }
        let with_port = |entry: &str| match entry.parse::<IpAddr>() {
            Ok(IpAddr::V4(v4)) if !port.is_empty() => format!("{v4}:{port}"),
            Ok(IpAddr::V6(v6)) if !port.is_empty() => format!("[{v6}]:{port}"),
            _ => entry.to_owned(),
        };
        entries.iter().map(|entry| with_port(entry).parse()).collect()
    }

    /// Where packets are sent to.
    pub const fn address(&self) -> SocketAddr {
        self.0
    }

    /// The group, if it is one, and not a broadcast address.
    pub(super) fn is_group(&self) -> bool {
        self.0.ip().is_multicast()
    }

    /// Whether it is every network's broadcast address, which needs a default route if it is used as it is.
    pub(super) fn is_limited_broadcast(&self) -> bool {
        self.0.ip() == Ipv4Addr::BROADCAST
    }
}

impl FromStr for UdpTarget {
    type Err = UdpTargetError;

    fn from_str(text: &str) -> Result<Self, UdpTargetError> {
        let wrong = || UdpTargetError::NotAddressPort(text.to_owned());
        let address: SocketAddr = text.parse().map_err(|_| wrong())?;
        match address.ip() {
            ip if address.port() == 0 || ip.is_unspecified() => Err(wrong()),
            // Which IPv4 addresses are broadcast addresses depends on the networks of the host, and they come and go.
            ip @ IpAddr::V6(v6) if !v6.is_multicast() => Err(UdpTargetError::OneHost(ip)),
            _ => Ok(Self(address)),
        }
    }
}

impl fmt::Display for UdpTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Vec<String> {
        UdpTarget::parse_list(text).unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn reads_what_templates_give() {
        assert_eq!(list("10.1.255.255:9876"), ["10.1.255.255:9876"]);
        assert_eq!(
            list("10.1.255.255 10.2.255.255:9876"),
            ["10.1.255.255:9876", "10.2.255.255:9876"]
        );
        assert_eq!(
            list("[ff02::1%3]:1, ff05::2 239.1.2.3:9"),
            ["[ff02::1%3]:1", "[ff05::2]:9", "239.1.2.3:9"]
        );
        for off in ["", " ", "false", ":9876"] {
            assert!(list(off).is_empty(), "{off}");
        }
    }

    #[test]
    fn refuses_what_reaches_nobody() {
        for text in [
            "10.1.255.255",
            "0.0.0.0:9876",
            "10.1.255.255:0",
            "true",
            "eth0:9876",
            "10.0.0.255 :9876",
        ] {
            let error = UdpTarget::parse_list(text).unwrap_err();
            assert!(matches!(error, UdpTargetError::NotAddressPort(_)), "{text}: {error}");
        }
        let error = UdpTarget::parse_list("[fd00::1]:9876").unwrap_err();
        assert!(error.to_string().contains("--join"), "{error}");
        let many = "10.0.0.255:1,".repeat(MAX_TARGETS + 1);
        assert_eq!(UdpTarget::parse_list(&many), Err(UdpTargetError::TooMany(MAX_TARGETS + 1)));
    }
}
