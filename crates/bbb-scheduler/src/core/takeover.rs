//! What runs is taken up and not run twice: workers that are waited for, and what they bring when they come.

use std::{sync::Arc, time::Duration};

use super::{
    Core, Effect, Now, WorkerId,
    limits::phase_limit,
    operation::{Awaiting, Leased, Phase},
    queue::Seq,
};
use crate::{
    AttemptId, End, Holding, HoldingState, Known, OperationId, Outcome, Progress, Task, ToWorker,
};

impl Core {
    /// Takes up or ends what a worker brought, and queues what it was believed to have and did not bring. It hears of
    /// each task that it brought.
    pub(super) fn take_over(&mut self, now: Now, id: WorkerId, holdings: Vec<Holding>) {
        let name = self.worker_name(id);
        let mut holdings = holdings;
        // What runs has the slots. Those that are equal keep the order in which they were given.
        holdings.sort_by_key(|holding| std::cmp::Reverse(progress_of(&holding.state)));
        for Holding { task, state } in holdings {
            let (operation, attempt_id) = (task.operation, task.attempt_id);
            let taken = match (self.brought(now, &name, task), state) {
                (None, _) => false,
                (Some(seq), HoldingState::Held(progress)) => {
                    self.take_up(now, id, seq, (operation, attempt_id), progress)
                }
                (Some(seq), HoldingState::Ended(outcome)) => {
                    self.heard_end(now, seq, outcome, &name);
                    false
                }
            };
            if !taken {
                self.effects.push(Effect::Tell(id, ToWorker::Abandon(operation)));
            }
        }
        let first = (Arc::clone(&name), Seq(0));
        let missing: Vec<Seq> = (self.awaited.range(first..))
            .take_while(|(worker, _)| *worker == name)
            .map(|(_, seq)| *seq)
            .collect();
        for seq in missing {
            self.gave_up_waiting(now, seq, "it came back without it");
        }
    }

    /// A worker's connection broke: it may come back with what it has.
    pub(super) fn wait_for_return(
        &mut self,
        now: Now,
        seq: Seq,
        worker: &Arc<str>,
        until: Duration,
    ) {
        let Some(operation) = self.operations.get(&seq) else { return };
        let Phase::Leased(leased) = operation.phase else { return };
        let awaiting = Awaiting {
            worker: Arc::clone(worker),
            until,
            was_leased: true,
            progress: leased.progress,
            since: leased.since,
            attempt_id: Some(leased.attempt_id),
        };
        self.wait_for_worker(now, seq, awaiting);
    }

    /// Lets an operation wait for the worker that is believed to have it.
    pub(super) fn wait_for_worker(&mut self, now: Now, seq: Seq, awaiting: Awaiting) {
        self.detach(now, seq);
        let Some(operation) = self.operations.get_mut(&seq) else { return };
        self.awaited.insert((Arc::clone(&awaiting.worker), seq));
        operation.phase = Phase::Awaiting(awaiting);
        self.attached(seq);
    }

    /// A worker that was waited for does not have the operation.
    pub(super) fn gave_up_waiting(&mut self, now: Now, seq: Seq, why: &str) {
        let Some(operation) = self.operations.get(&seq) else { return };
        let Phase::Awaiting(awaiting) = &operation.phase else { return };
        if awaiting.was_leased {
            let what = format!("worker {} was lost: {why}", awaiting.worker);
            self.attempt_failed(now, seq, what);
        } else {
            self.detach(now, seq);
            self.enqueue(now, seq);
        }
    }

    /// The operation that a worker brought. What is not known is made anew, as waiting for that worker.
    fn brought(&mut self, now: Now, worker: &Arc<str>, task: Task) -> Option<Seq> {
        let id = task.operation;
        if let Some(&seq) = self.by_id.get(&id) {
            return Some(seq);
        }
        let mut submission = task.submission;
        if submission.mergeable
            && let Some(&seq) = self.mergeable.get(&submission.key)
        {
            self.named(seq, Some(id), false);
            return Some(seq);
        }
        // The worker knows how many attempts were made, and not what became of them.
        let earlier = 1..task.attempt.min(super::limits::MAX_ATTEMPTS as u32);
        submission.known = Some(Box::new(Known {
            id,
            queued_at: task.queued_at,
            held_by: None,
            attempts: earlier.map(|_| "on an earlier scheduler".to_owned()).collect(),
        }));
        let seq = self.admit(now, id, submission, false).ok()?;
        let awaiting = Awaiting {
            worker: Arc::clone(worker),
            until: now.since_start,
            was_leased: false,
            progress: Progress::Fetching,
            since: now.wall,
            attempt_id: Some(task.attempt_id),
        };
        self.wait_for_worker(now, seq, awaiting);
        Some(seq)
    }

    /// Lets a worker go on with what it brought, unless the operation has ended or another worker has it by now.
    fn take_up(
        &mut self,
        now: Now,
        id: WorkerId,
        seq: Seq,
        (name, attempt_id): (OperationId, AttemptId),
        progress: Progress,
    ) -> bool {
        let Some(operation) = self.operations.get(&seq) else { return false };
        let since = match &operation.phase {
            Phase::Ended { .. } | Phase::Leased(_) => return false,
            Phase::Queued { .. } => now.wall,
            Phase::Awaiting(awaiting) => awaiting.since,
        };
        self.detach(now, seq);
        let lease = self.next_lease();
        let Some(operation) = self.operations.get_mut(&seq) else { return false };
        let deadline = now.since_start.saturating_add(phase_limit(progress, operation.timeout));
        operation.phase =
            Phase::Leased(Leased { worker: id, lease, progress, since, attempt_id, deadline });
        self.attached(seq);
        self.lend(now, id, lease, seq, progress);
        self.effects.push(Effect::Tell(id, ToWorker::Keep(lease, name)));
        self.publish(seq);
        true
    }

    /// A worker brought the end of a task that it had from another scheduler or over another connection. A failure
    /// counts only if the worker was waited for: else the attempt was counted already.
    fn heard_end(&mut self, now: Now, seq: Seq, outcome: Outcome, worker: &Arc<str>) {
        let Some(operation) = self.operations.get(&seq) else { return };
        let waited_for = match &operation.phase {
            Phase::Awaiting(awaiting) => awaiting.worker == *worker,
            _ => false,
        };
        match outcome {
            Outcome::Decided(bytes) => self.end(now, seq, End::Decided(bytes)),
            Outcome::Failed(_) if !waited_for => return,
            failed @ Outcome::Failed(_) => self.decided(now, seq, failed, worker),
        }
        self.note_decided(seq, worker);
    }
}

/// How far a worker is with what it has; what has ended is through.
fn progress_of(state: &HoldingState) -> Option<Progress> {
    match state {
        HoldingState::Held(progress) => Some(*progress),
        HoldingState::Ended(_) => None,
    }
}
