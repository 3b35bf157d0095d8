//! The index in memory: what lies in the folder, how large it is, and in which order it was used.
//!
//! Pure bookkeeping without any I/O: every method is a matter of nanoseconds, so that one lock around
//! it all is enough. An entry takes 72 bytes, its place in the order 16, in the table about 8.
//!
//! Recency is exact and one order holds for all kinds: each use stamps the entry with the next number.
//! The heap holds one node for each entry, whose stamp may be old; a node that comes up is brought up to
//! date first, so that the one that stays on top is the least recently used one. A pinned entry that comes up
//! is set aside without a node until its last pin goes, and keeps its place in the order.

mod lodgers;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, binary_heap::PeekMut},
    fmt,
    hash::{BuildHasher as _, RandomState},
};

use bbb_digest::{Digest, Function};
use hashbrown::HashTable;

use super::layout::Kind;
use lodgers::Lodgers;
pub(super) use lodgers::{Leave, Number};

/// What the file system gives a file at the least, in bytes; what files take is counted in such blocks.
pub(super) const BLOCK_BYTES: u64 = 4096;

/// The bytes that a file of this size takes on disk.
pub(super) const fn charge(size_bytes: u64) -> u64 {
    match size_bytes {
        0 => BLOCK_BYTES,
        _ => size_bytes.div_ceil(BLOCK_BYTES) * BLOCK_BYTES,
    }
}

/// The number of an instance that something was written under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct InstanceId(pub(super) u32);

/// What names an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) instance: InstanceId,
    pub(super) kind: Kind,
    pub(super) digest: Digest,
}

/// The place of an entry; stays valid while the entry is pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot(u32);

/// What is known of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) slot: Slot,
    /// Whether its file was written or looked at since the store was opened and is as expected.
    pub(super) checked: bool,
}

/// Everything that lies in the folder, and the room that is taken.
#[derive(Debug)]
pub(super) struct Index {
    entries: Vec<Box<[Entry]>>,
    free: Vec<u32>,
    table: HashTable<u32>,
    order: BinaryHeap<Reverse<(u64, u32)>>,
    hasher: RandomState,
    clock: u64,
    limit_bytes: u64,
    used_bytes: u64,
    reserved_bytes: u64,
    /// What the files take that a snapshot lists and that are still to be taken in.
    expected_bytes: u64,
    /// How many entries of the snapshot were taken in: the stamp of the last.
    remembered: u64,
    counts: [u64; Kind::ALL.len()],
    lodgers: Lodgers,
}

/// What is to go, with the bytes it takes: they are taken until [`Index::release`].
#[derive(Debug)]
pub(super) struct Victim {
    pub(super) what: Going,
    pub(super) bytes: u64,
}

/// Something that was taken out of the books and is still there.
pub(super) enum Going {
    /// The file of an entry.
    File(Key),
    /// A lodger, and what makes it go.
    Lodger(Leave),
}

#[derive(Clone, Debug)]
struct Entry {
    hash: [u8; 32],
    /// The rest of hashes that are longer than 32 bytes.
    rest: Option<Box<[u8; 32]>>,
    size_bytes: u64,
    stamp: u64,
    blocks: u32,
    instance: u32,
    pins: u32,
    function: Function,
    kind: Kind,
    flags: u8,
}

/// The entry is as it is expected.
const CHECKED: u8 = 1;
/// The walk through the folder has met the file.
const SEEN: u8 = 2;
/// The entry was removed; its slot waits for its last pin and its node.
const DEAD: u8 = 4;
/// The entry came up while it was pinned, and has no node.
const ASIDE: u8 = 8;

const CHUNK_LEN: usize = 4096;

impl Entry {
    fn new(key: &Key) -> Self {
        let bytes = key.digest.hash();
        let (mut hash, mut rest) = ([0; 32], None);
        match bytes.split_at_checked(32) {
            Some((head, tail)) => {
                hash.copy_from_slice(head);
                if !tail.is_empty() {
                    let mut long = Box::new([0; 32]);
                    long[..tail.len()].copy_from_slice(tail);
                    rest = Some(long);
                }
            }
            None => hash[..bytes.len()].copy_from_slice(bytes),
        }
        let (function, size_bytes) = (key.digest.function(), key.digest.size_bytes());
        let (instance, kind) = (key.instance.0, key.kind);
        Self {
            hash,
            rest,
            size_bytes,
            stamp: 0,
            blocks: 0,
            instance,
            pins: 0,
            function,
            kind,
            flags: 0,
        }
    }

    fn is(&self, key: &Key) -> bool {
        let bytes = key.digest.hash();
        let len = bytes.len();
        let same_hash = match &self.rest {
            None => len <= 32 && self.hash[..len] == *bytes,
            Some(rest) => len > 32 && self.hash == bytes[..32] && rest[..len - 32] == bytes[32..],
        };
        same_hash
            && self.size_bytes == key.digest.size_bytes()
            && self.instance == key.instance.0
            && self.function == key.digest.function()
            && self.kind == key.kind
    }

    fn key(&self) -> Option<Key> {
        let mut hash = [0; 64];
        hash[..32].copy_from_slice(&self.hash);
        if let Some(rest) = &self.rest {
            hash[32..].copy_from_slice(&rest[..]);
        }
        let hash = &hash[..self.function.hash_len()];
        let digest = Digest::from_raw(self.function, hash, self.size_bytes).ok()?;
        Some(Key { instance: InstanceId(self.instance), kind: self.kind, digest })
    }

    const fn charge(&self) -> u64 {
        self.blocks as u64 * BLOCK_BYTES
    }
}

impl Index {
    /// An empty index of a folder that may take `limit_bytes`.
    pub(super) fn new(limit_bytes: u64) -> Self {
        Self {
            entries: Vec::new(),
            free: Vec::new(),
            table: HashTable::new(),
            order: BinaryHeap::new(),
            hasher: RandomState::new(),
            clock: 0,
            limit_bytes,
            used_bytes: 0,
            reserved_bytes: 0,
            expected_bytes: 0,
            remembered: 0,
            counts: [0; Kind::ALL.len()],
            lodgers: Lodgers::default(),
        }
    }

    pub(super) const fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }

    /// The bytes that entries, lodgers and reservations take, those of entries that are still expected too.
    pub(super) const fn taken_bytes(&self) -> u64 {
        self.used_bytes.saturating_add(self.reserved_bytes).saturating_add(self.expected_bytes)
    }

    /// How many entries of a kind there are.
    pub(super) const fn count(&self, kind: Kind) -> u64 {
        self.counts[kind as usize]
    }

    /// What is known of an entry.
    pub(super) fn find(&self, key: &Key) -> Option<Known> {
        let hash = hash_of(&self.hasher, key);
        let slot = *self.table.find(hash, |slot| self.entry(*slot).is(key))?;
        Some(Known { slot: Slot(slot), checked: self.entry(slot).flags & CHECKED != 0 })
    }

    /// Finds an entry and counts it as used if it is checked.
    pub(super) fn use_entry(&mut self, key: &Key) -> Option<Known> {
        let known = self.find(key)?;
        if known.checked {
            self.touch(known.slot);
        }
        Some(known)
    }

    /// Counts an entry as used now.
    pub(super) fn touch(&mut self, slot: Slot) {
        self.clock += 1;
        let clock = self.clock;
        self.entry_mut(slot.0).stamp = clock;
    }

    /// The key of an entry that is pinned, removed or not.
    pub(super) fn pinned_key(&self, slot: Slot) -> Option<Key> {
        self.entry(slot.0).key()
    }

    /// Keeps an entry from eviction until [`Self::unpin`].
    pub(super) fn pin(&mut self, slot: Slot) {
        self.entry_mut(slot.0).pins += 1;
    }

    /// Takes one pin back.
    pub(super) fn unpin(&mut self, slot: Slot) {
        let entry = self.entry_mut(slot.0);
        entry.pins = entry.pins.saturating_sub(1);
        if entry.pins > 0 || entry.flags & ASIDE == 0 {
            return;
        }
        entry.flags &= !ASIDE;
        let (stamp, is_dead) = (entry.stamp, entry.flags & DEAD != 0);
        match is_dead {
            true => self.free.push(slot.0),
            false => self.order.push(Reverse((stamp, slot.0))),
        }
    }

    /// Takes in an entry as the one used last, or renews it. `size_bytes` is that of its file.
    pub(super) fn insert(&mut self, key: &Key, size_bytes: u64, checked: bool) -> Slot {
        self.clock += 1;
        self.insert_at(key, size_bytes, checked, self.clock)
    }

    /// Takes in an entry whose last use was at `stamp`, or renews one.
    fn insert_at(&mut self, key: &Key, size_bytes: u64, checked: bool, stamp: u64) -> Slot {
        let hash = hash_of(&self.hasher, key);
        let slot = match self.table.find(hash, |slot| self.entry(*slot).is(key)) {
            Some(slot) => *slot,
            None => {
                let slot = self.place(Entry::new(key));
                let Self { table, entries, hasher, .. } = self;
                table.insert_unique(hash, slot, |slot| hash_at(entries, hasher, *slot));
                self.order.push(Reverse((stamp, slot)));
                self.counts[key.kind as usize] += 1;
                slot
            }
        };
        let blocks = u32::try_from(charge(size_bytes) / BLOCK_BYTES).unwrap_or(u32::MAX);
        let entry = self.entry_mut(slot);
        let before = entry.charge();
        entry.blocks = blocks;
        entry.stamp = entry.stamp.max(stamp);
        entry.flags = entry.flags & ASIDE | SEEN | if checked { CHECKED } else { 0 };
        let after = entry.charge();
        self.used_bytes = self.used_bytes - before + after;
        Slot(slot)
    }

    /// Takes in what the walk through the folder found and nothing else knew. Such a file is older than
    /// all that was used since the store was opened; results are older than blobs.
    pub(super) fn adopt(
        &mut self,
        key: &Key,
        size_bytes: u64,
        checked: bool,
        opened_at: u64,
    ) -> Slot {
        let stamp = if key.kind == Kind::Result { opened_at.saturating_sub(1) } else { opened_at };
        self.insert_at(key, size_bytes, checked, stamp)
    }

    /// Makes ready for a snapshot of so many entries and bytes, which count as taken from now on. Whatever
    /// is used before the last of them was taken in is newer than all of them.
    pub(super) fn expect(&mut self, entries: u64, charged_bytes: u64) {
        self.clock += entries;
        self.expected_bytes = charged_bytes;
        // So that nobody waits for the tables to grow.
        let count = usize::try_from(entries).unwrap_or(usize::MAX);
        let Self { table, entries, hasher, order, .. } = self;
        table.reserve(count, |slot| hash_at(entries, hasher, *slot));
        order.reserve(count);
    }

    /// Takes in an entry that a snapshot knows, unchecked, as used after those taken in before it. What is
    /// known of it by now is better.
    pub(super) fn remember(&mut self, key: &Key, charged_bytes: u64) {
        self.expected_bytes = self.expected_bytes.saturating_sub(charged_bytes);
        self.remembered += 1;
        if self.find(key).is_none() {
            let slot = self.insert_at(key, charged_bytes, false, self.remembered);
            self.entry_mut(slot.0).flags = 0;
        }
    }

    /// Expects no more entries: the snapshot was read, or cannot be.
    pub(super) fn expect_no_more(&mut self) {
        self.expected_bytes = 0;
    }

    /// The moment between what was remembered and what is used from now on.
    pub(super) fn opened(&mut self) -> u64 {
        self.clock += 2;
        self.clock
    }

    /// Marks whether an entry's file is as expected.
    pub(super) fn set_checked(&mut self, slot: Slot, checked: bool) {
        let entry = self.entry_mut(slot.0);
        entry.flags = entry.flags & (DEAD | ASIDE) | SEEN | if checked { CHECKED } else { 0 };
    }

    /// Whether the walk has met the file, or it was looked at since.
    pub(super) fn is_seen(&self, slot: Slot) -> bool {
        self.entry(slot.0).flags & SEEN != 0
    }

    /// Forgets an entry, pinned or not.
    pub(super) fn remove(&mut self, key: &Key) -> bool {
        let Some(Known { slot: Slot(slot), .. }) = self.find(key) else { return false };
        self.unlink(slot, key);
        let entry = self.entry_mut(slot);
        entry.flags = entry.flags & ASIDE | DEAD;
        true
    }

    /// Takes out what was used least recently and is not in use. Its bytes are taken until [`Self::release`],
    /// since it is still there.
    pub(super) fn take_victim(&mut self) -> Option<Victim> {
        let entry = self.oldest_entry();
        let lodger = self.lodgers.oldest();
        if lodger.is_some_and(|lodger| entry.is_none_or(|(stamp, _)| lodger < stamp)) {
            let (leave, bytes) = self.take_lodger()?;
            return Some(Victim { what: Going::Lodger(leave), bytes });
        }
        let (_, slot) = entry?;
        self.order.pop();
        let (key, bytes) = (self.entry(slot).key()?, self.entry(slot).charge());
        self.unlink(slot, &key);
        self.free.push(slot);
        self.reserved_bytes += bytes;
        Some(Victim { what: Going::File(key), bytes })
    }

    /// Brings the entry to the top of the heap that goes first: its stamp and its slot.
    fn oldest_entry(&mut self) -> Option<(u64, u32)> {
        loop {
            let mut top = self.order.peek_mut()?;
            let Reverse((stamp, slot)) = *top;
            let entry = &mut self.entries[slot as usize / CHUNK_LEN][slot as usize % CHUNK_LEN];
            if entry.stamp != stamp {
                *top = Reverse((entry.stamp, slot));
            } else if entry.pins > 0 {
                entry.flags |= ASIDE;
                PeekMut::pop(top);
            } else if entry.flags & DEAD != 0 {
                PeekMut::pop(top);
                self.free.push(slot);
            } else {
                return Some((stamp, slot));
            }
        }
    }

    /// The clock's reading.
    pub(super) const fn now(&self) -> u64 {
        self.clock
    }

    /// Takes room if there is any.
    pub(super) fn reserve(&mut self, bytes: u64) -> bool {
        let fits = self.taken_bytes().saturating_add(bytes) <= self.limit_bytes;
        if fits {
            self.reserved_bytes += bytes;
        }
        fits
    }

    /// Gives back room that was reserved.
    pub(super) fn release(&mut self, bytes: u64) {
        self.reserved_bytes = self.reserved_bytes.saturating_sub(bytes);
    }

    /// How many slots there are to look through with [`Self::at`].
    pub(super) fn slots(&self) -> u32 {
        (self.entries.len() * CHUNK_LEN) as u32
    }

    /// When the entry in a slot was used last.
    pub(super) fn stamp(&self, slot: u32) -> Option<u64> {
        let entry = self.entries.get(slot as usize / CHUNK_LEN)?.get(slot as usize % CHUNK_LEN)?;
        (entry.blocks != 0).then_some(entry.stamp)
    }

    /// The entry in a slot by number: its key, stamp, the bytes it takes, and what is known of it.
    pub(super) fn at(&self, slot: u32) -> Option<(Key, u64, u64, Known)> {
        let entry = self.entries.get(slot as usize / CHUNK_LEN)?.get(slot as usize % CHUNK_LEN)?;
        if entry.blocks == 0 || entry.flags & DEAD != 0 {
            return None;
        }
        let known = Known { slot: Slot(slot), checked: entry.flags & CHECKED != 0 };
        Some((entry.key()?, entry.stamp, entry.charge(), known))
    }

    /// Takes an entry out of the table and the books.
    fn unlink(&mut self, slot: u32, key: &Key) {
        let hash = hash_of(&self.hasher, key);
        if let Ok(found) = self.table.find_entry(hash, |other| *other == slot) {
            found.remove();
        }
        let entry = self.entry_mut(slot);
        let bytes = entry.charge();
        entry.blocks = 0;
        self.used_bytes -= bytes;
        self.counts[key.kind as usize] -= 1;
    }

    fn place(&mut self, entry: Entry) -> u32 {
        if self.free.is_empty() {
            let first = self.slots();
            let vacant = Entry { blocks: 0, stamp: 0, ..entry.clone() };
            self.entries.push(vec![vacant; CHUNK_LEN].into_boxed_slice());
            self.free.extend((first..first + CHUNK_LEN as u32).rev());
        }
        let slot = self.free.pop().unwrap_or_default();
        *self.entry_mut(slot) = entry;
        slot
    }

    fn entry(&self, slot: u32) -> &Entry {
        &self.entries[slot as usize / CHUNK_LEN][slot as usize % CHUNK_LEN]
    }

    fn entry_mut(&mut self, slot: u32) -> &mut Entry {
        &mut self.entries[slot as usize / CHUNK_LEN][slot as usize % CHUNK_LEN]
    }
}

impl fmt::Debug for Going {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(key) => f.debug_tuple("File").field(key).finish(),
            Self::Lodger(_) => f.write_str("Lodger"),
        }
    }
}

fn hash_of(hasher: &RandomState, key: &Key) -> u64 {
    hasher.hash_one((key.instance.0, key.kind as u8, key.digest))
}

fn hash_at(entries: &[Box<[Entry]>], hasher: &RandomState, slot: u32) -> u64 {
    let entry = &entries[slot as usize / CHUNK_LEN][slot as usize % CHUNK_LEN];
    entry.key().map_or(0, |key| hash_of(hasher, &key))
}

#[cfg(test)]
mod tests;
