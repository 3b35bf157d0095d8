//! What the tier asked of its bucket, counted.

use std::sync::atomic::{AtomicU64, Ordering};

/// What was asked of a bucket since the node started, retries counted in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BucketStats {
    /// Reads of an object or a range of one.
    pub get: u64,
    /// Looks whether an object is there.
    pub head: u64,
    /// Writes of whole objects.
    pub put: u64,
    /// Writes of parts of objects.
    pub part: u64,
    /// Beginnings and ends of writes in parts.
    pub multipart: u64,
    /// Deletions.
    pub delete: u64,
    /// Listings, by page where the store has pages.
    pub list: u64,
    /// Copies within the bucket.
    pub copy: u64,
    /// Bytes of bodies that came.
    pub bytes_in: u64,
    /// Bytes of bodies that were sent.
    pub bytes_out: u64,
    /// Requests that were sent once more after a fault.
    pub retries: u64,
    /// Requests that ended in a fault: time-outs, server errors, broken connections.
    pub faults: u64,
    /// Objects whose bytes were not what they should be.
    pub damaged: u64,
    /// Objects that were renewed, so that they do not expire.
    pub renewed: u64,
    /// Objects that this node listed as the collector.
    pub listed: u64,
    /// Objects that this node deleted as the collector.
    pub expired: u64,
    /// Objects that were to be deleted and were found in use at the last look.
    pub spared: u64,
    /// Objects that the collector could not look at or delete.
    pub left: u64,
    /// Rounds through the whole bucket that this node ended.
    pub rounds: u64,
}

impl BucketStats {
    /// All requests.
    pub const fn requests(&self) -> u64 {
        self.get
            + self.head
            + self.put
            + self.part
            + self.multipart
            + self.delete
            + self.list
            + self.copy
    }
}

/// The kinds of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Get,
    Head,
    Put,
    Part,
    Multipart,
    Delete,
    List,
    Copy,
}

/// [`BucketStats`] in the making.
#[derive(Debug, Default)]
pub(super) struct Counters {
    requests: [AtomicU64; 8],
    pub(super) bytes_in: AtomicU64,
    pub(super) bytes_out: AtomicU64,
    pub(super) retries: AtomicU64,
    pub(super) faults: AtomicU64,
    pub(super) damaged: AtomicU64,
}

impl Counters {
    pub(super) fn request(&self, request: Request) {
        add(&self.requests[request as usize], 1);
    }

    pub(super) fn stats(&self) -> BucketStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let of = |request: Request| read(&self.requests[request as usize]);
        BucketStats {
            get: of(Request::Get),
            head: of(Request::Head),
            put: of(Request::Put),
            part: of(Request::Part),
            multipart: of(Request::Multipart),
            delete: of(Request::Delete),
            list: of(Request::List),
            copy: of(Request::Copy),
            bytes_in: read(&self.bytes_in),
            bytes_out: read(&self.bytes_out),
            retries: read(&self.retries),
            faults: read(&self.faults),
            damaged: read(&self.damaged),
            ..BucketStats::default()
        }
    }
}

pub(super) fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}
