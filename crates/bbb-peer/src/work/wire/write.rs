//! From words to messages.

use std::time::{Duration, SystemTime};

use bbb_scheduler::{
    AttemptId, Demand, End, Failure, FromWorker, Holding, HoldingState, InputPart, Known, Listing,
    OperationId, OperationState, Outcome, Place, Platform, PoolState, Progress, Snapshot, Stage,
    StageKind, Submission, Task, ToWorker, WorkerOffer, WorkerState,
};
use bytes::Bytes;

use crate::{
    proto,
    wire::digest,
    work::{Found, FromScheduler, ToScheduler},
};

/// The bytes of a name.
pub(in crate::work) fn id(id: OperationId) -> Bytes {
    Bytes::copy_from_slice(&id.0.to_be_bytes())
}

/// The same of an attempt's.
fn attempt(attempt: AttemptId) -> Bytes {
    Bytes::copy_from_slice(&attempt.0.to_be_bytes())
}

/// A word that goes as a message `M`.
pub(in crate::work) trait Write<M> {
    /// Nothing for a sign of life.
    fn write(self) -> Option<M>;
}

/// How many bytes an outcome takes, about.
pub(in crate::work) fn outcome_bytes(outcome: &Outcome) -> usize {
    match outcome {
        Outcome::Decided(response) => response.len(),
        Outcome::Failed(why) => why.len(),
    }
}

fn time_us(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    us(since)
}

fn us(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn properties(platform: &Platform) -> Vec<proto::Property> {
    let property = |(name, value): (&str, &str)| proto::Property {
        name: name.to_owned(),
        value: value.to_owned(),
    };
    platform.iter().map(property).collect()
}

impl From<Demand> for proto::Demand {
    fn from(demand: Demand) -> Self {
        let Demand { millicpus, memory_bytes } = demand;
        Self { millicpus, memory_bytes }
    }
}

impl From<&Submission> for proto::Submission {
    fn from(submission: &Submission) -> Self {
        let part = |part: &InputPart| proto::InputPart { key: part.key, bytes: part.bytes };
        Self {
            instance_name: submission.key.instance.to_string(),
            action: Some(digest(submission.key.action)),
            mergeable: submission.mergeable,
            requirement: properties(&submission.requirement),
            timeout_ms: ms(submission.timeout),
            priority: submission.priority,
            invocation: submission.invocation.to_string(),
            demand: Some(submission.demand.into()),
            inputs: submission.inputs.iter().map(part).collect(),
            known: submission.known.as_deref().map(Into::into),
        }
    }
}

impl From<&Known> for proto::Known {
    fn from(known: &Known) -> Self {
        Self {
            id: id(known.id),
            queued_at_us: time_us(known.queued_at),
            held_by: known.held_by.as_deref().unwrap_or_default().to_owned(),
            attempts: known.attempts.clone(),
        }
    }
}

impl From<&OperationState> for proto::OperationState {
    fn from(state: &OperationState) -> Self {
        use proto::operation_state::Stage as Wire;
        let stage = match &state.stage {
            Stage::Queued(Place { ahead, waiting, slots }) => {
                Wire::Queued(proto::Queued { ahead: *ahead, waiting: *waiting, slots: *slots })
            }
            Stage::Executing { worker, progress, attempt, since, attempt_id } => {
                Wire::Executing(proto::Executing {
                    worker: worker.to_string(),
                    progress: proto::Progress::from(*progress).into(),
                    attempt: *attempt,
                    since_us: time_us(*since),
                    attempt_id: attempt_id.map(self::attempt).unwrap_or_default(),
                })
            }
            Stage::Completed { at, end } => {
                Wire::Completed(proto::Completed { at_us: time_us(*at), end: Some(end.into()) })
            }
        };
        Self {
            id: id(state.id),
            instance_name: state.key.instance.to_string(),
            action: Some(digest(state.key.action)),
            invocation: state.invocation.to_string(),
            priority: state.priority,
            queued_at_us: time_us(state.queued_at),
            stage: Some(stage),
        }
    }
}

impl From<&End> for proto::completed::End {
    fn from(end: &End) -> Self {
        match end {
            End::Decided(response) => Self::Decided(response.clone()),
            End::Failed(Failure::Unsatisfiable(what)) => Self::Unsatisfiable(what.to_string()),
            End::Failed(Failure::Attempts(story)) => {
                Self::Attempts(proto::Story { attempts: story.0.clone() })
            }
            End::Failed(Failure::Cancelled(why)) => Self::Cancelled(why.to_string()),
            End::Failed(Failure::Starved(waited)) => Self::StarvedMs(ms(*waited)),
        }
    }
}

impl From<Progress> for proto::Progress {
    fn from(progress: Progress) -> Self {
        match progress {
            Progress::Fetching => Self::Fetching,
            Progress::Running => Self::Running,
            Progress::Uploading => Self::Uploading,
        }
    }
}

impl Write<proto::NodeSaying> for ToScheduler {
    fn write(self) -> Option<proto::NodeSaying> {
        use proto::node_saying::Saying;
        let saying = match self {
            Self::Alive => return None,
            Self::Submit(submission) => Saying::Submit((&*submission).into()),
            Self::Watch(name) => Saying::Watch(id(name)),
            Self::Unwatch(name) => Saying::Unwatch(id(name)),
            Self::Cancel(name) => Saying::Cancel(id(name)),
            Self::Forget(name) => Saying::Forget(id(name)),
        };
        Some(proto::NodeSaying { saying: Some(saying) })
    }
}

impl Write<proto::SchedulerSaying> for FromScheduler {
    fn write(self) -> Option<proto::SchedulerSaying> {
        use proto::scheduler_saying::Saying;
        let (name, saying) = match self {
            Self::Alive => return None,
            Self::State(name, state) => (name, Saying::State((&*state).into())),
            Self::Unknown(name) => (name, Saying::Unknown(proto::Unknown {})),
            Self::Refused(name, why) => (name, Saying::Refused(why)),
        };
        Some(proto::SchedulerSaying { id: id(name), saying: Some(saying) })
    }
}

impl From<Task> for proto::Task {
    fn from(task: Task) -> Self {
        Self {
            operation: id(task.operation),
            submission: Some((&task.submission).into()),
            queued_at_us: time_us(task.queued_at),
            attempt: task.attempt,
            attempt_id: attempt(task.attempt_id),
        }
    }
}

impl From<WorkerOffer> for proto::Offer {
    fn from(offer: WorkerOffer) -> Self {
        Self {
            platform: properties(&offer.platform),
            name: offer.name,
            slots: offer.slots,
            prefetch: offer.prefetch,
            capacity: Some(offer.capacity.into()),
        }
    }
}

impl From<Holding> for proto::HeldTask {
    fn from(holding: Holding) -> Self {
        use proto::held_task::State;
        let state = match holding.state {
            HoldingState::Held(progress) => State::Held(proto::Progress::from(progress).into()),
            HoldingState::Ended(outcome) => State::Ended(outcome.into()),
        };
        Self { task: Some(holding.task.into()), state: Some(state) }
    }
}

impl From<Outcome> for proto::Outcome {
    fn from(outcome: Outcome) -> Self {
        let outcome = match outcome {
            Outcome::Decided(response) => proto::outcome::Outcome::Decided(response),
            Outcome::Failed(why) => proto::outcome::Outcome::Failed(why),
        };
        Self { outcome: Some(outcome) }
    }
}

impl Write<proto::Report> for FromWorker {
    fn write(self) -> Option<proto::Report> {
        use proto::report::Report;
        let (lease, report) = match self {
            Self::Alive => return None,
            Self::Progress(lease, progress) => {
                (lease.0, Report::Progress(proto::Progress::from(progress).into()))
            }
            Self::Staged(lease, staged) => {
                let (needed_bytes, fetched_bytes) = (staged.needed_bytes, staged.fetched_bytes);
                (lease.0, Report::Staged(proto::Staged { needed_bytes, fetched_bytes }))
            }
            Self::Done(lease, outcome) => (lease.0, Report::Done(outcome.into())),
            Self::Returned(lease) => (lease.0, Report::Returned(proto::Returned {})),
            Self::Draining => (0, Report::Draining(proto::Draining {})),
        };
        Some(proto::Report { lease, report: Some(report) })
    }
}

impl Write<proto::Order> for ToWorker {
    fn write(self) -> Option<proto::Order> {
        use proto::order::Order;
        let (lease, order) = match self {
            Self::Alive => return None,
            Self::Run(lease, task) => (lease.0, Order::Run((*task).into())),
            Self::Keep(lease, name) => (lease.0, Order::Keep(id(name))),
            Self::Abandon(name) => (0, Order::Abandon(id(name))),
            Self::Recall(lease) => (lease.0, Order::Recall(proto::Recall {})),
            Self::Revoke(lease) => (lease.0, Order::Revoke(proto::Revoke {})),
        };
        Some(proto::Order { lease, order: Some(order) })
    }
}

impl From<Option<Found>> for proto::FindResponse {
    fn from(found: Option<Found>) -> Self {
        let Some(Found { state, submission }) = found else { return Self::default() };
        Self { state: Some((&*state).into()), submission: submission.as_deref().map(Into::into) }
    }
}

impl From<Option<StageKind>> for proto::StageKind {
    fn from(stage: Option<StageKind>) -> Self {
        match stage {
            None => Self::Any,
            Some(StageKind::Queued) => Self::Queued,
            Some(StageKind::Executing) => Self::Executing,
            Some(StageKind::Completed) => Self::Completed,
        }
    }
}

impl From<Listing> for proto::ListResponse {
    fn from(listing: Listing) -> Self {
        Self {
            operations: listing.operations.iter().map(|state| (&**state).into()).collect(),
            next: listing.next.map(id).unwrap_or_default(),
        }
    }
}

impl From<Snapshot> for proto::SnapshotResponse {
    fn from(snapshot: Snapshot) -> Self {
        Self {
            queued: snapshot.queued as u64,
            executing: snapshot.executing as u64,
            completed: snapshot.completed as u64,
            workers: snapshot.workers.into_iter().map(Into::into).collect(),
            pools: snapshot.pools.into_iter().map(Into::into).collect(),
            granted: snapshot.granted,
            waited_us: us(snapshot.waited),
        }
    }
}

impl From<WorkerState> for proto::WorkerState {
    fn from(worker: WorkerState) -> Self {
        let WorkerState { offer, busy, draining } = worker;
        Self { offer: Some(offer.into()), busy, is_draining: draining }
    }
}

impl From<PoolState> for proto::PoolState {
    fn from(pool: PoolState) -> Self {
        Self {
            requirement: properties(&pool.requirement),
            demand: Some(pool.demand.into()),
            queued: pool.queued as u64,
            executing: pool.executing as u64,
            oldest_wait_us: us(pool.oldest_wait),
            slots: pool.slots,
        }
    }
}
