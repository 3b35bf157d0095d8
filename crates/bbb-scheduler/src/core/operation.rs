//! An operation as the core keeps it.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    WorkerId,
    limits::{FINISHED_KEPT_FOR, MAX_QUEUED_FOR, UNWATCHED_GRACE},
    names::Names,
    pool::{Pool, PoolId},
    queue::{Flow, Seq},
    timers::Due,
};
use crate::{
    ActionKey, AttemptId, InputPart, Lease, OperationId, OperationState, Place, Progress, Stage,
    Submission, Task,
};

#[derive(Debug)]
pub(super) struct Operation {
    pub(super) names: Names,
    pub(super) key: Arc<ActionKey>,
    pub(super) mergeable: bool,
    pub(super) timeout: Duration,
    pub(super) priority: i32,
    pub(super) flow: Arc<Flow>,
    pub(super) inputs: Arc<[InputPart]>,
    pub(super) pool: PoolId,
    /// When it came here.
    pub(super) queued_at: Duration,
    /// How long it had been queued elsewhere before.
    pub(super) waited_before: Duration,
    pub(super) queued_wall: SystemTime,
    pub(super) phase: Phase,
    /// What became of earlier attempts.
    pub(super) story: Vec<String>,
    /// How often it was called back from a worker that had not begun it.
    pub(super) recalls: u8,
    pub(super) unwatched_since: Option<Duration>,
    pub(super) due: Due,
}

#[derive(Debug)]
pub(super) enum Phase {
    /// It waits for a slot.
    Queued { since: Duration, place_at: Duration },
    /// A worker has it.
    Leased(Leased),
    /// A worker is believed to have it, and to come back with it.
    Awaiting(Awaiting),
    /// It has ended.
    Ended { at: Duration, bytes: usize },
}

/// A grant, seen from its operation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leased {
    pub(super) worker: WorkerId,
    pub(super) lease: Lease,
    pub(super) progress: Progress,
    pub(super) since: SystemTime,
    pub(super) attempt_id: AttemptId,
    pub(super) deadline: Duration,
}

/// What is known of a task whose worker is not here.
#[derive(Clone, Debug)]
pub(super) struct Awaiting {
    pub(super) worker: Arc<str>,
    pub(super) until: Duration,
    /// Whether the worker had it from this scheduler: if it does not come back that was an attempt.
    pub(super) was_leased: bool,
    pub(super) progress: Progress,
    pub(super) since: SystemTime,
    /// None where only the worker knows.
    pub(super) attempt_id: Option<AttemptId>,
}

impl Operation {
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended { .. })
    }

    /// Which try the present or next one is, from 1 on.
    pub(super) fn attempt(&self) -> u32 {
        u32::try_from(self.story.len()).unwrap_or(u32::MAX).saturating_add(1)
    }

    /// How long ago it was queued first, here or elsewhere.
    pub(super) fn age(&self, now: Duration) -> Duration {
        now.saturating_sub(self.queued_at).saturating_add(self.waited_before)
    }

    /// When it has waited for longer than any operation may.
    pub(super) fn starves_at(&self) -> Duration {
        self.queued_at + MAX_QUEUED_FOR.saturating_sub(self.waited_before)
    }

    /// When it is to be looked at again.
    pub(super) fn due_at(&self) -> Duration {
        let at = match &self.phase {
            Phase::Queued { place_at, .. } => (*place_at).min(self.starves_at()),
            Phase::Leased(leased) => leased.deadline,
            Phase::Awaiting(awaiting) => awaiting.until,
            Phase::Ended { at, .. } => return *at + FINISHED_KEPT_FOR,
        };
        self.unwatched_since.map_or(at, |since| at.min(since + UNWATCHED_GRACE))
    }

    /// Its work, as a worker gets it.
    pub(super) fn task(&self, pool: &Pool, attempt_id: AttemptId) -> Task {
        Task {
            operation: self.names.first(),
            submission: Submission {
                key: (*self.key).clone(),
                mergeable: self.mergeable,
                requirement: pool.requirement.clone(),
                timeout: self.timeout,
                priority: self.priority,
                invocation: Arc::clone(&self.flow.invocation),
                demand: pool.demand,
                inputs: Arc::clone(&self.inputs),
                known: None,
            },
            queued_at: self.queued_wall,
            attempt: self.attempt(),
            attempt_id,
        }
    }

    /// Its state under one of its names.
    pub(super) fn state(&self, id: OperationId, stage: Stage) -> OperationState {
        OperationState {
            id,
            key: Arc::clone(&self.key),
            invocation: Arc::clone(&self.flow.invocation),
            priority: self.priority,
            queued_at: self.queued_wall,
            stage,
        }
    }

    /// Where it stands in its pool's queue.
    pub(super) fn place(&self, seq: Seq, pool: Option<&Pool>) -> Place {
        pool.map_or_else(Place::default, |pool| Place {
            ahead: pool.queue.ahead(self.priority, &self.flow, seq),
            waiting: pool.queue.len() as u64,
            slots: pool.slots,
        })
    }
}
