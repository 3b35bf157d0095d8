//! The words that the rooms around the scheduler share: what is submitted, what a worker gets, and what
//! comes of it. They hold no protocol types; what only client and worker understand stays encoded.

use std::{
    fmt,
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
