//! What becomes of workers: attached, granted tasks, heard, lost.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    Core, Effect, Full, Now, WorkerId,
    limits::{
        AGED_EVERY, FIRST_REST, LONGEST_REST, LOST_AFTER, LOST_POOL_GRACE, PATIENCE, REVOKE_GRACE,
    },
    operation::Leased,
    pool::{Load, PoolId},
    queue::{Head, Seq},
    timers::{Due, Subject},
};
use crate::{
    FromWorker, Holding, Lease, MAX_SLOTS, Outcome, Progress, ToWorker, WorkerOffer, WorkerState,
};

#[derive(Debug)]
pub(super) struct Worker {
    pub(super) offer: WorkerOffer,
    name: Arc<str>,
    /// The pools that it serves.
    pub(super) pools: Vec<PoolId>,
    grants: BTreeMap<Lease, Grant>,
    heard: Duration,
    /// Tasks in a row that it could not do.
    failures: u32,
    rests_until: Option<Duration>,
    pub(super) draining: bool,
    /// How many tasks it was granted.
    taken: u64,
    /// Where it stands among the free ones of its pools.
    pub(super) indexed: Option<Load>,
    due: Due,
}

/// A busy slot.
#[derive(Clone, Copy, Debug)]
enum Grant {
    /// It works for this operation.
    For(Seq),
    /// It was told to stop, and must have by then.
    Revoked { by: Duration },
}

/// How a worker was lost.
#[derive(Clone, Copy, Debug)]
enum Loss {
    /// Its connection broke, and it may be there again in a moment with all that it has.
    MayReturn,
    /// It is given up, for this reason.
    Gone(&'static str),
}

impl Core {
    /// Takes a worker on, with the tasks that it brings. Ids are never used again. A worker of the same name that is
    /// here is the same one over a connection that broke without a word.
    ///
    /// # Errors
    /// [`Full`] if there are too many.
    pub fn join_worker(
        &mut self,
        now: Now,
        id: WorkerId,
        mut offer: WorkerOffer,
        holdings: Vec<Holding>,
    ) -> Result<(), Full> {
        self.arrive(now);
        let name: Arc<str> = offer.name.as_str().into();
        let before = self.worker_names.get(&name).copied();
        if before.is_none() && self.workers.len() >= self.limits.workers {
            return Err(Full("too many workers"));
        }
        if let Some(before) = before {
            self.effects.push(Effect::Dismiss(before));
            self.lose_worker(now, before, Loss::MayReturn);
        }
        offer.slots = offer.slots.min(MAX_SLOTS);
        let slots = u64::from(offer.slots);
        let mut pools = Vec::new();
        for (pool_id, pool) in &mut self.pools {
            if slots > 0 && pool.suits(&offer) {
                pool.members += 1;
                pool.slots += slots;
                pool.refuses_at = None;
                self.timers.set(Subject::Pool(*pool_id), &mut pool.due, None);
                pools.push(*pool_id);
            }
        }
        let worker = Worker {
            name: Arc::clone(&name),
            // Without slots it is nobody's member, just as if it drained.
            draining: slots == 0,
            offer,
            pools,
            grants: BTreeMap::new(),
            heard: now.since_start,
            failures: 0,
            rests_until: None,
            taken: 0,
            indexed: None,
            due: Due::default(),
        };
        self.workers.insert(id, worker);
        self.worker_names.insert(name, id);
        self.set_worker_due(id);
        self.take_over(now, id, holdings);
        self.fill(now, id);
        Ok(())
    }

    /// The worker's connection has ended. It may come back.
    pub fn leave_worker(&mut self, now: Now, id: WorkerId) {
        self.arrive(now);
        self.lose_worker(now, id, Loss::MayReturn);
    }

    /// A worker says something.
    pub fn hear(&mut self, now: Now, id: WorkerId, what: FromWorker) {
        self.arrive(now);
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.heard = now.since_start;
        match what {
            FromWorker::Alive | FromWorker::Staged(..) => {}
            FromWorker::Progress(lease, progress) => {
                if let Some(&Grant::For(seq)) = worker.grants.get(&lease) {
                    self.progressed(now, seq, progress);
                }
            }
            FromWorker::Done(lease, outcome) => self.done(now, id, lease, outcome),
            FromWorker::Returned(lease) => self.returned(now, id, lease),
            FromWorker::Draining => self.drain(now, id),
        }
    }

    /// Every worker.
    pub fn workers(&self) -> impl Iterator<Item = WorkerState> {
        self.workers.values().map(|worker| WorkerState {
            offer: worker.offer.clone(),
            busy: worker.busy(),
            draining: worker.draining,
        })
    }

    pub(super) fn worker_name(&self, id: WorkerId) -> Arc<str> {
        self.workers
            .get(&id)
            .map_or_else(|| "that is gone".into(), |worker| Arc::clone(&worker.name))
    }

    /// Gives tasks to a worker until it has no free slot, or nothing waits for it.
    pub(super) fn fill(&mut self, now: Now, id: WorkerId) {
        while let Some(worker) = self.workers.get(&id)
            && worker.can_take()
            && let Some(seq) = self.pick(now, worker)
            && let Some((lease, task)) = self.grant(now, seq, id)
        {
            self.lend(id, lease, seq, Progress::Fetching);
            self.effects.push(Effect::Tell(id, ToWorker::Run(lease, Box::new(task))));
            self.publish(seq);
        }
        self.index(id);
    }

    /// Notes that a worker has a task.
    pub(super) fn lend(&mut self, id: WorkerId, lease: Lease, seq: Seq, _progress: Progress) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.grants.insert(lease, Grant::For(seq));
            worker.taken += 1;
        }
    }

    /// An operation's grant no longer counts. Gives whether the worker still had it.
    pub(super) fn revoked(&mut self, now: Now, leased: Leased) -> bool {
        let Some(worker) = self.workers.get_mut(&leased.worker) else { return false };
        let Some(grant @ Grant::For(_)) = worker.grants.get_mut(&leased.lease) else {
            return false;
        };
        *grant = Grant::Revoked { by: now.since_start + REVOKE_GRACE };
        self.set_worker_due(leased.worker);
        true
    }

    pub(super) fn worker_due(&mut self, now: Now, id: WorkerId) {
        let floor = self.heard_floor;
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let now_at = now.since_start;
        if worker.heard.max(floor) + LOST_AFTER <= now_at {
            self.effects.push(Effect::Dismiss(id));
            return self.lose_worker(now, id, Loss::Gone("it was not heard any more"));
        }
        if worker.revoked_by().is_some_and(|by| by <= now_at) {
            self.effects.push(Effect::Dismiss(id));
            let why = Loss::Gone("it did not stop a task that was taken back");
            return self.lose_worker(now, id, why);
        }
        if worker.rests_until.is_some_and(|until| until <= now_at) {
            worker.rests_until = None;
            self.fill(now, id);
        }
        self.set_worker_due(id);
    }

    /// What a worker takes next: the most urgent of its pools, or in its turn what waited too long.
    fn pick(&self, now: Now, worker: &Worker) -> Option<Seq> {
        let queues =
            || worker.pools.iter().filter_map(|id| self.pools.get(id)).map(|pool| &pool.queue);
        if worker.taken % AGED_EVERY == AGED_EVERY - 1 {
            let oldest = queues().filter_map(|queue| queue.oldest()).min();
            let aged = |seq: &Seq| {
                let age = self.operations.get(seq).map(|operation| operation.age(now.since_start));
                age.is_some_and(|age| age >= PATIENCE)
            };
            if let Some(seq) = oldest.filter(aged) {
                return Some(seq);
            }
        }
        let head: Head = queues().filter_map(|queue| queue.head()).min()?;
        Some(head.seq)
    }

    fn done(&mut self, now: Now, id: WorkerId, lease: Lease, outcome: Outcome) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let Some(grant) = worker.grants.remove(&lease) else { return };
        if let Grant::For(seq) = grant {
            match &outcome {
                Outcome::Decided(_) => worker.failures = 0,
                Outcome::Failed(_) => {
                    let rest = FIRST_REST.saturating_mul(1 << worker.failures.min(16));
                    worker.failures = worker.failures.saturating_add(1);
                    worker.rests_until = Some(now.since_start + rest.min(LONGEST_REST));
                }
            }
            let name = Arc::clone(&worker.name);
            self.index(id);
            self.decided(now, seq, outcome, &name);
        }
        self.set_worker_due(id);
        self.fill(now, id);
    }

    /// A worker gives a task back that it has not begun. It is no attempt, and keeps its age.
    fn returned(&mut self, now: Now, id: WorkerId, lease: Lease) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let Some(grant) = worker.grants.remove(&lease) else { return };
        if !worker.draining {
            // Nobody asked for it: it would be given the same again at once.
            worker.rests_until = Some(now.since_start + FIRST_REST);
        }
        self.index(id);
        if let Grant::For(seq) = grant {
            self.detach(seq);
            self.enqueue(now, seq);
        }
        self.set_worker_due(id);
        self.fill(now, id);
    }

    fn drain(&mut self, now: Now, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if !worker.draining {
            worker.draining = true;
            self.leave_pools(now, id);
        }
    }

    /// Gives a worker's tasks back to their queues, or lets them wait for it.
    fn lose_worker(&mut self, now: Now, id: WorkerId, loss: Loss) {
        self.leave_pools(now, id);
        let Some(mut worker) = self.workers.remove(&id) else { return };
        self.timers.set(Subject::Worker(id), &mut worker.due, None);
        self.worker_names.remove(&worker.name);
        for grant in worker.grants.into_values() {
            match (grant, loss) {
                (Grant::Revoked { .. }, _) => {}
                (Grant::For(seq), Loss::MayReturn) => self.wait_for_return(now, seq, &worker.name),
                (Grant::For(seq), Loss::Gone(why)) => {
                    let what = format!("worker {} was lost: {why}", worker.name);
                    self.attempt_failed(now, seq, what);
                }
            }
        }
    }

    fn leave_pools(&mut self, now: Now, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let indexed = worker.indexed.take();
        for pool_id in std::mem::take(&mut worker.pools) {
            let Some(pool) = self.pools.get_mut(&pool_id) else { continue };
            if let Some(load) = indexed {
                pool.free.remove(&load);
            }
            pool.members -= 1;
            pool.slots -= u64::from(worker.offer.slots);
            if pool.members == 0 {
                pool.refuses_at = Some(now.since_start + LOST_POOL_GRACE);
                self.timers.set(Subject::Pool(pool_id), &mut pool.due, pool.refuses_at);
            }
        }
    }

    /// Puts a worker where it belongs among the free ones of its pools.
    fn index(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let load = worker.load_if_free(id);
        if worker.indexed == load {
            return;
        }
        let before = std::mem::replace(&mut worker.indexed, load);
        for pool in &worker.pools {
            let Some(pool) = self.pools.get_mut(pool) else { continue };
            if let Some(before) = before {
                pool.free.remove(&before);
            }
            pool.free.extend(load);
        }
    }

    /// Sets when a worker is looked at again. That it was heard does not change it: the time then moves on
    /// when it comes.
    fn set_worker_due(&mut self, id: WorkerId) {
        let floor = self.heard_floor;
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let lost_at = worker.heard.max(floor) + LOST_AFTER;
        let at =
            [worker.rests_until, worker.revoked_by()].into_iter().flatten().fold(lost_at, Ord::min);
        self.timers.set(Subject::Worker(id), &mut worker.due, Some(at));
    }
}

impl Worker {
    /// Where it stands among the free workers, if it is one.
    pub(super) fn load_if_free(&self, id: WorkerId) -> Option<Load> {
        let slots = u64::from(self.offer.slots.max(1));
        let busy = u64::from(self.busy()) * 65_536 / slots;
        self.can_take().then_some(Load { failures: self.failures, busy, worker: id })
    }

    fn busy(&self) -> u32 {
        u32::try_from(self.grants.len()).unwrap_or(u32::MAX)
    }

    fn can_take(&self) -> bool {
        !self.draining && self.rests_until.is_none() && self.busy() < self.offer.slots
    }

    fn revoked_by(&self) -> Option<Duration> {
        let revoked = self.grants.values().filter_map(|grant| match grant {
            Grant::For(_) => None,
            Grant::Revoked { by } => Some(*by),
        });
        revoked.min()
    }
}
