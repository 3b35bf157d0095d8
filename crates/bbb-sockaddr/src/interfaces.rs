//! The interfaces of a host as plain data: what a template is evaluated on.
//!
//! Promises: evaluation sees this snapshot and nothing else, so that it is pure. Only
//! [`Interfaces::of_host`] asks the operating system.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use crate::address::SockAddr;

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Number that the system gave it.
    pub index: u32,
    /// Maximum transmission unit in bytes.
    pub mtu: u32,
    /// Name, like `eth0`.
    pub name: String,
    /// Hardware address, empty for none.
    pub hardware_address: Vec<u8>,
    /// What it is and does.
    pub flags: Flags,
}

/// Flags of an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the operating system")]
pub struct Flags {
    /// Administratively up.
    pub up: bool,
    /// Supports broadcast.
    pub broadcast: bool,
    /// Loops back.
    pub loopback: bool,
    /// Is one end of a link.
    pub point_to_point: bool,
    /// Supports multicast.
    pub multicast: bool,
    /// Has its carrier.
    pub running: bool,
}

/// Names joined by `|`, or `0`.
impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (self.up, "up"),
            (self.broadcast, "broadcast"),
            (self.loopback, "loopback"),
            (self.point_to_point, "pointtopoint"),
            (self.multicast, "multicast"),
            (self.running, "running"),
        ];
        let set: Vec<_> = names.iter().filter(|(set, _)| *set).map(|(_, name)| *name).collect();
        f.write_str(if set.is_empty() { "0" } else { "" })?;
        f.write_str(&set.join("|"))
    }
}

/// One address of one interface: what the lists of the language hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// The address with its network.
    pub address: SockAddr,
    /// The interface that has it.
    pub interface: Arc<Interface>,
}

impl InterfaceAddress {
    /// The attribute of that name in lower case, of the interface or of the address.
    pub(crate) fn attribute(&self, name: &str) -> Option<String> {
        match name {
            "name" => Some(self.interface.name.clone()),
            "flags" => Some(self.interface.flags.to_string()),
            _ => self.address.attribute(name),
        }
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hardware = hardware_text(&self.hardware_address);
        write!(f, "{{{} {} {} {hardware} {}}}", self.index, self.mtu, self.name, self.flags)
    }
}

impl fmt::Display for InterfaceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.address, self.interface)
    }
}

/// A hardware address as bytes in hexadecimal, separated by colons.
pub(crate) fn hardware_text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

/// All addresses of a host, and which interface has its default route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interfaces {
    addresses: Vec<InterfaceAddress>,
    default_interface: Option<String>,
}

/// The operating system did not say what interfaces there are.
#[derive(Debug, Error)]
#[error("cannot list the network interfaces of this host")]
pub struct HostError(#[from] std::io::Error);

impl Interfaces {
    /// A snapshot from its parts; `default_interface` is the name of the interface that has the
    /// default route.
    pub fn new(addresses: Vec<InterfaceAddress>, default_interface: Option<String>) -> Self {
        Self { addresses, default_interface }
    }

    /// The interfaces of this host, in the order in which the system lists them. The default
    /// interface is that of the IPv4 default route, or else that of the IPv6 one; a host may have
    /// none.
    ///
    /// # Errors
    /// When the system does not give the list.
    pub fn of_host() -> Result<Self, HostError> {
        let mut addresses = Vec::new();
        for interface in getifs::interfaces()? {
            let flags = interface.flags();
            let shared = Arc::new(Interface {
                index: interface.index(),
                mtu: interface.mtu(),
                name: interface.name().to_string(),
                hardware_address: interface
                    .hardware_addr()
                    .map(|address| address.as_bytes().to_vec())
                    .unwrap_or_default(),
                flags: Flags {
                    up: flags.contains(getifs::Flags::UP),
                    broadcast: flags.contains(getifs::Flags::BROADCAST),
                    loopback: flags.contains(getifs::Flags::LOOPBACK),
                    point_to_point: flags.contains(getifs::Flags::POINTOPOINT),
                    multicast: flags.contains(getifs::Flags::MULTICAST),
                    running: flags.contains(getifs::Flags::RUNNING),
                },
            });
            for net in interface.addrs()? {
                let address =
                    SockAddr::of_ip(net.addr(), net.max_prefix_len().min(net.prefix_len()));
                addresses.push(InterfaceAddress { address, interface: Arc::clone(&shared) });
            }
        }
        // A host whose routes cannot be read is treated as one without a default route.
        let default_interface = getifs::default_interfaces().ok().and_then(|defaults| {
            let first = defaults.ipv4().first().or_else(|| defaults.ipv6().first());
            first.map(|interface| interface.name().to_string())
        });
        Ok(Self { addresses, default_interface })
    }

    /// All addresses, in the host's order.
    pub fn addresses(&self) -> &[InterfaceAddress] {
        &self.addresses
    }

    /// Name of the interface with the default route.
    pub fn default_interface(&self) -> Option<&str> {
        self.default_interface.as_deref()
    }
}
