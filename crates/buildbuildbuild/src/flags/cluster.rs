//! The flags of the cluster: its name, its keys, where gossip listens, and the ways to meet.
//!
//! A node is part of a cluster if it has a bucket, which all of a cluster share, and an address that others
//! can reach it at.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
};

use bbb_cluster::{HostPort, JoinList, SecretKey, UdpTarget};

use super::{
    defaults::Machine,
    hosts::{PRIVATE_IP, evaluate, host_of},
    raw::Flags,
    refusal::Refusal,
    units,
    values::{parse_name, parse_port},
};

/// How a node is part of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterFlags {
    /// Only nodes of the same name join.
    pub name: String,
    /// Where gossip listens; port 0 lets the system choose.
    pub bind: SocketAddr,
    /// The address that other nodes are told, for gossip and for the port alike; never `0.0.0.0` or `::`.
    pub advertise_host: IpAddr,
    /// The port of gossip that other nodes are told; none is the one that it listens on.
    pub advertise_port: Option<u16>,
    /// The broadcast addresses and multicast groups to announce to and to listen on.
    pub autojoin_udp: Vec<UdpTarget>,
    /// The key of the member list in the bucket.
    pub autojoin_s3: Option<String>,
    /// Nodes to join; names are looked up when they are needed.
    pub join: Vec<HostPort>,
    /// The keys of the cluster: the first seals, all open. None leaves the cluster open.
    pub secret_keys: Vec<SecretKey>,
}

impl ClusterFlags {
    /// What other nodes are told about gossip that listens on `bound`, whose port is a real one.
    pub fn advertised_gossip(&self, bound: SocketAddr) -> SocketAddr {
        SocketAddr::new(self.advertise_host, self.advertise_port.unwrap_or(bound.port()))
    }

    /// What other nodes are told about the node's port that listens on `bound`, whose port is a real one.
    pub fn advertised_port(&self, bound: SocketAddr) -> SocketAddr {
        SocketAddr::new(self.advertise_host, bound.port())
    }
}

const DEFAULT_NAME: &str = "default_cluster";
const DEFAULT_BIND_PORT: &str = "7946";
const DEFAULT_UDP: &str = r#"{{ GetPrivateInterfaces | attr "broadcast" }}:9876"#;

/// The cluster that the flags make this node a part of, if any. `listen` is where clients are served, if the flags
/// say so.
///
/// # Errors
/// When a value is none of its flag's, a key's file cannot be read, or a flag is given that needs a cluster and
/// there is none.
pub(super) fn resolve(
    flags: &Flags,
    machine: &Machine,
    listen: Option<IpAddr>,
    notes: &mut Vec<String>,
) -> Result<Option<ClusterFlags>, Refusal> {
    let name = parse_name("cluster_name", flags.cluster_name.as_deref().unwrap_or(DEFAULT_NAME))?;
    let bind_port = flags.bind_port.as_deref().unwrap_or(DEFAULT_BIND_PORT);
    let bind_port = parse_port("bind_port", bind_port, 0)?;
    let advertise_port = flags.advertise_port.as_deref();
    let advertise_port = advertise_port.map(|port| parse_port("advertise_port", port, 1));
    let advertise_port = advertise_port.transpose()?;
    let join = join_list(flags.join.as_deref())?;
    let secret_keys = secret_keys(flags)?;
    // Who is not reached from elsewhere looks for no others there, unless the flags say so.
    let loopback = listen.filter(IpAddr::is_loopback);
    let hosts = Hosts::of(flags, machine, loopback)?;
    let udp = udp_targets(flags, machine, hosts.as_ref())?;
    if flags.bucket.is_none() {
        return refuse_without_bucket(flags).map(|()| None);
    }
    let Some(Hosts { bind, advertise }) = hosts else {
        return without_address(flags, notes).map(|()| None);
    };
    if let Udp::Nothing = udp {
        let template = flags.autojoin_udp.as_deref().unwrap_or(DEFAULT_UDP);
        notes
            .push(format!("--autojoin_udp={template} gives no address on this machine: it is off"));
    }
    Ok(Some(ClusterFlags {
        name,
        bind: SocketAddr::new(bind, bind_port),
        advertise_host: advertise,
        advertise_port,
        autojoin_udp: udp.targets(),
        autojoin_s3: flags.autojoin_s3.clone(),
        join,
        secret_keys,
    }))
}

/// Where gossip listens, and the address that others are told.
struct Hosts {
    bind: IpAddr,
    advertise: IpAddr,
}

impl Hosts {
    /// None where no address is given and the machine has no private one.
    fn of(
        flags: &Flags,
        machine: &Machine,
        loopback: Option<IpAddr>,
    ) -> Result<Option<Self>, Refusal> {
        let given = |flag, host: &Option<String>| match host.as_deref() {
            Some(template) => host_of(flag, template, machine),
            None => Ok(None),
        };
        let bind = given("bind_host", &flags.bind_host)?;
        let advertise = given("advertise_host", &flags.advertise_host)?;
        if let Some(everywhere) = advertise.filter(IpAddr::is_unspecified) {
            let right =
                "other nodes cannot send to it: use the address that they reach this node at";
            return Err(Refusal::value("advertise_host", &everywhere.to_string(), right));
        }
        let default = match loopback {
            Some(loopback) => Some(loopback),
            None => host_of("advertise_host", PRIVATE_IP, machine)?,
        };
        let concrete = bind.filter(|host| !host.is_unspecified());
        let Some(advertise) = advertise.or(concrete).or(default) else { return Ok(None) };
        let bind = bind.or(default).unwrap_or_else(|| everywhere_like(advertise));
        if bind.is_ipv4() && advertise.is_ipv6()
            || concrete.is_some_and(|bind| bind.is_ipv6()) && advertise.is_ipv4()
        {
            return Err(Refusal::Contradiction(format!(
                "--bind_host={bind} and --advertise_host={advertise} are of different IP versions: give two of one"
            )));
        }
        Ok(Some(Self { bind, advertise }))
    }
}

/// All addresses of the same IP version.
const fn everywhere_like(host: IpAddr) -> IpAddr {
    match host {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

/// What comes of `--autojoin_udp`.
enum Udp {
    At(Vec<UdpTarget>),
    /// It is not wanted.
    Off,
    /// It is wanted, but its template gives nothing.
    Nothing,
}

impl Udp {
    fn targets(self) -> Vec<UdpTarget> {
        match self {
            Self::At(targets) => targets,
            Self::Off | Self::Nothing => Vec::new(),
        }
    }
}

fn udp_targets(flags: &Flags, machine: &Machine, hosts: Option<&Hosts>) -> Result<Udp, Refusal> {
    let template = match flags.autojoin_udp.as_deref() {
        Some(off) if off.is_empty() || units::parse_bool(off) == Some(false) => {
            return Ok(Udp::Off);
        }
        Some(template) => template,
        // A network is not told of what is reached on this machine alone.
        None if hosts.is_none_or(|hosts| hosts.advertise.is_loopback()) => return Ok(Udp::Off),
        None => DEFAULT_UDP,
    };
    let text = evaluate("autojoin_udp", template, machine)?;
    let targets = UdpTarget::parse_list(&text)
        .map_err(|error| Refusal::value("autojoin_udp", template, error.to_string()))?;
    Ok(if targets.is_empty() { Udp::Nothing } else { Udp::At(targets) })
}

fn join_list(list: Option<&str>) -> Result<Vec<HostPort>, Refusal> {
    let Some(list) = list else { return Ok(Vec::new()) };
    let hosts = list.split(',').map(|host| host.trim().parse::<HostPort>());
    let hosts = hosts.collect::<Result<Vec<_>, _>>();
    let hosts = hosts.and_then(|hosts| JoinList::check(&hosts).map(|()| hosts));
    hosts.map_err(|error| Refusal::value("join", list, error.to_string()))
}

/// The keys that are given; all but the first open what other nodes still seal with them. No refusal shows a key.
fn secret_keys(flags: &Flags) -> Result<Vec<SecretKey>, Refusal> {
    let (flag, keys) = match (flags.secret_key.as_deref(), flags.secret_key_file.as_deref()) {
        (None, None) => return Ok(Vec::new()),
        (Some(_), Some(_)) => {
            return Err(Refusal::Contradiction(
                "--secret_key and --secret_key_file are both given: give one".to_owned(),
            ));
        }
        (Some(keys), None) => ("secret_key", SecretKey::parse_list(keys)),
        (None, Some(path)) => ("secret_key_file", SecretKey::read_file(Path::new(path))),
    };
    keys.map_err(|error| Refusal::Other(format!("--{flag}: {error}")))
}

/// Nodes without a bucket have nothing to share.
fn refuse_without_bucket(flags: &Flags) -> Result<(), Refusal> {
    match clustered(flags) {
        Some(flag) => Err(Refusal::Contradiction(format!(
            "--{flag} needs --bucket: a cluster shares one bucket, so give --bucket"
        ))),
        None => Ok(()),
    }
}

/// Nobody could reach this node.
fn without_address(flags: &Flags, notes: &mut Vec<String>) -> Result<(), Refusal> {
    let right = "this machine has no private address, so give --advertise_host the one that other nodes reach";
    match clustered(flags) {
        Some(flag) => Err(Refusal::Contradiction(format!("--{flag}: {right}"))),
        None => {
            notes.push(format!("not part of a cluster: {right}"));
            Ok(())
        }
    }
}

/// A flag that only somebody who wants a cluster gives.
fn clustered(flags: &Flags) -> Option<&'static str> {
    let given = [
        ("join", flags.join.is_some()),
        ("autojoin_s3", flags.autojoin_s3.is_some()),
        ("secret_key", flags.secret_key.is_some()),
        ("secret_key_file", flags.secret_key_file.is_some()),
    ];
    given.into_iter().find(|(_, given)| *given).map(|(flag, _)| flag)
}
