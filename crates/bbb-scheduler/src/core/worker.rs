//! A worker as the core keeps it: what it has, and what it has room for.
//!
//! Its tasks have their slots in the order of their leases: those beyond its slots are there to have their inputs
//! fetched, and wait for the next slot of that very worker. What a task demands is taken while it has a slot.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::{
    WorkerId,
    pool::{Load, PoolId},
    queue::Seq,
    timers::Due,
};
use crate::{Demand, Lease, WorkerOffer};

#[derive(Debug)]
pub(super) struct Worker {
    pub(super) offer: WorkerOffer,
    pub(super) name: Arc<str>,
    /// The pools that it serves.
    pub(super) pools: Vec<PoolId>,
    pub(super) grants: BTreeMap<Lease, Grant>,
    /// Those of its grants that wait for a slot of it.
    waiting: BTreeSet<Lease>,
    /// What those take that have a slot.
    used: Demand,
    pub(super) heard: Duration,
    /// Tasks in a row that it could not do.
    pub(super) failures: u32,
    pub(super) rests_until: Option<Duration>,
    pub(super) draining: bool,
    /// How many tasks it was granted.
    pub(super) taken: u64,
    /// It takes nothing but an operation of this pool that it has to become free for.
    pub(super) reserved: Option<PoolId>,
    /// How many tasks of others were recalled for its free slots, and nothing was heard of them yet.
    pub(super) recalls: u32,
    /// Where it stands among those of its pools that have room.
    pub(super) indexed: Option<Load>,
    pub(super) due: Due,
}

/// A task that a worker has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grant {
    pub(super) state: GrantState,
    pub(super) pool: PoolId,
    pub(super) demand: Demand,
    /// How many bytes of its inputs the worker was believed to have.
    pub(super) believed_bytes: u64,
    /// It was recalled for a free slot of this worker.
    pub(super) recalled_for: Option<WorkerId>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum GrantState {
    /// The worker works for this operation.
    For(Seq),
    /// It was told to stop, and must have by then.
    Revoked { by: Duration },
}

/// What a worker has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// A task that runs at once.
    Slot,
    /// One that has its inputs fetched and waits for a slot.
    Prefetch,
}

impl Worker {
    pub(super) fn new(offer: WorkerOffer, pools: Vec<PoolId>, heard: Duration) -> Self {
        Self {
            name: offer.name.as_str().into(),
            // Without slots it is nobody's member, just as if it drained.
            draining: offer.slots == 0,
            offer,
            pools,
            grants: BTreeMap::new(),
            waiting: BTreeSet::new(),
            used: Demand::default(),
            heard,
            failures: 0,
            rests_until: None,
            taken: 0,
            reserved: None,
            recalls: 0,
            indexed: None,
            due: Due::default(),
        }
    }

    /// What it has room for, if it is a task of this pool.
    pub(super) fn room(&self, pool: PoolId, demand: Demand) -> Option<Room> {
        let elsewhere = self.reserved.is_some_and(|reserved| reserved != pool);
        if !self.takes_tasks() || elsewhere {
            return None;
        }
        if self.free_slots() > 0 {
            return self.has_left(demand).then_some(Room::Slot);
        }
        let most = self.offer.slots.saturating_add(self.offer.prefetch) as usize;
        let may_wait = self.reserved.is_none() && self.grants.len() < most;
        (may_wait && self.can_follow(demand)).then_some(Room::Prefetch)
    }

    /// Whether it has room for anything at all.
    pub(super) fn has_room(&self) -> bool {
        let most = self.offer.slots.saturating_add(self.offer.prefetch) as usize;
        self.takes_tasks() && self.grants.len() < most
    }

    pub(super) fn free_slots(&self) -> u32 {
        self.offer.slots.saturating_sub(self.busy())
    }

    /// How many tasks have a slot.
    pub(super) fn busy(&self) -> u32 {
        u32::try_from(self.grants.len() - self.waiting.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn waits(&self, lease: Lease) -> bool {
        self.waiting.contains(&lease)
    }

    /// Where it stands among others that have room.
    pub(super) fn load(&self, id: WorkerId) -> Load {
        let part = |used: u64, of: u64| used.saturating_mul(65_536) / of.max(1);
        let tasks = part(self.grants.len() as u64, self.offer.slots.into());
        let cpus = part(self.used.millicpus, self.offer.capacity.millicpus);
        let memory = part(self.used.memory_bytes >> 20, self.offer.capacity.memory_bytes >> 20);
        Load { failures: self.failures, busy: tasks.max(cpus).max(memory), worker: id }
    }

    /// Takes a task on. One that has begun has a slot, whatever we know of slots.
    pub(super) fn lend(&mut self, lease: Lease, grant: Grant, has_begun: bool) {
        if has_begun || self.free_slots() > 0 {
            self.used = self.used.plus(grant.demand);
        } else {
            self.waiting.insert(lease);
        }
        self.grants.insert(lease, grant);
        self.taken += 1;
    }

    /// A task is gone. Gives what is known of it, and the one that gets its slot.
    pub(super) fn release(&mut self, lease: Lease) -> Option<(Grant, Option<Lease>)> {
        let grant = self.grants.remove(&lease)?;
        if self.waiting.remove(&lease) {
            return Some((grant, None));
        }
        self.used = self.used.minus(grant.demand);
        let next = if self.free_slots() > 0 { self.waiting.pop_first() } else { None };
        if let Some(next) = next.and_then(|next| self.grants.get(&next)) {
            self.used = self.used.plus(next.demand);
        }
        Some((grant, next))
    }

    /// A task has begun, so it has a slot. It may do so before we hear that its predecessor has ended.
    pub(super) fn begin(&mut self, lease: Lease) {
        if let Some(grant) = self.grants.get(&lease)
            && self.waiting.remove(&lease)
        {
            self.used = self.used.plus(grant.demand);
        }
    }

    /// The soonest time by which it must have stopped something.
    pub(super) fn revoked_by(&self) -> Option<Duration> {
        let revoked = self.grants.values().filter_map(|grant| match grant.state {
            GrantState::For(_) => None,
            GrantState::Revoked { by } => Some(by),
        });
        revoked.min()
    }

    fn takes_tasks(&self) -> bool {
        !self.draining && self.rests_until.is_none()
    }

    /// Whether it can give a task what it demands, beside what others take. Nothing can always be given.
    fn has_left(&self, demand: Demand) -> bool {
        let with = self.used.plus(demand);
        (demand.millicpus == 0 || with.millicpus <= self.offer.capacity.millicpus)
            && (demand.memory_bytes == 0 || with.memory_bytes <= self.offer.capacity.memory_bytes)
    }

    /// Whether a task may take the place of any that is there: so it fits whichever ends.
    fn can_follow(&self, demand: Demand) -> bool {
        demand == Demand::default() || self.grants.values().all(|grant| grant.demand.covers(demand))
    }
}
