//! Places: hosts and networks, as an operator lists them.

use std::{fmt, net::IpAddr, str::FromStr};

/// A host or network, of one port or of all: `files.corp`, `files.corp:8080`, `10.1.2.3`, `10.0.0.0/8`, `[fd00::1]:80`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    host: Host,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    /// In lower case.
    Name(Box<str>),
    Network {
        address: IpAddr,
        prefix: u8,
    },
}

/// What is not a [`Place`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("use a host, host:port, address or network such as 10.0.0.0/8")]
pub struct PlaceError;

impl FromStr for Place {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        if let Some((address, prefix)) = text.split_once('/') {
            let address = canonical(bare(address).parse().map_err(|_| PlaceError)?);
            let longest = if address.is_ipv4() { 32 } else { 128 };
            let prefix = prefix.parse().ok().filter(|prefix| *prefix <= longest);
            return Ok(Self {
                host: Host::Network { address, prefix: prefix.ok_or(PlaceError)? },
                port: None,
            });
        }
        if let Ok(address) = bare(text).parse::<IpAddr>() {
            return Ok(Self { host: Host::of(address), port: None });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse().map_err(|_| PlaceError)?)),
            None => (text, None),
        };
        if let Ok(address) = bare(host).parse::<IpAddr>() {
            return Ok(Self { host: Host::of(address), port });
        }
        let is_name = !host.is_empty()
            && host.bytes().all(|c| c.is_ascii_alphanumeric() || b"-._".contains(&c));
        match is_name {
            true => Ok(Self { host: Host::Name(normal(host).into()), port }),
            false => Err(PlaceError),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Name(name) => f.write_str(name)?,
            Host::Network { address, prefix } => write!(f, "{address}/{prefix}")?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl Host {
    fn of(address: IpAddr) -> Self {
        let address = canonical(address);
        Self::Network { address, prefix: if address.is_ipv4() { 32 } else { 128 } }
    }
}

impl Place {
    /// Whether a connection goes there: to this port, by this name, or to this address.
    pub(crate) fn holds(&self, host: &str, port: u16, address: Option<IpAddr>) -> bool {
        if self.port.is_some_and(|own| own != port) {
            return false;
        }
        match &self.host {
            Host::Name(name) => **name == *normal(host),
            Host::Network { address: network, prefix } => {
                let address = address.or_else(|| bare(host).parse().ok());
                address.is_some_and(|address| is_within(canonical(address), *network, *prefix))
            }
        }
    }
}

/// An address without brackets.
pub(crate) fn bare(text: &str) -> &str {
    text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text)
}

/// A name in the form in which names are compared.
pub(crate) fn normal(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// The IPv4 address that an IPv6 one only wraps.
pub(crate) fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// Whether an address is one of a network's.
pub(crate) fn is_within(address: IpAddr, network: IpAddr, prefix: u8) -> bool {
    let shift = |all: u32| all - u32::from(prefix);
    match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => {
            let differs = address.to_bits() ^ network.to_bits();
            differs.checked_shr(shift(32)).unwrap_or(0) == 0
        }
        (IpAddr::V6(address), IpAddr::V6(network)) => {
            let differs = address.to_bits() ^ network.to_bits();
            differs.checked_shr(shift(128)).unwrap_or(0) == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_and_written() {
        for (text, shown) in [
            ("A.com", "a.com"),
            ("a.com:80", "a.com:80"),
            ("10.0.0.1", "10.0.0.1/32"),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("10.0.0.1:80", "10.0.0.1/32:80"),
            ("::1", "::1/128"),
            ("[::1]:80", "::1/128:80"),
            ("fd00::/8", "fd00::/8"),
        ] {
            assert_eq!(text.parse::<Place>().unwrap().to_string(), shown);
        }
        for text in [
            "",
            ":80",
            "a b",
            "10.0.0.0/33",
            "10.0.0.0/x",
            "a.com:x",
            "a.com/8",
            "http://a.com",
            "a:99999",
        ] {
            assert_eq!(text.parse::<Place>(), Err(PlaceError), "{text}");
        }
    }
}
