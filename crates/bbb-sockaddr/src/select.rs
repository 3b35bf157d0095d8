//! Filters, orders and cuts on lists of interface addresses: the heart of go-sockaddr.
//!
//! Promises: pure, stable, total. Where go-sockaddr's code and documentation disagree, the
//! documentation holds: an address is never in a result twice, what `include` takes `exclude`
//! leaves, `down` means down, and lists without a default route are merely empty.

use std::cmp::Ordering;

use regex::bytes::{Regex, RegexBuilder};

use crate::address::SockAddr;
use crate::interfaces::{InterfaceAddress, Interfaces};
use crate::{rfc, scope};

/// Memory in bytes that a compiled regular expression may take.
const MAX_REGEX_BYTES: usize = 256 << 10;

/// Nested groups that a regular expression may have.
const MAX_REGEX_DEPTH: u32 = 32;

type Entries = Vec<InterfaceAddress>;

/// `GetDefaultInterfaces`
pub(crate) fn default_interfaces(host: &Interfaces) -> Entries {
    let of_default =
        |entry: &&InterfaceAddress| Some(entry.interface.name.as_str()) == host.default_interface();
    host.addresses().iter().filter(of_default).cloned().collect()
}

/// `GetPrivateInterfaces` and `GetPublicInterfaces`: forwardable addresses of interfaces that are
/// up, those on the default route first, IPv4 before IPv6, larger networks first; private are those
/// of RFC 6890.
pub(crate) fn forwardable_interfaces(host: &Interfaces, private: bool) -> Entries {
    let mut found: Entries = host
        .addresses()
        .iter()
        .filter(|entry| entry.address.ip().is_some() && entry.interface.flags.up)
        .filter(|entry| is_forwardable(&entry.address) && is_special(&entry.address) == private)
        .cloned()
        .collect();
    sort_by(&mut found, &[Order::ascending(Key::Default), Order::ascending(Key::Type), SIZE], host);
    found
}

/// `GetPrivateIPs` and `GetPublicIPs`: whether or not the interface is up. Public addresses need
/// not be forwardable.
pub(crate) fn all_ips(host: &Interfaces, private: bool) -> Entries {
    let mut found: Entries = host
        .addresses()
        .iter()
        .filter(|entry| entry.address.ip().is_some())
        .filter(|entry| is_special(&entry.address) == private)
        .filter(|entry| !private || is_forwardable(&entry.address))
        .cloned()
        .collect();
    sort_by(&mut found, &[Order::ascending(Key::Type), SIZE], host);
    found
}

/// `GetInterfaceIP` and `GetInterfaceIPs`: addresses of the interfaces whose name matches.
pub(crate) fn of_interface(
    host: &Interfaces,
    name: &str,
    forwardable: bool,
) -> Result<Entries, String> {
    let regex = compile("name", name)?;
    let mut found: Entries = host
        .addresses()
        .iter()
        .filter(|entry| entry.address.ip().is_some())
        .filter(|entry| regex.is_match(entry.interface.name.as_bytes()))
        .filter(|entry| !forwardable || is_forwardable(&entry.address))
        .cloned()
        .collect();
    sort_by(&mut found, &[Order::ascending(Key::Type), SIZE], host);
    Ok(found)
}

/// The `include` function, or what it leaves: the `exclude` function. Of several values separated
/// by `|` one must match; included networks and RFCs come in the order of the values.
pub(crate) fn filter(
    include: bool,
    selector: &str,
    value: &str,
    entries: &[InterfaceAddress],
) -> Result<Entries, String> {
    let tests = tests_of(selector, value)?;
    if !include {
        let left = entries.iter().filter(|entry| !tests.iter().any(|test| test.holds(entry)));
        return Ok(left.cloned().collect());
    }
    let mut taken = Vec::new();
    for (index, test) in tests.iter().enumerate() {
        let earlier = &tests[..index];
        let new = entries.iter().filter(|entry| {
            test.holds(entry) && !earlier.iter().any(|earlier| earlier.holds(entry))
        });
        taken.extend(new.cloned());
    }
    Ok(taken)
}

/// One thing to ask of an address.
enum Test {
    Address(Regex),
    Name(Regex),
    Port(Regex),
    Flags(Vec<String>),
    Network(SockAddr),
    Rfc(u64),
    Size(u8),
    Types(Vec<String>),
}

fn tests_of(selector: &str, value: &str) -> Result<Vec<Test>, String> {
    let lower = || value.to_lowercase().split('|').map(str::to_owned).collect::<Vec<_>>();
    let tests = match selector.to_lowercase().as_str() {
        "address" => vec![Test::Address(compile("address", value)?)],
        "name" => vec![Test::Name(compile("name", value)?)],
        "port" => vec![Test::Port(compile("port", value)?)],
        "flag" | "flags" => {
            let flags = lower();
            match flags.iter().find(|flag| !FLAGS.contains(&flag.as_str())) {
                Some(flag) => {
                    return Err(format!("unknown flag {flag:?}: use one of {}", FLAGS.join(", ")));
                }
                None => vec![Test::Flags(flags)],
            }
        }
        "network" => value
            .split('|')
            .map(|network| {
                network
                    .parse()
                    .map(Test::Network)
                    .map_err(|error: crate::AddressError| error.to_string())
            })
            .collect::<Result<_, _>>()?,
        "rfc" | "rfcs" => value.split('|').map(rfc_test).collect::<Result<_, _>>()?,
        "size" => vec![size_test(value)?],
        "type" => {
            let types = lower();
            match types.iter().find(|kind| !["ip", "ipv4", "ipv6", "unix"].contains(&kind.as_str()))
            {
                Some(kind) => {
                    return Err(format!("unknown type {kind:?}: use IP, IPv4, IPv6 or UNIX"));
                }
                None => vec![Test::Types(types)],
            }
        }
        _ => {
            return Err(format!(
                "unknown selector {selector:?}: use address, flag, name, network, port, rfc, size or type"
            ));
        }
    };
    Ok(tests)
}

fn rfc_test(number: &str) -> Result<Test, String> {
    let known =
        |number: &u64| rfc::contains(*number, &SockAddr::Unix { path: String::new() }).is_some();
    match number.parse::<u64>().ok().filter(known) {
        Some(number) => Ok(Test::Rfc(number)),
        None => {
            let known: Vec<_> = rfc::known().map(|number| number.to_string()).collect();
            Err(format!("unknown RFC {number:?}: use one of {}", known.join(", ")))
        }
    }
}

fn size_test(bits: &str) -> Result<Test, String> {
    match bits.parse::<u8>() {
        Ok(bits) if bits <= 128 => Ok(Test::Size(bits)),
        _ => Err(format!("{bits:?} is no length of a network mask: use 0 to 128 bits")),
    }
}

/// Like Go's, expressions are not anchored and take time linear in what they are matched with.
fn compile(selector: &str, expression: &str) -> Result<Regex, String> {
    RegexBuilder::new(expression)
        .unicode(false)
        .size_limit(MAX_REGEX_BYTES)
        .dfa_size_limit(MAX_REGEX_BYTES)
        .nest_limit(MAX_REGEX_DEPTH)
        .build()
        .map_err(|error| {
            // The error is a drawing of several lines, its last says what is wrong.
            let text = error.to_string();
            let last = text.lines().last().unwrap_or_default().trim();
            let why = last.strip_prefix("error: ").unwrap_or(last);
            format!("{expression:?} is no regular expression for {selector:?}: {why}")
        })
}

impl Test {
    fn holds(&self, entry: &InterfaceAddress) -> bool {
        let (address, interface) = (&entry.address, &entry.interface);
        match self {
            Self::Address(regex) => regex.is_match(address.to_string().as_bytes()),
            Self::Name(regex) => regex.is_match(interface.name.as_bytes()),
            Self::Port(regex) => {
                address.ip().is_some() && regex.is_match(address.port().to_string().as_bytes())
            }
            Self::Flags(flags) => has_flags(entry, flags),
            Self::Network(network) => network.contains(address),
            Self::Rfc(number) => rfc::contains(*number, address).unwrap_or(false),
            Self::Size(bits) => address.prefix() == Some(*bits),
            Self::Types(types) => types.iter().any(|kind| match kind.as_str() {
                "ip" => address.ip().is_some(),
                kind => address.kind().eq_ignore_ascii_case(kind),
            }),
        }
    }
}

const FLAGS: [&str; 12] = [
    "broadcast",
    "down",
    "forwardable",
    "global unicast",
    "interface-local multicast",
    "link-local multicast",
    "link-local unicast",
    "loopback",
    "multicast",
    "point-to-point",
    "unspecified",
    "up",
];

/// Go-sockaddr's rule: the interface has all flags asked of it, or the address is one of the kinds
/// asked for.
fn has_flags(entry: &InterfaceAddress, flags: &[String]) -> bool {
    let has = entry.interface.flags;
    let mut of_interface = flags.iter().filter_map(|flag| match flag.as_str() {
        "broadcast" => Some(has.broadcast),
        "down" => Some(!has.up),
        "loopback" => Some(has.loopback),
        "multicast" => Some(has.multicast),
        "point-to-point" => Some(has.point_to_point),
        "up" => Some(has.up),
        _ => None,
    });
    // Without such a flag the rule's first half does not apply.
    if let Some(first) = of_interface.next()
        && first
        && of_interface.all(|set| set)
    {
        return true;
    }
    let Some(ip) = entry.address.ip() else { return false };
    flags.iter().any(|flag| match flag.as_str() {
        "forwardable" => is_forwardable(&entry.address),
        "global unicast" => scope::is_global_unicast(ip),
        "interface-local multicast" => scope::is_interface_local_multicast(ip),
        "link-local multicast" => scope::is_link_local_multicast(ip),
        "link-local unicast" => scope::is_link_local_unicast(ip),
        "loopback" => ip.is_loopback(),
        "multicast" => ip.is_multicast(),
        "unspecified" => ip.is_unspecified(),
        _ => false,
    })
}

fn is_forwardable(address: &SockAddr) -> bool {
    !rfc::contains(rfc::NOT_FORWARDABLE, address).unwrap_or(false)
}

fn is_special(address: &SockAddr) -> bool {
    rfc::contains(rfc::SPECIAL_PURPOSE, address).unwrap_or(false)
}

/// What a list is sorted by.
#[derive(Clone, Copy)]
enum Key {
    Address,
    Default,
    Name,
    Port,
    Private,
    Size,
    Type,
}

struct Order {
    key: Key,
    descending: bool,
}

const SIZE: Order = Order::ascending(Key::Size);

impl Order {
    const fn ascending(key: Key) -> Self {
        Self { key, descending: false }
    }

    fn parse(clause: &str) -> Result<Self, String> {
        let name = clause.trim().to_lowercase();
        let (descending, name) = match name.strip_prefix('-') {
            Some(name) => (true, name),
            None => (false, name.strip_prefix('+').unwrap_or(&name)),
        };
        let key = match name {
            "address" => Key::Address,
            "default" => Key::Default,
            "name" => Key::Name,
            "port" => Key::Port,
            "private" => Key::Private,
            "size" => Key::Size,
            "type" => Key::Type,
            _ => {
                return Err(format!(
                    "cannot sort by {clause:?}: use address, default, name, port, private, size or type, \
                     with a leading - for descending"
                ));
            }
        };
        Ok(Self { key, descending })
    }

    fn compare(&self, a: &InterfaceAddress, b: &InterfaceAddress, host: &Interfaces) -> Ordering {
        let order = match self.key {
            Key::Address => a.address.cmp_address(&b.address),
            Key::Default => {
                let is_default = |entry: &InterfaceAddress| {
                    Some(entry.interface.name.as_str()) == host.default_interface()
                };
                is_default(b).cmp(&is_default(a))
            }
            Key::Name => a.interface.name.cmp(&b.interface.name),
            Key::Port => a.address.cmp_port(&b.address),
            Key::Private => cmp_rfc(rfc::SPECIAL_PURPOSE, &a.address, &b.address),
            Key::Size => a.address.cmp_network_size(&b.address),
            Key::Type => a.address.cmp_kind(&b.address),
        };
        if self.descending { order.reverse() } else { order }
    }
}

/// What is in the RFC first. An IP address is not compared with one of another type unless it is in
/// the RFC itself.
pub(crate) fn cmp_rfc(rfc: u64, a: &SockAddr, b: &SockAddr) -> Ordering {
    let within = |address| rfc::contains(rfc, address).unwrap_or(false);
    if a.ip().is_none() || (a.kind() != b.kind() && !within(a)) {
        Ordering::Equal
    } else if a.kind() != b.kind() {
        Ordering::Less
    } else {
        within(b).cmp(&within(a))
    }
}

/// The `sort` function.
pub(crate) fn sort(
    clauses: &str,
    entries: &[InterfaceAddress],
    host: &Interfaces,
) -> Result<Entries, String> {
    let orders = clauses.split(',').map(Order::parse).collect::<Result<Vec<_>, _>>()?;
    let mut sorted = entries.to_vec();
    sort_by(&mut sorted, &orders, host);
    Ok(sorted)
}

/// An insertion sort. The orders of the language are not total (addresses of different types are
/// all equal to each other), which the standard library's sort may answer with a panic; and with
/// this one the result is what go-sockaddr gives for lists of a dozen.
fn sort_by(entries: &mut [InterfaceAddress], orders: &[Order], host: &Interfaces) {
    let before = |a: &InterfaceAddress, b: &InterfaceAddress| {
        let mut compared = orders.iter().map(|order| order.compare(a, b, host));
        compared.find(|order| order.is_ne()) == Some(Ordering::Less)
    };
    for end in 1..entries.len() {
        let mut place = end;
        while place > 0 && before(&entries[place], &entries[place - 1]) {
            entries.swap(place, place - 1);
            place -= 1;
        }
    }
}

/// The `unique` function: of neighbours that are equal in the selector, the first.
pub(crate) fn unique(selector: &str, entries: &[InterfaceAddress]) -> Result<Entries, String> {
    let key: fn(&InterfaceAddress) -> String = match selector.to_lowercase().as_str() {
        "address" => |entry| entry.address.to_string(),
        "name" => |entry| entry.interface.name.clone(),
        _ => return Err(format!("cannot make unique by {selector:?}: use address or name")),
    };
    let mut result = entries.to_vec();
    result.dedup_by_key(|entry| key(entry));
    Ok(result)
}

/// The `math` function on every address; see [`SockAddr::math`].
pub(crate) fn math(
    operation: &str,
    value: &str,
    entries: &[InterfaceAddress],
) -> Result<Entries, String> {
    let moved = entries.iter().map(|entry| {
        let address = entry.address.math(operation, value).map_err(|error| error.to_string())?;
        Ok(InterfaceAddress { address, interface: entry.interface.clone() })
    });
    moved.collect()
}

/// The `offset` function: from the end where negative.
pub(crate) fn offset(
    offset: i64,
    entries: &[InterfaceAddress],
) -> Result<&[InterfaceAddress], String> {
    let distance = usize::try_from(offset.unsigned_abs()).unwrap_or(usize::MAX);
    if distance > entries.len() {
        return Err(format!("offset {offset} is past the end of a list of {}", entries.len()));
    }
    Ok(&entries[if offset < 0 { entries.len() - distance } else { distance }..])
}
