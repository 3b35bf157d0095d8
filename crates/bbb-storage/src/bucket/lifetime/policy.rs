//! How old an object may grow: ages to what may be done. Pure: no clock, no bucket.

use std::time::{Duration, SystemTime};

use super::super::keys::Kind;

/// The shortest `--expire_after` that is taken. Below it, the clocks' error would eat the promise.
pub const MIN_EXPIRE_AFTER: Duration = Duration::from_secs(60);

/// How far a node's idea of the server's clock may be off: the whole seconds of `Last-Modified`, the round
/// trip of a measurement, and drift until the next one.
pub(crate) const CLOCK_ERROR: Duration = Duration::from_secs(4);

/// The least time from dead to deletable. Longer than any renewal may take that was begun just in time.
const MIN_MARGIN: Duration = Duration::from_secs(5 * 60);

/// How long at most a node believes that an object is there without asking. Bounds what an object is missed
/// that went away against the rules, by hand or into quarantine.
const MAX_EXISTENCE_TTL: Duration = Duration::from_secs(3600);

/// One window for deleting opens at each multiple of this, by the server's clock.
const WINDOW_INTERVAL: Duration = Duration::from_secs(5 * 60);

/// How long a window is open.
const WINDOW: Duration = Duration::from_secs(10);

/// How far around a window writers take care: two clocks are off, and a delete may reach the server late.
const GUARD: Duration = Duration::from_secs(12);

/// How long before a window the list of what will be deleted in it stands.
const PUBLISHED: Duration = Duration::from_secs(60);

/// How long before a window the nodes read the lists: later than they stand, by any two clocks.
const READ: Duration = PUBLISHED.checked_sub(CLOCK_ERROR.saturating_mul(3)).expect("it is longer");

/// How long a round of the collector is meant to take: it lists the whole bucket, so not too often.
const MIN_ROUND: Duration = Duration::from_secs(3600);
const MAX_ROUND: Duration = Duration::from_secs(7 * 24 * 3600);

/// What an object's age allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// It may be promised as it is.
    Fresh,
    /// It may be read; it is renewed before it is promised.
    Aging,
    /// It counts as missing, and is never renewed. Who writes it again makes it fresh.
    Dead,
    /// As dead, and the collector may take it.
    Deletable,
}

/// The numbers that follow from `--expire_after`. The module's head derives them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    expire_after: Duration,
}

/// `--expire_after` is too short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("objects cannot expire after {0:?}: the least is {MIN_EXPIRE_AFTER:?}")]
pub(crate) struct TooShort(Duration);

impl Policy {
    pub(crate) fn new(expire_after: Duration) -> Result<Self, TooShort> {
        if expire_after < MIN_EXPIRE_AFTER {
            return Err(TooShort(expire_after));
        }
        Ok(Self { expire_after })
    }

    /// The same, with the least where less is asked for.
    pub(crate) fn clamped(expire_after: Duration) -> Self {
        Self { expire_after: expire_after.max(MIN_EXPIRE_AFTER) }
    }

    /// What may be done with an object of this age.
    pub(crate) fn stage(&self, kind: Kind, age: Duration) -> Stage {
        if age < self.aging() {
            Stage::Fresh
        } else if age < self.dead(kind) {
            Stage::Aging
        } else if age < self.deletable(kind) {
            Stage::Dead
        } else {
            Stage::Deletable
        }
    }

    /// How long what was promised stays, counted from the answer.
    pub(crate) fn promise(&self) -> Duration {
        self.expire_after / 2
    }

    /// How long a node may repeat an answer that was true without asking again.
    pub(crate) fn existence_ttl(&self) -> Duration {
        (self.expire_after / 4).min(MAX_EXISTENCE_TTL)
    }

    /// The age from which an object may be deleted.
    pub(crate) fn deletable(&self, kind: Kind) -> Duration {
        self.dead(kind) + (self.expire_after / 8).max(MIN_MARGIN)
    }

    /// Whether a renewal that ends at this age came too late to be relied upon: the collector may have
    /// looked at the object before it.
    pub(crate) fn is_too_late(&self, kind: Kind, age: Duration) -> bool {
        age + GUARD >= self.deletable(kind)
    }

    /// How long the collector takes for a round over all shards.
    pub(crate) fn round(&self) -> Duration {
        (self.expire_after / 4).clamp(MIN_ROUND, MAX_ROUND)
    }

    fn aging(&self) -> Duration {
        self.expire_after / 2
    }

    /// Blobs outlive the results that name them.
    fn dead(&self, kind: Kind) -> Duration {
        match kind {
            Kind::Result | Kind::Log | Kind::Asset => self.expire_after,
            Kind::Blob => self.expire_after * 3 / 2,
        }
    }
}

/// A span of the server's time in which collectors delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Window {
    pub(crate) opens: SystemTime,
}

impl Window {
    /// The window that is not over yet, or else the next one.
    pub(crate) fn ending_after(now: SystemTime) -> Self {
        let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let into = since_epoch.as_nanos() % WINDOW_INTERVAL.as_nanos();
        let last = Self { opens: now - Duration::from_nanos(into as u64) };
        if now < last.over() { last } else { last.next() }
    }

    /// The next window for which a list can still be published.
    pub(crate) fn open_to_lists(now: SystemTime) -> Self {
        let soon = Self::ending_after(now);
        if now < soon.published_by() { soon } else { soon.next() }
    }

    pub(crate) fn next(self) -> Self {
        Self { opens: self.opens + WINDOW_INTERVAL }
    }

    pub(crate) fn closes(self) -> SystemTime {
        self.opens + WINDOW
    }

    /// When somebody may delete, by whatever clock.
    pub(crate) fn begins(self) -> SystemTime {
        self.opens - GUARD
    }

    /// When nobody deletes any more, by whatever clock.
    pub(crate) fn over(self) -> SystemTime {
        self.closes() + GUARD
    }

    /// When the lists of what will be deleted stand.
    pub(crate) fn published_by(self) -> SystemTime {
        self.opens - PUBLISHED
    }

    /// From when the nodes read the lists.
    pub(crate) fn read_from(self) -> SystemTime {
        self.opens - READ
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn the_numbers_of_a_week() {
        let day = 24 * HOUR;
        let policy = Policy::new(7 * day).unwrap();
        let stages = |kind| {
            [0, 83, 84, 167, 168, 188, 189, 251, 252, 272, 273]
                .map(|hours| policy.stage(kind, hours * HOUR))
        };
        use Stage::{Aging, Dead, Deletable, Fresh};
        let results = [Fresh, Fresh, Aging, Aging, Dead, Dead, Deletable];
        assert_eq!(stages(Kind::Result)[..7], results);
        let blobs = [Fresh, Fresh, Aging, Aging, Aging, Aging, Aging, Aging, Dead, Dead, Deletable];
        assert_eq!(stages(Kind::Blob), blobs);
        assert_eq!(policy.promise(), 84 * HOUR);
        assert_eq!(policy.existence_ttl(), HOUR);
        assert_eq!(policy.round(), 42 * HOUR);
    }

    #[test]
    fn too_short_is_refused() {
        assert!(Policy::new(Duration::from_secs(59)).is_err());
        assert!(Policy::new(MIN_EXPIRE_AFTER).is_ok());
    }

    proptest! {
        /// What the head of the module derives, in numbers.
        #[test]
        fn a_promise_ends_before_death(secs in 60_u64..100_000_000, part in 0.0..1.0_f64) {
            let policy = Policy::new(Duration::from_secs(secs)).unwrap();
            // The oldest fresh blob, seen by a clock that is behind, answered from memory at the last moment.
            let seen = policy.aging() + CLOCK_ERROR;
            let answered = seen + policy.existence_ttl();
            let at_end = answered + policy.promise();
            // A reader whose clock is ahead still takes it for alive.
            prop_assert!(at_end + CLOCK_ERROR <= policy.dead(Kind::Blob));
            // Stages only grow with age, and results are never behind blobs.
            let age = policy.deletable(Kind::Blob).mul_f64(part);
            let older = age + Duration::from_secs(1);
            for kind in Kind::ALL {
                prop_assert!(policy.stage(kind, age) <= policy.stage(kind, older));
            }
            prop_assert!(policy.stage(Kind::Blob, age) <= policy.stage(Kind::Result, age));
        }

        #[test]
        fn windows_are_found(secs in 1_000_000_000_u64..3_000_000_000) {
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(secs);
            let window = Window::ending_after(now);
            prop_assert!(now < window.over() && window.over() <= now + WINDOW_INTERVAL);
            prop_assert_eq!(Window::ending_after(window.opens), window);
            let published = Window::open_to_lists(now);
            prop_assert!(now < published.published_by());
            prop_assert!(published.published_by() <= now + WINDOW_INTERVAL);
            prop_assert!(published.published_by() + 2 * CLOCK_ERROR < published.read_from());
            prop_assert!(published.read_from() < published.begins());
        }
    }
}
