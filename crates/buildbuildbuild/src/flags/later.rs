//! Flags whose feature comes with a later release: what is said of them when they are given.
//!
//! Where ignoring a flag would be unsafe (a key that seals nothing) the command line is refused; elsewhere
//! it is a warning.

use super::raw::Flags;
use super::refusal::Refusal;

const CLUSTERS: &str = "clusters come";
const TLS: &str = "TLS for clients comes";
const ASSETS: &str = "the Remote Asset API comes";

/// # Errors
/// When a flag is given that its user must be able to rely on.
pub(crate) fn refuse_unsafe(flags: &Flags) -> Result<(), Refusal> {
    let unsafe_flags = [
        ("secret_key", flags.secret_key.is_some(), CLUSTERS),
        ("secret_key_file", flags.secret_key_file.is_some(), CLUSTERS),
        ("tls_cert", flags.tls_cert.is_some(), TLS),
        ("tls_key", flags.tls_key.is_some(), TLS),
        ("tls_client_ca", flags.tls_client_ca.is_some(), TLS),
    ];
    match unsafe_flags.into_iter().find(|(_, given, _)| *given) {
        Some((flag, _, feature)) => Err(Refusal::NotYet { flag, feature }),
        None => Ok(()),
    }
}

/// A line for each flag that is given and does nothing yet.
pub(crate) fn warnings(flags: &Flags, autojoin_udp: bool) -> Vec<String> {
    let idle = [
        ("cluster_name", flags.cluster_name.is_some(), CLUSTERS),
        ("bind_host", flags.bind_host.is_some(), CLUSTERS),
        ("bind_port", flags.bind_port.is_some(), CLUSTERS),
        ("advertise_host", flags.advertise_host.is_some(), CLUSTERS),
        ("advertise_port", flags.advertise_port.is_some(), CLUSTERS),
        ("autojoin_udp", autojoin_udp, CLUSTERS),
        ("join", flags.join.is_some(), CLUSTERS),
        ("autojoin_s3", flags.autojoin_s3.is_some(), CLUSTERS),
        ("fetch_allow", !flags.fetch_allow.is_empty(), ASSETS),
        ("fetch_only", !flags.fetch_only.is_empty(), ASSETS),
    ];
    let given = idle.into_iter().filter(|(_, given, _)| *given);
    given
        .map(|(flag, _, what)| format!("--{flag} does nothing yet: {what} with a later release"))
        .collect()
}
