//! What came of tasks, for as long as no scheduler may have heard of it.
//!
//! A report that was sent is not yet heard: the scheduler may be gone, and not even know it. So what came of a task
//! stays here for longer than it takes to notice that, and much longer where nobody could be told at all.

use std::{collections::VecDeque, time::Duration};

use bbb_scheduler::{Holding, HoldingState, OperationId, Outcome, Task};
use tokio::time::Instant;

/// How long what a scheduler was told is kept: more than twice the time in which its silence is noticed.
const TOLD_KEPT_FOR: Duration = Duration::from_secs(10);

/// How long what no scheduler was told is kept: whoever waits for it has long submitted it again.
const UNTOLD_KEPT_FOR: Duration = Duration::from_secs(120);

/// How many outcomes are kept, and how many bytes of them, but for the last one. Beyond that, those that were told go
/// first, then the oldest.
const MAX_KEPT: usize = 1024;
const MAX_KEPT_BYTES: usize = 2 << 20;

/// Tasks that have ended, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Ended {
    told: VecDeque<Entry>,
    untold: VecDeque<Entry>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    task: Task,
    outcome: Outcome,
    since: Instant,
}

impl Ended {
    /// A scheduler was told this. What it would only try again is not worth to be kept.
    pub(super) fn told(&mut self, now: Instant, task: Task, outcome: Outcome) {
        if let Outcome::Decided(_) = outcome {
            let entry = Entry { task, outcome, since: now };
            self.bytes += entry.bytes();
            self.told.push_back(entry);
            self.shrink();
        }
    }

    /// There was nobody to be told this.
    pub(super) fn untold(&mut self, now: Instant, task: Task, outcome: Outcome) {
        let entry = Entry { task, outcome, since: now };
        self.bytes += entry.bytes();
        self.untold.push_back(entry);
        self.shrink();
    }

    /// A scheduler is told this now.
    pub(super) fn tell(&mut self, now: Instant, operation: OperationId) -> Option<Outcome> {
        let found = [&mut self.untold, &mut self.told].into_iter().find_map(|entries| {
            let at = entries.iter().position(|entry| entry.task.operation == operation)?;
            entries.remove(at)
        })?;
        self.bytes -= found.bytes();
        self.told(now, found.task, found.outcome.clone());
        Some(found.outcome)
    }

    /// The scheduler that was told is gone, and may not have heard.
    pub(super) fn doubt(&mut self) {
        self.untold.extend(self.told.drain(..));
    }

    /// A scheduler knows of this.
    pub(super) fn heard(&mut self, operation: OperationId) {
        for entries in [&mut self.untold, &mut self.told] {
            entries.retain(|entry| entry.task.operation != operation);
        }
        self.count();
    }

    /// Forgets what is old.
    pub(super) fn tick(&mut self, now: Instant) {
        self.told.retain(|entry| entry.since + TOLD_KEPT_FOR > now);
        self.untold.retain(|entry| entry.since + UNTOLD_KEPT_FOR > now);
        self.count();
    }

    /// Whether there is something that no scheduler was told.
    pub(super) fn has_unheard(&self) -> bool {
        !self.untold.is_empty()
    }

    /// All, for the next scheduler.
    pub(super) fn holdings(&self) -> impl Iterator<Item = Holding> {
        self.untold.iter().chain(&self.told).map(|entry| Holding {
            task: entry.task.clone(),
            state: HoldingState::Ended(entry.outcome.clone()),
        })
    }

    fn shrink(&mut self) {
        while self.told.len() + self.untold.len() > 1
            && (self.told.len() + self.untold.len() > MAX_KEPT || self.bytes > MAX_KEPT_BYTES)
        {
            let oldest = self.told.pop_front().or_else(|| self.untold.pop_front());
            self.bytes -= oldest.as_ref().map_or(0, Entry::bytes);
        }
    }

    fn count(&mut self) {
        self.bytes = self.told.iter().chain(&self.untold).map(Entry::bytes).sum();
    }
}

impl Entry {
    fn bytes(&self) -> usize {
        match &self.outcome {
            Outcome::Decided(response) => response.len(),
            Outcome::Failed(reason) => reason.len(),
        }
    }
}
