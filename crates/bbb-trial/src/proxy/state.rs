//! What the proxy shares between its connections: the faults in force, the dice, the counts.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Mutex, MutexGuard, PoisonError},
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::time::Instant;

use super::{
    faults::{Fate, Faults},
    kind::Kind,
};

/// Shared by all connections.
#[derive(Debug)]
pub(super) struct State(Mutex<Inside>);

#[derive(Debug)]
struct Inside {
    faults: Faults,
    since: Instant,
    dice: StdRng,
    counts: BTreeMap<&'static str, u64>,
}

impl Inside {
    /// The faults in force now.
    fn faults(&mut self) -> &Faults {
        if self.faults.lasting.is_some_and(|lasting| self.since.elapsed() >= lasting) {
            self.faults = Faults::default();
        }
        &self.faults
    }
}

impl State {
    pub(super) fn new(seed: u64) -> Self {
        Self(Mutex::new(Inside {
            faults: Faults::default(),
            since: Instant::now(),
            dice: StdRng::seed_from_u64(seed),
            counts: BTreeMap::new(),
        }))
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn faults(&self) -> Faults {
        self.inside().faults().clone()
    }

    pub(super) fn set_faults(&self, faults: Faults) {
        let mut inside = self.inside();
        inside.faults = faults;
        inside.since = Instant::now();
    }

    pub(super) fn outage(&self) -> bool {
        self.inside().faults().outage
    }

    /// Throws the dice for a request.
    pub(super) fn fate(&self, kind: Kind) -> Fate {
        let mut inside = self.inside();
        let roll = inside.dice.random_range(0.0..100.0);
        inside.faults().fate(kind, roll)
    }

    /// A number below `end`, which is at least 1.
    pub(super) fn below(&self, end: u64) -> u64 {
        self.inside().dice.random_range(0..end)
    }

    pub(super) fn count(&self, name: &'static str, more: u64) {
        *self.inside().counts.entry(name).or_default() += more;
    }

    /// All counts, a `name value` a line; those of requests even when they are 0.
    pub(super) fn counts(&self) -> String {
        let inside = self.inside();
        let mut all: BTreeMap<_, _> = Kind::ALL.into_iter().map(|kind| (kind.name(), 0)).collect();
        all.extend(inside.counts.iter().map(|(name, count)| (*name, *count)));
        let mut text = String::new();
        for (name, count) in all {
            // Writing to a string cannot fail.
            let _infallible = writeln!(text, "{name} {count}");
        }
        text
    }

    pub(super) fn forget_counts(&self) {
        self.inside().counts.clear();
    }
}
