//! The memory of the tier: every buffer is taken out of a share of what was configured.
//!
//! Small reads, ranges of big ones, small writes and parts of big ones have a quarter each, so that none of them
//! waits for another kind. Above all nothing waits for ranges, which are held as long as a client takes its
//! time to read. Whoever needs more than a whole share gets the whole share: nothing is ever too
//! large to be done, and nothing waits for what it holds itself.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time,
};

use crate::{Error, Result};

/// What is counted at a time.
const UNIT_BYTES: u64 = 4 << 10;

/// With less than this nothing would run side by side.
const MIN_BYTES: u64 = 32 << 20;

/// The shares.
#[derive(Debug)]
pub(super) struct Budget {
    /// For what is read in one piece.
    pub(super) reads: Share,
    /// For the ranges of big blobs that are read.
    pub(super) ranges: Share,
    /// For blobs that are written in one piece.
    pub(super) writes: Share,
    /// For the parts of big blobs that are written.
    pub(super) parts: Share,
}

/// One share of the memory.
#[derive(Debug)]
pub(super) struct Share {
    what: &'static str,
    units: u32,
    free: Arc<Semaphore>,
    patience: Duration,
}

/// Memory that was taken; given back when dropped.
pub(super) type Taken = OwnedSemaphorePermit;

impl Budget {
    /// Shares of `total_bytes`; who waits longer than `patience` for one gives up.
    pub(super) fn new(total_bytes: u64, patience: Duration) -> Self {
        let total_bytes = total_bytes.max(MIN_BYTES);
        Self {
            reads: Share::new("reading from the bucket", total_bytes / 4, patience),
            ranges: Share::new("reading ranges from the bucket", total_bytes / 4, patience),
            writes: Share::new("writing to the bucket", total_bytes / 4, patience),
            parts: Share::new("writing parts to the bucket", total_bytes / 4, patience),
        }
    }
}

impl Share {
    fn new(what: &'static str, bytes: u64, patience: Duration) -> Self {
        let units = u32::try_from(bytes / UNIT_BYTES).unwrap_or(u32::MAX);
        let free = Arc::new(Semaphore::new(units as usize));
        Self { what, units, free, patience }
    }

    /// The size of the share.
    pub(super) fn bytes(&self) -> u64 {
        u64::from(self.units) * UNIT_BYTES
    }

    /// Waits for so much memory, in the order of those who ask.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if none gets free in time.
    pub(super) async fn take(&self, bytes: u64) -> Result<Taken> {
        let taking = Arc::clone(&self.free).acquire_many_owned(self.clamp(bytes));
        let why = match time::timeout(self.patience, taking).await {
            Ok(Ok(taken)) => return Ok(taken),
            Ok(Err(closed)) => io::Error::other(closed),
            Err(elapsed) => io::Error::new(io::ErrorKind::TimedOut, elapsed),
        };
        Err(Error::unavailable(format!("waiting for memory for {}", self.what), why))
    }

    /// So much memory for what is not needed yet: only if half of the share stays free, so that those who
    /// read ahead, for clients that may be slow, leave something to those who read.
    pub(super) fn try_take_ahead(&self, bytes: u64) -> Option<Taken> {
        let units = self.clamp(bytes);
        let free = u32::try_from(self.free.available_permits()).unwrap_or(u32::MAX);
        match free >= units.saturating_add(self.units / 2) {
            true => Arc::clone(&self.free).try_acquire_many_owned(units).ok(),
            false => None,
        }
    }

    fn clamp(&self, bytes: u64) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).clamp(1, self.units)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn memory_is_shared_out_and_nobody_waits_for_ever() {
        let budget = Budget::new(0, Duration::from_secs(50));
        assert_eq!(budget.ranges.bytes(), MIN_BYTES / 4);
        let all = budget.parts.take(u64::MAX).await.unwrap();
        assert!(budget.parts.try_take_ahead(1).is_none());
        let half = budget.ranges.try_take_ahead(MIN_BYTES / 8);
        assert!(half.is_some(), "another share is not touched");
        assert!(budget.ranges.try_take_ahead(1).is_none(), "half is left to those who need it");
        drop(budget.ranges.take(MIN_BYTES / 8).await.unwrap());
        let late = budget.parts.take(1).await;
        assert!(matches!(late, Err(Error::Unavailable { .. })), "{late:?}");
        drop(all);
        drop(budget.parts.take(u64::MAX).await.unwrap());
    }
}
