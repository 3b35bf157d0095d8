//! Lodgers: what others keep in the store's folder, counted and evicted together with blobs.

use std::{fmt, sync::Arc};

use async_trait::async_trait;

use crate::{Result, local::Lodging};

use super::{
    Disk, Reservation,
    index::{Number, charge},
};

/// The store as one that gives lodging.
#[derive(Debug)]
pub(super) struct House(pub(super) Arc<Disk>);

#[async_trait]
impl Lodging for House {
    async fn take(&self, bytes: u64, leave: Box<dyn FnOnce() + Send>) -> Result<Lodger> {
        let reservation = self.0.reserve(charge(bytes)).await?;
        let bytes = reservation.bytes();
        let mut index = self.0.index();
        reservation.settle(&mut index);
        let number = index.lodge(bytes, leave);
        drop(index);
        Ok(Lodger { disk: Arc::clone(&self.0), number })
    }

    async fn reserve(&self, bytes: u64) -> Result<Reservation> {
        self.0.reserve(bytes).await
    }

    fn limit_bytes(&self) -> u64 {
        self.0.settings.limit_bytes
    }
}

/// Something that takes room in a store until it is told to leave, or this is dropped.
pub struct Lodger {
    disk: Arc<Disk>,
    number: Number,
}

impl Lodger {
    /// Counts it as used now.
    pub fn used(&self) {
        self.disk.index().use_lodger(self.number);
    }

    /// Has it stay until the answer is dropped, all of which time it is in use. None once it was told to leave.
    pub fn keep(&self) -> Option<Kept> {
        let is_there = self.disk.index().keep_lodger(self.number);
        is_there.then(|| Kept { disk: Arc::clone(&self.disk), number: self.number })
    }
}

impl Drop for Lodger {
    fn drop(&mut self) {
        let left = self.disk.index().unlodge(self.number);
        // What it holds may be pins of this very store: they go when the index is free again.
        drop(left);
    }
}

/// Keeps a [`Lodger`] where it is. Its room stays taken even if it is dropped meanwhile.
pub struct Kept {
    disk: Arc<Disk>,
    number: Number,
}

impl Drop for Kept {
    fn drop(&mut self) {
        let left = self.disk.index().unkeep_lodger(self.number);
        drop(left);
    }
}

impl fmt::Debug for Lodger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lodger").field(&self.number).finish()
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Kept").field(&self.number).finish()
    }
}
