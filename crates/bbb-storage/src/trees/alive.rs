//! Every subtree that somebody holds, by its digest, so that none is read or held twice; and of the trees that were asked
//! for lately one hold each, until their memory is needed.
//!
//! Only roots are kept: what stands below one is alive through it, however seldom it is asked for by itself.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use bbb_digest::{Digest, InstanceName};

use super::Subtree;

/// The instance is part of it, so that nothing is seen through the wall between two.
type Key = (InstanceName, Digest);

/// What a subtree's place here takes in memory at the most, in bytes, the order included.
pub(super) const SEAT_BYTES: u64 = 512;

#[derive(Debug, Default)]
pub(super) struct Alive {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    seats: HashMap<Key, Seat>,
    /// Those that are kept, the one that was asked for least recently first.
    order: BTreeMap<u64, Key>,
    clock: u64,
    /// How many wait for memory. As long as there are any, nothing is kept.
    waiting: usize,
}

#[derive(Debug, Default)]
struct Seat {
    subtree: Weak<Subtree>,
    kept: Option<Kept>,
}

#[derive(Debug)]
struct Kept {
    subtree: Arc<Subtree>,
    asked: u64,
}

// A subtree that is dropped takes the lock. So none is ever dropped while it is held.
impl Alive {
    /// The subtree, if somebody holds it.
    pub(super) fn find(&self, instance: &InstanceName, digest: Digest) -> Option<Arc<Subtree>> {
        self.state().seats.get(&(instance.clone(), digest))?.subtree.upgrade()
    }

    /// The subtree, if somebody holds it; it is kept from now on.
    pub(super) fn ask(&self, instance: &InstanceName, digest: Digest) -> Option<Arc<Subtree>> {
        let mut state = self.state();
        let key = (instance.clone(), digest);
        let subtree = state.seats.get(&key)?.subtree.upgrade()?;
        state.keep(key, &subtree);
        Some(subtree)
    }

    /// Keeps a tree that was read.
    pub(super) fn keep(&self, subtree: &Arc<Subtree>) {
        let key = (subtree.instance().clone(), subtree.digest());
        self.state().keep(key, subtree);
    }

    /// The one that all share: the one that is there already, else this.
    pub(super) fn share(&self, new: Subtree) -> Arc<Subtree> {
        let new = Arc::new(new);
        let key = (new.instance().clone(), new.digest());
        let there = {
            let mut state = self.state();
            let seat = state.seats.entry(key).or_default();
            let there = seat.subtree.upgrade();
            if there.is_none() {
                seat.subtree = Arc::downgrade(&new);
            }
            there
        };
        there.unwrap_or(new)
    }

    /// Somebody was the last to hold this.
    pub(super) fn leave(&self, instance: &InstanceName, digest: Digest) {
        let mut state = self.state();
        let key = (instance.clone(), digest);
        // It may have been read anew since.
        if state.seats.get(&key).is_some_and(|seat| seat.subtree.strong_count() == 0) {
            state.seats.remove(&key);
        }
    }

    /// Keeps the tree no longer that was asked for least recently. False if none is kept.
    pub(super) fn give_way(&self) -> bool {
        let kept = self.state().take_oldest();
        kept.is_some()
    }

    /// Keeps nothing any more until the answer is dropped.
    pub(super) fn wait(&self) -> Waits<'_> {
        self.state().waiting += 1;
        while self.give_way() {}
        Waits(self)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many are held by somebody, and how many of them are kept here.
    #[cfg(test)]
    pub(super) fn counts(&self) -> (usize, usize) {
        let state = self.state();
        (state.seats.len(), state.order.len())
    }
}

impl State {
    fn keep(&mut self, key: Key, subtree: &Arc<Subtree>) {
        if self.waiting > 0 {
            return;
        }
        let Some(seat) = self.seats.get_mut(&key) else { return };
        self.clock += 1;
        match &mut seat.kept {
            Some(kept) => {
                self.order.remove(&kept.asked);
                kept.asked = self.clock;
            }
            none => *none = Some(Kept { subtree: Arc::clone(subtree), asked: self.clock }),
        }
        self.order.insert(self.clock, key);
    }

    fn take_oldest(&mut self) -> Option<Arc<Subtree>> {
        let (_, key) = self.order.pop_first()?;
        let kept = self.seats.get_mut(&key)?.kept.take()?;
        Some(kept.subtree)
    }
}

/// Somebody waits for memory.
#[derive(Debug)]
pub(super) struct Waits<'a>(&'a Alive);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.state().waiting -= 1;
    }
}
