//! Which worker gets which operation: a worker with room takes what is most urgent of what fits it; an operation that
//! comes takes the best of the workers that have room.
//!
//! Where one is found the other is not waited for: while a worker has room for what a pool asks, nothing waits there.

use std::cmp::Reverse;

use super::{
    Core, Effect, Now, WorkerId,
    limits::{AGED_EVERY, BUSIER, MAX_QUEUED_FOR, MAX_RECALLS, PATIENCE, phase_limit},
    operation::Phase,
    pool::PoolId,
    queue::{Head, Seq},
    worker::{Grant, GrantState, Room},
};
use crate::{Lease, Progress, Staged, ToWorker};

impl Core {
    /// The worker that an operation goes to while it waits, if one has room: one with a free slot, else one that fetches
    /// its inputs meanwhile. Of those the one that has most of its inputs, if it is about as free as the best.
    pub(super) fn place(&self, seq: Seq) -> Option<WorkerId> {
        let operation = self.operations.get(&seq)?;
        if !matches!(operation.phase, Phase::Queued { .. }) {
            return None;
        }
        let pool = self.pools.get(&operation.pool)?;
        let among = if pool.free.is_empty() { &pool.spare } else { &pool.free };
        let best = among.first()?;
        let inputs = &operation.inputs;
        let nearest = self.locality.near(inputs).filter_map(|id| {
            let load = self.workers.get(&id)?.indexed?;
            let may = among.contains(&load)
                && load.failures <= best.failures
                && load.busy <= best.busy + BUSIER;
            may.then(|| (self.locality.bytes(id, inputs), Reverse(load)))
        });
        Some(nearest.max().map_or(best.worker, |(_, Reverse(load))| load.worker))
    }

    /// A worker has the inputs of a task. If it had to fetch what it was believed to have, it forgets, and nothing older
    /// is believed of it.
    pub(super) fn staged(&mut self, id: WorkerId, lease: Lease, staged: Staged) {
        let grant = self.workers.get(&id).and_then(|worker| worker.grants.get(&lease));
        let Some(grant) = grant else { return };
        let GrantState::For(seq) = grant.state else { return };
        let Some(operation) = self.operations.get(&seq) else { return };
        let had = staged.needed_bytes.saturating_sub(staged.fetched_bytes);
        if had < grant.believed_bytes / 2 {
            self.locality.forget(id);
        }
        self.locality.learn(id, &operation.inputs);
    }

    /// Gives tasks to a worker until it has no room, or nothing waits for it.
    pub(super) fn fill(&mut self, now: Now, id: WorkerId) {
        while let Some(seq) = self.pick(now, id)
            && let Some((lease, task)) = self.grant(now, seq, id)
        {
            self.lend(now, id, lease, seq, Progress::Fetching);
            self.effects.push(Effect::Tell(id, ToWorker::Run(lease, Box::new(task))));
            self.publish(seq);
        }
        self.index(id);
        self.recall_for(id);
    }

    /// Notes that a worker has a task. While that waits for a slot it has no deadline of its own.
    pub(super) fn lend(
        &mut self,
        now: Now,
        id: WorkerId,
        lease: Lease,
        seq: Seq,
        progress: Progress,
    ) {
        let Some(operation) = self.operations.get_mut(&seq) else { return };
        let Some(pool) = self.pools.get_mut(&operation.pool) else { return };
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let grant = Grant {
            state: GrantState::For(seq),
            pool: operation.pool,
            demand: pool.demand,
            believed_bytes: self.locality.bytes(id, &operation.inputs),
            recalled_for: None,
        };
        worker.lend(lease, grant, progress > Progress::Fetching);
        if worker.waits(lease) {
            if operation.recalls < MAX_RECALLS {
                pool.recallable.insert(lease, id);
            }
            if let Phase::Leased(leased) = &mut operation.phase {
                leased.deadline = now.since_start + MAX_QUEUED_FOR;
            }
            self.set_due(seq);
        }
    }

    /// A worker no longer has a task, and its next one gets the slot.
    pub(super) fn release(&mut self, now: Now, id: WorkerId, lease: Lease) -> Option<Grant> {
        let (grant, next) = self.workers.get_mut(&id)?.release(lease)?;
        self.not_recallable(grant.pool, lease);
        if let Some(next) = next {
            self.got_slot(now, id, next);
        }
        Some(grant)
    }

    /// Whoever waited for a recalled task to come back waits no more: it has come, or it has begun.
    pub(super) fn recall_answered(&mut self, id: WorkerId, lease: Lease) -> Option<WorkerId> {
        let grant = self.workers.get_mut(&id)?.grants.get_mut(&lease)?;
        let receiver = grant.recalled_for.take()?;
        self.workers.get_mut(&receiver)?.recalls -= 1;
        Some(receiver)
    }

    pub(super) fn not_recallable(&mut self, pool: PoolId, lease: Lease) {
        if let Some(pool) = self.pools.get_mut(&pool) {
            pool.recallable.remove(&lease);
        }
    }

    /// Puts a worker where it belongs among those of its pools that have room.
    pub(super) fn index(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let load = worker.has_room().then(|| worker.load(id));
        let before = std::mem::replace(&mut worker.indexed, load);
        if before.is_none() && load.is_none() {
            return;
        }
        for pool_id in &worker.pools {
            let Some(pool) = self.pools.get_mut(pool_id) else { continue };
            if let Some(before) = before {
                pool.free.remove(&before);
                pool.spare.remove(&before);
            }
            if let Some(load) = load {
                pool.insert(load, worker.room(*pool_id, pool.demand));
            }
        }
    }

    /// What waited for this worker to become free waits no more, or not for this one: it takes other things again.
    pub(super) fn end_reservation(&mut self, now: Now, pool: PoolId) {
        let Some(pool) = self.pools.get_mut(&pool) else { return };
        let Some((_, id)) = pool.reserved.take() else { return };
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.reserved = None;
        // It is filled at the next tick, which is at once.
        worker.rests_until = worker.rests_until.max(Some(now.since_start));
        self.set_worker_due(id);
    }

    /// A worker takes what it was kept free for.
    pub(super) fn claim_reservation(&mut self, seq: Seq, id: WorkerId) {
        let Some(operation) = self.operations.get(&seq) else { return };
        let Some(pool) = self.pools.get_mut(&operation.pool) else { return };
        if pool.reserved == Some((seq, id)) {
            pool.reserved = None;
            if let Some(worker) = self.workers.get_mut(&id) {
                worker.reserved = None;
            }
        }
    }

    /// A task that waited for a slot has it now, as far as we know.
    fn got_slot(&mut self, now: Now, id: WorkerId, lease: Lease) {
        let Some(worker) = self.workers.get(&id) else { return };
        let Some(grant) = worker.grants.get(&lease).copied() else { return };
        self.not_recallable(grant.pool, lease);
        let GrantState::For(seq) = grant.state else { return };
        let Some(operation) = self.operations.get_mut(&seq) else { return };
        if let Phase::Leased(leased) = &mut operation.phase {
            let limit = phase_limit(leased.progress, operation.timeout);
            leased.deadline = now.since_start.saturating_add(limit);
        }
        self.set_due(seq);
    }

    /// What a worker takes next: the most urgent of what fits, or in its turn what waited too long.
    fn pick(&mut self, now: Now, id: WorkerId) -> Option<Seq> {
        let worker = self.workers.get(&id).filter(|worker| worker.has_room())?;
        if let Some(pool_id) = worker.reserved {
            let pool = self.pools.get(&pool_id)?;
            let fits = worker.room(pool_id, pool.demand) == Some(Room::Slot);
            return pool.reserved.filter(|_| fits).map(|(seq, _)| seq);
        }
        let in_turn = worker.taken % AGED_EVERY == AGED_EVERY - 1;
        let mut head: Option<Head> = None;
        let mut oldest: Option<(Seq, PoolId, bool)> = None;
        for pool_id in &worker.pools {
            let Some(pool) = self.pools.get(pool_id) else { continue };
            let Some(first) = pool.queue.head() else { continue };
            let fits = worker.room(*pool_id, pool.demand).is_some();
            if fits {
                head = Some(head.map_or(first, |head| head.min(first)));
            }
            if in_turn && (fits || pool.reserved.is_none()) {
                let aged = pool.queue.oldest().map(|seq| (seq, *pool_id, fits));
                oldest = oldest.into_iter().chain(aged).min();
            }
        }
        let aged = oldest.filter(|(seq, ..)| self.has_waited_too_long(now, *seq));
        match aged {
            Some((seq, _, true)) => Some(seq),
            Some((seq, pool, false)) => {
                self.reserve(id, pool, seq);
                None
            }
            None => head.map(|head| head.seq),
        }
    }

    fn has_waited_too_long(&self, now: Now, seq: Seq) -> bool {
        let operation = self.operations.get(&seq);
        operation.is_some_and(|operation| operation.age(now.since_start) >= PATIENCE)
    }

    /// Keeps a worker free of all else until an operation fits that smaller ones would pass again and again.
    fn reserve(&mut self, id: WorkerId, pool_id: PoolId, seq: Seq) {
        if let (Some(worker), Some(pool)) =
            (self.workers.get_mut(&id), self.pools.get_mut(&pool_id))
        {
            worker.reserved = Some(pool_id);
            pool.reserved = Some((seq, id));
        }
    }

    /// Where nothing waits for a worker's free slots, what waits at busy workers for theirs is called back.
    fn recall_for(&mut self, id: WorkerId) {
        while let Some(worker) = self.workers.get(&id)
            && worker.recalls < worker.free_slots()
        {
            let suitable = worker.pools.iter().filter_map(|pool_id| {
                let pool = self.pools.get(pool_id)?;
                let oldest = pool.recallable.first_key_value()?;
                let fits = worker.room(*pool_id, pool.demand) == Some(Room::Slot);
                fits.then_some((*oldest.0, *oldest.1, *pool_id))
            });
            let Some((lease, holder, pool)) = suitable.min() else { return };
            self.not_recallable(pool, lease);
            let grant = self.workers.get_mut(&holder).and_then(|it| it.grants.get_mut(&lease));
            let Some(grant) = grant else { continue };
            grant.recalled_for = Some(id);
            if let GrantState::For(seq) = grant.state
                && let Some(operation) = self.operations.get_mut(&seq)
            {
                operation.recalls += 1;
            }
            if let Some(worker) = self.workers.get_mut(&id) {
                worker.recalls += 1;
            }
            self.effects.push(Effect::Tell(holder, ToWorker::Recall(lease)));
        }
    }
}
