//! Socket addresses as go-sockaddr sees them: an IP address with its network and an optional port,
//! or the path of a Unix socket.
//!
//! Promises: every operation is total; arithmetic wraps where the language says so. Refuses to know
//! interfaces, routes and the template language.

use std::cmp::Ordering;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use thiserror::Error;

/// An address that an interface may carry, or that a filter names.
///
/// A prefix is at most 32 (IPv4) or 128 (IPv6) bits; [`SockAddr::v4`] and [`SockAddr::v6`] clamp it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SockAddr {
    /// An IPv4 address in its network.
    V4 {
        /// The address.
        ip: Ipv4Addr,
        /// Length of the network's prefix in bits, 0 to 32.
        prefix: u8,
        /// Port, 0 for none.
        port: u16,
    },
    /// An IPv6 address in its network.
    V6 {
        /// The address.
        ip: Ipv6Addr,
        /// Length of the network's prefix in bits, 0 to 128.
        prefix: u8,
        /// Port, 0 for none.
        port: u16,
    },
    /// A Unix socket.
    Unix {
        /// Its path.
        path: String,
    },
}

/// Why a text is no IP address, network or endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{text:?} is no IP address, network (10.0.0.0/8) or endpoint (10.0.0.1:80)")]
pub struct AddressError {
    /// The text that was refused.
    pub text: String,
}

/// A failed [`SockAddr::math`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MathError {
    /// No such operation.
    #[error("unknown operation {0:?}: use address, network or mask")]
    Operation(String),
    /// `address` and `network` need a signed value.
    #[error("operation {operation:?} needs a sign before its value (+1, -1), got {value:?}")]
    Sign {
        /// The operation.
        operation: String,
        /// Its value.
        value: String,
    },
    /// The value is no number, or not in the range of the address.
    #[error("{value:?} is no value for operation {operation:?} on {kind} addresses")]
    Value {
        /// The operation.
        operation: String,
        /// Its value.
        value: String,
        /// Type of the address.
        kind: &'static str,
    },
}

impl SockAddr {
    /// An IPv4 address without port; `prefix` is cut to 32.
    pub fn v4(ip: Ipv4Addr, prefix: u8) -> Self {
        Self::V4 { ip, prefix: prefix.min(32), port: 0 }
    }

    /// An IPv6 address without port; `prefix` is cut to 128.
    pub fn v6(ip: Ipv6Addr, prefix: u8) -> Self {
        Self::V6 { ip, prefix: prefix.min(128), port: 0 }
    }

    /// An address as an operating system reports it. IPv4-mapped IPv6 addresses become IPv4.
    pub fn of_ip(ip: IpAddr, prefix: u8) -> Self {
        match ip {
            IpAddr::V4(ip) => Self::v4(ip, prefix),
            IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
                Some(v4) => Self::v4(v4, prefix.saturating_sub(96)),
                None => Self::v6(ip, prefix),
            },
        }
    }

    /// `IPv4`, `IPv6` or `UNIX`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::V4 { .. } => "IPv4",
            Self::V6 { .. } => "IPv6",
            Self::Unix { .. } => "UNIX",
        }
    }

    /// The IP address, none for a Unix socket.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::V4 { ip, .. } => Some((*ip).into()),
            Self::V6 { ip, .. } => Some((*ip).into()),
            Self::Unix { .. } => None,
        }
    }

    /// The port, 0 for none.
    pub fn port(&self) -> u16 {
        match self {
            Self::V4 { port, .. } | Self::V6 { port, .. } => *port,
            Self::Unix { .. } => 0,
        }
    }

    /// Length of the network's prefix in bits, none for a Unix socket.
    pub fn prefix(&self) -> Option<u8> {
        match self {
            Self::V4 { prefix, .. } | Self::V6 { prefix, .. } => Some(*prefix),
            Self::Unix { .. } => None,
        }
    }

    /// First and last address of the network, as numbers; none for a Unix socket.
    fn range(&self) -> Option<(u128, u128)> {
        match self {
            Self::V4 { ip, prefix, .. } => {
                let (bits, mask) = (ip.to_bits(), mask_v4(*prefix));
                Some((u128::from(bits & mask), u128::from(bits | !mask)))
            }
            Self::V6 { ip, prefix, .. } => {
                let (bits, mask) = (ip.to_bits(), mask_v6(*prefix));
                Some((bits & mask, bits | !mask))
            }
            Self::Unix { .. } => None,
        }
    }

    /// Whether the whole network of `other` lies in the network of `self`.
    pub fn contains(&self, other: &Self) -> bool {
        match (self.range(), other.range()) {
            (Some((first, last)), Some((other_first, other_last))) => {
                self.kind() == other.kind() && first <= other_first && last >= other_last
            }
            _ => false,
        }
    }

    /// The network: its first address with the same prefix. A Unix socket is its own.
    pub fn network(&self) -> Self {
        match self {
            Self::V4 { ip, prefix, .. } => {
                Self::v4(Ipv4Addr::from_bits(ip.to_bits() & mask_v4(*prefix)), *prefix)
            }
            Self::V6 { ip, prefix, .. } => {
                Self::v6(Ipv6Addr::from_bits(ip.to_bits() & mask_v6(*prefix)), *prefix)
            }
            Self::Unix { .. } => self.clone(),
        }
    }

    /// The address alone, without its network, with its port.
    pub fn host(&self) -> Self {
        let mut host = self.clone();
        match &mut host {
            Self::V4 { prefix, .. } => *prefix = 32,
            Self::V6 { prefix, .. } => *prefix = 128,
            Self::Unix { .. } => {}
        }
        host
    }

    /// The network's mask written as an address, none for a Unix socket.
    pub fn netmask(&self) -> Option<IpAddr> {
        match self {
            Self::V4 { prefix, .. } => Some(Ipv4Addr::from_bits(mask_v4(*prefix)).into()),
            Self::V6 { prefix, .. } => Some(Ipv6Addr::from_bits(mask_v6(*prefix)).into()),
            Self::Unix { .. } => None,
        }
    }

    /// The broadcast address of an IPv4 network.
    pub fn broadcast(&self) -> Option<Ipv4Addr> {
        match self {
            Self::V4 { ip, prefix, .. } => {
                Some(Ipv4Addr::from_bits(ip.to_bits() | !mask_v4(*prefix)))
            }
            _ => None,
        }
    }

    /// The first address that a host of the network may have: after the network address for IPv4
    /// networks of more than two addresses, the first of all otherwise.
    pub fn first_usable(&self) -> Option<IpAddr> {
        match self {
            Self::V4 { ip, prefix, .. } => {
                let first = ip.to_bits() & mask_v4(*prefix);
                Some(Ipv4Addr::from_bits(first + u32::from(*prefix < 31)).into())
            }
            Self::V6 { .. } => self.network().ip(),
            Self::Unix { .. } => None,
        }
    }

    /// The last address that a host of the network may have: before the broadcast address for IPv4
    /// networks of more than two addresses, the last of all otherwise.
    pub fn last_usable(&self) -> Option<IpAddr> {
        match self {
            Self::V4 { ip, prefix, .. } => {
                let last = ip.to_bits() | !mask_v4(*prefix);
                Some(Ipv4Addr::from_bits(last - u32::from(*prefix < 31)).into())
            }
            Self::V6 { ip, prefix, .. } => {
                Some(Ipv6Addr::from_bits(ip.to_bits() | !mask_v6(*prefix)).into())
            }
            Self::Unix { .. } => None,
        }
    }

    /// The bytes of the address, most significant first; empty for a Unix socket.
    pub fn octets(&self) -> Vec<u8> {
        match self {
            Self::V4 { ip, .. } => ip.octets().to_vec(),
            Self::V6 { ip, .. } => ip.octets().to_vec(),
            Self::Unix { .. } => Vec::new(),
        }
    }

    /// The attribute of that (lower-case) name, as `attr` and `join` give it; none where this type
    /// of address has no such attribute.
    pub fn attribute(&self, name: &str) -> Option<String> {
        let text = |ip: Option<IpAddr>| ip.map(ip_text);
        match (name, self) {
            ("string", _) => Some(self.to_string()),
            ("type", _) => Some(self.kind().to_owned()),
            ("path", Self::Unix { path }) => Some(path.clone()),
            (_, Self::Unix { .. }) => None,
            ("address", _) => text(self.ip()),
            ("host", _) => Some(self.host().to_string()),
            ("port", _) => Some(self.port().to_string()),
            ("network", _) => text(self.network().ip()),
            ("netmask", _) => text(self.netmask()),
            ("first_usable", _) => text(self.first_usable()),
            ("last_usable", _) => text(self.last_usable()),
            ("mask_bits", _) => self.prefix().map(|bits| bits.to_string()),
            ("octets", _) => {
                Some(self.octets().iter().map(u8::to_string).collect::<Vec<_>>().join(" "))
            }
            ("binary", _) => Some(self.octets().iter().map(|byte| format!("{byte:08b}")).collect()),
            ("hex", _) => Some(self.octets().iter().map(|byte| format!("{byte:02x}")).collect()),
            ("broadcast", Self::V4 { .. }) => self.broadcast().map(|ip| ip.to_string()),
            ("uint32", Self::V4 { ip, .. }) => Some(ip.to_bits().to_string()),
            ("uint128", Self::V6 { ip, .. }) => Some(ip.to_bits().to_string()),
            ("size", Self::V4 { prefix, .. }) => Some((1u64 << (32 - prefix.min(&32))).to_string()),
            ("size", Self::V6 { prefix, .. }) => Some(size_v6(*prefix)),
            _ => None,
        }
    }

    /// A new address by the `math` function: `address` adds to the address and wraps at the ends of
    /// the address space, `network` counts from the start (or, negative, from the end) of the
    /// network and wraps in it, `mask` keeps the leading bits.
    ///
    /// # Errors
    /// When the operation is unknown or the value does not fit it. Unix sockets fit none.
    pub fn math(&self, operation: &str, value: &str) -> Result<Self, MathError> {
        let operation = operation.to_lowercase();
        if !matches!(operation.as_str(), "address" | "network" | "mask") {
            return Err(MathError::Operation(operation));
        }
        let signed = value.starts_with(['+', '-']);
        if operation != "mask" && !signed {
            return Err(MathError::Sign { operation, value: value.to_owned() });
        }
        let number = if operation == "mask" && signed { None } else { value.parse::<i64>().ok() };
        let result = number.and_then(|number| match self {
            Self::V4 { ip, prefix, .. } => math_v4(&operation, *ip, *prefix, number),
            Self::V6 { ip, prefix, .. } => math_v6(&operation, *ip, *prefix, number),
            Self::Unix { .. } => None,
        });
        result.ok_or_else(|| MathError::Value {
            operation,
            value: value.to_owned(),
            kind: self.kind(),
        })
    }

    /// Order by address. Addresses of different types are not ordered (equal), as in go-sockaddr.
    pub fn cmp_address(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::V4 { ip: a, .. }, Self::V4 { ip: b, .. }) => a.cmp(b),
            (Self::V6 { ip: a, .. }, Self::V6 { ip: b, .. }) => a.cmp(b),
            (Self::Unix { path: a }, Self::Unix { path: b }) => a.cmp(b),
            _ => Ordering::Equal,
        }
    }

    /// Order by port; a Unix socket is equal to everything.
    pub fn cmp_port(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Unix { .. }, _) | (_, Self::Unix { .. }) => Ordering::Equal,
            _ => self.port().cmp(&other.port()),
        }
    }

    /// Order by network size, the larger network first; different types are equal.
    pub fn cmp_network_size(&self, other: &Self) -> Ordering {
        if self.kind() == other.kind() {
            self.prefix().cmp(&other.prefix())
        } else {
            Ordering::Equal
        }
    }

    /// Order by type: Unix, IPv4, IPv6.
    pub fn cmp_kind(&self, other: &Self) -> Ordering {
        let rank = |address: &Self| match address {
            Self::Unix { .. } => 0,
            Self::V4 { .. } => 1,
            Self::V6 { .. } => 2,
        };
        rank(self).cmp(&rank(other))
    }
}

/// Endpoints as `ip:port`, hosts as `ip`, all else as `ip/prefix`.
impl fmt::Display for SockAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4 { ip, port, .. } if *port != 0 => write!(f, "{ip}:{port}"),
            Self::V6 { ip, port, .. } if *port != 0 => {
                write!(f, "[{}]:{port}", ip_text((*ip).into()))
            }
            Self::V4 { ip, prefix: 32, .. } => write!(f, "{ip}"),
            Self::V6 { ip, prefix: 128, .. } => f.write_str(&ip_text((*ip).into())),
            Self::V4 { ip, prefix, .. } => write!(f, "{ip}/{prefix}"),
            Self::V6 { ip, prefix, .. } => write!(f, "{}/{prefix}", ip_text((*ip).into())),
            Self::Unix { path } => write!(f, "{path:?}"),
        }
    }
}

/// Parses `1.2.3.4`, `1.2.3.4/8`, `1.2.3.4:80`, `::1`, `[::1]`, `::1/64` and `[::1]:80`.
impl FromStr for SockAddr {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let refused = || AddressError { text: text.to_owned() };
        if let Some((ip, prefix)) = text.split_once('/') {
            let ip: IpAddr = ip.parse().map_err(|_| refused())?;
            let prefix: u8 = parse_decimal(prefix).ok_or_else(refused)?;
            if prefix > if ip.is_ipv4() { 32 } else { 128 } {
                return Err(refused());
            }
            return Ok(Self::of_ip(ip, prefix));
        }
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        if let Some(ip) = bare {
            let ip: Ipv6Addr = ip.parse().map_err(|_| refused())?;
            return Ok(Self::of_ip(ip.into(), 128));
        }
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self::of_ip(ip, 128));
        }
        let (ip, port) = text.rsplit_once(':').ok_or_else(refused)?;
        let port: u16 = parse_decimal(port).ok_or_else(refused)?;
        let ip = match ip.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(v6) => v6.parse::<Ipv6Addr>().ok().map(IpAddr::from),
            None => ip.parse::<Ipv4Addr>().ok().map(IpAddr::from),
        };
        let mut address = Self::of_ip(ip.ok_or_else(refused)?, 128);
        if let Self::V4 { port: place, .. } | Self::V6 { port: place, .. } = &mut address {
            *place = port;
        }
        Ok(address)
    }
}

/// An IP address as Go writes it: IPv4-mapped addresses in IPv4's form, no other dotted forms.
pub(crate) fn ip_text(ip: IpAddr) -> String {
    ip.to_canonical().to_string()
}

fn parse_decimal<N: FromStr>(text: &str) -> Option<N> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

fn mask_v4(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0)
}

fn mask_v6(prefix: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0)
}

fn size_v6(prefix: u8) -> String {
    match 1u128.checked_shl(128 - u32::from(prefix.min(128))) {
        Some(size) => size.to_string(),
        // 2^128 is one more than the largest number.
        None => "340282366920938463463374607431768211456".to_owned(),
    }
}

/// `number` must have at most 32 bits and a sign, as in go-sockaddr.
fn math_v4(operation: &str, ip: Ipv4Addr, prefix: u8, number: i64) -> Option<SockAddr> {
    let (bits, mask) = (ip.to_bits(), mask_v4(prefix));
    if operation == "mask" {
        let kept = u8::try_from(number).ok().filter(|kept| *kept <= 32)?;
        return Some(SockAddr::v4(Ipv4Addr::from_bits(bits & mask_v4(kept)), kept.min(prefix)));
    }
    if !(-(1i64 << 32)..1i64 << 32).contains(&number) {
        return None;
    }
    // Both counts are meant modulo 2^32, which is what taking the low 32 bits does.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "modulo 2^32")]
    let offset = number as u32;
    let bits = match operation {
        "address" => bits.wrapping_add(offset),
        _ if number >= 0 => (bits & mask).wrapping_add(offset & !mask),
        _ => (bits & mask).wrapping_add((!mask).wrapping_add(offset).wrapping_add(1) & !mask),
    };
    Some(SockAddr::v4(Ipv4Addr::from_bits(bits), prefix))
}

fn math_v6(operation: &str, ip: Ipv6Addr, prefix: u8, number: i64) -> Option<SockAddr> {
    let (bits, mask) = (ip.to_bits(), mask_v6(prefix));
    if operation == "mask" {
        let kept = u8::try_from(number).ok().filter(|kept| *kept <= 128)?;
        return Some(SockAddr::v6(Ipv6Addr::from_bits(bits & mask_v6(kept)), kept.min(prefix)));
    }
    let distance = u128::from(number.unsigned_abs());
    let bits = match (operation, number >= 0) {
        ("address", true) => bits.wrapping_add(distance),
        ("address", false) => bits.wrapping_sub(distance),
        (_, true) => (bits & mask).wrapping_add(distance & !mask),
        (_, false) => (bits | !mask).wrapping_sub((distance - 1) & !mask),
    };
    Some(SockAddr::v6(Ipv6Addr::from_bits(bits), prefix))
}
