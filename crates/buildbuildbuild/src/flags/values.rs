//! The values of single flags, from text.
//!
//! Promises: what is no value of its flag gives a [`Refusal`] with the flag's name, the value and
//! what would be right. Knows no flag in particular but by its form.

use std::time::Duration;

use super::refusal::Refusal;
use super::settings::RequiredHeader;
use super::units;

/// Longest name of a node or cluster, in bytes.
const MAX_NAME: usize = 100;

pub(crate) fn parse_port(flag: &'static str, text: &str, least: u16) -> Result<u16, Refusal> {
    let port = text.parse().ok().filter(|port| *port >= least && !text.starts_with('+'));
    port.ok_or_else(|| Refusal::value(flag, text, format!("use a port from {least} to 65535")))
}

pub(crate) fn parse_count(
    flag: &'static str,
    text: Option<&str>,
    default: usize,
    range: std::ops::RangeInclusive<usize>,
) -> Result<usize, Refusal> {
    let Some(text) = text else { return Ok(default) };
    let count = text.parse().ok().filter(|count| range.contains(count));
    let right = || format!("use a number from {} to {}", range.start(), range.end());
    count.ok_or_else(|| Refusal::value(flag, text, right()))
}

pub(crate) fn parse_flag(
    flag: &'static str,
    text: Option<&str>,
    default: bool,
) -> Result<bool, Refusal> {
    let Some(text) = text else { return Ok(default) };
    units::parse_bool(text).ok_or_else(|| Refusal::value(flag, text, "use true or false"))
}

pub(crate) fn parse_timeout(
    flag: &'static str,
    text: Option<&str>,
    default: Duration,
    zero: bool,
) -> Result<Duration, Refusal> {
    /// Ten years: later points in time may not be told.
    const MAX: Duration = Duration::from_secs(3_650 * 86_400);
    let Some(text) = text else { return Ok(default) };
    let right = |duration: &Duration| *duration <= MAX && (zero || !duration.is_zero());
    let parsed = units::parse_duration(text).filter(right);
    let than = if zero { "" } else { " more than 0" };
    parsed.ok_or_else(|| {
        Refusal::value(flag, text, format!("use a duration{than}, like 300s, 5m or 1h30m"))
    })
}

pub(crate) fn parse_choice<T: Copy>(
    flag: &'static str,
    text: Option<&str>,
    choices: &[(&str, T)],
    default: T,
) -> Result<T, Refusal> {
    let Some(text) = text else { return Ok(default) };
    let found = choices.iter().find(|(name, _)| *name == text);
    let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
    found
        .map(|(_, choice)| *choice)
        .ok_or_else(|| Refusal::value(flag, text, format!("use {}", names.join(" or "))))
}

pub(crate) fn parse_name(flag: &'static str, text: &str) -> Result<String, Refusal> {
    let right = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if text.is_empty() || text.len() > MAX_NAME || !text.chars().all(right) {
        let right = format!("use up to {MAX_NAME} letters, digits, -, _ and .");
        return Err(Refusal::value(flag, text, right));
    }
    Ok(text.to_owned())
}

/// A header name by RFC 9110, that gRPC carries as text; its value is not shown when refused.
pub(crate) fn parse_header(text: &str) -> Result<RequiredHeader, Refusal> {
    let refused = |right: &str| Err(Refusal::value("required_header", "...", right));
    let Some((name, value)) = text.split_once('=') else {
        return refused("use name=value");
    };
    let name = name.trim().to_ascii_lowercase();
    let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if name.is_empty() || !name.chars().all(token) {
        return refused("the name before = must be that of a header, like x-build-key");
    }
    if name.ends_with("-bin")
        || name.starts_with("grpc-")
        || ["te", "content-type", "host"].contains(&name.as_str())
    {
        return refused("gRPC keeps this name for itself: use another, like x-build-key");
    }
    if value.is_empty()
        || !value.chars().all(|c| c == ' ' || c.is_ascii_graphic())
        || value.trim() != value
    {
        return refused("the value behind = must be visible ASCII, without spaces around it");
    }
    Ok(RequiredHeader { name, value: value.to_owned() })
}

pub(crate) fn parse_size(
    flag: &'static str,
    text: &str,
    whole: u64,
    least: u64,
) -> Result<u64, Refusal> {
    let bytes = units::parse_share(text, whole).unwrap_or_else(|| units::parse_bytes(text));
    bytes.filter(|bytes| *bytes >= least).ok_or_else(|| {
        let least = units::format_bytes(least);
        Refusal::value(
            flag,
            text,
            format!("use a size of at least {least}, like 8GiB, 500MB or 25%"),
        )
    })
}

/// The defaults, but for names that are given; a given empty value only takes the default away.
pub(crate) fn platform(given: &[String]) -> Result<Vec<(String, String)>, Refusal> {
    let mut offered = Vec::new();
    let mut named = Vec::new();
    for property in given {
        let Some((name, value)) =
            property.split_once('=').filter(|(name, _)| !name.trim().is_empty())
        else {
            return Err(Refusal::value("platform", property, "use name=value"));
        };
        named.push(name.to_owned());
        if !value.is_empty() {
            offered.push((name.to_owned(), value.to_owned()));
        }
    }
    let host = [("OSFamily", std::env::consts::OS), ("Arch", std::env::consts::ARCH)];
    let defaults = host.into_iter().filter(|(name, _)| !named.iter().any(|given| given == name));
    offered.extend(defaults.map(|(name, value)| (name.to_owned(), value.to_owned())));
    offered.sort();
    offered.dedup();
    Ok(offered)
}

/// Go's levels for ours, in a bare level and in `target=level`.
pub(crate) fn parse_log_filter(text: &str) -> Result<String, Refusal> {
    let refused = || {
        Refusal::value(
            "loglevel",
            text,
            "use panic, fatal, error, warn, info, debug or trace, or target=level",
        )
    };
    let mut bare = 0;
    let mut directives = Vec::new();
    for directive in text.split(',') {
        let (target, level) = match directive.trim().split_once('=') {
            Some((target, level)) => (Some(target), level),
            None => (None, directive.trim()),
        };
        let level = match level.to_ascii_lowercase().as_str() {
            "panic" | "fatal" | "error" => "error",
            "warn" => "warn",
            "info" => "info",
            "debug" => "debug",
            "trace" => "trace",
            _ => return Err(refused()),
        };
        let named = |c: char| c.is_ascii_alphanumeric() || "_:".contains(c);
        match target {
            None => {
                bare += 1;
                directives.push(level.to_owned());
            }
            Some(target) if !target.is_empty() && target.chars().all(named) => {
                directives.push(format!("{target}={level}"));
            }
            Some(_) => return Err(refused()),
        }
    }
    if bare > 1 {
        return Err(refused());
    }
    // Filters alone leave all else as it is by default.
    if bare == 0 {
        directives.insert(0, "info".to_owned());
    }
    Ok(directives.join(","))
}
