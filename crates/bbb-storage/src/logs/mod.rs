//! Logs: sequences of bytes that are read while they grow.
//!
//! The seam is [`Logs`]; [`LocalLogs`] has the logs that grow on this node. A log that has ended is a blob, and a *page*
//! tells which: pages are small objects that gather what ended within a second, found by when a log began. What a log got
//! that still grows is in its node's *journal* within a second, and read from there when the node is gone.
//!
//! Promises: a reader waits for more until the log has ended, and gets no byte after its end; however many read, and however
//! slowly, nobody else is held up and no more than a piece for each is in memory; instances are walls.
//!
//! The room knows nothing of who asks, nor of other nodes.

mod growing;
mod journal;
mod local;
mod pages;
mod tail;
mod written;

use std::fmt;

use async_trait::async_trait;
use bbb_digest::InstanceName;
use bbb_reapi::{LogResource, LogWriteResource};
use bytes::Bytes;
use futures::stream::BoxStream;

use crate::Error;

pub(crate) use journal::MAX_ENTRY_BYTES;
pub use journal::{EntryName, JournalFolder, JournalStore};
pub use local::{ActionLogs, LocalLogs, LogStores};
pub use pages::PagesOf;

/// What can go wrong with a log, by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// There is no such log here.
    #[error("no such log is known here")]
    Unknown,
    /// The log has ended before that offset.
    #[error("offset {offset} is not within the {len} bytes of the log")]
    OutOfRange {
        /// What was asked for.
        offset: u64,
        /// What there is.
        len: u64,
    },
    /// Bytes were sent that do not follow what there is: go on at its end.
    #[error("{committed} bytes of the log are there; what comes next begins at that offset")]
    WrongOffset {
        /// Where the log ends so far.
        committed: u64,
    },
    /// The log has ended: nothing can be appended any more.
    #[error("the log has ended")]
    Ended,
    /// A bound is met: try again later.
    #[error("no room for a log: {0}")]
    Full(String),
    /// The log was cut: what came is all there will be, though more was written.
    #[error("the log was cut: what ran did not come to its end, or its node was lost")]
    Cut,
    /// This node takes its leave: go on where it was through another one.
    #[error("this node is about to stop: go on through another one")]
    Leaving,
    /// The store, or the node that has the log, has met a fault.
    #[error("the log cannot be read or written now")]
    Storage(#[from] Error),
}

/// The bytes of a log as they come, until its end.
pub type LogBytes = BoxStream<'static, Result<Bytes, LogError>>;

/// How far the writing of a log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// How many bytes are there.
    pub committed: u64,
    /// Whether it has ended.
    pub has_ended: bool,
}

/// A part of a log that a writer sends.
#[derive(Clone, Debug)]
pub struct LogPiece {
    /// Where it begins.
    pub offset: u64,
    /// The bytes.
    pub data: Bytes,
    /// Whether the log ends with it.
    pub is_last: bool,
}

/// Logs, wherever they are.
#[async_trait]
pub trait Logs: Send + Sync + fmt::Debug + 'static {
    /// Reads a log from an offset on, and waits for more until it ends.
    ///
    /// # Errors
    /// [`LogError::Unknown`], [`LogError::OutOfRange`], or [`LogError::Storage`] on any fault.
    async fn read(&self, log: &LogResource, offset: u64) -> Result<LogBytes, LogError>;

    /// Makes a log that is written by [`Logs::append`].
    ///
    /// # Errors
    /// [`LogError::Full`] if there are too many already.
    async fn create(&self, instance: &InstanceName) -> Result<LogWriteResource, LogError>;

    /// Appends to a log.
    ///
    /// # Errors
    /// Any; nothing of the piece is there then, unless [`LogError::Storage`] leaves that open.
    async fn append(&self, log: &LogWriteResource, piece: LogPiece) -> Result<Written, LogError>;

    /// How far a log is.
    ///
    /// # Errors
    /// [`LogError::Unknown`], or [`LogError::Storage`] on any fault.
    async fn written(&self, log: &LogWriteResource) -> Result<Written, LogError>;
}

#[cfg(test)]
mod tests;
