//! What becomes of operations: submitted, joined, granted, ended, forgotten.

use std::{sync::Arc, time::Duration, time::SystemTime};

use super::{
    Core, Effect, Full, Now, WorkerId,
    limits::{
        FINISHED_KEPT_FOR, MAX_ATTEMPTS, MAX_IDLE_POOLS, MAX_QUEUED_FOR, MAX_REASON_LEN,
        PLACE_EVERY, PLACES_PER_SECOND, UNSATISFIABLE_GRACE, UNWATCHED_GRACE, phase_limit,
    },
    pool::{Pool, PoolId, explain, matches},
    queue::{Flow, Seq},
    timers::{Due, Subject},
};
use crate::{
    ActionKey, End, Failure, Lease, OperationId, OperationState, Outcome, PRIORITIES, Place,
    Platform, Progress, Stage, Story, Submission, Task, ToWorker,
};

#[derive(Debug)]
pub(super) struct Operation {
    id: OperationId,
    key: Arc<ActionKey>,
    mergeable: bool,
    timeout: Duration,
    priority: i32,
    flow: Arc<Flow>,
    pool: PoolId,
    queued_at: Duration,
    queued_wall: SystemTime,
    phase: Phase,
    /// What became of earlier attempts.
    story: Vec<String>,
    unwatched_since: Option<Duration>,
    /// It is forgotten as soon as it has ended.
    forget: bool,
    due: Due,
}

#[derive(Debug)]
enum Phase {
    Queued { place_at: Duration },
    Leased(Leased),
    Ended { at: Duration, bytes: usize },
}

/// A grant, seen from its operation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leased {
    pub(super) worker: WorkerId,
    pub(super) lease: Lease,
    progress: Progress,
    since: SystemTime,
    deadline: Duration,
}

impl Core {
    /// Queues work under a new name, or joins equal work. Gives the name of the operation, which then is
    /// watched.
    ///
    /// # Errors
    /// [`Full`] if too many operations have not ended.
    pub fn submit(
        &mut self,
        now: Now,
        id: OperationId,
        submission: Submission,
    ) -> Result<OperationId, Full> {
        self.arrive(now);
        let priority = submission.priority.clamp(*PRIORITIES.start(), *PRIORITIES.end());
        if submission.mergeable
            && let Some(&seq) = self.mergeable.get(&submission.key)
            && let Some(id) = self.join(now, seq, priority)
        {
            return Ok(id);
        }
        if self.operations.len() - self.finished.len() >= self.limits.unfinished {
            return Err(Full("too many operations have not ended"));
        }
        self.last_seq += 1;
        let seq = Seq(self.last_seq);
        let key = Arc::new(submission.key);
        let pool_id = self.pool(submission.requirement);
        let invocation = submission.invocation;
        let flow = Flow { instance: key.instance.clone(), invocation };
        let pool = self.pools.entry(pool_id).or_insert_with(|| Pool::new(Platform::default()));
        pool.operations += 1;
        let flow = pool.queue.interned(flow);
        self.idle_pools.remove(&pool_id);
        if submission.mergeable {
            self.mergeable.insert(Arc::clone(&key), seq);
        }
        let operation = Operation {
            id,
            key,
            mergeable: submission.mergeable,
            timeout: submission.timeout,
            priority,
            flow,
            pool: pool_id,
            queued_at: now.since_start,
            queued_wall: now.wall,
            phase: Phase::Queued { place_at: Duration::ZERO },
            story: Vec::new(),
            unwatched_since: None,
            forget: false,
            due: Due::default(),
        };
        self.operations.insert(seq, Box::new(operation));
        self.by_id.insert(id, seq);
        self.enqueue(now, seq);
        Ok(id)
    }

    /// Ends an operation that has not ended.
    pub fn cancel(&mut self, now: Now, id: OperationId, why: &'static str) {
        self.arrive(now);
        if let Some(&seq) = self.by_id.get(&id) {
            self.end(now, seq, End::Failed(Failure::Cancelled(why.into())));
        }
    }

    /// Forgets an operation, once it has ended.
    pub fn forget(&mut self, now: Now, id: OperationId) {
        self.arrive(now);
        let Some(&seq) = self.by_id.get(&id) else { return };
        match self.operations.get_mut(&seq) {
            Some(operation) if !matches!(operation.phase, Phase::Ended { .. }) => {
                operation.forget = true;
            }
            _ => self.drop_operation(seq),
        }
    }

    /// Someone watches the operation, or nobody does any more.
    pub fn watched(&mut self, now: Now, id: OperationId, watched: bool) {
        self.arrive(now);
        let Some(&seq) = self.by_id.get(&id) else { return };
        let Some(operation) = self.operations.get_mut(&seq) else { return };
        let since = (!watched).then_some(operation.unwatched_since.unwrap_or(now.since_start));
        if operation.unwatched_since != since {
            operation.unwatched_since = since;
            self.set_due(seq);
        }
    }

    /// Another wants the same: as urgent as the more urgent of both.
    fn join(&mut self, now: Now, seq: Seq, priority: i32) -> Option<OperationId> {
        let operation = self.operations.get_mut(&seq)?;
        let (id, before) = (operation.id, operation.priority);
        operation.forget = false;
        if priority < before {
            operation.priority = priority;
            if let (Phase::Queued { .. }, Some(pool)) =
                (&operation.phase, self.pools.get_mut(&operation.pool))
            {
                pool.queue.remove(before, &operation.flow, seq);
                pool.queue.push(priority, &operation.flow, seq);
                self.publish(seq);
            }
        }
        self.watched(now, id, true);
        Some(id)
    }

    /// The pool of what asks for `requirement`.
    fn pool(&mut self, requirement: Platform) -> PoolId {
        if let Some(&id) = self.pool_names.get(&requirement) {
            return id;
        }
        if self.idle_pools.len() >= MAX_IDLE_POOLS
            && let Some(oldest) = self.idle_pools.pop_first()
        {
            self.drop_pool(oldest);
        }
        self.last_pool += 1;
        let id = PoolId(self.last_pool);
        let mut pool = Pool::new(requirement.clone());
        for (worker_id, worker) in &mut self.workers {
            if !worker.draining && matches(&requirement, &worker.offer.platform) {
                worker.pools.push(id);
                pool.members += 1;
                pool.slots += u64::from(worker.offer.slots);
                pool.free.extend(worker.load_if_free(*worker_id));
            }
        }
        self.pools.insert(id, pool);
        self.pool_names.insert(requirement, id);
        id
    }

    fn drop_pool(&mut self, id: PoolId) {
        let Some(pool) = self.pools.remove(&id) else { return };
        self.pool_names.remove(&pool.requirement);
        let mut due = pool.due;
        self.timers.set(Subject::Pool(id), &mut due, None);
        for worker in self.workers.values_mut() {
            worker.pools.retain(|other| *other != id);
        }
    }

    /// Lets an operation wait, and gives it to a free worker if there is one.
    fn enqueue(&mut self, now: Now, seq: Seq) {
        let Some(operation) = self.operations.get_mut(&seq) else { return };
        let id = operation.pool;
        let Some(pool) = self.pools.get_mut(&id) else { return };
        pool.queue.push(operation.priority, &operation.flow, seq);
        operation.phase = Phase::Queued { place_at: now.since_start + place_interval(pool) };
        if pool.members == 0 && pool.refuses_at.is_none() {
            pool.refuses_at = Some(now.since_start + UNSATISFIABLE_GRACE);
            self.timers.set(Subject::Pool(id), &mut pool.due, pool.refuses_at);
        }
        let free = pool.free.first().map(|load| load.worker);
        self.publish(seq);
        match free {
            Some(worker) => self.fill(now, worker),
            None => self.set_due(seq),
        }
    }

    /// Takes an operation out of its queue, for a worker.
    pub(super) fn grant(&mut self, now: Now, seq: Seq, worker: WorkerId) -> Option<(Lease, Task)> {
        let lease = self.next_lease();
        let operation = self.operations.get_mut(&seq)?;
        let pool = self.pools.get_mut(&operation.pool)?;
        pool.queue.remove(operation.priority, &operation.flow, seq);
        pool.queue.started(&operation.flow);
        let progress = Progress::Fetching;
        let deadline = now.since_start.saturating_add(phase_limit(progress, operation.timeout));
        let leased = Leased { worker, lease, progress, since: now.wall, deadline };
        operation.phase = Phase::Leased(leased);
        let task = Task {
            operation: operation.id,
            submission: Submission {
                mergeable: operation.mergeable,
                requirement: pool.requirement.clone(),
                timeout: operation.timeout,
                priority: operation.priority,
                invocation: Arc::clone(&operation.flow.invocation),
                ..Submission::of((*operation.key).clone())
            },
            queued_at: operation.queued_wall,
            attempt: operation.attempt(),
        };
        self.executing += 1;
        self.set_due(seq);
        Some((lease, task))
    }

    /// What waits longest of a pool, if it has lost its patience by now.
    pub(super) fn waits_since(&self, seq: Seq) -> Option<Duration> {
        self.operations.get(&seq).map(|operation| operation.queued_at)
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
    pub(super) fn decided(&mut self, now: Now, seq: Seq, outcome: Outcome, worker: &str) {
        match outcome {
            Outcome::Decided(bytes) => self.end(now, seq, End::Decided(bytes)),
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
            self.give_back(seq);
            self.enqueue(now, seq);
        }
    }

    /// The operation's worker no longer counts as running it.
    fn give_back(&mut self, seq: Seq) {
        let Some(operation) = self.operations.get_mut(&seq) else { return };
        if let Phase::Leased(_) = operation.phase {
            self.executing -= 1;
            if let Some(pool) = self.pools.get_mut(&operation.pool) {
                pool.queue.ended(&operation.flow);
            }
        }
    }

    /// Ends an operation, wherever it stands.
    fn end(&mut self, now: Now, seq: Seq, end: End) {
        let Some(operation) = self.operations.get_mut(&seq) else { return };
        let leased = match operation.phase {
            Phase::Queued { .. } => {
                if let Some(pool) = self.pools.get_mut(&operation.pool) {
                    pool.queue.remove(operation.priority, &operation.flow, seq);
                }
                None
            }
            Phase::Leased(leased) => Some(leased),
            Phase::Ended { .. } => return,
        };
        self.give_back(seq);
        let Some(operation) = self.operations.get_mut(&seq) else { return };
        if operation.mergeable {
            self.mergeable.remove(&operation.key);
        }
        let bytes = match &end {
            End::Decided(bytes) => bytes.len(),
            End::Failed(_) => 0,
        };
        operation.phase = Phase::Ended { at: now.since_start, bytes };
        operation.story = Vec::new();
        let (pool, forget) = (operation.pool, operation.forget);
        self.finished.insert((now.since_start, seq));
        self.finished_bytes += bytes;
        let stage = Stage::Completed { at: now.wall, end };
        self.effects.push(Effect::Publish(Arc::new(operation.state(stage))));
        self.set_due(seq);
        self.left_pool(pool);
        if let Some(leased) = leased {
            self.revoke(now, leased);
        }
        if forget {
            self.drop_operation(seq);
        }
        self.forget_oldest();
    }

    fn left_pool(&mut self, id: PoolId) {
        let Some(pool) = self.pools.get_mut(&id) else { return };
        pool.operations -= 1;
        if pool.operations == 0 {
            self.idle_pools.insert(id);
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

    /// Forgets an operation that has ended.
    fn drop_operation(&mut self, seq: Seq) {
        let Some(mut operation) = self.operations.remove(&seq) else { return };
        if let Phase::Ended { at, bytes } = operation.phase {
            self.finished.remove(&(at, seq));
            self.finished_bytes -= bytes;
        }
        self.timers.set(Subject::Operation(seq), &mut operation.due, None);
        self.by_id.remove(&operation.id);
        self.effects.push(Effect::Forget(operation.id));
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
        let why: Arc<str> = explain(&pool.requirement, offers).into();
        let waiting: Vec<Seq> = pool.queue.iter().collect();
        for seq in waiting {
            self.end(now, seq, End::Failed(Failure::Unsatisfiable(Arc::clone(&why))));
        }
    }

    pub(super) fn operation_due(&mut self, now: Now, seq: Seq) {
        let Some(operation) = self.operations.get_mut(&seq) else { return };
        let passed = |at: Duration| at <= now.since_start;
        let unwatched = operation.unwatched_since.is_some_and(|at| passed(at + UNWATCHED_GRACE));
        match &mut operation.phase {
            Phase::Ended { .. } => self.drop_operation(seq),
            _ if unwatched => {
                let why = "nobody waited for it any more";
                self.end(now, seq, End::Failed(Failure::Cancelled(why.into())));
            }
            Phase::Queued { .. } if passed(operation.queued_at + MAX_QUEUED_FOR) => {
                self.end(now, seq, End::Failed(Failure::Starved(MAX_QUEUED_FOR)));
            }
            Phase::Queued { place_at } => {
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
        }
    }

    /// Tells a worker to stop what it had been granted, if it still has it.
    fn revoke(&mut self, now: Now, leased: Leased) {
        if self.revoked(now, leased) {
            self.effects.push(Effect::Tell(leased.worker, ToWorker::Revoke(leased.lease)));
        }
    }

    /// Sets when an operation is looked at again.
    fn set_due(&mut self, seq: Seq) {
        let Some(operation) = self.operations.get_mut(&seq) else { return };
        let at = match operation.phase {
            Phase::Queued { place_at } => place_at.min(operation.queued_at + MAX_QUEUED_FOR),
            Phase::Leased(leased) => leased.deadline,
            Phase::Ended { at, .. } => at + FINISHED_KEPT_FOR,
        };
        let at = match (&operation.phase, operation.unwatched_since) {
            (Phase::Queued { .. } | Phase::Leased(_), Some(since)) => {
                at.min(since + UNWATCHED_GRACE)
            }
            _ => at,
        };
        self.timers.set(Subject::Operation(seq), &mut operation.due, Some(at));
    }

    /// Shows where an operation stands that has not ended.
    pub(super) fn publish(&mut self, seq: Seq) {
        let Some(operation) = self.operations.get(&seq) else { return };
        let stage = match &operation.phase {
            Phase::Queued { .. } => match self.pools.get(&operation.pool) {
                Some(pool) => Stage::Queued(Place {
                    ahead: pool.queue.ahead(operation.priority, &operation.flow, seq),
                    waiting: pool.queue.len() as u64,
                    slots: pool.slots,
                }),
                None => Stage::Queued(Place::default()),
            },
            Phase::Leased(leased) => Stage::Executing {
                worker: self.worker_name(leased.worker),
                progress: leased.progress,
                attempt: operation.attempt(),
                since: leased.since,
            },
            Phase::Ended { .. } => return,
        };
        self.effects.push(Effect::Publish(Arc::new(operation.state(stage))));
    }
}

impl Operation {
    fn attempt(&self) -> u32 {
        u32::try_from(self.story.len()).unwrap_or(u32::MAX).saturating_add(1)
    }

    fn state(&self, stage: Stage) -> OperationState {
        OperationState {
            id: self.id,
            key: Arc::clone(&self.key),
            invocation: Arc::clone(&self.flow.invocation),
            priority: self.priority,
            queued_at: self.queued_wall,
            stage,
        }
    }
}

/// How long until the next place is told: the longer the queue, the longer.
fn place_interval(pool: &Pool) -> Duration {
    PLACE_EVERY.max(Duration::from_secs(pool.queue.len() as u64 / PLACES_PER_SECOND))
}
