//! A pool: the operations that ask for the same, and the workers that offer it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::{
    Core, Full, Now, WorkerId,
    explain::explain,
    limits::{
        BEGINNING, LOST_POOL_GRACE, MAX_IDLE_POOLS, MAX_POOLS, QUEUED_ELSEWHERE,
        UNSATISFIABLE_GRACE,
    },
    queue::{Flow, Queue, Seq},
    timers::{Due, Subject},
    worker::Room,
};
use crate::{Demand, End, Failure, Lease, Platform, WorkerOffer};

/// Names a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PoolId(pub(crate) u64);

/// The order in which workers with room are taken: those that did not fail lately, then the least busy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Load {
    pub(crate) failures: u32,
    /// What is busy of what it has most of it busy, per 65,536; more than that if tasks wait there.
    pub(crate) busy: u64,
    pub(crate) worker: WorkerId,
}

#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) requirement: Platform,
    /// What each of its operations takes of a worker beside a slot.
    pub(crate) demand: Demand,
    pub(crate) queue: Queue,
    /// Workers that match and have a slot free for one of its operations.
    pub(crate) free: BTreeSet<Load>,
    /// Workers that match, have none, and take one to have its inputs fetched.
    pub(crate) spare: BTreeSet<Load>,
    /// Leases of its operations that wait at busy workers for a slot, and may be called back.
    pub(crate) recallable: BTreeMap<Lease, WorkerId>,
    /// An operation that has waited too long, and the worker that becomes free for it.
    pub(crate) reserved: Option<(Seq, WorkerId)>,
    /// Workers that match and take tasks.
    pub(crate) members: usize,
    /// The slots of the members.
    pub(crate) slots: u64,
    /// Operations that have not ended.
    pub(crate) operations: usize,
    /// When all that waits is refused, since there is no worker for it.
    pub(crate) refuses_at: Option<Duration>,
    pub(crate) due: Due,
}

impl Pool {
    pub(crate) fn new(requirement: Platform, demand: Demand) -> Self {
        Self {
            requirement,
            demand,
            queue: Queue::default(),
            free: BTreeSet::new(),
            spare: BTreeSet::new(),
            recallable: BTreeMap::new(),
            reserved: None,
            members: 0,
            slots: 0,
            operations: 0,
            refuses_at: None,
            due: Due::default(),
        }
    }

    /// Notes a worker that has room for its operations.
    pub(super) fn insert(&mut self, load: Load, room: Option<Room>) {
        match room {
            Some(Room::Slot) => self.free.insert(load),
            Some(Room::Prefetch) => self.spare.insert(load),
            None => false,
        };
    }

    /// Whether such a worker can run what is in it, while nothing else runs there.
    pub(super) fn suits(&self, offer: &WorkerOffer) -> bool {
        matches(&self.requirement, &offer.platform) && offer.capacity.covers(self.demand)
    }
}

impl Core {
    /// The pool of what asks for this.
    pub(super) fn pool(&mut self, requirement: Platform, demand: Demand) -> Result<PoolId, Full> {
        let name = (requirement, demand);
        if let Some(&id) = self.pool_names.get(&name) {
            return Ok(id);
        }
        let is_full = self.pools.len() >= MAX_POOLS;
        if (is_full || self.idle_pools.len() >= MAX_IDLE_POOLS)
            && let Some(oldest) = self.idle_pools.pop_first()
        {
            self.drop_pool(oldest);
        }
        if self.pools.len() >= MAX_POOLS {
            return Err(Full("operations ask for too many different things"));
        }
        self.last_pool += 1;
        let id = PoolId(self.last_pool);
        let mut pool = Pool::new(name.0.clone(), demand);
        for worker in self.workers.values_mut() {
            if !worker.draining && pool.suits(&worker.offer) {
                worker.pools.push(id);
                pool.members += 1;
                pool.slots += u64::from(worker.offer.slots);
                if let Some(load) = worker.indexed {
                    pool.insert(load, worker.room(id, demand));
                }
            }
        }
        self.pools.insert(id, pool);
        self.pool_names.insert(name, id);
        self.idle_pools.insert(id);
        Ok(id)
    }

    fn drop_pool(&mut self, id: PoolId) {
        let Some(mut pool) = self.pools.remove(&id) else { return };
        self.timers.set(Subject::Pool(id), &mut pool.due, None);
        self.pool_names.remove(&(pool.requirement, pool.demand));
        for worker in self.workers.values_mut() {
            worker.pools.retain(|other| *other != id);
        }
    }

    /// One more operation that has not ended. Gives its flow as the others have it.
    pub(super) fn entered_pool(&mut self, id: PoolId, flow: Flow) -> Arc<Flow> {
        self.idle_pools.remove(&id);
        let Some(pool) = self.pools.get_mut(&id) else { return Arc::new(flow) };
        pool.operations += 1;
        pool.queue.interned(flow)
    }

    /// One less.
    pub(super) fn left_pool(&mut self, id: PoolId) {
        let Some(pool) = self.pools.get_mut(&id) else { return };
        pool.operations -= 1;
        if pool.operations == 0 {
            self.idle_pools.insert(id);
        }
    }

    /// Something waits: not for ever, if there is no worker for it.
    pub(super) fn refuse_if_deserted(&mut self, now: Now, seq: Seq) {
        let Some(operation) = self.operations.get(&seq) else { return };
        let Some(pool) = self.pools.get_mut(&operation.pool) else { return };
        if pool.members > 0 {
            return;
        }
        let from_elsewhere = operation.waited_before >= QUEUED_ELSEWHERE;
        let patience = if from_elsewhere { LOST_POOL_GRACE } else { UNSATISFIABLE_GRACE };
        let at = (now.since_start + patience).max(BEGINNING);
        if pool.refuses_at.is_none() || from_elsewhere {
            pool.refuses_at = pool.refuses_at.max(Some(at));
            self.timers.set(Subject::Pool(operation.pool), &mut pool.due, pool.refuses_at);
        }
    }

    /// Refuses all that waits in a pool without workers.
    pub(super) fn pool_due(&mut self, now: Now, id: PoolId) {
        let Some(pool) = self.pools.get_mut(&id) else { return };
        let refuses_at = pool.refuses_at.take();
        self.timers.set(Subject::Pool(id), &mut pool.due, None);
        if refuses_at.is_none() || pool.members > 0 {
            return;
        }
        let offers = self.workers.values().map(|worker| &worker.offer);
        let why: Arc<str> = explain(&pool.requirement, pool.demand, offers).into();
        let waiting: Vec<Seq> = pool.queue.iter().collect();
        for seq in waiting {
            self.end(now, seq, End::Failed(Failure::Unsatisfiable(Arc::clone(&why))));
        }
    }
}

/// Whether a worker that offers `offered` may run what asks for `requirement`: it offers every pair.
pub(crate) fn matches(requirement: &Platform, offered: &Platform) -> bool {
    requirement.iter().all(|pair| offered.iter().any(|other| other == pair))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use bbb_digest::{Digest, Function};

    use super::*;
    use crate::{ActionKey, OperationId, Submission, core::Limits};

    fn platform(pairs: &[(&str, &str)]) -> Platform {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_pool_that_nobody_uses_makes_room_for_another() {
        let now = Now { since_start: Duration::ZERO, wall: SystemTime::UNIX_EPOCH };
        let mut core = Core::new(Limits::default());
        let submit = |number: usize, core: &mut Core| {
            let name = number.to_string();
            let key = ActionKey {
                instance: Default::default(),
                action: Digest::of(Function::Sha256, name.as_bytes()),
            };
            let requirement = platform(&[("number", &name)]);
            let submission = Submission { requirement, ..Submission::of(key) };
            core.submit(now, OperationId(number as u128), submission)
        };
        for number in 0..MAX_POOLS {
            submit(number, &mut core).unwrap();
        }
        assert!(submit(MAX_POOLS, &mut core).is_err());
        core.cancel(now, OperationId(7), "test");
        submit(MAX_POOLS, &mut core).unwrap();
        assert_eq!(core.pools.len(), MAX_POOLS);
    }

    #[test]
    fn every_pair_must_be_offered() {
        let offered = platform(&[("Arch", "x86"), ("OS", "linux"), ("OS", "posix")]);
        assert!(matches(&platform(&[]), &offered));
        assert!(matches(&platform(&[("OS", "linux"), ("OS", "posix")]), &offered));
        assert!(!matches(&platform(&[("OS", "Linux")]), &offered));
        assert!(!matches(&platform(&[("Arch", "x86"), ("gpu", "1")]), &offered));
    }
}
