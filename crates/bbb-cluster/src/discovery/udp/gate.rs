//! How much of what comes is looked at: a flood costs little, and one source cannot keep all others out.

use std::{
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
    time::Duration,
};

use tokio::time::Instant;

/// Packets a second that are read; then the kernel's buffer fills and the rest is lost there, for nothing.
const READ_PER_SECOND: u32 = 20_000;
/// Packets a second that are opened, which costs some microseconds each.
const OPENED_PER_SECOND: u32 = 1_000;
/// Packets a second that are opened of those from one address, or from those that share its place.
const OPENED_PER_SOURCE: u32 = 100;
/// Places for addresses. Which address has which place is known to this node only.
const SOURCES: usize = 256;
/// Answers a second: a new node hears one of each member.
const ANSWERED_PER_SECOND: u32 = 20;

/// A rate with room for two seconds of it at once.
#[derive(Clone, Debug)]
pub(super) struct Rate {
    per_second: u32,
    left: f64,
    at: Instant,
}

impl Rate {
    fn new(per_second: u32, now: Instant) -> Self {
        Self { per_second, left: f64::from(per_second) * 2.0, at: now }
    }

    /// Whether there is room for one more, which is taken.
    fn take(&mut self, now: Instant) -> bool {
        let per_second = f64::from(self.per_second);
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.left = (self.left + since * per_second).min(per_second * 2.0);
        let has_room = self.left >= 1.0;
        if has_room {
            self.left -= 1.0;
        }
        has_room
    }
}

/// What becomes of packets.
#[derive(Debug)]
pub(super) struct Gate {
    read: Rate,
    opened: Rate,
    by_source: Vec<Rate>,
    answered: Rate,
    places: RandomState,
}

impl Gate {
    /// How long nothing is read when too much was.
    pub(super) const DEAF: Duration = Duration::from_millis(20);

    pub(super) fn new(now: Instant) -> Self {
        Self {
            read: Rate::new(READ_PER_SECOND, now),
            opened: Rate::new(OPENED_PER_SECOND, now),
            by_source: vec![Rate::new(OPENED_PER_SOURCE, now); SOURCES],
            answered: Rate::new(ANSWERED_PER_SECOND, now),
            places: RandomState::new(),
        }
    }

    /// Whether to go on reading at once, after a packet.
    pub(super) fn reads_on(&mut self, now: Instant) -> bool {
        self.read.take(now)
    }

    /// Whether to open a packet from `source`.
    pub(super) fn opens(&mut self, now: Instant, source: IpAddr) -> bool {
        // A host has many addresses of IPv6: those of one network count as one.
        let source = match source.to_canonical() {
            IpAddr::V4(v4) => u64::from(v4.to_bits()),
            IpAddr::V6(v6) => (v6.to_bits() >> 64) as u64,
        };
        let place = self.places.hash_one(source) as usize % SOURCES;
        self.by_source[place].take(now) && self.opened.take(now)
    }

    /// Whether to answer a call.
    pub(super) fn answers(&mut self, now: Instant) -> bool {
        self.answered.take(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(i: u32) -> IpAddr {
        IpAddr::V4(i.into())
    }

    /// How many of `count` packets from each source are opened within a second.
    fn opened(
        gate: &mut Gate,
        from: Instant,
        sources: impl Iterator<Item = u32> + Clone,
        count: u32,
    ) -> u32 {
        let step = Duration::from_secs(1) / count;
        let mut opened = 0;
        for i in 0..count {
            opened +=
                sources.clone().filter(|s| gate.opens(from + step * i, address(*s))).count() as u32;
        }
        opened
    }

    #[test]
    fn a_flood_from_one_source_does_not_keep_another_out() {
        let start = Instant::now();
        let mut gate = Gate::new(start);
        for second in 0..10 {
            let from = start + Duration::from_secs(second);
            assert!(opened(&mut gate, from, 1..2, 50_000) <= 3 * OPENED_PER_SOURCE);
        }
        let after = start + Duration::from_secs(10);
        let others = (2..100).filter(|other| gate.opens(after, address(*other))).count();
        assert!(others >= 95, "{others} of 98: others are in another place, but for bad luck");
    }

    #[test]
    fn a_flood_from_everywhere_costs_so_much_and_no_more() {
        let start = Instant::now();
        let mut gate = Gate::new(start);
        let opened = opened(&mut gate, start, 0..5_000, 20);
        assert!((OPENED_PER_SECOND..=3 * OPENED_PER_SECOND).contains(&opened), "{opened}");
    }

    #[test]
    fn quiet_times_are_not_saved_up() {
        let start = Instant::now();
        let mut rate = Rate::new(10, start);
        let later = start + Duration::from_secs(3600);
        assert_eq!((0..100).filter(|_| rate.take(later)).count(), 20);
        assert!(!rate.take(start), "time that goes back gives nothing");
        assert!(!rate.take(later + Duration::from_millis(90)));
        assert!(rate.take(later + Duration::from_millis(110)));
    }
}
