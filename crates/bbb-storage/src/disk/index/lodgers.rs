//! The books of lodgers: things besides blobs and results that take room and go in the same order of use.
//!
//! There are few of them, each worth many files, so that they need not be as small as entries are.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
};

use super::Index;

/// What makes a lodger's things go; run once, off the reactor, when no lock is held.
pub(in crate::disk) type Leave = Box<dyn FnOnce() + Send>;

/// The number of a lodger, never given twice.
pub(in crate::disk) type Number = u64;

/// All lodgers.
#[derive(Debug, Default)]
pub(super) struct Lodgers {
    all: HashMap<Number, Lodged>,
    /// Those that nobody keeps, by the stamp of their last use.
    idle: BTreeMap<u64, Number>,
    last: Number,
    bytes: u64,
}

struct Lodged {
    bytes: u64,
    stamp: u64,
    keeps: u32,
    /// It has gone by itself, and waits for those who keep it.
    is_gone: bool,
    leave: Leave,
}

impl Lodgers {
    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        self.all.len() as u64
    }

    /// The bytes that all of them take.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// When the one that goes first was used last.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.idle.first_key_value().map(|(stamp, _)| *stamp)
    }

    fn remove(&mut self, number: Number) -> Option<Lodged> {
        let lodged = self.all.remove(&number)?;
        self.idle.remove(&lodged.stamp);
        self.bytes -= lodged.bytes;
        Some(lodged)
    }
}

impl Index {
    /// Takes in a lodger as the one used last.
    pub(in crate::disk) fn lodge(&mut self, bytes: u64, leave: Leave) -> Number {
        self.clock += 1;
        self.used_bytes += bytes;
        let lodgers = &mut self.lodgers;
        lodgers.last += 1;
        lodgers.bytes += bytes;
        let lodged = Lodged { bytes, stamp: self.clock, keeps: 0, is_gone: false, leave };
        lodgers.all.insert(lodgers.last, lodged);
        lodgers.idle.insert(self.clock, lodgers.last);
        lodgers.last
    }

    /// Counts a lodger as used now. False if it was told to leave.
    pub(in crate::disk) fn use_lodger(&mut self, number: Number) -> bool {
        let Lodgers { all, idle, .. } = &mut self.lodgers;
        let Some(lodged) = all.get_mut(&number) else { return false };
        self.clock += 1;
        let before = std::mem::replace(&mut lodged.stamp, self.clock);
        if idle.remove(&before).is_some() {
            idle.insert(self.clock, number);
        }
        true
    }

    /// Has a lodger stay until [`Self::unkeep_lodger`], and counts it as used. False if it was told to leave.
    pub(in crate::disk) fn keep_lodger(&mut self, number: Number) -> bool {
        let is_there = self.use_lodger(number);
        let Lodgers { all, idle, .. } = &mut self.lodgers;
        if let Some(lodged) = all.get_mut(&number) {
            lodged.keeps += 1;
            idle.remove(&lodged.stamp);
        }
        is_there
    }

    /// Ends one [`Self::keep_lodger`], until when it was used. What it gives is to be dropped without the lock.
    pub(in crate::disk) fn unkeep_lodger(&mut self, number: Number) -> Option<Leave> {
        self.use_lodger(number);
        let Lodgers { all, idle, .. } = &mut self.lodgers;
        let lodged = all.get_mut(&number)?;
        lodged.keeps = lodged.keeps.saturating_sub(1);
        if lodged.keeps > 0 {
            return None;
        }
        if !lodged.is_gone {
            idle.insert(lodged.stamp, number);
            return None;
        }
        self.forget_lodger(number)
    }

    /// Gives a lodger's room back, at the latest when nobody keeps it any more. What it gives is to be dropped
    /// without the lock.
    pub(in crate::disk) fn unlodge(&mut self, number: Number) -> Option<Leave> {
        let lodged = self.lodgers.all.get_mut(&number)?;
        if lodged.keeps > 0 {
            lodged.is_gone = true;
            return None;
        }
        self.forget_lodger(number)
    }

    /// Takes the lodger out that goes first, with its bytes, which are taken until [`Self::release`].
    pub(super) fn take_lodger(&mut self) -> Option<(Leave, u64)> {
        let (_, number) = self.lodgers.idle.first_key_value()?;
        let Lodged { bytes, leave, .. } = self.lodgers.remove(*number)?;
        self.used_bytes -= bytes;
        self.reserved_bytes += bytes;
        Some((leave, bytes))
    }

    /// How many lodgers there are, and the bytes that they take.
    pub(in crate::disk) fn lodgers(&self) -> (u64, u64) {
        (self.lodgers.count(), self.lodgers.bytes())
    }

    fn forget_lodger(&mut self, number: Number) -> Option<Leave> {
        let Lodged { bytes, leave, .. } = self.lodgers.remove(number)?;
        self.used_bytes -= bytes;
        Some(leave)
    }
}

impl fmt::Debug for Lodged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bytes, stamp, keeps, is_gone, leave: _ } = self;
        f.debug_struct("Lodged")
            .field("bytes", bytes)
            .field("stamp", stamp)
            .field("keeps", keeps)
            .field("is_gone", is_gone)
            .finish_non_exhaustive()
    }
}
