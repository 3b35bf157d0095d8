//! The memory that trees take while they are read, of all instances together.
//!
//! A tree takes more as it turns out to be larger. Of all that hold a part and want more, one alone waits
//! for it; the others give theirs back and begin anew behind it, so that no two wait for each other.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, MutexGuard, OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::{Error, Result};

/// How long a tree waits for memory before whoever asked for it is told to come back.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// The unit in which memory is counted, in bytes.
const UNIT_BYTES: u64 = 1 << 10;

/// The memory that all trees share.
#[derive(Debug)]
pub(super) struct TreeMemory {
    units: Arc<Semaphore>,
    total_units: u32,
    turn: Mutex<()>,
}

/// The right to wait for memory while holding some.
pub(super) type Turn<'a> = MutexGuard<'a, ()>;

/// What one tree has taken, until this is dropped.
#[derive(Debug, Default)]
pub(super) struct Taken {
    bytes: u64,
    permit: Option<OwnedSemaphorePermit>,
}

impl TreeMemory {
    /// So many bytes.
    pub(super) fn new(bytes: u64) -> Self {
        let total_units = u32::try_from(bytes / UNIT_BYTES).unwrap_or(u32::MAX).max(1);
        Self {
            units: Arc::new(Semaphore::new(total_units as usize)),
            total_units,
            turn: Mutex::new(()),
        }
    }

    /// All that there is, in bytes.
    pub(super) fn total_bytes(&self) -> u64 {
        u64::from(self.total_units) * UNIT_BYTES
    }

    /// Takes memory for a tree that holds none yet, as soon as there is some.
    ///
    /// # Errors
    /// [`Error::Full`] if that is more than there is, or none becomes free in time.
    pub(super) async fn take(&self, bytes: u64) -> Result<Taken> {
        let mut taken = Taken::default();
        taken.wait(self, bytes).await?;
        Ok(taken)
    }

    /// Waits for the turn to wait.
    ///
    /// # Errors
    /// [`Error::Full`] if it does not come in time.
    pub(super) async fn turn(&self) -> Result<Turn<'_>> {
        timeout(MAX_WAIT, self.turn.lock()).await.map_err(|_| self.busy(0))
    }

    fn busy(&self, size_bytes: u64) -> Error {
        let what = format!(
            "other trees have the {} bytes of memory that all share now",
            self.total_bytes()
        );
        Error::Full { size_bytes, what }
    }
}

impl Taken {
    /// Takes more. False if others have it now; with a turn it waits for them instead.
    ///
    /// # Errors
    /// [`Error::Full`] if this one alone wants more than there is, or none becomes free in time.
    pub(super) async fn grow(
        &mut self,
        memory: &TreeMemory,
        bytes: u64,
        turn: Option<&Turn<'_>>,
    ) -> Result<bool> {
        if turn.is_some() {
            self.wait(memory, bytes).await?;
            return Ok(true);
        }
        let more = self.units_for(memory, bytes)?;
        let permit = Arc::clone(&memory.units).try_acquire_many_owned(more).ok();
        Ok(permit.map(|permit| self.add(permit, bytes)).is_some())
    }

    /// Takes more as soon as there is some.
    async fn wait(&mut self, memory: &TreeMemory, bytes: u64) -> Result<()> {
        let more = self.units_for(memory, bytes)?;
        let acquired = Arc::clone(&memory.units).acquire_many_owned(more);
        match timeout(MAX_WAIT, acquired).await {
            Ok(Ok(permit)) => {
                self.add(permit, bytes);
                Ok(())
            }
            Ok(Err(_)) | Err(_) => Err(memory.busy(bytes)),
        }
    }

    /// How many units so many more bytes need.
    fn units_for(&self, memory: &TreeMemory, bytes: u64) -> Result<u32> {
        let (size_bytes, total_bytes) = (self.bytes.saturating_add(bytes), memory.total_bytes());
        if size_bytes > total_bytes {
            let what = format!("a tree may take {total_bytes} bytes of memory, this takes more");
            return Err(Error::Full { size_bytes, what });
        }
        let held = self.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits) as u64;
        // At most `total_units`, and never fewer than are held.
        Ok((size_bytes.div_ceil(UNIT_BYTES) - held) as u32)
    }

    fn add(&mut self, permit: OwnedSemaphorePermit, bytes: u64) {
        match &mut self.permit {
            Some(own) => own.merge(permit),
            None => self.permit = Some(permit),
        }
        self.bytes += bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_one_has_no_other_gets() {
        let memory = TreeMemory::new(10 << 10);
        let (mut one, mut other) = (Taken::default(), Taken::default());
        assert!(one.grow(&memory, 100, None).await.unwrap());
        assert!(one.grow(&memory, 6 << 10, None).await.unwrap());
        assert!(!other.grow(&memory, 5 << 10, None).await.unwrap());
        let turn = memory.turn().await.unwrap();
        let late = other.grow(&memory, 5 << 10, Some(&turn)).await;
        assert!(matches!(late, Err(Error::Full { .. })), "{late:?}");
        let waiting = async {
            assert!(other.grow(&memory, 5 << 10, Some(&turn)).await.unwrap());
        };
        tokio::join!(waiting, async { drop(one) });
        let too_much = Taken::default().grow(&memory, u64::MAX, None).await;
        assert!(matches!(too_much, Err(Error::Full { .. })), "{too_much:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn one_alone_waits_while_it_holds_some() {
        let memory = TreeMemory::new(1 << 10);
        let _turn = memory.turn().await.unwrap();
        assert!(matches!(memory.turn().await, Err(Error::Full { .. })));
    }
}
