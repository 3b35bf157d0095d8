//! The scheduler's decisions: events and the time in, effects out.
//!
//! It has no clock, no randomness, no channel and no await; the same events at the same times give the same
//! effects. Promises: what was accepted ends, since every phase has a deadline; a slot is granted once at a
//! time; every collection has a bound in [`Limits`]; decisions are logarithmic in the length of queues and
//! the number of workers (and linear in the kinds of requirements that one worker meets).
//!
//! `now` never goes back. Whoever drives it calls [`Core::tick`] at [`Core::next_deadline`], and at least
//! every second, so that a stop of the whole process is told from the silence of workers.

mod explain;
mod intake;
mod limits;
mod locality;
mod names;
mod operation;
mod operations;
mod placement;
mod pool;
mod queue;
mod takeover;
mod timers;
mod view;
mod worker;
mod workers;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, SystemTime},
};

pub use limits::Limits;
use limits::STALLED_AFTER;
use locality::Locality;
use operation::Operation;
use pool::{Pool, PoolId};
use queue::Seq;
use timers::{Subject, Timers};
use worker::Worker;

use crate::{ActionKey, Demand, Lease, OperationId, OperationState, Platform, ToWorker};

/// The time, twice: how long this scheduler has lived, which decides, and what clocks show, for display.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Since the scheduler began.
    pub since_start: Duration,
    /// What clocks show.
    pub wall: SystemTime,
}

/// Names one attachment of one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub u64);

/// What is to be done, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Tell a worker something.
    Tell(WorkerId, ToWorker),
    /// The worker is given up: close its connection. Nothing further is told to it.
    Dismiss(WorkerId),
    /// Show an operation's state.
    Publish(Arc<OperationState>),
    /// The operation is no longer known.
    Forget(OperationId),
}

/// A bound is met; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full(pub &'static str);

/// All that a scheduler knows.
#[derive(Debug)]
pub struct Core {
    limits: Limits,
    operations: BTreeMap<Seq, Box<Operation>>,
    by_id: HashMap<OperationId, Seq>,
    /// Unfinished operations that equal submissions join. No hash map is ever walked, for its order is not the same
    /// twice.
    mergeable: HashMap<Arc<ActionKey>, Seq>,
    /// What workers have decided of it, and who, while it is known.
    decided: HashMap<Arc<ActionKey>, (Seq, Arc<str>)>,
    /// Operations that wait for the worker of a name.
    awaited: BTreeSet<(Arc<str>, Seq)>,
    finished: BTreeSet<(Duration, Seq)>,
    finished_bytes: usize,
    executing: usize,
    pools: BTreeMap<PoolId, Pool>,
    pool_names: HashMap<(Platform, Demand), PoolId>,
    idle_pools: BTreeSet<PoolId>,
    workers: BTreeMap<WorkerId, Worker>,
    worker_names: HashMap<Arc<str>, WorkerId>,
    locality: Locality,
    timers: Timers,
    effects: Vec<Effect>,
    granted: u64,
    waited: Duration,
    last_seq: u64,
    last_pool: u64,
    last_lease: u64,
    last_event: Duration,
    /// Workers count as heard at this time: silence before it was this process's own.
    heard_floor: Duration,
}

impl Core {
    /// Knows nothing yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            operations: BTreeMap::new(),
            by_id: HashMap::new(),
            mergeable: HashMap::new(),
            decided: HashMap::new(),
            awaited: BTreeSet::new(),
            finished: BTreeSet::new(),
            finished_bytes: 0,
            executing: 0,
            pools: BTreeMap::new(),
            pool_names: HashMap::new(),
            idle_pools: BTreeSet::new(),
            workers: BTreeMap::new(),
            worker_names: HashMap::new(),
            locality: Locality::default(),
            timers: Timers::default(),
            effects: Vec::new(),
            granted: 0,
            waited: Duration::ZERO,
            last_seq: 0,
            last_pool: 0,
            last_lease: 0,
            last_event: Duration::ZERO,
            heard_floor: Duration::ZERO,
        }
    }

    /// What is to be done since this was last asked.
    pub fn take_effects(&mut self) -> impl Iterator<Item = Effect> + use<> {
        std::mem::take(&mut self.effects).into_iter()
    }

    /// When [`Core::tick`] has something to do.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.timers.next()
    }

    /// Does all whose time has come.
    pub fn tick(&mut self, now: Now) {
        self.arrive(now);
        while let Some(subject) = self.timers.expired(now.since_start) {
            match subject {
                Subject::Operation(seq) => self.operation_due(now, seq),
                Subject::Worker(id) => self.worker_due(now, id),
                Subject::Pool(id) => self.pool_due(now, id),
            }
        }
    }

    /// Each event begins here: a long silence of everyone is this process's own.
    fn arrive(&mut self, now: Now) {
        if now.since_start.saturating_sub(self.last_event) > STALLED_AFTER {
            self.heard_floor = now.since_start;
        }
        self.last_event = self.last_event.max(now.since_start);
    }

    fn next_lease(&mut self) -> Lease {
        self.last_lease += 1;
        Lease(self.last_lease)
    }
}
