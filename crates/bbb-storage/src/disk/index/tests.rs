//! The index against a model that is slow and plain.

use std::sync::{Arc, Mutex, atomic::AtomicU64};

use proptest::prelude::*;

use super::*;

/// What goes in the order of use.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Thing {
    Entry(Key),
    Lodger(Number),
}

/// What the index should know, in the order of use.
#[derive(Default)]
struct Model {
    things: Vec<(Thing, u64)>,
    /// What is in use, once for each use.
    pins: Vec<Thing>,
    /// Lodgers that have gone while they were kept.
    gone: Vec<Number>,
    reserved_bytes: u64,
}

impl Model {
    fn taken_bytes(&self) -> u64 {
        self.things.iter().map(|(_, bytes)| bytes).sum::<u64>() + self.reserved_bytes
    }

    fn position(&self, thing: Thing) -> Option<usize> {
        self.things.iter().position(|(other, _)| *other == thing)
    }

    fn touch(&mut self, at: usize) {
        let thing = self.things.remove(at);
        self.things.push(thing);
    }

    /// What was used least recently of all that is not in use.
    fn take_victim(&mut self) -> Option<(Thing, u64)> {
        let at = self.things.iter().position(|(thing, _)| !self.pins.contains(thing))?;
        let victim = self.things.remove(at);
        self.reserved_bytes += victim.1;
        Some(victim)
    }

    fn unpin(&mut self, thing: Thing) {
        let at = self.pins.iter().position(|other| *other == thing).unwrap();
        self.pins.remove(at);
    }

    fn lodgers(&self) -> (u64, u64) {
        let lodgers = self.things.iter().filter(|(thing, _)| matches!(thing, Thing::Lodger(_)));
        lodgers.fold((0, 0), |(count, sum), (_, bytes)| (count + 1, sum + bytes))
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
    Lodge(u16),
    UseLodger(u64),
    Keep(u64),
    Unkeep,
    Unlodge(u64),
}

fn ops() -> impl Strategy<Value = Op> {
    let (key, number) = (0..24u8, 1..12u64);
    prop_oneof![
        4 => (key.clone(), 0..30_000u16).prop_map(|(key, size)| Op::Insert(key, size)),
        4 => key.clone().prop_map(Op::Use),
        1 => key.clone().prop_map(Op::Remove),
        2 => key.clone().prop_map(Op::Pin),
        2 => key.prop_map(Op::Unpin),
        1 => (0..50_000u16).prop_map(Op::Reserve),
        2 => Just(Op::Release),
        3 => Just(Op::Evict),
        2 => (0..30_000u16).prop_map(Op::Lodge),
        2 => number.clone().prop_map(Op::UseLodger),
        2 => number.clone().prop_map(Op::Keep),
        2 => Just(Op::Unkeep),
        1 => number.prop_map(Op::Unlodge),
    ]
}

/// Keys of all kinds and functions, some of which differ in one part alone.
fn key(number: u8) -> Key {
    let function = Function::ALL[usize::from(number / 2) % Function::ALL.len()];
    let kind = Kind::ALL[usize::from(number) % 3];
    let instance = InstanceId(u32::from(number) % 2);
    Key { instance, kind, digest: Digest::of(function, b"the same bytes") }
}

/// The index and what it should do, side by side.
struct Pair {
    index: Index,
    model: Model,
    pinned: Vec<(Key, Slot)>,
    /// The lodgers that were told to leave.
    left: Arc<Mutex<Vec<Number>>>,
}

impl Pair {
    fn entry(&mut self, op: Op) {
        let Self { index, model, pinned, .. } = self;
        match op {
            Op::Insert(number, size) => {
                let (key, bytes) = (key(number), charge(size.into()));
                index.insert(&key, size.into(), true);
                match model.position(Thing::Entry(key)) {
                    Some(at) => {
                        model.touch(at);
                        model.things.last_mut().unwrap().1 = bytes;
                    }
                    None => model.things.push((Thing::Entry(key), bytes)),
                }
            }
            Op::Use(number) => {
                let key = key(number);
                let at = model.position(Thing::Entry(key));
                assert_eq!(index.use_entry(&key).is_some(), at.is_some());
                at.into_iter().for_each(|at| model.touch(at));
            }
            Op::Remove(number) => {
                let key = key(number);
                let at = model.position(Thing::Entry(key));
                assert_eq!(index.remove(&key), at.is_some());
                if let Some(at) = at {
                    model.things.remove(at);
                }
                model.pins.retain(|other| *other != Thing::Entry(key));
            }
            Op::Pin(number) => {
                let key = key(number);
                if let Some(known) = index.find(&key) {
                    index.pin(known.slot);
                    pinned.push((key, known.slot));
                    model.pins.push(Thing::Entry(key));
                }
            }
            Op::Unpin(number) => {
                if let Some(at) = pinned.iter().position(|(other, _)| *other == key(number)) {
                    let (key, slot) = pinned.remove(at);
                    assert_eq!(index.pinned_key(slot), Some(key));
                    index.unpin(slot);
                    // The pin may be on an entry that was removed, and the key's entry a newer one.
                    if index.find(&key).is_some_and(|known| known.slot == slot) {
                        model.unpin(Thing::Entry(key));
                    }
                }
            }
            _ => self.lodger(op),
        }
    }

    fn lodger(&mut self, op: Op) {
        let Self { index, model, left, .. } = self;
        match op {
            Op::Lodge(bytes) => {
                let (left, number) = (Arc::clone(left), Arc::new(AtomicU64::default()));
                let own = Arc::clone(&number);
                let leave = move || {
                    left.lock().unwrap().push(own.load(std::sync::atomic::Ordering::Relaxed));
                };
                let lodged = index.lodge(bytes.into(), Box::new(leave));
                number.store(lodged, std::sync::atomic::Ordering::Relaxed);
                model.things.push((Thing::Lodger(lodged), bytes.into()));
            }
            Op::UseLodger(number) => {
                let at = model.position(Thing::Lodger(number));
                assert_eq!(index.use_lodger(number), at.is_some());
                at.into_iter().for_each(|at| model.touch(at));
            }
            // Whoever has left the house cannot ask to stay.
            Op::Keep(number) if !model.gone.contains(&number) => {
                let at = model.position(Thing::Lodger(number));
                assert_eq!(index.keep_lodger(number), at.is_some());
                if let Some(at) = at {
                    model.touch(at);
                    model.pins.push(Thing::Lodger(number));
                }
            }
            Op::Unkeep => {
                let kept = model.pins.iter().find_map(|thing| match thing {
                    Thing::Lodger(number) => Some(*number),
                    Thing::Entry(_) => None,
                });
                if let Some(number) = kept {
                    index.unkeep_lodger(number);
                    model.unpin(Thing::Lodger(number));
                    let at = model.position(Thing::Lodger(number)).unwrap();
                    model.touch(at);
                    let is_gone = model.gone.contains(&number);
                    if is_gone && !model.pins.contains(&Thing::Lodger(number)) {
                        model.things.pop();
                    }
                }
            }
            Op::Unlodge(number) => {
                index.unlodge(number);
                let thing = Thing::Lodger(number);
                match model.position(thing) {
                    Some(_) if model.pins.contains(&thing) => model.gone.push(number),
                    Some(at) => drop(model.things.remove(at)),
                    None => {}
                }
            }
            _ => self.room(op),
        }
    }

    fn room(&mut self, op: Op) {
        let Self { index, model, left, .. } = self;
        match op {
            Op::Reserve(bytes) => {
                let fits = model.taken_bytes() + u64::from(bytes) <= LIMIT_BYTES;
                assert_eq!(index.reserve(bytes.into()), fits);
                model.reserved_bytes += if fits { bytes.into() } else { 0 };
            }
            Op::Release => {
                index.release(model.reserved_bytes);
                model.reserved_bytes = 0;
            }
            Op::Evict => {
                let victim = index.take_victim().map(|Victim { what, bytes }| match what {
                    Going::File(key) => (Thing::Entry(key), bytes),
                    Going::Lodger(leave) => {
                        leave();
                        (Thing::Lodger(left.lock().unwrap().pop().unwrap()), bytes)
                    }
                });
                assert_eq!(victim, model.take_victim());
            }
            _ => {}
        }
    }
}

const LIMIT_BYTES: u64 = 200_000;

proptest! {
    #[test]
    fn does_what_the_model_does(ops in prop::collection::vec(ops(), 1..300)) {
        let (index, model) = (Index::new(LIMIT_BYTES), Model::default());
        let mut pair = Pair { index, model, pinned: Vec::new(), left: Arc::default() };
        for op in ops {
            pair.entry(op);
            let Pair { index, model, .. } = &pair;
            prop_assert_eq!(index.taken_bytes(), model.taken_bytes());
            prop_assert_eq!(index.lodgers(), model.lodgers());
            let counted: u64 = Kind::ALL.iter().map(|kind| index.count(*kind)).sum();
            prop_assert_eq!(counted + model.lodgers().0, model.things.len() as u64);
        }
        let Pair { index, model, .. } = pair;
        let mut listed: Vec<_> = (0..index.slots()).filter_map(|slot| index.at(slot)).collect();
        listed.sort_by_key(|(_, stamp, ..)| *stamp);
        let listed: Vec<_> =
            listed.into_iter().map(|(key, _, bytes, _)| (Thing::Entry(key), bytes)).collect();
        let is_entry = |(thing, _): &(Thing, u64)| matches!(thing, Thing::Entry(_));
        let entries: Vec<_> = model.things.into_iter().filter(is_entry).collect();
        prop_assert_eq!(listed, entries);
    }
}

fn next_file(index: &mut Index) -> Option<(Key, u64)> {
    index.take_victim().map(|Victim { what, bytes }| match what {
        Going::File(key) => (key, bytes),
        Going::Lodger(_) => panic!("there is no lodger"),
    })
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
        assert_eq!(next_file(&mut index).map(|(key, _)| key), Some(expected));
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
    assert_eq!(next_file(&mut index), Some((key(b"b"), 2 * BLOCK_BYTES)), "a was used since");
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
