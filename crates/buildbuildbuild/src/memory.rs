//! What `--memory` is spent on: the one place that splits it.

/// How many parts there are.
const PARTS: u64 = 16;

/// The memory of a node, by what it is for; all of it together is `--memory`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemorySplit {
    /// Requests while they are read and answered.
    pub(crate) requests_bytes: u64,
    /// Uploads between their messages.
    pub(crate) uploads_bytes: u64,
    /// What clients send ahead of being read.
    pub(crate) windows_bytes: u64,
    /// Small blobs and results that are kept in memory.
    pub(crate) blobs_bytes: u64,
    /// Trees, those that are kept and those that are being read.
    pub(crate) trees_bytes: u64,
}

/// A node with the embedded store alone, in sixteenths. A bucket's buffers get their share by a table of
/// their own.
const EMBEDDED: MemorySplit = MemorySplit {
    requests_bytes: 6,
    uploads_bytes: 3,
    windows_bytes: 2,
    blobs_bytes: 3,
    trees_bytes: 2,
};

impl MemorySplit {
    /// The split of a node without a bucket.
    pub(crate) const fn embedded(memory_bytes: u64) -> Self {
        EMBEDDED.of(memory_bytes)
    }

    /// So many bytes split as a table says.
    const fn of(self, memory_bytes: u64) -> Self {
        let part = memory_bytes / PARTS;
        Self {
            requests_bytes: self.requests_bytes * part,
            uploads_bytes: self.uploads_bytes * part,
            windows_bytes: self.windows_bytes * part,
            blobs_bytes: self.blobs_bytes * part,
            trees_bytes: self.trees_bytes * part,
        }
    }

    /// All of it.
    const fn sum(self) -> u64 {
        self.requests_bytes
            + self.uploads_bytes
            + self.windows_bytes
            + self.blobs_bytes
            + self.trees_bytes
    }
}

const _: () = assert!(EMBEDDED.sum() == PARTS, "a table gives out all there is, and no more");
