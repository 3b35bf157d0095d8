//! The index against a model that is slow and plain.

use proptest::prelude::*;

use super::*;

/// What the index should know, in the order of use.
#[derive(Default)]
struct Model {
    entries: Vec<(Key, u64)>,
    pins: Vec<Key>,
    reserved_bytes: u64,
}

impl Model {
    fn taken_bytes(&self) -> u64 {
        self.entries.iter().map(|(_, bytes)| bytes).sum::<u64>() + self.reserved_bytes
    }

    fn position(&self, key: &Key) -> Option<usize> {
        self.entries.iter().position(|(other, _)| other == key)
    }

    fn touch(&mut self, at: usize) {
        let entry = self.entries.remove(at);
        self.entries.push(entry);
    }

    /// The least recently used entry that is not pinned; pinned ones before it count as used now.
    fn take_victim(&mut self) -> Option<(Key, u64)> {
        for _ in 0..self.entries.len() {
            match self.pins.contains(&self.entries[0].0) {
                true => self.touch(0),
                false => {
                    let victim = self.entries.remove(0);
                    self.reserved_bytes += victim.1;
                    return Some(victim);
                }
            }
        }
        None
    }
}

#[derive(Clone, Debug)]
enum Op {
    Insert(u8, u16),
    Use(u8),
    Remove(u8),
    Pin(u8),
    Unpin(u8),
    Reserve(u16),
    Release,
    Evict,
}

fn ops() -> impl Strategy<Value = Op> {
    let key = 0..24u8;
    prop_oneof![
        4 => (key.clone(), 0..30_000u16).prop_map(|(key, size)| Op::Insert(key, size)),
        4 => key.clone().prop_map(Op::Use),
        1 => key.clone().prop_map(Op::Remove),
        2 => key.clone().prop_map(Op::Pin),
        2 => key.prop_map(Op::Unpin),
        1 => (0..50_000u16).prop_map(Op::Reserve),
        2 => Just(Op::Release),
        3 => Just(Op::Evict),
    ]
}

/// Keys of all kinds and functions, some of which differ in one part alone.
fn key(number: u8) -> Key {
    let function = Function::ALL[usize::from(number / 2) % Function::ALL.len()];
    let kind = Kind::ALL[usize::from(number) % 3];
    let instance = InstanceId(u32::from(number) % 2);
    Key { instance, kind, digest: Digest::of(function, b"the same bytes") }
}

proptest! {
    #[test]
    fn does_what_the_model_does(ops in prop::collection::vec(ops(), 1..300)) {
        let limit_bytes = 200_000;
        let (mut index, mut model) = (Index::new(limit_bytes), Model::default());
        let mut pinned: Vec<(Key, Slot)> = Vec::new();
        for op in ops {
            match op {
                Op::Insert(number, size) => {
                    let (key, bytes) = (key(number), charge(size.into()));
                    index.insert(&key, size.into(), true);
                    match model.position(&key) {
                        Some(at) => {
                            model.touch(at);
                            model.entries.last_mut().unwrap().1 = bytes;
                        }
                        None => model.entries.push((key, bytes)),
                    }
                }
                Op::Use(number) => {
                    let key = key(number);
                    let at = model.position(&key);
                    prop_assert_eq!(index.use_entry(&key).is_some(), at.is_some());
                    at.into_iter().for_each(|at| model.touch(at));
                }
                Op::Remove(number) => {
                    let key = key(number);
                    let at = model.position(&key);
                    prop_assert_eq!(index.remove(&key), at.is_some());
                    if let Some(at) = at {
                        model.entries.remove(at);
                    }
                    model.pins.retain(|other| *other != key);
                }
                Op::Pin(number) => {
                    let key = key(number);
                    if let Some(known) = index.find(&key) {
                        index.pin(known.slot);
                        pinned.push((key, known.slot));
                        model.pins.push(key);
                    }
                }
                Op::Unpin(number) => {
                    if let Some(at) = pinned.iter().position(|(other, _)| *other == key(number)) {
                        let (key, slot) = pinned.remove(at);
                        index.unpin(slot);
                        // The pin may be on an entry that was removed, and the key's entry a newer one.
                        if index.find(&key).is_some_and(|known| known.slot == slot) {
                            let at = model.pins.iter().position(|other| *other == key).unwrap();
                            model.pins.remove(at);
                        }
                    }
                }
                Op::Reserve(bytes) => {
                    let fits = model.taken_bytes() + u64::from(bytes) <= limit_bytes;
                    prop_assert_eq!(index.reserve(bytes.into()), fits);
                    model.reserved_bytes += if fits { bytes.into() } else { 0 };
                }
                Op::Release => {
                    index.release(model.reserved_bytes);
                    model.reserved_bytes = 0;
                }
                Op::Evict => {
                    let now = index.now();
                    prop_assert_eq!(index.take_victim(now), model.take_victim());
                }
            }
            prop_assert_eq!(index.taken_bytes(), model.taken_bytes());
            let counted: u64 = Kind::ALL.iter().map(|kind| index.count(*kind)).sum();
            prop_assert_eq!(counted, model.entries.len() as u64);
        }
        let mut listed: Vec<_> = (0..index.slots()).filter_map(|slot| index.at(slot)).collect();
        listed.sort_by_key(|(_, stamp, ..)| *stamp);
        let listed: Vec<_> = listed.into_iter().map(|(key, _, bytes, _)| (key, bytes)).collect();
        prop_assert_eq!(listed, model.entries);
    }
}

#[test]
fn what_the_walk_finds_is_older_than_what_was_used_and_newer_than_what_is_remembered() {
    let key = |kind, text: &[u8]| Key {
        instance: InstanceId(0),
        kind,
        digest: Digest::of(Function::Sha256, text),
    };
    let mut index = Index::new(1 << 30);
    let remembered = key(Kind::Blob, b"remembered");
    index.expect(1, 4096);
    let opened_at = index.opened();
    let used = key(Kind::Result, b"used");
    index.insert(&used, 1, true);
    index.remember(&remembered, 1);
    let (blob, result) = (key(Kind::Blob, b"found"), key(Kind::Result, b"found"));
    index.adopt(&blob, 1, true, opened_at);
    index.adopt(&result, 1, true, opened_at);
    for expected in [remembered, result, blob, used] {
        let now = index.now();
        assert_eq!(index.take_victim(now).map(|(key, _)| key), Some(expected));
    }
}

#[test]
fn what_is_expected_counts_until_it_is_taken_in_or_given_up() {
    let key = |text: &[u8]| Key {
        instance: InstanceId(0),
        kind: Kind::Blob,
        digest: Digest::of(Function::Sha256, text),
    };
    let mut index = Index::new(10 * BLOCK_BYTES);
    index.expect(3, 9 * BLOCK_BYTES);
    let _ = index.opened();
    assert!(!index.reserve(2 * BLOCK_BYTES), "the limit holds before anything was taken in");
    index.insert(&key(b"a"), 1, true);
    index.remember(&key(b"a"), BLOCK_BYTES);
    index.remember(&key(b"b"), 2 * BLOCK_BYTES);
    assert_eq!(index.taken_bytes(), (1 + 2 + 6) * BLOCK_BYTES);
    assert!(index.find(&key(b"a")).unwrap().checked, "what was stored since is known better");
    assert!(!index.find(&key(b"b")).unwrap().checked);
    let now = index.now();
    assert_eq!(index.take_victim(now), Some((key(b"b"), 2 * BLOCK_BYTES)), "a was used since");
    index.release(2 * BLOCK_BYTES);
    index.expect_no_more();
    assert_eq!(index.taken_bytes(), BLOCK_BYTES);
}

/// Not a promise of the allocator's, but the sum of what the index itself asks for.
#[test]
fn a_million_entries_take_little_memory() {
    let entry = size_of::<Entry>();
    assert!(entry <= 72, "{entry} bytes");
}
