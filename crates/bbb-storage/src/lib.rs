//! Content-addressed storage and the action cache: the seams, their layers and their tiers.
//!
//! Two seams, [`Cas`] and [`ActionCache`], and everything below them: tiers that hold blobs, layers that
//! add one policy each and have the same trait as what they wrap. What a caller could want to know of
//! the thing below travels in the answer, a [`Blob`].
//!
//! Promises: no byte is served whose hash was not checked when it entered; a fault is never turned into
//! a miss; what was acknowledged is durable; every buffer has a bound.
//!
//! The room knows nothing of gRPC, of workers, or of who asks.

mod action_cache;
mod blob;
mod blocking;
mod bucket;
mod buffer;
mod cas;
mod checked;
mod complete;
mod disk;
mod error;
mod instances;
#[cfg(test)]
mod killed;
mod local;
mod logs;
#[cfg(test)]
mod one_thread;
mod read;
mod segment;
mod source;
mod tiered;
mod trees;

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod zstd;

pub use action_cache::{ActionCache, ActionResult};
pub use blob::{Blob, Content, Encoding, PinnedFile, Wanted};
pub use bucket::{
    Bucket, BucketError, BucketLocation, BucketSettings, BucketStats, LocationError,
    MIN_EXPIRE_AFTER, Mark, MarkError, Objects,
};
pub use cas::{Cas, CasExt};
pub use complete::Complete;
pub use disk::{
    Disk, DiskSettings, DiskStats, Kept, Lodger, OpenError, Reservation, SMALL_BLOB_BYTES,
};
pub use error::{Error, Result};
pub use instances::{Instances, Stores};
pub use local::{LocalFile, LocalFiles, Lodging};
pub use logs::{
    ActionLogs, EntryName, JournalFolder, JournalStore, LocalLogs, LogBytes, LogError, LogPiece,
    LogStores, Logs, PagesOf, Written,
};
pub use read::READ_CHUNK_BYTES;
pub use source::{HashedFile, Source, SourceContent};
pub use tiered::{Far, Tiered, TieredSettings, Waiting, WriteBackSettings};
pub use trees::{Found, MAX_MESSAGE_BYTES, Subtree, Totals, TreeCache, TreeError, Trees, Walk};
