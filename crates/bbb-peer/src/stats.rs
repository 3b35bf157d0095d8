//! What this node asked of others and was asked by them, counted.

use std::sync::atomic::{AtomicU64, Ordering};

/// What passed between this node and others since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerStats {
    /// Blobs that another node was asked for, parts counted as well.
    pub reads: u64,
    /// Those of them that it gave.
    pub hits: u64,
    /// Those that it did not have, where it was asked for what it holds itself.
    pub misses: u64,
    /// Bytes that came.
    pub bytes: u64,
    /// Reads that broke off half-way and went on from the bucket.
    pub resumed: u64,
    /// Calls that went to the bucket instead, because a node was gone, slow, or could not.
    pub fallbacks: u64,
    /// Calls that were not even tried, because the node had not answered a moment ago.
    pub stepped_over: u64,
    /// Calls that asked an owner for existence.
    pub existence_calls: u64,
    /// Results that were asked of an owner, or given to it.
    pub results: u64,
    /// Questions who holds a blob.
    pub locates: u64,
    /// Hints that were given to owners.
    pub hints_told: u64,
    /// Calls that gave them.
    pub hint_calls: u64,
    /// Hints that were dropped, because an owner did not take them in time.
    pub hints_dropped: u64,
    /// Hints that this node was given.
    pub hints_heard: u64,
    /// Hints that it remembers now.
    pub hints: u64,
}

/// [`PeerStats`] in the making.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) reads: AtomicU64,
    pub(crate) hits: AtomicU64,
    pub(crate) misses: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) resumed: AtomicU64,
    pub(crate) fallbacks: AtomicU64,
    pub(crate) stepped_over: AtomicU64,
    pub(crate) existence_calls: AtomicU64,
    pub(crate) results: AtomicU64,
    pub(crate) locates: AtomicU64,
    pub(crate) hints_told: AtomicU64,
    pub(crate) hint_calls: AtomicU64,
    pub(crate) hints_dropped: AtomicU64,
    pub(crate) hints_heard: AtomicU64,
}

impl Counters {
    pub(crate) fn stats(&self) -> PeerStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        PeerStats {
            reads: read(&self.reads),
            hits: read(&self.hits),
            misses: read(&self.misses),
            bytes: read(&self.bytes),
            resumed: read(&self.resumed),
            fallbacks: read(&self.fallbacks),
            stepped_over: read(&self.stepped_over),
            existence_calls: read(&self.existence_calls),
            results: read(&self.results),
            locates: read(&self.locates),
            hints_told: read(&self.hints_told),
            hint_calls: read(&self.hint_calls),
            hints_dropped: read(&self.hints_dropped),
            hints_heard: read(&self.hints_heard),
            hints: 0,
        }
    }
}

pub(crate) fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}
