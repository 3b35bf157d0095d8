//! How often a node may take a new generation.

use std::time::Duration;

/// How many new generations a node may take at once: a healing partition costs one or two.
const AT_ONCE: u32 = 8;

/// After how long it may take one more.
const ONE_MORE_AFTER: Duration = Duration::from_secs(5);

/// The bound: two nodes that each make the other one renew do not fill the network with it.
#[derive(Debug)]
pub(super) struct Renewals {
    left: u32,
    since: Duration,
}

impl Renewals {
    /// None were taken so far.
    pub(super) const fn new(now: Duration) -> Self {
        Self { left: AT_ONCE, since: now }
    }

    /// Whether one more is allowed now; it counts as taken then.
    pub(super) fn allow(&mut self, now: Duration) -> bool {
        while self.left < AT_ONCE && now.saturating_sub(self.since) >= ONE_MORE_AFTER {
            self.left += 1;
            self.since += ONE_MORE_AFTER;
        }
        if self.left == AT_ONCE {
            self.since = now;
        }
        let is_allowed = self.left > 0;
        self.left = self.left.saturating_sub(1);
        is_allowed
    }
}
