//! The memory that trees take while they are read, of all instances together.
//!
//! A tree takes more as it turns out to be larger. Of all that hold a part and want more, one alone waits
//! for it; the others give theirs back and begin anew behind it, so that no two wait for each other.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::{Error, Result};

/// How long a tree waits for memory before whoever asked for it is told to come back.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// The unit in which memory is counted, in bytes.
const UNIT_BYTES: u64 = 256;

/// The memory that all trees share.
#[derive(Debug)]
pub(super) struct TreeMemory {
    units: Arc<Semaphore>,
    total_units: u32,
    /// What a tree may take while it is read.
    most_bytes: u64,
    turn: Arc<Mutex<()>>,
}

/// The right to wait for memory while holding some.
pub(super) type Turn = OwnedMutexGuard<()>;

/// What one tree has taken, until this is dropped.
#[derive(Debug, Default)]
pub(super) struct Taken {
    bytes: u64,
    permit: Option<OwnedSemaphorePermit>,
}

impl TreeMemory {
    /// So many bytes, of which one tree may take so many while it is read.
    pub(super) fn new(bytes: u64, most_bytes: u64) -> Self {
        let total_units = u32::try_from(bytes / UNIT_BYTES).unwrap_or(u32::MAX).max(1);
        let total_bytes = u64::from(total_units) * UNIT_BYTES;
        Self {
            units: Arc::new(Semaphore::new(total_units as usize)),
            total_units,
            most_bytes: most_bytes.min(total_bytes),
            turn: Arc::default(),
        }
    }

    /// What one tree may take while it is read, in bytes.
    pub(super) fn most_bytes(&self) -> u64 {
        self.most_bytes
    }

    #[cfg(test)]
    pub(super) fn free_bytes(&self) -> u64 {
        self.units.available_permits() as u64 * UNIT_BYTES
    }

    /// All that there is, in bytes.
    pub(super) fn total_bytes(&self) -> u64 {
        u64::from(self.total_units) * UNIT_BYTES
    }

    /// Waits for the turn to wait.
    ///
    /// # Errors
    /// [`Error::Full`] if it does not come in time.
    pub(super) async fn turn(&self) -> Result<Turn> {
        timeout(MAX_WAIT, Arc::clone(&self.turn).lock_owned()).await.map_err(|_| self.busy(0))
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
    /// Takes more. False if others have it now.
    ///
    /// # Errors
    /// [`Error::Full`] if this one alone wants more than it may have.
    pub(super) fn grow(&mut self, memory: &TreeMemory, bytes: u64) -> Result<bool> {
        let more = self.units_for(memory, bytes)?;
        let permit = Arc::clone(&memory.units).try_acquire_many_owned(more).ok();
        Ok(permit.map(|permit| self.add(permit, bytes)).is_some())
    }

    /// Takes more as soon as there is some. Who holds some already has the turn.
    ///
    /// # Errors
    /// [`Error::Full`] if this one alone wants more than it may have, or none becomes free in time.
    pub(super) async fn wait(&mut self, memory: &TreeMemory, bytes: u64) -> Result<()> {
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

    /// Parts with some of what it has: so many bytes, or all if it has less.
    pub(super) fn split(&mut self, bytes: u64) -> Self {
        let Some(own) = &mut self.permit else { return Self::default() };
        let units = (bytes.div_ceil(UNIT_BYTES) as usize).min(own.num_permits());
        self.bytes = self.bytes.saturating_sub(bytes);
        Self { bytes, permit: own.split(units) }
    }

    /// How many units so many more bytes need.
    fn units_for(&self, memory: &TreeMemory, bytes: u64) -> Result<u32> {
        let size_bytes = self.bytes.saturating_add(bytes);
        if size_bytes > memory.most_bytes {
            let most = memory.most_bytes;
            let what = format!("a tree may take {most} bytes of memory, this takes more");
            return Err(Error::Full { size_bytes, what });
        }
        // What is taken at once may be split off later, so it is whole units. At most `total_units`.
        Ok(bytes.div_ceil(UNIT_BYTES).min(u64::from(memory.total_units)) as u32)
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
        let memory = TreeMemory::new(10 << 10, 10 << 10);
        let (mut one, mut other) = (Taken::default(), Taken::default());
        assert!(one.grow(&memory, 100).unwrap());
        assert!(one.grow(&memory, 6 << 10).unwrap());
        assert!(!other.grow(&memory, 5 << 10).unwrap());
        let late = other.wait(&memory, 5 << 10).await;
        assert!(matches!(late, Err(Error::Full { .. })), "{late:?}");
        tokio::join!(async { other.wait(&memory, 5 << 10).await.unwrap() }, async { drop(one) });
        let too_much = Taken::default().grow(&memory, u64::MAX);
        assert!(matches!(too_much, Err(Error::Full { .. })), "{too_much:?}");
    }

    #[test]
    fn what_is_split_off_is_held_by_itself() {
        let memory = TreeMemory::new(4 << 10, 3 << 10);
        let mut taken = Taken::default();
        assert!(taken.grow(&memory, 1000).unwrap() && taken.grow(&memory, 2000).unwrap());
        let part = taken.split(2000);
        assert!(taken.grow(&memory, 1000).unwrap(), "it has less than a tree may have again");
        assert!(!Taken::default().grow(&memory, 1).unwrap());
        drop(taken);
        assert!(Taken::default().grow(&memory, 2 << 10).unwrap());
        assert!(!Taken::default().grow(&memory, 3 << 10).unwrap());
        drop(part);
        assert_eq!(memory.units.available_permits(), memory.total_units as usize);
    }

    #[tokio::test(start_paused = true)]
    async fn one_alone_waits_while_it_holds_some() {
        let memory = TreeMemory::new(1 << 10, 1 << 10);
        let _turn = memory.turn().await.unwrap();
        assert!(matches!(memory.turn().await, Err(Error::Full { .. })));
    }
}
