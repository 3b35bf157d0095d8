//! What becomes of workers: attached, granted tasks, heard, lost.

use std::sync::Arc;

use super::{
    Core, Effect, Full, Now, WorkerId,
    limits::{FIRST_REST, LONGEST_REST, LOST_AFTER, LOST_POOL_GRACE, MAX_PREFETCH, REVOKE_GRACE},
    operation::Leased,
    timers::Subject,
    worker::{GrantState, Worker},
};
use crate::{FromWorker, Holding, Lease, MAX_SLOTS, Outcome, Progress, WorkerOffer};

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
        offer.prefetch = offer.prefetch.min(MAX_PREFETCH);
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
        let worker = Worker::new(offer, pools, now.since_start);
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
            FromWorker::Alive => {}
            FromWorker::Staged(lease, staged) => self.staged(id, lease, staged),
            FromWorker::Progress(lease, progress) => {
                self.heard_progress(now, id, lease, progress);
            }
            FromWorker::Done(lease, outcome) => self.done(now, id, lease, outcome),
            FromWorker::Returned(lease) => self.returned(now, id, lease),
            FromWorker::Draining => self.drain(now, id),
        }
    }

    pub(super) fn worker_name(&self, id: WorkerId) -> Arc<str> {
        self.workers
            .get(&id)
            .map_or_else(|| "that is gone".into(), |worker| Arc::clone(&worker.name))
    }

    /// A worker is further with a task. Once that has begun it is not called back.
    fn heard_progress(&mut self, now: Now, id: WorkerId, lease: Lease, progress: Progress) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let Some(grant) = worker.grants.get(&lease).copied() else { return };
        if progress > Progress::Fetching {
            worker.begin(lease);
            self.not_recallable(grant.pool, lease);
            self.index(id);
        }
        if let GrantState::For(seq) = grant.state {
            self.progressed(now, seq, progress);
        }
        if progress > Progress::Fetching
            && let Some(receiver) = self.recall_answered(id, lease)
        {
            self.fill(now, receiver);
        }
    }

    /// An operation's grant no longer counts. Gives whether the worker still had it.
    pub(super) fn revoked(&mut self, now: Now, leased: Leased) -> bool {
        let Some(worker) = self.workers.get_mut(&leased.worker) else { return false };
        let Some(grant) = worker.grants.get_mut(&leased.lease) else { return false };
        if let GrantState::Revoked { .. } = grant.state {
            return false;
        }
        grant.state = GrantState::Revoked { by: now.since_start + REVOKE_GRACE };
        let pool = grant.pool;
        self.not_recallable(pool, leased.lease);
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

    fn done(&mut self, now: Now, id: WorkerId, lease: Lease, outcome: Outcome) {
        let receiver = self.recall_answered(id, lease);
        let Some(grant) = self.release(now, id, lease) else { return };
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if let GrantState::For(seq) = grant.state {
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
        if let Some(receiver) = receiver {
            self.fill(now, receiver);
        }
    }

    /// A worker gives a task back that it has not begun. It is no attempt, and keeps its age.
    fn returned(&mut self, now: Now, id: WorkerId, lease: Lease) {
        let recalled_for = self.recall_answered(id, lease);
        let Some(grant) = self.release(now, id, lease) else { return };
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let asked_for = recalled_for.is_some() || worker.draining;
        if let GrantState::For(seq) = grant.state {
            if !asked_for {
                // It would be given the same again at once.
                worker.rests_until = Some(now.since_start + FIRST_REST);
            }
            self.index(id);
            self.detach(now, seq);
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
        self.locality.forget(id);
        for (lease, grant) in &worker.grants {
            self.not_recallable(grant.pool, *lease);
            if let Some(receiver) = grant.recalled_for.and_then(|id| self.workers.get_mut(&id)) {
                receiver.recalls -= 1;
            }
        }
        for grant in worker.grants.into_values() {
            match (grant.state, loss) {
                (GrantState::Revoked { .. }, _) => {}
                (GrantState::For(seq), Loss::MayReturn) => {
                    self.wait_for_return(now, seq, &worker.name);
                }
                (GrantState::For(seq), Loss::Gone(why)) => {
                    let what = format!("worker {} was lost: {why}", worker.name);
                    self.attempt_failed(now, seq, what);
                }
            }
        }
    }

    fn leave_pools(&mut self, now: Now, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let indexed = worker.indexed.take();
        let reserved = worker.reserved.take();
        for pool_id in std::mem::take(&mut worker.pools) {
            let Some(pool) = self.pools.get_mut(&pool_id) else { continue };
            if let Some(load) = indexed {
                pool.free.remove(&load);
                pool.spare.remove(&load);
            }
            if reserved == Some(pool_id) {
                pool.reserved = None;
            }
            pool.members -= 1;
            pool.slots -= u64::from(worker.offer.slots);
            if pool.members == 0 {
                pool.refuses_at = Some(now.since_start + LOST_POOL_GRACE);
                self.timers.set(Subject::Pool(pool_id), &mut pool.due, pool.refuses_at);
            }
        }
    }

    /// Sets when a worker is looked at again. That it was heard does not change it: the time then moves on
    /// when it comes.
    pub(super) fn set_worker_due(&mut self, id: WorkerId) {
        let floor = self.heard_floor;
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let lost_at = worker.heard.max(floor) + LOST_AFTER;
        let at =
            [worker.rests_until, worker.revoked_by()].into_iter().flatten().fold(lost_at, Ord::min);
        self.timers.set(Subject::Worker(id), &mut worker.due, Some(at));
    }
}
