//! What a node says when it starts: what it is, where it listens, how to use it.
//!
//! Promises: never shows the value of the required header. Knows settings only.

use std::net::SocketAddr;

use crate::flags::{BucketFlags, Settings, format_bytes, format_duration};

/// Lines for the terminal or the log, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Greeting {
    /// To be told.
    pub lines: Vec<String>,
    /// To be told as warnings.
    pub warnings: Vec<String>,
}

/// The greeting of a node that listens on `bound`, whose port is a real one.
pub fn greeting(settings: &Settings, bound: SocketAddr) -> Greeting {
    let slots = settings.worker_slots;
    let work = match slots {
        0 => "runs no actions".to_owned(),
        1 => "runs 1 action at a time".to_owned(),
        slots => format!("runs {slots} actions at a time"),
    };
    let host = if bound.ip().is_unspecified() { settings.client_host } else { bound.ip() };
    let url = format!("grpc://{}", SocketAddr::new(host, bound.port()));
    let role = if slots == 0 { "cache" } else { "executor" };
    let header = settings.required_header.as_ref().map_or(String::new(), |header| {
        format!(" --remote_header={}=<the value of --required_header>", header.name)
    });
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
        format!("listens on {bound}; use it with: bazel build --remote_{role}={url}{header} //..."),
    ];
    if let Some(bucket) = &settings.bucket {
        lines.insert(2, bucket_line(bucket));
    }
    if slots == 0 {
        lines.push(format!(
            "to run actions here too, start it with --worker_slots={} (this machine has {} cores)",
            settings.cores, settings.cores
        ));
    }
    lines.extend(settings.notes().iter().cloned());
    let mut warnings = settings.not_yet().to_vec();
    if slots > 0 && settings.required_header.is_none() && !bound.ip().is_loopback() {
        warnings.push(format!(
            "whoever reaches {bound} can run commands on this machine: ask clients for a \
             --required_header, or use --listen=127.0.0.1"
        ));
    }
    Greeting { lines, warnings }
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
        greeting(&Settings::resolve(&flags, &machine).unwrap(), bound.parse().unwrap())
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
    fn what_is_not_there_yet_is_warned_of() {
        let flags = Flags { fetch_only: vec!["example.org".to_owned()], ..Flags::default() };
        let greeting = greet(flags, "10.1.2.3:1234");
        assert!(greeting.warnings[0].starts_with("--fetch_only does nothing yet"), "{greeting:?}");
    }
}
