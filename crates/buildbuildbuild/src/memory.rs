//! What `--memory` is spent on: the one place that splits it.

/// How many parts there are.
const PARTS: u64 = 32;

/// The memory of a node, by what it is for; all of it together is `--memory`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemorySplit {
    /// Requests while they are read and answered, and batches of blobs until they are sent.
    pub(crate) requests_bytes: u64,
    /// Requests of other nodes. They have a part of their own, since requests of clients wait for other nodes: were both one,
    /// two nodes that are full could wait for each other.
    pub(crate) node_requests_bytes: u64,
    /// Uploads between their messages.
    pub(crate) uploads_bytes: u64,
    /// What clients send ahead of being read.
    pub(crate) windows_bytes: u64,
    /// Small blobs and results that are kept in memory.
    pub(crate) blobs_bytes: u64,
    /// Trees, those that are kept and those that are being read.
    pub(crate) trees_bytes: u64,
    /// What is remembered of trees that are staged for actions to share.
    pub(crate) staged_bytes: u64,
    /// Blobs on their way from the bucket to the disk.
    pub(crate) fetches_bytes: u64,
    /// Blobs on their way from other nodes to the disk.
    pub(crate) peers_bytes: u64,
    /// What is remembered of where other nodes hold blobs.
    pub(crate) hints_bytes: u64,
    /// Results that the bucket gave a moment ago.
    pub(crate) results_bytes: u64,
    /// What goes to the bucket and comes from it.
    pub(crate) bucket_bytes: u64,
}

/// A node with the embedded store alone.
const EMBEDDED: MemorySplit = MemorySplit {
    requests_bytes: 11,
    node_requests_bytes: 0,
    uploads_bytes: 6,
    windows_bytes: 4,
    blobs_bytes: 6,
    trees_bytes: 4,
    staged_bytes: 1,
    fetches_bytes: 0,
    peers_bytes: 0,
    hints_bytes: 0,
    results_bytes: 0,
    bucket_bytes: 0,
};

/// A node with a bucket.
const WITH_BUCKET: MemorySplit = MemorySplit {
    requests_bytes: 6,
    node_requests_bytes: 1,
    uploads_bytes: 4,
    windows_bytes: 4,
    blobs_bytes: 3,
    trees_bytes: 2,
    staged_bytes: 1,
    fetches_bytes: 2,
    peers_bytes: 1,
    hints_bytes: 1,
    results_bytes: 1,
    bucket_bytes: 6,
};

impl MemorySplit {
    /// The split of a node without a bucket.
    pub(crate) const fn embedded(memory_bytes: u64) -> Self {
        EMBEDDED.of(memory_bytes)
    }

    /// The split of a node with one.
    pub(crate) const fn with_bucket(memory_bytes: u64) -> Self {
        WITH_BUCKET.of(memory_bytes)
    }

    /// So many bytes split as a table says.
    const fn of(self, memory_bytes: u64) -> Self {
        let part = memory_bytes / PARTS;
        Self {
            requests_bytes: self.requests_bytes * part,
            node_requests_bytes: self.node_requests_bytes * part,
            uploads_bytes: self.uploads_bytes * part,
            windows_bytes: self.windows_bytes * part,
            blobs_bytes: self.blobs_bytes * part,
            trees_bytes: self.trees_bytes * part,
            staged_bytes: self.staged_bytes * part,
            fetches_bytes: self.fetches_bytes * part,
            peers_bytes: self.peers_bytes * part,
            hints_bytes: self.hints_bytes * part,
            results_bytes: self.results_bytes * part,
            bucket_bytes: self.bucket_bytes * part,
        }
    }

    /// All of it.
    const fn sum(self) -> u64 {
        self.requests_bytes
            + self.node_requests_bytes
            + self.uploads_bytes
            + self.windows_bytes
            + self.blobs_bytes
            + self.trees_bytes
            + self.staged_bytes
            + self.fetches_bytes
            + self.peers_bytes
            + self.hints_bytes
            + self.results_bytes
            + self.bucket_bytes
    }
}

const _: () = assert!(
    EMBEDDED.sum() == PARTS && WITH_BUCKET.sum() == PARTS,
    "a table gives out all there is, and no more"
);
