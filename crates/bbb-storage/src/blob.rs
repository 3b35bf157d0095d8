use std::{any::Any, fmt, fs::File, ops::Range, path::PathBuf, sync::Arc};

use bytes::Bytes;
use futures::stream::BoxStream;

use crate::Result;

/// A blob, or a range of it, as a store gives it.
#[derive(Debug)]
pub struct Blob {
    /// The size of the whole blob in bytes, decoded, whatever range was asked for.
    pub size_bytes: u64,
    /// How the content is encoded. A range is always given as [`Encoding::Identity`].
    pub encoding: Encoding,
    /// The bytes of the range that was asked for.
    pub content: Content,
}

/// How bytes are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// As they are.
    Identity,
    /// As a sequence of zstd frames (RFC 8878).
    Zstd,
}

/// The bytes of a blob in the form that costs its store the least.
pub enum Content {
    /// In memory.
    Bytes(Bytes),
    /// In a local file, which stays where it is as long as this value lives.
    File(PinnedFile),
    /// Yet to come. An error ends the stream; without one all bytes came.
    Stream(BoxStream<'static, Result<Bytes>>),
}

/// A local file that holds a whole blob unencoded, open and kept from eviction.
#[derive(Clone)]
pub struct PinnedFile {
    /// The open file. Its offset is shared: read with positions.
    pub file: Arc<File>,
    /// Where it lies; may be linked from, never written to.
    pub path: Arc<PathBuf>,
    /// The part that was asked for, in bytes.
    pub range: Range<u64>,
    /// Keeps the file from eviction until dropped.
    pub pin: Arc<dyn Any + Send + Sync>,
}

/// What of a blob is wanted, and in which form rather.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Where it begins, in decoded bytes.
    pub offset: u64,
    /// How many decoded bytes at the most; none means to the end.
    pub limit: Option<u64>,
    /// The encoding that costs the caller the least. A store follows it where that costs it nothing; what
    /// it gives stands in [`Blob::encoding`].
    pub prefer: Encoding,
}

impl Wanted {
    /// The whole blob, to be read.
    pub const ALL: Self = Self { offset: 0, limit: None, prefer: Encoding::Identity };
    /// The whole blob, to be handed on as zstd frames.
    pub const ALL_ZSTD: Self = Self { prefer: Encoding::Zstd, ..Self::ALL };

    /// A part of a blob, in decoded bytes.
    pub const fn part(offset: u64, limit: Option<u64>) -> Self {
        Self { offset, limit, ..Self::ALL }
    }

    /// Whether it is the whole blob.
    pub const fn is_all(self) -> bool {
        self.offset == 0 && self.limit.is_none()
    }

    /// The range within a blob of so many bytes; empty where it begins past the end.
    pub fn within(self, size_bytes: u64) -> Range<u64> {
        let start = self.offset.min(size_bytes);
        let len = self.limit.unwrap_or(u64::MAX).min(size_bytes - start);
        start..start + len
    }
}

impl fmt::Debug for PinnedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinnedFile").field("path", &self.path).field("range", &self.range).finish()
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "Bytes({} bytes)", bytes.len()),
            Self::File(file) => file.fmt(f),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_stay_within_the_blob() {
        let range = |offset, limit| Wanted::part(offset, limit).within(10);
        assert_eq!(range(0, None), 0..10);
        assert_eq!(range(4, Some(3)), 4..7);
        assert_eq!(range(4, Some(u64::MAX)), 4..10);
        assert_eq!(range(11, Some(1)), 10..10);
        assert_eq!(range(u64::MAX, None), 10..10);
    }
}
