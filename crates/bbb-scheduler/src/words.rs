//! The words that the rooms around the scheduler share: what is submitted, what a worker gets, and what
//! comes of it. They hold no protocol types; what only client and worker understand stays encoded.

use std::{
    fmt,
    ops::RangeInclusive,
    time::{Duration, SystemTime},
};

use bbb_digest::{Digest, InstanceName};
use bytes::Bytes;

/// Names an operation: 128 random bits, so that nobody guesses another's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OperationId(pub u128);

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What two submissions must share to be the same work.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ActionKey {
    /// The instance whose stores hold the action.
    pub instance: InstanceName,
    /// The action.
    pub action: Digest,
}

/// What an action asks of a worker, or a worker offers: names and values, sorted, without duplicates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Platform(Vec<(String, String)>);

impl FromIterator<(String, String)> for Platform {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Self {
        let mut pairs: Vec<_> = pairs.into_iter().collect();
        pairs.sort();
        pairs.dedup();
        Self(pairs)
    }
}

impl Platform {
    /// Names and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// Work as it is handed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submission {
    /// The work.
    pub key: ActionKey,
    /// Whether equal work in flight may be shared: false for an action that must not be cached.
    pub mergeable: bool,
    /// What a worker must offer: each name with this very value. Properties that steer how the action
    /// runs, rather than where, are left out: see [`is_steering`].
    pub requirement: Platform,
    /// How long the command may run.
    pub timeout: Duration,
    /// What should run sooner: lower values first, 0 is usual. Values outside of [`PRIORITIES`] count as
    /// the nearest one inside.
    pub priority: i32,
    /// Which build it belongs to; slots are shared fairly between builds. Empty where it is not known.
    pub invocation: String,
}

/// The priorities that are told apart.
pub const PRIORITIES: RangeInclusive<i32> = -1000..=1000;

/// Whether a platform property steers how an action runs, so that no worker need offer it.
///
/// Everything else asks for a worker that offers the same pair, `container-image` too: a worker that
/// does not know it could not honour it.
pub fn is_steering(name: &str) -> bool {
    matches!(name, "network" | "InputRootAbsolutePath" | "cpus" | "memory" | "priority")
}

/// A worker as it presents itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerOffer {
    /// The name that clients and people get to see.
    pub name: String,
    /// How many tasks it runs at once; at most [`MAX_SLOTS`].
    pub slots: u32,
    /// What it offers.
    pub platform: Platform,
}

/// The most slots that one worker may have.
pub const MAX_SLOTS: u32 = 4096;

/// One grant of one task to one worker. No two grants of a scheduler have the same, and later ones are
/// greater, so that a report on a grant that was taken back is told from one on its successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lease(pub u64);

/// What a scheduler tells a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToWorker {
    /// Run this in a free slot.
    Run(Lease, Task),
    /// Stop this; the slot is free again once the worker says that it has ended.
    Revoke(Lease),
}

/// What a worker tells its scheduler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromWorker {
    /// It lives. All that it holds stays leased to it.
    Alive,
    /// A task has come so far.
    Progress(Lease, Progress),
    /// A task has ended and its slot is free. After [`ToWorker::Revoke`] the outcome does not count.
    Done(Lease, Outcome),
    /// It takes no further tasks, and goes on with those that it has.
    Draining,
}

/// An operation's work as a worker gets it. Everything else stands in the action itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// The operation that it is done for.
    pub operation: OperationId,
    /// The work.
    pub key: ActionKey,
    /// How long the command may run.
    pub timeout: Duration,
    /// When the operation was queued.
    pub queued_at: SystemTime,
    /// Which try this is, from 1 on.
    pub attempt: u32,
}

/// How far a worker is with a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Progress {
    /// Inputs are being fetched and staged.
    Fetching,
    /// The command runs.
    Running,
    /// Outputs are being stored.
    Uploading,
}

/// What came of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is decided: an encoded `ExecuteResponse`, good or bad, that no other worker would change.
    Decided(Bytes),
    /// This worker could not do it, though another try may: the reason, for people.
    Failed(String),
}
