//! Taking in the snapshot of the last session, behind the store's back: it serves meanwhile and looks up in
//! the folder what the index does not know yet.
//!
//! What the snapshot's entries take counts from the start, so that the limit holds. What is stored or looked
//! at before its entry comes up is known better and stays; it counts twice until then, so that a write may
//! have to wait but none passes the limit. Nothing is evicted before all are taken in.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
};

use bbb_lifecycle::Stop;

use crate::{Error, Result};

use super::{Disk, blocking, snapshot::Snapshot};

/// How many entries are taken in while the index is locked: a tenth of a millisecond or so.
const ENTRIES_AT_ONCE: usize = 128;

/// How far the snapshot is taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loading {
    /// It is being read.
    Running,
    /// Everything that can be had from it is in the index.
    Done,
    /// It will not be read to its end: the store stops.
    BrokenOff,
}

/// What the last session left.
#[derive(Debug)]
pub(super) struct LastSession {
    pub(super) snapshot: Option<Snapshot>,
    /// Whether it ended cleanly with its whole index in the snapshot.
    pub(super) was_clean: bool,
    /// The index's clock when the store was opened: all that it remembers is older.
    pub(super) opened_at: u64,
}

impl Disk {
    /// Takes in the snapshot. False if it was asked to stop before the end.
    pub(super) async fn load(
        self: &Arc<Self>,
        snapshot: Option<Snapshot>,
        was_clean: bool,
        stop: &Stop,
    ) -> bool {
        let loading = match snapshot {
            Some(snapshot) => self.take_in(snapshot, was_clean, stop).await,
            None => Loading::Done,
        };
        if loading == Loading::Done {
            self.index().expect_no_more();
        }
        self.loading.send_replace(loading);
        self.wake_eviction();
        loading == Loading::Done
    }

    async fn take_in(
        self: &Arc<Self>,
        snapshot: Snapshot,
        was_clean: bool,
        stop: &Stop,
    ) -> Loading {
        let (disk, stop) = (Arc::clone(self), stop.clone());
        let taken_in = blocking("reading the snapshot", move || {
            disk.take_in_blocking(snapshot, &stop)
                .map_err(|error| Error::unavailable("reading the snapshot", error))
        });
        match taken_in.await {
            Ok(true) => {
                // Nothing was written since without going through the index.
                self.complete.fetch_or(was_clean, Ordering::Release);
                let stats = self.stats();
                tracing::info!(stats.blobs, stats.results, stats.taken_bytes, "read the snapshot");
                Loading::Done
            }
            Ok(false) => Loading::BrokenOff,
            Err(error) => {
                tracing::warn!(?error, "cannot use the snapshot: looking at all files");
                Loading::Done
            }
        }
    }

    /// False if it was asked to stop before the end.
    fn take_in_blocking(&self, snapshot: Snapshot, stop: &Stop) -> io::Result<bool> {
        let mut entries = snapshot.check()?.entries(&self.segments)?;
        loop {
            let batch = entries.next(ENTRIES_AT_ONCE)?;
            if batch.is_empty() {
                return Ok(true);
            }
            if stop.is_requested() {
                return Ok(false);
            }
            let mut index = self.index();
            for (key, charged_bytes) in &batch {
                index.remember(key, *charged_bytes);
            }
        }
    }

    /// Whether nothing more comes out of the snapshot.
    pub(super) fn is_loaded(&self) -> bool {
        *self.loading.borrow() == Loading::Done
    }

    /// Waits until nothing more comes out of the snapshot.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the store stops before.
    pub(super) async fn loaded(&self) -> Result<()> {
        let mut loading = self.loading.subscribe();
        // The sender lives in `self`, so the wait ends with a state.
        match loading.wait_for(|loading| *loading != Loading::Running).await.map(|state| *state) {
            Ok(Loading::Done) => Ok(()),
            _ => {
                Err(Error::unavailable("reading the snapshot", io::Error::other("the store stops")))
            }
        }
    }
}
