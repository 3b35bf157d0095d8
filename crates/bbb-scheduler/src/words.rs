//! The words that the rooms around the scheduler share: what is submitted, what a worker gets, and what
//! comes of it. They hold no protocol types; what only client and worker understand stays encoded.

use std::{
    fmt,
    ops::RangeInclusive,
    sync::Arc,
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

/// Names one attempt at an operation, by one worker. Nobody guesses another's.
///
/// The first 32 bits are the second of the Unix time in which it was granted, so that what belongs to attempts can be
/// kept together by when they began.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AttemptId(pub u128);

impl AttemptId {
    /// The attempt that is granted at this time. The seconds, eight bits of the attempt, and what is random in the name of the
    /// operation.
    pub fn granted(operation: OperationId, attempt: u32, at: SystemTime) -> Self {
        const RANDOM_BITS: u32 = 88;
        let seconds = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let random = operation.0 & ((1 << RANDOM_BITS) - 1);
        let attempt = u128::from(attempt as u8) << RANDOM_BITS;
        Self(u128::from(seconds as u32) << 96 | attempt | random)
    }
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for AttemptId {
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

/// What an action asks of a worker, or a worker offers: names and values, sorted, without duplicates. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Platform(Arc<[(String, String)]>);

impl FromIterator<(String, String)> for Platform {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Self {
        let mut pairs: Vec<_> = pairs.into_iter().collect();
        pairs.sort();
        pairs.dedup();
        Self(pairs.into())
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
    /// runs, rather than where, are left out: see [`crate::steering`].
    pub requirement: Platform,
    /// How long the command may run.
    pub timeout: Duration,
    /// What should run sooner: lower values first, 0 is usual. Values outside of [`PRIORITIES`] count as
    /// the nearest one inside.
    pub priority: i32,
    /// Which build it belongs to; slots are shared fairly between builds. Empty where it is not known.
    pub invocation: Arc<str>,
    /// What it takes of a worker beside a slot.
    pub demand: Demand,
    /// The weightiest parts of its input tree, at most [`MAX_INPUT_PARTS`]: a worker that has them is to be preferred.
    pub inputs: Arc<[InputPart]>,
    /// The operation, if the submitter has a name for it already: it was handed in before, here or to a scheduler that
    /// is gone, or the answer may be lost. Handing it in twice is the same as once.
    pub known: Option<Box<Known>>,
}

impl Submission {
    /// Work that asks for nothing in particular, for an hour at the most.
    pub fn of(key: ActionKey) -> Self {
        Self {
            key,
            mergeable: true,
            requirement: Platform::default(),
            timeout: Duration::from_secs(3600),
            priority: 0,
            invocation: "".into(),
            demand: Demand::default(),
            inputs: Arc::default(),
            known: None,
        }
    }
}

/// What a submitter knows of an operation that it hands in, again perhaps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its name.
    pub id: OperationId,
    /// When it was queued first.
    pub queued_at: SystemTime,
    /// The worker that had it when it was last heard of, if that may still be there: it is waited for a moment, for
    /// what runs is to be taken up and not run twice.
    pub held_by: Option<Arc<str>>,
    /// What became of earlier attempts.
    pub attempts: Vec<String>,
}

/// What an action takes of a worker, or a worker has to give, beside slots. In a demand zero asks for nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Demand {
    /// Thousandths of a processor.
    pub millicpus: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
}

impl Demand {
    /// Whether this is enough for what `wanted` asks for.
    pub fn covers(self, wanted: Self) -> bool {
        self.millicpus >= wanted.millicpus && self.memory_bytes >= wanted.memory_bytes
    }

    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        Self {
            millicpus: self.millicpus.saturating_add(other.millicpus),
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
        }
    }

    /// What is left of this without `other`.
    pub fn minus(self, other: Self) -> Self {
        Self {
            millicpus: self.millicpus.saturating_sub(other.millicpus),
            memory_bytes: self.memory_bytes.saturating_sub(other.memory_bytes),
        }
    }
}

/// A part of an input tree that is worth being near to: a directory with all below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InputPart {
    /// Stands for the directory's digest and its instance.
    pub key: u64,
    /// The bytes of the files in it, those of other parts that are named left out.
    pub bytes: u64,
}

/// The most parts of an input tree that are named.
pub const MAX_INPUT_PARTS: usize = 8;

/// The priorities that are told apart.
pub const PRIORITIES: RangeInclusive<i32> = -1000..=1000;

/// A worker as it presents itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerOffer {
    /// The name that clients and people get to see.
    pub name: String,
    /// How many tasks it runs at once; at most [`MAX_SLOTS`].
    pub slots: u32,
    /// What it offers.
    pub platform: Platform,
    /// How many tasks it takes beyond its slots, to have their inputs there when a slot becomes free.
    pub prefetch: u32,
    /// The processors and the memory that its tasks may ask for.
    pub capacity: Demand,
}

impl WorkerOffer {
    /// A worker that offers nothing in particular.
    pub fn of(name: impl Into<String>, slots: u32) -> Self {
        Self {
            name: name.into(),
            slots,
            platform: Platform::default(),
            prefetch: 0,
            capacity: Demand::default(),
        }
    }
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
    /// It lives.
    Alive,
    /// Take this on: fetch its inputs, and run it as soon as a slot is free.
    Run(Lease, Box<Task>),
    /// Go on with what was held when the worker attached, under this lease from now on.
    Keep(Lease, OperationId),
    /// What was held when the worker attached is not wanted any more, or its end was heard: stop it and forget it.
    Abandon(OperationId),
    /// Give this back if its command has not begun, with [`FromWorker::Returned`]. Else go on.
    Recall(Lease),
    /// Stop this; its place is free again once the worker says that it has ended.
    Revoke(Lease),
}

/// What a worker tells its scheduler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromWorker {
    /// It lives. All that it holds stays leased to it.
    Alive,
    /// A task has come so far.
    Progress(Lease, Progress),
    /// A task's inputs are all there.
    Staged(Lease, Staged),
    /// A task has ended and its place is free. After [`ToWorker::Revoke`] the outcome does not count.
    Done(Lease, Outcome),
    /// A task is given back though nothing is wrong with it, and its place is free: it was recalled before it began, or
    /// the worker leaves. That is no attempt.
    Returned(Lease),
    /// It takes no further tasks, and goes on with those that it has.
    Draining,
}

/// What it took to have the inputs of a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Staged {
    /// The bytes of all of its input files, those that are equal counted each.
    pub needed_bytes: u64,
    /// How many of them were not there.
    pub fetched_bytes: u64,
}

/// An operation's work as a worker gets it: all that another scheduler needs to take it up. What else there is to know
/// stands in the action itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// The operation that it is done for.
    pub operation: OperationId,
    /// The work. What is known of the operation stands beside it.
    pub submission: Submission,
    /// When the operation was queued.
    pub queued_at: SystemTime,
    /// Which try this is, from 1 on.
    pub attempt: u32,
    /// The name of this try.
    pub attempt_id: AttemptId,
}

/// A task that a worker has when it attaches, from its time with another scheduler, or with this one over a connection
/// that broke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// The task.
    pub task: Task,
    /// What has become of it.
    pub state: HoldingState,
}

/// What has become of a task that a worker has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HoldingState {
    /// It goes on.
    Held(Progress),
    /// It has ended, and no scheduler has heard of it.
    Ended(Outcome),
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
