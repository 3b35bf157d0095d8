//! Lines in the log about who was refused, so that nobody can fill it.
//!
//! An address is named at once, then at most once a minute, with how often it was left out. When many addresses are
//! refused, only the first [`MAX_ADDRESSES`] in a minute are named, and all others together once.

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::Refusal;

/// How often an address is named at most.
const EVERY: Duration = Duration::from_mins(1);

/// How many addresses are told apart.
pub(crate) const MAX_ADDRESSES: usize = 128;

/// The log of refusals of one kind.
#[derive(Debug)]
pub struct RefusalLog {
    /// What was refused, in one or two words: "gossip packet".
    what: &'static str,
    /// The entry without an address is for all that have no entry of their own.
    entries: Mutex<HashMap<Option<IpAddr>, Entry>>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    said: Instant,
    left_out: u64,
}

impl RefusalLog {
    /// An empty log. `what` was refused, in one or two words: "gossip packet".
    pub fn new(what: &'static str) -> Self {
        Self { what, entries: Mutex::default() }
    }

    /// Logs that something from an address was refused and why, unless that was said less than a minute ago.
    pub fn warn(&self, now: Instant, from: IpAddr, why: &dyn fmt::Display) {
        if let Some(left_out) = self.admit(now, from) {
            tracing::warn!(%from, left_out, "{} refused: {why}", self.what);
        }
    }

    /// Logs that a packet did not open and why. Noise is worth no line.
    pub fn packet(&self, from: SocketAddr, refusal: Refusal) {
        if refusal.is_noise() {
            tracing::trace!(%from, %refusal, "{} not taken", self.what);
        } else {
            self.warn(Instant::now(), from.ip(), &refusal);
        }
    }

    /// Whether a refusal is to be said, and how many before it were not.
    fn admit(&self, now: Instant, from: IpAddr) -> Option<u64> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let mut key = Some(from.to_canonical());
        if !entries.contains_key(&key) && entries.len() >= MAX_ADDRESSES {
            entries.retain(|key, entry| key.is_none() || now.duration_since(entry.said) < EVERY);
            if entries.len() >= MAX_ADDRESSES {
                key = None;
            }
        }
        let Some(entry) = entries.get_mut(&key) else {
            entries.insert(key, Entry { said: now, left_out: 0 });
            return Some(0);
        };
        if now.duration_since(entry.said) < EVERY {
            entry.left_out += 1;
            return None;
        }
        entry.said = now;
        Some(std::mem::take(&mut entry.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u16) -> IpAddr {
        let [a, b] = last.to_be_bytes();
        IpAddr::from([10, 0, a, b])
    }

    #[test]
    fn says_once_then_counts() {
        let log = RefusalLog::new("packet");
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(log.admit(at(0), address(1)), Some(0));
        assert_eq!(log.admit(at(1), address(1)), None);
        assert_eq!(log.admit(at(1), address(2)), Some(0));
        assert_eq!(log.admit(at(59), address(1)), None);
        assert_eq!(log.admit(at(60), address(1)), Some(2));
        assert_eq!(log.admit(at(61), address(1)), None);
        let mapped = "::ffff:10.0.0.2".parse().unwrap();
        assert_eq!(log.admit(at(30), mapped), None, "the same address in other words");
    }

    #[test]
    fn a_crowd_is_named_as_one() {
        let log = RefusalLog::new("packet");
        let start = Instant::now();
        let said = |at: Instant, from: std::ops::Range<u16>| {
            from.filter(|last| log.admit(at, address(*last)).is_some()).count()
        };
        assert_eq!(said(start, 0..10_000), MAX_ADDRESSES + 1);
        assert_eq!(log.entries.lock().unwrap().len(), MAX_ADDRESSES + 1);
        let later = start + EVERY;
        assert_eq!(log.admit(later, address(20_000)), Some(0), "there is room again");
        assert_eq!(said(later, 30_000..40_000), MAX_ADDRESSES - 1);
        assert!(log.entries.lock().unwrap().len() <= MAX_ADDRESSES + 1);
    }
}
