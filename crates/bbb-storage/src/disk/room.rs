//! Room: reservations, and the eviction that makes some.

use std::{
    fs,
    panic::{self, AssertUnwindSafe},
    sync::{Arc, atomic::Ordering},
};

use bbb_lifecycle::Stop;

use crate::{Error, Result};

use super::{
    Disk, blocking,
    index::{Going, Key, Leave, Victim, charge},
    view::is_absent,
};

/// How much is taken out of the index at a time before it goes.
const VICTIMS_AT_ONCE: usize = 64;

/// Eviction behind starts when less than this part of the limit is free...
const START_BELOW: u64 = 40;
/// ...and goes on until this part is.
const STOP_AT: u64 = 20;

/// The most that is kept free ahead, in bytes.
const MAX_HEADROOM_BYTES: u64 = 8 << 30;

/// How an eviction ended. Others take and give back room all the while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Evicted {
    /// No more than the target was taken, whoever gave the room back.
    Enough,
    /// Something went, and all that was left was in use.
    Less,
    /// All that was there was in use.
    Nothing,
}

/// Room that is taken in the store until this is dropped.
#[derive(Debug)]
pub struct Reservation {
    disk: Arc<Disk>,
    bytes: u64,
}

impl Reservation {
    /// Takes more room.
    ///
    /// # Errors
    /// [`Error::Full`] if there is none and all that is stored is in use; what was taken stays taken.
    pub async fn grow(&mut self, bytes: u64) -> Result<()> {
        self.disk.make_room(bytes).await?;
        self.bytes += bytes;
        Ok(())
    }

    /// Takes over what another has taken of the same store.
    pub fn absorb(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
    }

    /// Gives some of it back, or all if it is less.
    pub fn give_back(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        if bytes > 0 {
            self.disk.index().release(bytes);
        }
    }

    /// The bytes taken.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Hands the room over to an entry: the caller has locked the index and counts it there.
    pub(super) fn settle(mut self, index: &mut super::index::Index) {
        index.release(std::mem::take(&mut self.bytes));
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.disk.index().release(self.bytes);
        }
    }
}

impl Disk {
    /// Takes room for files that the store does not know of; evicts for it if needed.
    ///
    /// # Errors
    /// [`Error::Full`] if there is none and all that is stored is in use.
    pub async fn reserve(self: &Arc<Self>, bytes: u64) -> Result<Reservation> {
        self.make_room(bytes).await?;
        Ok(Reservation { disk: Arc::clone(self), bytes })
    }

    /// Takes room for a file of so many bytes.
    pub(crate) async fn reserve_file(self: &Arc<Self>, size_bytes: u64) -> Result<Reservation> {
        self.reserve(charge(size_bytes)).await
    }

    async fn make_room(self: &Arc<Self>, bytes: u64) -> Result<()> {
        let (fits, limit_bytes) = {
            let mut index = self.index();
            (index.reserve(bytes), index.limit_bytes())
        };
        if fits {
            self.wake_eviction();
            return Ok(());
        }
        let full = || Error::Full {
            size_bytes: bytes,
            what: format!("the limit of {limit_bytes} bytes for {}", self.layout.root().display()),
        };
        if bytes > limit_bytes {
            return Err(full());
        }
        loop {
            let evicted = self.evict(limit_bytes - bytes).await?;
            if self.index().reserve(bytes) {
                return Ok(());
            }
            if evicted == Evicted::Nothing {
                return Err(full());
            }
        }
    }

    /// Frees some room although the limit is not met, for a file system that is full before its time.
    pub(super) async fn evict_for_full_disk(self: &Arc<Self>, size_bytes: u64) -> Result<Evicted> {
        let wanted = charge(size_bytes).saturating_mul(2).max(1 << 20);
        let target = self.index().taken_bytes().saturating_sub(wanted);
        self.evict(target).await
    }

    /// Evicts until no more than `target_bytes` are taken, or all that is left is in use. One at a time,
    /// so that nobody mistakes room that is about to be free for room that is not there. Waits for the
    /// snapshot: what it knows to be old must go before what was used since.
    async fn evict(self: &Arc<Self>, target_bytes: u64) -> Result<Evicted> {
        self.loaded().await?;
        let turn = Arc::clone(&self.eviction).lock_owned().await;
        if self.index().taken_bytes() <= target_bytes {
            return Ok(Evicted::Enough);
        }
        let disk = Arc::clone(self);
        blocking("evicting", move || {
            // It goes on when whoever waits for it is gone.
            let _turn = turn;
            Ok(disk.evict_blocking(target_bytes))
        })
        .await
    }

    fn evict_blocking(&self, target_bytes: u64) -> Evicted {
        let mut has_freed = false;
        loop {
            match self.take_victims(target_bytes) {
                None if !has_freed => return Evicted::Nothing,
                None => return Evicted::Less,
                Some(victims) if victims.is_empty() => return Evicted::Enough,
                Some(victims) => self.remove_victims(victims),
            }
            has_freed = true;
        }
    }

    /// Takes some of what is to go out of the index, with the bytes it takes. It is still there. Empty if
    /// no more than `target_bytes` are taken, none if more are and all of it is in use.
    pub(super) fn take_victims(&self, target_bytes: u64) -> Option<Vec<Victim>> {
        let mut index = self.index();
        let mut taken = index.taken_bytes();
        let mut victims: Vec<Victim> = Vec::new();
        // With a lodger goes what it pins, which may be older than all that would come next.
        let is_lodger = |victim: &Victim| matches!(victim.what, Going::Lodger(_));
        while taken > target_bytes
            && victims.len() < VICTIMS_AT_ONCE
            && !victims.last().is_some_and(is_lodger)
        {
            match index.take_victim() {
                Some(victim) => {
                    taken -= victim.bytes.min(taken);
                    victims.push(victim);
                }
                None if victims.is_empty() => return None,
                None => break,
            }
        }
        Some(victims)
    }

    /// Removes what was taken out, and gives its room back.
    pub(super) fn remove_victims(&self, victims: Vec<Victim>) {
        for Victim { what, bytes } in victims {
            match what {
                Going::File(key) => self.remove_evicted(&key, bytes),
                Going::Lodger(leave) => self.see_off(leave, bytes),
            }
            self.counters.evictions.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn remove_evicted(&self, key: &Key, bytes: u64) {
        let path = self.path(key);
        let _gate = self.gate(key.digest);
        // Whoever stored it again meanwhile has put a file in the same place, which stays.
        let is_back = self.index().find(key).is_some();
        let removed = if is_back { Ok(()) } else { fs::remove_file(&path) };
        match removed {
            Err(error) if !is_absent(&error) => {
                tracing::error!(path = %path.display(), %error, "cannot evict a file");
            }
            _ => {}
        }
        self.index().release(bytes);
        self.forget_in_memory(key);
    }

    fn see_off(&self, leave: Leave, bytes: u64) {
        // It is somebody else's code; whatever it does, the store goes on.
        if panic::catch_unwind(AssertUnwindSafe(leave)).is_err() {
            tracing::error!(bytes, "a lodger of the store panicked when it was to leave");
        }
        self.index().release(bytes);
    }

    /// Keeps some room free ahead of those who need it, until it is asked to stop.
    pub(super) async fn evict_behind(self: Arc<Self>, stop: Stop) {
        if self.loaded().await.is_err() {
            return;
        }
        loop {
            tokio::select! {
                () = stop.requested() => return,
                () = self.eviction_wanted.notified() => {}
            }
            let target = self.headroom(STOP_AT);
            if let Err(error) = self.evict(target).await {
                tracing::error!(%error, "eviction failed");
            }
        }
    }

    /// Wakes the eviction behind if it is time.
    pub(super) fn wake_eviction(&self) {
        let target = self.headroom(START_BELOW);
        if self.index().taken_bytes() > target {
            self.eviction_wanted.notify_one();
        }
    }

    /// The bytes that may be taken if the `part`th part of the limit is to stay free.
    fn headroom(&self, part: u64) -> u64 {
        let limit = self.settings.limit_bytes;
        limit - (limit / part).min(MAX_HEADROOM_BYTES * 20 / part)
    }
}
