//! What a node says when it starts: what it is, where it listens, how to use it.
//!
//! Promises: never shows the value of the required header. Knows settings, and what was found out about the machine.

mod actions;

use std::net::SocketAddr;

pub use actions::Workplace;

use crate::flags::{BucketFlags, ClusterFlags, Settings, format_bytes, format_duration};

/// Lines for the terminal or the log, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Greeting {
    /// To be told.
    pub lines: Vec<String>,
    /// To be told as warnings.
    pub warnings: Vec<String>,
}

/// Where a node listens; the ports are real ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Its port.
    pub port: SocketAddr,
    /// Its gossip, if it is part of a cluster.
    pub gossip: Option<SocketAddr>,
}

/// The greeting of a node that listens on `bound`, and runs actions at its workplace if it has one.
pub fn greeting(settings: &Settings, bound: Bound, workplace: Option<&Workplace>) -> Greeting {
    let slots = settings.worker_slots;
    let work = match slots {
        0 => "runs no actions".to_owned(),
        1 => "runs 1 action at a time".to_owned(),
        slots => format!("runs {slots} actions at a time"),
    };
    let mut lines = vec![
        format!(
            "buildbuildbuild {}, node {}: {work}",
            env!("CARGO_PKG_VERSION"),
            settings.node_name
        ),
        format!(
            "keeps up to {} in {}, and {} in memory",
            format_bytes(settings.cache_size_bytes),
            settings.cache_dir.display(),
            format_bytes(settings.memory_bytes)
        ),
    ];
    lines.extend(settings.bucket.as_ref().map(bucket_line));
    lines.extend(workplace.into_iter().flat_map(|workplace| workplace.lines(settings)));
    let cluster = settings.cluster.as_ref().zip(bound.gossip);
    lines.extend(cluster.map(|(cluster, gossip)| cluster_line(cluster, gossip, bound.port)));
    lines.push(client_line(settings, bound.port));
    if slots == 0 {
        lines.push(format!(
            "to run actions here too, start it with --worker_slots={} (this machine has {} cores)",
            settings.cores, settings.cores
        ));
    }
    lines.extend(settings.notes().iter().cloned());
    let mut warnings = Vec::from_iter(open_executor(settings, bound.port));
    warnings.extend(cluster.and_then(|(cluster, gossip)| open_cluster(settings, cluster, gossip)));
    warnings.extend(cluster.and_then(|(cluster, _)| unreachable_port(cluster, bound.port)));
    Greeting { lines, warnings }
}

/// Where clients find the node, and what they need.
fn client_line(settings: &Settings, bound: SocketAddr) -> String {
    let host = if bound.ip().is_unspecified() { settings.client_host } else { bound.ip() };
    let scheme = if settings.tls.is_some() { "grpcs" } else { "grpc" };
    let role = if takes_actions(settings) { "executor" } else { "cache" };
    let header = settings.required_header.as_ref().map_or(String::new(), |header| {
        format!(" --remote_header={}=<the value of --required_header>", header.name)
    });
    let certificate = match has_client_ca(settings) {
        true => " --tls_client_certificate=<one of --tls_client_ca> --tls_client_key=<its key>",
        false => "",
    };
    format!(
        "listens on {bound}; use it with: bazel build --remote_{role}={scheme}://{}{header}{certificate} //...",
        SocketAddr::new(host, bound.port())
    )
}

/// Whether actions can be handed in here: they run here, or on other nodes.
const fn takes_actions(settings: &Settings) -> bool {
    settings.worker_slots > 0 || settings.cluster.is_some()
}

fn has_client_ca(settings: &Settings) -> bool {
    settings.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some())
}

/// Which cluster the node is part of, and where others reach it.
fn cluster_line(cluster: &ClusterFlags, gossip: SocketAddr, port: SocketAddr) -> String {
    let trust = match cluster.secret_keys.len() {
        0 => "open".to_owned(),
        1 => "sealed with its key".to_owned(),
        keys => format!("sealed with the first of its {keys} keys"),
    };
    format!(
        "part of the cluster {}, which is {trust}; other nodes reach it at {} (gossip, UDP) and {} (TCP)",
        cluster.name,
        cluster.advertised_gossip(gossip),
        cluster.advertised_port(port)
    )
}

/// Anybody could run commands.
fn open_executor(settings: &Settings, bound: SocketAddr) -> Option<String> {
    let guarded = settings.required_header.is_some() || has_client_ca(settings);
    let open = takes_actions(settings) && !guarded && !bound.ip().is_loopback();
    let machines = match settings.worker_slots {
        0 => "the machines of this cluster",
        _ => "this machine",
    };
    open.then(|| {
        format!(
            "whoever reaches {bound} can run commands on {machines}: ask clients for a \
             --required_header or certificates (--tls_client_ca), or use --listen=127.0.0.1"
        )
    })
}

/// Anybody could join.
fn open_cluster(settings: &Settings, cluster: &ClusterFlags, gossip: SocketAddr) -> Option<String> {
    // What is asked of clients does not stand in the way between nodes.
    let past_the_guards = match settings.required_header.is_some() || has_client_ca(settings) {
        true => ", without what is asked of clients",
        false => "",
    };
    let open = cluster.secret_keys.is_empty() && !gossip.ip().is_loopback();
    open.then(|| {
        format!(
            "no --secret_key: whoever reaches {} can join the cluster {}, read and write what it stores{past_the_guards}",
            cluster.advertised_gossip(gossip),
            cluster.name
        )
    })
}

/// Others are told an address at which the port does not answer.
fn unreachable_port(cluster: &ClusterFlags, port: SocketAddr) -> Option<String> {
    let unreachable = port.ip().is_loopback() && !cluster.advertise_host.is_loopback();
    unreachable.then(|| {
        format!(
            "other nodes are told {}, but the port listens on {port}, which they do not reach: give --listen an \
             address that they do",
            cluster.advertised_port(port)
        )
    })
}

/// Where everything is kept, and for how long.
fn bucket_line(bucket: &BucketFlags) -> String {
    let how_long = match bucket.expire_after {
        Some(age) => format!("for {} since its last use", format_duration(age)),
        None => "for good".to_owned(),
    };
    let write_back =
        if bucket.write_back { "; writes are acknowledged before they are there" } else { "" };
    format!("keeps everything {how_long} in the bucket {}{write_back}", bucket.location)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::{Flags, Machine};

    fn greet(flags: Flags, bound: &str) -> Greeting {
        let machine = Machine {
            host_name: "builder".to_owned(),
            unique: "0f3a".to_owned(),
            memory_bytes: 16 << 30,
            cores: 4,
            ..Machine::default()
        };
        let flags = Flags {
            cache_dir: Some("/var/cache/b".to_owned()),
            cache_size: Some("12.5GiB".to_owned()),
            listen: flags.listen.or(Some("10.1.2.3".to_owned())),
            ..flags
        };
        let gossip = flags.bucket.as_ref().map(|_| "10.1.2.3:7946".parse().unwrap());
        let bound = Bound { port: bound.parse().unwrap(), gossip };
        greeting(&Settings::resolve(&flags, &machine).unwrap(), bound, None)
    }

    fn slots(count: &str) -> Flags {
        Flags { worker_slots: Some(count.to_owned()), ..Flags::default() }
    }

    #[test]
    fn a_cache_says_how_it_can_run_actions() {
        let Greeting { lines, warnings } = greet(Flags::default(), "10.1.2.3:1234");
        assert!(lines[0].ends_with("node builder-0f3a: runs no actions"), "{lines:?}");
        assert_eq!(lines[1], "keeps up to 12.5 GiB in /var/cache/b, and 2 GiB in memory");
        assert!(lines[2].contains("--remote_cache=grpc://10.1.2.3:1234 //..."), "{lines:?}");
        assert!(lines[3].contains("--worker_slots=4"), "{lines:?}");
        assert!(warnings.is_empty());
    }

    #[test]
    fn an_open_executor_warns_unless_it_is_on_loopback() {
        let open = greet(slots("4"), "10.1.2.3:1234");
        assert!(open.lines[0].ends_with("runs 4 actions at a time"), "{open:?}");
        assert!(open.lines[2].contains("--remote_executor=grpc://10.1.2.3:1234"), "{open:?}");
        assert!(open.warnings[0].contains("10.1.2.3:1234 can run commands"), "{open:?}");
        assert!(greet(slots("4"), "127.0.0.1:1234").warnings.is_empty());
        assert!(greet(slots("4"), "[::1]:1234").warnings.is_empty());
        assert_eq!(greet(slots("4"), "0.0.0.0:1234").warnings.len(), 1);
    }

    #[test]
    fn a_required_header_is_named_but_not_shown() {
        let header = Some("X-Key=topsecret".to_owned());
        let greeting = greet(Flags { required_header: header, ..slots("1") }, "10.1.2.3:1234");
        assert!(greeting.lines[2].contains("--remote_header=x-key=<the value of"), "{greeting:?}");
        assert!(greeting.warnings.is_empty());
        assert!(!format!("{greeting:?}").contains("topsecret"));
    }

    #[test]
    fn listening_everywhere_gives_an_address_that_clients_can_use() {
        let flags = Flags { listen: Some("0.0.0.0".to_owned()), ..Flags::default() };
        let greeting = greet(flags, "0.0.0.0:80");
        // This machine of the test has no private address.
        assert!(greeting.lines[2].contains("grpc://127.0.0.1:80"), "{greeting:?}");
        let v6 = greet(Flags { listen: Some("::1".to_owned()), ..Flags::default() }, "[::1]:80");
        assert!(v6.lines[2].contains("grpc://[::1]:80"), "{v6:?}");
    }

    #[test]
    fn tls_is_part_of_the_address_and_certificates_guard_as_headers_do() {
        let tls = |client_ca: Option<&str>| Flags {
            tls_cert: Some("c".to_owned()),
            tls_key: Some("k".to_owned()),
            tls_client_ca: client_ca.map(str::to_owned),
            ..slots("1")
        };
        let open = greet(tls(None), "10.1.2.3:1234");
        assert!(open.lines[2].contains("=grpcs://10.1.2.3:1234 //..."), "{open:?}");
        assert_eq!(open.warnings.len(), 1);
        let guarded = greet(tls(Some("a")), "10.1.2.3:1234");
        assert!(guarded.lines[2].contains("--tls_client_certificate=<one of"), "{guarded:?}");
        assert!(guarded.warnings.is_empty());
    }

    const KEY: &str = "K3yR0XbW9Zq7LmT2vNs8JdYc5HfPa1Ge4uQw6Ei";

    #[test]
    fn a_cluster_is_named_with_where_it_reaches_the_node_and_whether_it_is_open() {
        let cluster = |key: Option<&str>| Flags {
            bucket: Some("builds".to_owned()),
            advertise_host: Some("192.0.2.1".to_owned()),
            secret_key: key.map(str::to_owned),
            ..Flags::default()
        };
        let open = greet(cluster(None), "10.1.2.3:1234");
        let line = "part of the cluster default_cluster, which is open; other nodes reach it at 192.0.2.1:7946 (gossip, \
                    UDP) and 192.0.2.1:1234 (TCP)";
        assert_eq!(open.lines[3], line);
        assert!(
            open.warnings[0].contains("10.1.2.3:1234 can run commands on the machines of this"),
            "{open:?}"
        );
        assert!(
            open.warnings[1].starts_with("no --secret_key: whoever reaches 192.0.2.1:7946"),
            "{open:?}"
        );
        assert!(!open.warnings[1].contains("asked of clients"), "{open:?}");
        assert!(open.lines[4].contains("--remote_executor=grpc://"), "{open:?}");
        let required_header = Some("x-key=v".to_owned());
        let guarded = greet(Flags { required_header, ..cluster(None) }, "10.1.2.3:1234");
        assert!(guarded.warnings[0].ends_with(", without what is asked of clients"), "{guarded:?}");
        let sealed = greet(cluster(Some(KEY)), "10.1.2.3:1234");
        assert!(sealed.lines[3].contains("which is sealed with its key;"), "{sealed:?}");
        assert_eq!(sealed.warnings.len(), 1, "{sealed:?}");
        assert!(!format!("{sealed:?}").contains(KEY));
        let deaf = greet(cluster(Some(KEY)), "127.0.0.1:1234");
        assert!(
            deaf.warnings[0].starts_with("other nodes are told 192.0.2.1:1234, but"),
            "{deaf:?}"
        );
    }
}
