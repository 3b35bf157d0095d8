//! What becomes of operations that are here: queued, granted, ended, forgotten.

use std::{sync::Arc, time::Duration};

use super::{
    Core, Effect, Now, WorkerId,
    limits::{
        LEAST_RETURN_GRACE, MAX_ATTEMPTS, MAX_QUEUED_FOR, MAX_REASON_LEN, PLACE_EVERY,
        PLACES_PER_SECOND, UNWATCHED_GRACE, phase_limit,
    },
    operation::{Leased, Phase},
    pool::Pool,
    queue::Seq,
    timers::Subject,
};
use crate::{
    AttemptId, End, Failure, Lease, OperationId, Outcome, Progress, Stage, Story, Task, ToWorker,
};

impl Core {
    /// Lets an operation wait, and gives it to a worker that has room if there is one.
    pub(super) fn enqueue(&mut self, now: Now, seq: Seq) {
        let Some(operation) = self.operations.get_mut(&seq) else { return };
        let id = operation.pool;
        let Some(pool) = self.pools.get_mut(&id) else { return };
        pool.queue.push(operation.priority, &operation.flow, seq);
        let place_at = now.since_start + place_interval(pool);
        operation.phase = Phase::Queued { since: now.since_start, place_at };
        self.refuse_if_deserted(now, seq);
        self.publish(seq);
        self.set_due(seq);
        // A worker takes what is most urgent of what waits for it, which need not be this.
        while let Some(worker) = self.place(seq) {
            self.fill(now, worker);
        }
    }

    /// Takes an operation out of its queue, for a worker.
    pub(super) fn grant(&mut self, now: Now, seq: Seq, worker: WorkerId) -> Option<(Lease, Task)> {
        self.claim_reservation(seq, worker);
        if let Phase::Queued { since, .. } = self.operations.get(&seq)?.phase {
            self.granted += 1;
            self.waited += now.since_start.saturating_sub(since);
        }
        self.detach(now, seq);
        let lease = self.next_lease();
        let operation = self.operations.get_mut(&seq)?;
        let progress = Progress::Fetching;
        let deadline = now.since_start.saturating_add(phase_limit(progress, operation.timeout));
        let attempt_id = AttemptId::granted(operation.names.first(), operation.attempt(), now.wall);
        let leased = Leased { worker, lease, progress, since: now.wall, attempt_id, deadline };
        operation.phase = Phase::Leased(leased);
        let task = operation.task(self.pools.get(&operation.pool)?, attempt_id);
        self.attached(seq);
        Some((lease, task))
    }

    /// A worker is further with an operation.
    pub(super) fn progressed(&mut self, now: Now, seq: Seq, progress: Progress) {
        let Some(operation) = self.operations.get_mut(&seq) else { return };
        let Phase::Leased(leased) = &mut operation.phase else { return };
        if leased.progress >= progress {
            return;
        }
        leased.progress = progress;
        leased.deadline = now.since_start.saturating_add(phase_limit(progress, operation.timeout));
        self.set_due(seq);
        self.publish(seq);
    }

    /// A worker is through with an operation; its slot is free already.
    pub(super) fn decided(&mut self, now: Now, seq: Seq, outcome: Outcome, worker: &Arc<str>) {
        match outcome {
            Outcome::Decided(bytes) => {
                self.end(now, seq, End::Decided(bytes));
                self.note_decided(seq, worker);
            }
            Outcome::Failed(mut reason) => {
                reason.truncate(reason.floor_char_boundary(MAX_REASON_LEN));
                self.attempt_failed(now, seq, format!("worker {worker}: {reason}"));
            }
        }
    }

    /// An attempt came to nothing: the next one, or the end.
    pub(super) fn attempt_failed(&mut self, now: Now, seq: Seq, what: String) {
        let Some(operation) = self.operations.get_mut(&seq) else { return };
        operation.story.push(what);
        if operation.story.len() >= MAX_ATTEMPTS {
            let story = Story(std::mem::take(&mut operation.story));
            self.end(now, seq, End::Failed(Failure::Attempts(story)));
        } else {
            self.detach(now, seq);
            self.enqueue(now, seq);
        }
    }

    /// Takes an operation out of where it stands; the caller says at once where it stands then. Gives the grant that
    /// it had.
    pub(super) fn detach(&mut self, now: Now, seq: Seq) -> Option<Leased> {
        let operation = self.operations.get_mut(&seq)?;
        let pool = self.pools.get_mut(&operation.pool)?;
        let leased = match &operation.phase {
            Phase::Queued { .. } => {
                pool.queue.remove(operation.priority, &operation.flow, seq);
                if pool.reserved.is_some_and(|(reserved, _)| reserved == seq) {
                    let pool = operation.pool;
                    self.end_reservation(now, pool);
                }
                return None;
            }
            Phase::Ended { .. } => return None,
            Phase::Leased(leased) => Some(*leased),
            Phase::Awaiting(awaiting) => {
                self.awaited.remove(&(Arc::clone(&awaiting.worker), seq));
                None
            }
        };
        self.executing -= 1;
        pool.queue.ended(&operation.flow);
        leased
    }

    /// The counterpart of [`Core::detach`]: a worker has the operation now, or is believed to.
    pub(super) fn attached(&mut self, seq: Seq) {
        let Some(operation) = self.operations.get(&seq) else { return };
        self.executing += 1;
        if let Some(pool) = self.pools.get_mut(&operation.pool) {
            pool.queue.started(&operation.flow);
        }
        self.set_due(seq);
    }

    /// Ends an operation, wherever it stands.
    pub(super) fn end(&mut self, now: Now, seq: Seq, end: End) {
        if self.operations.get(&seq).is_none_or(|operation| operation.has_ended()) {
            return;
        }
        let leased = self.detach(now, seq);
        let Some(operation) = self.operations.get_mut(&seq) else { return };
        if self.mergeable.get(&operation.key) == Some(&seq) {
            self.mergeable.remove(&operation.key);
        }
        let bytes = match &end {
            End::Decided(bytes) => bytes.len(),
            End::Failed(_) => 0,
        };
        operation.phase = Phase::Ended { at: now.since_start, bytes };
        operation.story = Vec::new();
        let pool = operation.pool;
        self.finished.insert((now.since_start, seq));
        self.finished_bytes += bytes;
        let stage = Stage::Completed { at: now.wall, end };
        let states = operation.names.iter().map(|id| operation.state(id, stage.clone()));
        self.effects.extend(states.map(|state| Effect::Publish(Arc::new(state))));
        let forgotten: Vec<_> = operation.names.forgotten().collect();
        self.set_due(seq);
        self.left_pool(pool);
        if let Some(leased) = leased {
            self.revoke(now, leased);
        }
        for id in forgotten {
            self.drop_name(seq, id);
        }
        self.forget_oldest();
    }

    /// Remembers who decided what, for those that had it under other names: they may not have said so yet.
    pub(super) fn note_decided(&mut self, seq: Seq, worker: &Arc<str>) {
        if let Some(operation) = self.operations.get(&seq)
            && operation.mergeable
            && operation.has_ended()
        {
            self.decided.insert(Arc::clone(&operation.key), (seq, Arc::clone(worker)));
        }
    }

    /// Keeps what has ended within its bounds. What has just ended stays, however large it is.
    fn forget_oldest(&mut self) {
        while self.finished.len() > 1
            && (self.finished.len() > self.limits.finished
                || self.finished_bytes > self.limits.finished_bytes)
        {
            let Some(&(_, seq)) = self.finished.first() else { return };
            self.drop_operation(seq);
        }
    }

    /// Takes away a name of an operation that has ended; with the last one the operation goes.
    pub(super) fn drop_name(&mut self, seq: Seq, id: OperationId) {
        let Some(operation) = self.operations.get_mut(&seq) else { return };
        if operation.names.len() == 1 {
            return self.drop_operation(seq);
        }
        operation.names.remove(id);
        self.by_id.remove(&id);
        self.effects.push(Effect::Forget(id));
    }

    /// Forgets an operation that has ended.
    fn drop_operation(&mut self, seq: Seq) {
        let Some(mut operation) = self.operations.remove(&seq) else { return };
        if let Phase::Ended { at, bytes } = operation.phase {
            self.finished.remove(&(at, seq));
            self.finished_bytes -= bytes;
        }
        self.timers.set(Subject::Operation(seq), &mut operation.due, None);
        if self.decided.get(&operation.key).is_some_and(|(other, _)| *other == seq) {
            self.decided.remove(&operation.key);
        }
        for id in operation.names.iter() {
            self.by_id.remove(&id);
            self.effects.push(Effect::Forget(id));
        }
    }

    pub(super) fn operation_due(&mut self, now: Now, seq: Seq) {
        let Some(operation) = self.operations.get_mut(&seq) else { return };
        let passed = |at: Duration| at <= now.since_start;
        let unwatched = operation.unwatched_since.is_some_and(|at| passed(at + UNWATCHED_GRACE));
        let starves_at = operation.starves_at();
        match &mut operation.phase {
            Phase::Ended { .. } => self.drop_operation(seq),
            _ if unwatched => {
                let why = "nobody waited for it any more";
                self.end(now, seq, End::Failed(Failure::Cancelled(why.into())));
            }
            Phase::Queued { .. } if passed(starves_at) => {
                self.end(now, seq, End::Failed(Failure::Starved(MAX_QUEUED_FOR)));
            }
            Phase::Queued { place_at, .. } => {
                if passed(*place_at) {
                    let interval = self.pools.get(&operation.pool).map(place_interval);
                    *place_at = now.since_start + interval.unwrap_or(PLACE_EVERY);
                    self.publish(seq);
                }
                self.set_due(seq);
            }
            Phase::Leased(leased) if passed(leased.deadline) => {
                let leased = *leased;
                let worker = self.worker_name(leased.worker);
                self.revoke(now, leased);
                let what = format!("worker {worker} was too long at {:?}", leased.progress);
                self.attempt_failed(now, seq, what);
            }
            Phase::Leased(_) => self.set_due(seq),
            Phase::Awaiting(awaiting) => {
                // While this process was stopped nobody could come.
                awaiting.until = awaiting.until.max(self.heard_floor + LEAST_RETURN_GRACE);
                if passed(awaiting.until) {
                    self.gave_up_waiting(now, seq, "its connection ended");
                } else {
                    self.set_due(seq);
                }
            }
        }
    }

    /// Tells a worker to stop what it had been granted, if it still has it.
    fn revoke(&mut self, now: Now, leased: Leased) {
        if self.revoked(now, leased) {
            self.effects.push(Effect::Tell(leased.worker, ToWorker::Revoke(leased.lease)));
        }
    }

    /// Sets when an operation is looked at again.
    pub(super) fn set_due(&mut self, seq: Seq) {
        let Some(operation) = self.operations.get_mut(&seq) else { return };
        let at = operation.due_at();
        self.timers.set(Subject::Operation(seq), &mut operation.due, Some(at));
    }

    /// Shows where an operation stands that has not ended, under each of its names.
    pub(super) fn publish(&mut self, seq: Seq) {
        let Some(operation) = self.operations.get(&seq) else { return };
        let Some(stage) = self.stage(seq) else { return };
        for id in operation.names.iter() {
            let state = operation.state(id, stage.clone());
            self.effects.push(Effect::Publish(Arc::new(state)));
        }
    }

    /// Shows where an operation stands that has not ended, under one of its names.
    pub(super) fn publish_as(&mut self, seq: Seq, id: OperationId) {
        let Some(operation) = self.operations.get(&seq) else { return };
        let Some(stage) = self.stage(seq) else { return };
        self.effects.push(Effect::Publish(Arc::new(operation.state(id, stage))));
    }

    fn stage(&self, seq: Seq) -> Option<Stage> {
        let operation = self.operations.get(&seq)?;
        let executing = |worker, progress, since, attempt_id| Stage::Executing {
            worker,
            progress,
            attempt: operation.attempt(),
            since,
            attempt_id,
        };
        Some(match &operation.phase {
            Phase::Queued { .. } => {
                Stage::Queued(operation.place(seq, self.pools.get(&operation.pool)))
            }
            Phase::Leased(leased) => {
                let worker = self.worker_name(leased.worker);
                executing(worker, leased.progress, leased.since, Some(leased.attempt_id))
            }
            Phase::Awaiting(awaiting) => {
                let worker = Arc::clone(&awaiting.worker);
                executing(worker, awaiting.progress, awaiting.since, awaiting.attempt_id)
            }
            Phase::Ended { .. } => return None,
        })
    }
}

/// How long until the next place is told: the longer the queue, the longer.
fn place_interval(pool: &Pool) -> Duration {
    PLACE_EVERY.max(Duration::from_secs(pool.queue.len() as u64 / PLACES_PER_SECOND))
}
