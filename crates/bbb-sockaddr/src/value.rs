//! The values that a template computes with, their truth, text and members.
//!
//! Promises: cloning a value is cheap; no member panics. Members are those of go-sockaddr's types
//! that give one value. Refuses to know functions and syntax.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::address::{SockAddr, ip_text};
use crate::interfaces::{Interface, InterfaceAddress, hardware_text};
use crate::scope;

/// Rough length in bytes of an address when it is printed; what one costs of the budget.
pub(crate) const ENTRY_WEIGHT: u64 = 128;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Nil,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(Arc<str>),
    /// What the functions of go-sockaddr work on.
    Entries(Arc<[InterfaceAddress]>),
    /// One of them: the dot of a range.
    Entry(InterfaceAddress),
    Interface(Arc<Interface>),
    Address(SockAddr),
    Ip(IpAddr),
    /// The octets of an address.
    Octets(Arc<[u8]>),
}

impl Value {
    pub(crate) fn text(text: impl Into<Arc<str>>) -> Self {
        Self::Str(text.into())
    }

    pub(crate) fn entries(entries: Vec<InterfaceAddress>) -> Self {
        Self::Entries(entries.into())
    }

    /// What it is, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Nil => "nil",
            Self::Bool(_) => "a boolean",
            Self::Int(_) => "an integer",
            Self::Float(_) => "a floating-point number",
            Self::Str(_) => "a string",
            Self::Entries(_) => "a list of interface addresses",
            Self::Entry(_) => "an interface address",
            Self::Interface(_) => "an interface",
            Self::Address(_) => "a socket address",
            Self::Ip(_) => "an IP address",
            Self::Octets(_) => "a list of bytes",
        }
    }

    /// What using it costs of the budget: about the bytes of its text.
    pub(crate) fn weight(&self) -> u64 {
        match self {
            Self::Str(text) => text.len() as u64,
            Self::Entries(entries) => ENTRY_WEIGHT * entries.len() as u64,
            Self::Entry(_) | Self::Interface(_) => ENTRY_WEIGHT,
            _ => 16,
        }
    }

    /// Go's truth: false are zero values and empty ones.
    pub(crate) fn is_true(&self) -> bool {
        match self {
            Self::Nil => false,
            Self::Bool(value) => *value,
            Self::Int(value) => *value != 0,
            Self::Float(value) => *value != 0.0,
            Self::Str(text) => !text.is_empty(),
            Self::Entries(entries) => !entries.is_empty(),
            Self::Octets(octets) => !octets.is_empty(),
            Self::Entry(_) | Self::Interface(_) | Self::Address(_) | Self::Ip(_) => true,
        }
    }

    /// A field, or a method with its arguments.
    ///
    /// # Errors
    /// With what is wrong, when there is no such member or it does not take these arguments.
    pub(crate) fn member(&self, name: &str, arguments: &[Self]) -> Result<Self, String> {
        let found = match self {
            Self::Entries(entries) if name == "Len" => Some(Self::Int(length(entries.len()))),
            Self::Entry(entry) => entry_member(entry, name, arguments)?,
            Self::Interface(interface) => interface_member(interface, name),
            Self::Address(address) => address_member(address, name, arguments)?,
            Self::Ip(ip) => ip_member(*ip, name),
            _ => None,
        };
        let takes_arguments =
            matches!(name, "Attr" | "Contains" | "Equal" | "CmpRFC" | "CmpAddress" | "CmpPort");
        match found {
            None => Err(format!("there is no field or method .{name} in {}", self.kind())),
            Some(_) if !arguments.is_empty() && !takes_arguments => {
                Err(format!(".{name} takes no arguments"))
            }
            Some(value) => Ok(value),
        }
    }
}

/// As Go's `%v` prints it.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nil => f.write_str("<nil>"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Int(value) => write!(f, "{value}"),
            Self::Float(value) => f.write_str(&float_text(*value)),
            Self::Str(text) => f.write_str(text),
            Self::Entries(entries) => list(f, entries.iter()),
            Self::Entry(entry) => write!(f, "{entry}"),
            Self::Interface(interface) => write!(f, "{interface}"),
            Self::Address(address) => write!(f, "{address}"),
            Self::Ip(ip) => f.write_str(&ip_text(*ip)),
            Self::Octets(octets) => list(f, octets.iter()),
        }
    }
}

/// A length as the language's integer.
pub(crate) fn length(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

fn list<T: fmt::Display>(
    f: &mut fmt::Formatter<'_>,
    items: impl Iterator<Item = T>,
) -> fmt::Result {
    f.write_str("[")?;
    for (index, item) in items.enumerate() {
        f.write_str(if index == 0 { "" } else { " " })?;
        write!(f, "{item}")?;
    }
    f.write_str("]")
}

/// Go's shortest form: with an exponent below 1e-4 and from 1e21 on.
pub(crate) fn float_text(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude != 0.0 && !(1e-4..1e21).contains(&magnitude) {
        exponent_text(&format!("{value:e}"))
    } else {
        format!("{value}")
    }
}

/// Rust's `1e5` as Go's `1e+05`.
pub(crate) fn exponent_text(text: &str) -> String {
    let Some((mantissa, exponent)) = text.split_once('e') else { return text.to_owned() };
    let (sign, digits) = match exponent.strip_prefix('-') {
        Some(digits) => ('-', digits),
        None => ('+', exponent),
    };
    format!("{mantissa}e{sign}{digits:0>2}")
}

fn interface_member(interface: &Interface, name: &str) -> Option<Value> {
    match name {
        "Name" => Some(Value::text(interface.name.as_str())),
        "Index" => Some(Value::Int(interface.index.into())),
        "MTU" => Some(Value::Int(interface.mtu.into())),
        "Flags" => Some(Value::text(interface.flags.to_string())),
        "HardwareAddr" => Some(Value::text(hardware_text(&interface.hardware_address))),
        _ => None,
    }
}

fn entry_member(
    entry: &InterfaceAddress,
    name: &str,
    arguments: &[Value],
) -> Result<Option<Value>, String> {
    match (name, arguments) {
        ("SockAddr", _) => Ok(Some(Value::Address(entry.address.clone()))),
        ("Interface", _) => Ok(Some(Value::Interface(Arc::clone(&entry.interface)))),
        ("String", _) => Ok(Some(Value::text(entry.to_string()))),
        ("Attr", [Value::Str(attribute)]) => attribute_of(entry, attribute).map(Some),
        ("Attr", _) => Err(".Attr takes the name of an attribute".to_owned()),
        ("Type" | "Contains" | "Equal" | "CmpRFC", _) => {
            address_member(&entry.address, name, arguments)
        }
        _ => Ok(interface_member(&entry.interface, name)),
    }
}

/// The attribute as `attr` gives it; its name is taken in any case.
pub(crate) fn attribute_of(entry: &InterfaceAddress, name: &str) -> Result<Value, String> {
    entry.attribute(&name.to_lowercase()).map(Value::text).ok_or_else(|| {
        let kind = entry.address.kind();
        format!("{kind} address {} has no attribute {name:?}", entry.address)
    })
}

fn address_member(
    address: &SockAddr,
    name: &str,
    arguments: &[Value],
) -> Result<Option<Value>, String> {
    let other = |arguments: &[Value]| match arguments {
        [Value::Address(other)] => Ok(other.clone()),
        [Value::Entry(other)] => Ok(other.address.clone()),
        _ => Err(format!(".{name} takes a socket address as its last argument")),
    };
    let order = |order: std::cmp::Ordering| Some(Value::Int(order as i64));
    let found = match name {
        "String" => Some(Value::text(address.to_string())),
        "Type" => Some(Value::text(address.kind())),
        "Contains" => Some(Value::Bool(address.contains(&other(arguments)?))),
        "Equal" => Some(Value::Bool(*address == other(arguments)?)),
        "CmpAddress" => order(address.cmp_address(&other(arguments)?)),
        "CmpPort" => order(address.cmp_port(&other(arguments)?)),
        "CmpRFC" => match arguments {
            [Value::Int(rfc), rest @ ..] => {
                let rfc = u64::try_from(*rfc).unwrap_or(0);
                order(crate::select::cmp_rfc(rfc, address, &other(rest)?))
            }
            _ => return Err(".CmpRFC takes the number of an RFC and a socket address".to_owned()),
        },
        "Path" => address.attribute("path").map(Value::text),
        _ => ip_address_member(address, name),
    };
    Ok(found)
}

/// Members that only addresses with an IP have.
fn ip_address_member(address: &SockAddr, name: &str) -> Option<Value> {
    let ip = address.ip()?;
    let whole = |ip: IpAddr| Value::Address(SockAddr::of_ip(ip, u8::MAX));
    let text = |attribute: &str| address.attribute(attribute).map(Value::text);
    match name {
        "NetIP" => Some(Value::Ip(ip)),
        "NetIPMask" => address.netmask().map(|mask| {
            Value::text(SockAddr::of_ip(mask, u8::MAX).attribute("hex").unwrap_or_default())
        }),
        "NetIPNet" => {
            let network = address.network();
            let prefix = address.prefix().unwrap_or_default();
            Some(Value::text(format!("{}/{prefix}", network.ip().map(ip_text).unwrap_or_default())))
        }
        "Maskbits" => address.prefix().map(|bits| Value::Int(bits.into())),
        "IPPort" | "Port" => Some(Value::Int(address.port().into())),
        "Network" => Some(Value::Address(address.network())),
        "Host" => Some(Value::Address(address.host())),
        "FirstUsable" => address.first_usable().map(whole),
        "LastUsable" => address.last_usable().map(whole),
        "Broadcast" => address.broadcast().map(|ip| whole(ip.into())),
        "Octets" => Some(Value::Octets(address.octets().into())),
        "AddressBinString" => text("binary"),
        "AddressHexString" => text("hex"),
        "Address" => text("uint32").or_else(|| text("uint128")),
        _ => None,
    }
}

fn ip_member(ip: IpAddr, name: &str) -> Option<Value> {
    let truth = match name {
        "String" => return Some(Value::text(ip_text(ip))),
        "IsGlobalUnicast" => scope::is_global_unicast(ip),
        "IsInterfaceLocalMulticast" => scope::is_interface_local_multicast(ip),
        "IsLinkLocalMulticast" => scope::is_link_local_multicast(ip),
        "IsLinkLocalUnicast" => scope::is_link_local_unicast(ip),
        "IsLoopback" => ip.is_loopback(),
        "IsMulticast" => ip.is_multicast(),
        "IsPrivate" => scope::is_private(ip),
        "IsUnspecified" => ip.is_unspecified(),
        _ => return None,
    };
    Some(Value::Bool(truth))
}
