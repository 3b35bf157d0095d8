//! What the world gets to see of an operation.

use std::{fmt, sync::Arc, time::SystemTime};

use bytes::Bytes;

use crate::{ActionKey, AttemptId, OperationId, Progress};

/// An operation at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperationState {
    /// Its name.
    pub id: OperationId,
    /// Its work.
    pub key: Arc<ActionKey>,
    /// The build that first asked for it; empty where that is not known.
    pub invocation: Arc<str>,
    /// The most urgent priority that anyone asked for it with.
    pub priority: i32,
    /// When it was queued first.
    pub queued_at: SystemTime,
    /// Where it stands.
    pub stage: Stage,
}

/// Where an operation stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It waits for a slot.
    Queued(Place),
    /// A worker has it.
    Executing {
        /// The worker's name.
        worker: Arc<str>,
        /// How far the worker is.
        progress: Progress,
        /// Which try this is, from 1 on.
        attempt: u32,
        /// When the worker got it.
        since: SystemTime,
        /// What this try is called; none while nobody but the worker knows.
        attempt_id: Option<AttemptId>,
    },
    /// It has ended.
    Completed {
        /// When.
        at: SystemTime,
        /// How.
        end: End,
    },
}

/// Where a waiting operation stands in its queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// About how many are taken before it; later ones that are more urgent pass it.
    pub ahead: u64,
    /// How many wait in the same queue, itself included.
    pub waiting: u64,
    /// How many slots serve the queue, busy ones included.
    pub slots: u64,
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// A worker decided it: an encoded `ExecuteResponse`.
    Decided(Bytes),
    /// No worker decided it.
    Failed(Failure),
}

/// Why no worker decided an operation, by what the client does next.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// No worker offers what it asks for: ask for something else, or start such a worker.
    #[error("{0}")]
    Unsatisfiable(Arc<str>),
    /// It was tried several times and no worker came to a result.
    #[error("no worker came to a result: {0}")]
    Attempts(Story),
    /// Someone cancelled it, or nobody waited for it any more.
    #[error("the operation was cancelled: {0}")]
    Cancelled(Arc<str>),
    /// It waited for a slot for longer than any operation may.
    #[error("no slot became free for the operation in {} hours", .0.as_secs() / 3600)]
    Starved(std::time::Duration),
}

/// What became of each attempt, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Story(pub Vec<String>);

impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, attempt) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            write!(f, "attempt {}: {attempt}", index + 1)?;
        }
        Ok(())
    }
}

impl Stage {
    /// Whether the operation has ended.
    pub fn is_completed(&self) -> bool {
        matches!(self, Self::Completed { .. })
    }
}
