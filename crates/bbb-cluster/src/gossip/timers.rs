//! The library's timers, in the order in which they are due.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use foca::Timer;

use super::identity::Node;

/// Timers, on a clock that stands still while the node does.
#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<Due>>,
    /// Counts timers, so that of those that are due together the older goes first.
    count: u64,
    /// For how long the node stood still so far.
    lost: Duration,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    at: Duration,
    timer: Timer<Node>,
    count: u64,
}

impl Timers {
    /// Sets a timer.
    pub(super) fn set(&mut self, timer: Timer<Node>, at: Duration) {
        self.count += 1;
        self.heap.push(Reverse(Due { at: at.saturating_sub(self.lost), timer, count: self.count }));
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Duration> {
        self.heap.peek().map(|Reverse(due)| due.at + self.lost)
    }

    /// The node stood still so long: all timers are as much later.
    pub(super) fn postpone(&mut self, late: Duration) {
        self.lost += late;
    }

    /// Takes the next timer that is due.
    pub(super) fn take_due(&mut self, now: Duration) -> Option<Timer<Node>> {
        self.next().filter(|due| *due <= now)?;
        self.heap.pop().map(|Reverse(due)| due.timer)
    }
}
