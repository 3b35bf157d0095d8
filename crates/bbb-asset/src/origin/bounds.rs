//! How long origins are waited for.

use std::time::Duration;

/// How long this side waits for origins: all bounds in one table.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Until a name is looked up.
    pub look_up: Duration,
    /// Until one address accepts a connection.
    pub connect: Duration,
    /// Until TLS stands, or a tunnel through a proxy.
    pub handshake: Duration,
    /// Until the head of an answer is there.
    pub head: Duration,
    /// Until the next [`Bounds::PACE_BYTES`] of a body are there, or its end.
    pub pace: Duration,
    /// Before the second time that one URL is tried; later on longer.
    pub first_pause: Duration,
    /// The longest pause that an origin may ask for. One that wants more is not asked again.
    pub longest_pause: Duration,
}

impl Bounds {
    /// How much of a body has to come in the time of [`Bounds::pace`].
    pub const PACE_BYTES: u64 = 60 << 10;

    /// The time that everybody has for that, however late his answer began.
    pub(super) const SHORTEST_PACE: Duration = Duration::from_secs(1);
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            look_up: Duration::from_secs(20),
            connect: Duration::from_secs(10),
            handshake: Duration::from_secs(20),
            head: Duration::from_secs(60),
            pace: Duration::from_secs(60),
            first_pause: Duration::from_millis(300),
            longest_pause: Duration::from_secs(60),
        }
    }
}

/// How fast a body comes. What counts is how long it was waited for, not what is done with it in between.
#[derive(Debug, Default)]
pub(super) struct Pace {
    waited: Duration,
    bytes: u64,
}

impl Pace {
    /// How long the next piece may be waited for.
    pub(super) fn left(&self, bounds: &Bounds) -> Duration {
        bounds.pace.saturating_sub(self.waited)
    }

    /// A piece came.
    pub(super) fn came(&mut self, waited: Duration, bytes: usize) {
        self.waited += waited;
        self.bytes += bytes as u64;
        if self.bytes >= Bounds::PACE_BYTES {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_dribbles_has_no_more_time_than_what_is_silent() {
        let (bounds, second) = (Bounds::default(), Duration::from_secs(1));
        let mut pace = Pace::default();
        for _ in 0..59 {
            pace.came(second, 1000);
        }
        assert_eq!(pace.left(&bounds), second);
        pace.came(2 * second, 1000);
        assert_eq!(pace.left(&bounds), Duration::ZERO);
    }

    #[test]
    fn what_comes_fast_enough_may_go_on_for_ever() {
        let (bounds, second) = (Bounds::default(), Duration::from_secs(1));
        let mut pace = Pace::default();
        for _ in 0..1000 {
            pace.came(59 * second, 60 << 10);
            assert_eq!(pace.left(&bounds), bounds.pace);
        }
    }
}
