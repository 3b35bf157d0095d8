//! Names of logs, as the comments of `build.bazel.remote.logstream.v1.LogStream` define their forms.
//!
//! A log's name says which node has it while it grows, and when it began: so it is found while it grows and afterwards,
//! with nothing to look it up in. Nobody guesses one, for 88 bits at least are random.

use std::fmt;

use bbb_digest::{Digest, Function, InstanceName};

/// The segment before a log's own.
pub(crate) const SEGMENT: &str = "logstreams";

/// What stands for the node that has a log while it grows. That two have the same is rare; a log of the one is then looked
/// for at the other too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LogHost(pub u64);

impl LogHost {
    /// What stands for the node of this name.
    pub fn of_node(name: &str) -> Self {
        let digest = Digest::of(Function::Sha256, name.as_bytes());
        Self(digest.hash().iter().take(8).fold(0, |host, byte| host << 8 | u64::from(*byte)))
    }
}

/// What a log holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Channel {
    /// The standard output of an action.
    Stdout,
    /// The standard error of an action.
    Stderr,
    /// What a client appends by `ByteStream.Write`.
    Written,
}

impl Channel {
    const ALL: [Self; 3] = [Self::Stdout, Self::Stderr, Self::Written];

    const fn letter(self) -> &'static str {
        match self {
            Self::Stdout => "o",
            Self::Stderr => "e",
            Self::Written => "w",
        }
    }
}

/// What tells a log from all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LogId {
    /// The node that has it while it grows.
    pub host: LogHost,
    /// 32 bits that tell the second of the Unix time in which it began; the others make it one of its kind.
    pub number: u128,
    /// What it holds.
    pub channel: Channel,
}

impl LogId {
    /// The second of the Unix time in which it began.
    pub const fn began(&self) -> u32 {
        (self.number >> 96) as u32
    }

    /// Reads what [`fmt::Display`] writes, in the one form that it has.
    pub fn parse(text: &str) -> Option<Self> {
        let (host, rest) = text.split_once('-')?;
        let (number, letter) = rest.split_once('-')?;
        let host = LogHost(u64::try_from(hex(host, 16)?).ok()?);
        let channel = Channel::ALL.into_iter().find(|channel| channel.letter() == letter)?;
        Some(Self { host, number: hex(number, 32)?, channel })
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:032x}-{}", self.host.0, self.number, self.channel.letter())
    }
}

/// A log as it is read: `{instance}/logstreams/{id}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LogResource {
    /// The instance.
    pub instance: InstanceName,
    /// The log.
    pub id: LogId,
}

impl fmt::Display for LogResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.instance.is_empty() {
            write!(f, "{}/", self.instance)?;
        }
        write!(f, "{SEGMENT}/{}", self.id)
    }
}

/// A log as it is written: `{instance}/logstreams/{id}/{token}`. Who knows the token may write.
#[derive(Clone, PartialEq, Eq)]
pub struct LogWriteResource {
    /// The log.
    pub log: LogResource,
    /// The secret.
    pub token: u128,
}

impl fmt::Display for LogWriteResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:032x}", self.log, self.token)
    }
}

/// Without the secret.
impl fmt::Debug for LogWriteResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogWriteResource").field("log", &self.log).finish_non_exhaustive()
    }
}

/// A name of a log that has been cut into its segments.
pub(crate) enum Name {
    Read(LogResource),
    Write(LogWriteResource),
}

/// Reads a name that may be a log's; none if it has no such form.
pub(crate) fn parse(segments: &[&str]) -> Option<Result<Name, String>> {
    let at = segments.iter().rposition(|segment| *segment == SEGMENT)?;
    let (instance, rest) = (segments[..at].join("/"), &segments[at + 1..]);
    let (id, token) = match rest {
        [id] => (id, None),
        [id, token] => (id, Some(token)),
        _ => return None,
    };
    let instance: InstanceName = match instance.parse() {
        Ok(instance) => instance,
        Err(error) => return Some(Err(format!("{error}"))),
    };
    let Some(id) = LogId::parse(id) else {
        return Some(Err("has no log's id after logstreams".into()));
    };
    let log = LogResource { instance, id };
    let Some(token) = token else { return Some(Ok(Name::Read(log))) };
    Some(match hex(token, 32) {
        Some(token) => Ok(Name::Write(LogWriteResource { log, token })),
        None => Err("has no token after the log's id".into()),
    })
}

/// So many digits, none of them upper case.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let plain = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    (text.len() == digits && text.bytes().all(plain))
        .then(|| u128::from_str_radix(text, 16).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Resource;

    fn log(instance: &str) -> LogResource {
        let id = LogId {
            host: LogHost::of_node("a"),
            number: 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef,
            channel: Channel::Stderr,
        };
        LogResource { instance: instance.parse().unwrap(), id }
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for instance in ["", "main", "a/logstreams"] {
            let log = log(instance);
            assert_eq!(Resource::parse(&log.to_string()).unwrap(), Resource::Log(log.clone()));
            let write = LogWriteResource { log, token: 7 };
            assert_eq!(Resource::parse(&write.to_string()).unwrap(), Resource::LogWrite(write));
        }
        assert_eq!(log("").id.began(), 0x0123_4567);
    }

    #[test]
    fn other_names_are_none() {
        let good = log("").to_string();
        for bad in [
            "logstreams",
            "logstreams/",
            "logstreams/x",
            &good[..good.len() - 1],
            &format!("{good}x"),
            &format!("{good}/"),
            &format!("{good}/1"),
            &format!("a//{good}"),
            &good.to_uppercase(),
        ] {
            assert_eq!(Resource::parse(bad).unwrap_err().field, "resource_name", "{bad}");
        }
    }

    #[test]
    fn a_token_is_not_shown() {
        let write = LogWriteResource { log: log(""), token: 0xdead_beef };
        assert!(!format!("{write:?}").contains("beef"));
    }
}
