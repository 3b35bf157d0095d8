//! What comes in about operations: handed in, once or again; watched, cancelled, forgotten.

use std::{sync::Arc, time::Duration};

use super::{
    Core, Full, Now,
    limits::{HANDED_IN_GRACE, MAX_ATTEMPTS, MAX_NAMES, MAX_QUEUED_FOR, MAX_REASON_LEN},
    names::Names,
    operation::{Awaiting, Operation, Phase},
    queue::{Flow, Seq},
    timers::Due,
};
use crate::{
    ActionKey, End, Failure, Known, MAX_INPUT_PARTS, OperationId, PRIORITIES, Progress, Submission,
};

impl Core {
    /// Queues work, or joins equal work. Gives the name under which it is then known and watched: the one that it is
    /// known by, or `fresh` if it has none, unless it joined an operation that has many names already.
    ///
    /// Handing in what is known by a name changes nothing if that was heard before. Until then it is queued with its
    /// age and its attempts, or waits for a moment for the worker that is said to have it.
    ///
    /// # Errors
    /// [`Full`] if too many operations have not ended.
    pub fn submit(
        &mut self,
        now: Now,
        fresh: OperationId,
        mut submission: Submission,
    ) -> Result<OperationId, Full> {
        self.arrive(now);
        let known = submission.known.as_mut();
        let id = known.as_ref().map_or(fresh, |known| known.id);
        let held_by = known.and_then(|known| known.held_by.take());
        let priority = clamped(submission.priority);
        if let Some(&seq) = self.by_id.get(&id) {
            self.join(now, seq, id, priority);
            return Ok(id);
        }
        if submission.mergeable {
            let ended =
                held_by.as_deref().and_then(|worker| self.ended_by(worker, &submission.key));
            if let Some(id) = ended {
                self.watched(now, id, true);
                return Ok(id);
            }
            if let Some(&seq) = self.mergeable.get(&submission.key) {
                // Without a name of its own it has that of what is there.
                let own = submission.known.is_some().then_some(id);
                let id = self.named(seq, own, true).unwrap_or(id);
                self.join(now, seq, id, priority);
                return Ok(id);
            }
        }
        let seq = self.admit(now, id, submission, true)?;
        match held_by {
            // One that is here did not bring it.
            Some(worker) if !self.worker_names.contains_key(&worker) => {
                let awaiting = Awaiting {
                    worker,
                    until: now.since_start + HANDED_IN_GRACE,
                    was_leased: false,
                    progress: Progress::Fetching,
                    since: now.wall,
                    attempt_id: None,
                };
                self.wait_for_worker(now, seq, awaiting);
                self.publish(seq);
            }
            _ => self.enqueue(now, seq),
        }
        Ok(id)
    }

    /// Ends an operation that has not ended, for all who watch it.
    pub fn cancel(&mut self, now: Now, id: OperationId, why: &'static str) {
        self.arrive(now);
        if let Some(&seq) = self.by_id.get(&id) {
            self.end(now, seq, End::Failed(Failure::Cancelled(why.into())));
        }
    }

    /// Forgets an operation under this name, once it has ended.
    pub fn forget(&mut self, now: Now, id: OperationId) {
        self.arrive(now);
        let Some(&seq) = self.by_id.get(&id) else { return };
        match self.operations.get_mut(&seq) {
            Some(operation) if !operation.has_ended() => operation.names.set_forget(id, true),
            _ => self.drop_name(seq, id),
        }
    }

    /// Someone watches the operation under this name, or nobody does any more.
    pub fn watched(&mut self, now: Now, id: OperationId, watched: bool) {
        self.arrive(now);
        let Some(&seq) = self.by_id.get(&id) else { return };
        let Some(operation) = self.operations.get_mut(&seq) else { return };
        operation.names.set_watched(id, watched);
        self.note_watched(now, seq);
    }

    /// Makes an operation, which is nowhere yet: the caller says whether it waits or runs.
    pub(super) fn admit(
        &mut self,
        now: Now,
        id: OperationId,
        submission: Submission,
        watched: bool,
    ) -> Result<Seq, Full> {
        if self.operations.len() - self.finished.len() >= self.limits.unfinished {
            return Err(Full("too many operations have not ended"));
        }
        let pool_id = self.pool(submission.requirement, submission.demand)?;
        self.last_seq += 1;
        let seq = Seq(self.last_seq);
        let key = Arc::new(submission.key);
        let flow = Flow { instance: key.instance.clone(), invocation: submission.invocation };
        let flow = self.entered_pool(pool_id, flow);
        if submission.mergeable {
            self.mergeable.entry(Arc::clone(&key)).or_insert(seq);
        }
        let known = submission.known.map(|known| *known);
        let (queued_wall, waited_before, story) = match known {
            Some(Known { queued_at, attempts, .. }) => {
                let waited = now.wall.duration_since(queued_at).unwrap_or_default();
                (queued_at.min(now.wall), waited.min(MAX_QUEUED_FOR), earlier(attempts))
            }
            None => (now.wall, Duration::ZERO, Vec::new()),
        };
        let operation = Operation {
            names: Names::new(id, watched),
            key,
            mergeable: submission.mergeable,
            timeout: submission.timeout,
            priority: clamped(submission.priority),
            flow,
            inputs: bounded(submission.inputs),
            pool: pool_id,
            queued_at: now.since_start,
            waited_before,
            queued_wall,
            phase: Phase::Queued { since: now.since_start, place_at: Duration::ZERO },
            story,
            recalls: 0,
            unwatched_since: (!watched).then_some(now.since_start),
            due: Due::default(),
        };
        self.operations.insert(seq, Box::new(operation));
        self.by_id.insert(id, seq);
        Ok(seq)
    }

    /// The name of an operation for one who comes with a name of his own, which it gets if it has not too many.
    pub(super) fn named(
        &mut self,
        seq: Seq,
        own: Option<OperationId>,
        watched: bool,
    ) -> Option<OperationId> {
        let names = &mut self.operations.get_mut(&seq)?.names;
        let Some(own) = own.filter(|_| names.len() < MAX_NAMES) else { return Some(names.first()) };
        names.add(own, watched);
        self.by_id.insert(own, seq);
        self.publish_as(seq, own);
        Some(own)
    }

    /// Another wants the same: as urgent as the more urgent of both.
    fn join(&mut self, now: Now, seq: Seq, id: OperationId, priority: i32) {
        let Some(operation) = self.operations.get_mut(&seq) else { return };
        operation.names.set_forget(id, false);
        let before = operation.priority;
        if priority < before && !operation.has_ended() {
            operation.priority = priority;
            if let (Phase::Queued { .. }, Some(pool)) =
                (&operation.phase, self.pools.get_mut(&operation.pool))
            {
                pool.queue.remove(before, &operation.flow, seq);
                pool.queue.push(priority, &operation.flow, seq);
            }
            self.publish(seq);
        }
        self.watched(now, id, true);
    }

    fn note_watched(&mut self, now: Now, seq: Seq) {
        let Some(operation) = self.operations.get_mut(&seq) else { return };
        let since = operation.unwatched_since.unwrap_or(now.since_start);
        let since = (!operation.names.are_watched()).then_some(since);
        if operation.unwatched_since != since {
            operation.unwatched_since = since;
            self.set_due(seq);
        }
    }
}

fn clamped(priority: i32) -> i32 {
    priority.clamp(*PRIORITIES.start(), *PRIORITIES.end())
}

/// What became of attempts elsewhere, within the bounds of what is kept of those here: one more is always made.
fn earlier(mut attempts: Vec<String>) -> Vec<String> {
    attempts.truncate(MAX_ATTEMPTS - 1);
    for attempt in &mut attempts {
        attempt.truncate(attempt.floor_char_boundary(MAX_REASON_LEN));
    }
    attempts
}

fn bounded(inputs: Arc<[crate::InputPart]>) -> Arc<[crate::InputPart]> {
    match inputs.get(..MAX_INPUT_PARTS) {
        Some(first) if inputs.len() > MAX_INPUT_PARTS => first.into(),
        _ => inputs,
    }
}

impl Core {
    /// The operation of equal work that this worker has ended here. It was known by another name when the worker took it.
    fn ended_by(&self, worker: &str, key: &ActionKey) -> Option<OperationId> {
        let (seq, by) = self.decided.get(key)?;
        let operation = self.operations.get(seq).filter(|_| **by == *worker)?;
        Some(operation.names.first())
    }
}
