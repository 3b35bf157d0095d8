//! Addresses at which there may be a node that is no member: those that were found, and those of members that went.
//!
//! Each is greeted until it answers: a found one for some seconds (who found it will find it again), one of a member
//! that went for hours, ever more rarely, so that the halves of a cluster become one again without anybody's help.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

/// The most addresses that are greeted by turns. Where there are more, those that have been tried longest give way.
const MAX_STRANGERS: usize = 512;

/// The most greetings in a round.
const GREETINGS_PER_ROUND: usize = 16;

/// A found address is greeted this often, so that a greeting and its answer may be lost.
const FOUND_EVERY: Duration = Duration::from_millis(500);
/// A found address is greeted this long.
const FOUND_FOR: Duration = Duration::from_secs(5);

/// A member that went is greeted this often at first, and at the same pace for [`GONE_SOON`].
const GONE_EVERY: Duration = Duration::from_secs(2);
/// For how long a member that went is expected back soon.
const GONE_SOON: Duration = Duration::from_secs(300);
/// A member that went is greeted at least this often.
const GONE_AT_LEAST_EVERY: Duration = Duration::from_secs(60);
/// For how long a member that went is expected back at all.
const GONE_FOR: Duration = Duration::from_secs(6 * 60 * 60);

/// How often one is named in the log that gives no answer where it says it is.
const NAMED_EVERY: Duration = Duration::from_secs(60);

/// The addresses.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    by_address: HashMap<SocketAddr, Stranger>,
    /// When one was named in the log last that gives no answer where it says it is.
    named: Option<Duration>,
}

#[derive(Clone, Copy, Debug)]
struct Stranger {
    since: Duration,
    /// When it was greeted last.
    asked: Duration,
    due: Duration,
    is_gone_member: bool,
    /// Where the greeting came from that told this address, if one did.
    told_from: Option<IpAddr>,
}

impl Strangers {
    /// An address was found: it is greeted in the next round.
    pub(super) fn found(&mut self, address: SocketAddr, now: Duration) {
        self.make_room(address);
        let fresh =
            Stranger { since: now, asked: now, due: now, is_gone_member: false, told_from: None };
        self.by_address
            .entry(address)
            .and_modify(|stranger| stranger.due = stranger.due.min(stranger.asked + FOUND_EVERY))
            .or_insert(fresh);
    }

    /// A node greeted from `source` and told this address: it is greeted there until it is a member.
    pub(super) fn told(&mut self, address: SocketAddr, source: IpAddr, now: Duration) {
        self.found(address, now);
        if let Some(stranger) = self.by_address.get_mut(&address) {
            stranger.told_from = Some(source);
        }
    }

    /// The member at an address went.
    pub(super) fn gone(&mut self, address: SocketAddr, now: Duration) {
        self.make_room(address);
        let stranger = Stranger {
            since: now,
            asked: now,
            due: now + GONE_EVERY,
            is_gone_member: true,
            told_from: None,
        };
        self.by_address.insert(address, stranger);
    }

    /// Whoever is at an address is known now.
    pub(super) fn forget(&mut self, address: SocketAddr) {
        self.by_address.remove(&address);
    }

    /// Those that are to be greeted now, those that waited longest first.
    pub(super) fn take_due(&mut self, now: Duration) -> Vec<SocketAddr> {
        self.drop_expired(now);
        let mut due: Vec<(Duration, SocketAddr)> = self
            .by_address
            .iter()
            .filter(|(_, stranger)| stranger.due <= now)
            .map(|(address, stranger)| (stranger.due, *address))
            .collect();
        due.sort_unstable();
        due.truncate(GREETINGS_PER_ROUND);
        for (_, address) in &due {
            if let Some(stranger) = self.by_address.get_mut(address) {
                stranger.asked = now;
                stranger.due = now + stranger.pause(now);
            }
        }
        due.into_iter().map(|(_, address)| address).collect()
    }

    /// Drops those that were greeted long enough. Says so of one that can greet, but does not answer where it says it is:
    /// its flags are wrong, and it cannot know.
    fn drop_expired(&mut self, now: Duration) {
        let named = &mut self.named;
        self.by_address.retain(|address, stranger| {
            let stays = now.saturating_sub(stranger.since) < stranger.lifetime();
            let is_quiet = named.is_none_or(|then| now.saturating_sub(then) >= NAMED_EVERY);
            if let Some(source) = stranger.told_from.filter(|_| !stays && is_quiet) {
                *named = Some(now);
                tracing::warn!(
                    %address, %source,
                    "a node greets, but gives no answer at the address that it tells others: check its \
                     --advertise_host and --advertise_port, and whether a firewall drops UDP",
                );
            }
            stays
        });
    }

    /// Drops the one that was tried longest if there is no place for `address`.
    fn make_room(&mut self, address: SocketAddr) {
        if self.by_address.len() < MAX_STRANGERS || self.by_address.contains_key(&address) {
            return;
        }
        let oldest =
            self.by_address.iter().min_by_key(|(address, stranger)| (stranger.since, **address));
        if let Some(oldest) = oldest.map(|(address, _)| *address) {
            self.by_address.remove(&oldest);
        }
    }
}

impl Stranger {
    const fn lifetime(&self) -> Duration {
        if self.is_gone_member { GONE_FOR } else { FOUND_FOR }
    }

    /// How long to wait after a greeting.
    fn pause(&self, now: Duration) -> Duration {
        if !self.is_gone_member {
            return FOUND_EVERY;
        }
        let age = now.saturating_sub(self.since);
        // A hundredth of its age once it is not expected soon any more: 3 s after five minutes, 60 s after 100.
        if age < GONE_SOON { GONE_EVERY } else { (age / 100).min(GONE_AT_LEAST_EVERY) }
    }
}
