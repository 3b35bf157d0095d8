//! What workers are believed to have of input trees: facts that they reported, forgotten when they prove wrong or old.
//!
//! A part is known to be near a few workers, and a worker to have so many parts. All steps are logarithmic.

use std::collections::BTreeMap;

use super::WorkerId;
use crate::InputPart;

/// How many workers one part is known to be near to.
const WORKERS_PER_PART: usize = 8;

/// How many parts one worker is known to have.
const PARTS_PER_WORKER: usize = 1024;

/// How many such facts there are in all: beyond that a worker's new ones take the place of its old ones.
const FACTS: usize = 1 << 20;

/// Which worker has which parts.
#[derive(Debug, Default)]
pub(super) struct Locality {
    /// When each fact was last heard, by part.
    by_part: BTreeMap<(u64, WorkerId), u64>,
    /// The parts of each worker, by when that was last heard.
    by_worker: BTreeMap<WorkerId, BTreeMap<u64, u64>>,
    last: u64,
}

impl Locality {
    /// A worker has these parts.
    pub(super) fn learn(&mut self, worker: WorkerId, parts: &[InputPart]) {
        for part in parts {
            self.forget_fact(part.key, worker);
            self.make_room(worker, part.key);
            if self.by_part.len() < FACTS {
                self.last += 1;
                self.by_part.insert((part.key, worker), self.last);
                self.by_worker.entry(worker).or_default().insert(self.last, part.key);
            }
        }
    }

    /// The bytes of these parts that a worker is believed to have.
    pub(super) fn bytes(&self, worker: WorkerId, parts: &[InputPart]) -> u64 {
        let near = parts.iter().filter(|part| self.by_part.contains_key(&(part.key, worker)));
        near.map(|part| part.bytes).fold(0, u64::saturating_add)
    }

    /// The workers that are believed to have one of these parts. One may be named several times.
    pub(super) fn near<'a>(
        &'a self,
        parts: &'a [InputPart],
    ) -> impl Iterator<Item = WorkerId> + 'a {
        parts.iter().flat_map(|part| self.holders(part.key)).map(|(worker, _)| worker)
    }

    /// A worker is gone, or does not have what it was believed to have.
    pub(super) fn forget(&mut self, worker: WorkerId) {
        for key in self.by_worker.remove(&worker).into_iter().flat_map(BTreeMap::into_values) {
            self.by_part.remove(&(key, worker));
        }
    }

    fn holders(&self, key: u64) -> impl Iterator<Item = (WorkerId, u64)> {
        let range = (key, WorkerId(0))..=(key, WorkerId(u64::MAX));
        self.by_part.range(range).map(|((_, worker), heard)| (*worker, *heard))
    }

    /// Makes room for a fact: what was heard longest ago goes.
    fn make_room(&mut self, worker: WorkerId, key: u64) {
        if self.holders(key).count() >= WORKERS_PER_PART
            && let Some((stale, _)) = self.holders(key).min_by_key(|(_, heard)| *heard)
        {
            self.forget_fact(key, stale);
        }
        let Some(own) = self.by_worker.get(&worker) else { return };
        let is_full = self.by_part.len() >= FACTS || own.len() >= PARTS_PER_WORKER;
        if is_full && let Some((_, oldest)) = own.first_key_value() {
            let oldest = *oldest;
            self.forget_fact(oldest, worker);
        }
    }

    fn forget_fact(&mut self, key: u64, worker: WorkerId) {
        if let Some(heard) = self.by_part.remove(&(key, worker))
            && let Some(own) = self.by_worker.get_mut(&worker)
        {
            own.remove(&heard);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(key: u64) -> InputPart {
        InputPart { key, bytes: 10 }
    }

    #[test]
    fn what_was_heard_last_is_kept() {
        let mut locality = Locality::default();
        for worker in 0..WORKERS_PER_PART as u64 + 1 {
            locality.learn(WorkerId(worker), &[part(1), part(2)]);
        }
        assert_eq!(locality.bytes(WorkerId(0), &[part(1), part(2)]), 0, "it was there first");
        assert_eq!(locality.bytes(WorkerId(1), &[part(1), part(2), part(3)]), 20);
        let near: Vec<_> = locality.near(&[part(2)]).collect();
        assert_eq!(near.len(), WORKERS_PER_PART);
        for key in 10..10 + PARTS_PER_WORKER as u64 {
            locality.learn(WorkerId(1), &[part(key)]);
        }
        assert_eq!(locality.bytes(WorkerId(1), &[part(1), part(2)]), 0);
        assert_eq!(locality.by_worker[&WorkerId(1)].len(), PARTS_PER_WORKER);
        for worker in 0..=WORKERS_PER_PART as u64 {
            locality.forget(WorkerId(worker));
        }
        assert!(locality.by_part.is_empty() && locality.by_worker.is_empty());
    }
}
