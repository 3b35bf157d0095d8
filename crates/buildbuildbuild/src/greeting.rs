//! What a node says when it starts: what it is, where it listens, how to use it.
//!
//! Promises: never shows the value of the required header. Knows settings only.

use std::net::SocketAddr;

use crate::flags::{Settings, format_bytes};

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
