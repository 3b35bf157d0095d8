//! From messages to words.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bbb_digest::Digest;
use bbb_scheduler::{
    ActionKey, AttemptId, Demand, End, Failure, FromWorker, Holding, HoldingState, InputPart,
    Known, Lease, Listing, MAX_INPUT_PARTS, OperationId, OperationState, Outcome, Place, Platform,
    PoolState, Progress, Snapshot, Stage, StageKind, Staged, Story, Submission, Task, ToWorker,
    WorkerOffer, WorkerState,
};

use crate::{
    proto,
    wire::read_digest,
    work::{Found, FromScheduler, ToScheduler},
};

/// A message that says nothing sensible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the message has no sensible {0}")]
pub(in crate::work) struct Garbled(pub(in crate::work) &'static str);

/// A word that comes as a message `M`.
pub(in crate::work) trait Read<M>: Sized {
    fn read(message: M) -> Result<Self, Garbled>;
}

/// The word that a message holds.
pub(in crate::work) fn read<T: Read<M>, M>(message: M) -> Result<T, Garbled> {
    T::read(message)
}

/// All words of messages.
fn all<T: Read<M>, M>(messages: Vec<M>) -> Result<Vec<T>, Garbled> {
    messages.into_iter().map(read).collect()
}

/// What stands in a field that must be there.
fn there<T: Read<M>, M>(name: &'static str, message: Option<M>) -> Result<T, Garbled> {
    read(message.ok_or(Garbled(name))?)
}

fn time(us: u64) -> Result<SystemTime, Garbled> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(us)).ok_or(Garbled("time"))
}

fn count(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn platform(properties: Vec<proto::Property>) -> Platform {
    properties.into_iter().map(|property| (property.name, property.value)).collect()
}

fn key(instance_name: &str, action: Option<&proto::Digest>) -> Result<ActionKey, Garbled> {
    let instance = instance_name.parse().map_err(|_| Garbled("instance"))?;
    let action: Option<Digest> = action.and_then(read_digest);
    Ok(ActionKey { instance, action: action.ok_or(Garbled("digest"))? })
}

impl Read<bytes::Bytes> for OperationId {
    fn read(message: bytes::Bytes) -> Result<Self, Garbled> {
        let bytes = <[u8; 16]>::try_from(&*message).map_err(|_| Garbled("operation's name"))?;
        Ok(Self(u128::from_be_bytes(bytes)))
    }
}

impl Read<bytes::Bytes> for AttemptId {
    fn read(message: bytes::Bytes) -> Result<Self, Garbled> {
        let bytes = <[u8; 16]>::try_from(&*message).map_err(|_| Garbled("attempt's name"))?;
        Ok(Self(u128::from_be_bytes(bytes)))
    }
}

impl Read<proto::Demand> for Demand {
    fn read(message: proto::Demand) -> Result<Self, Garbled> {
        let proto::Demand { millicpus, memory_bytes } = message;
        Ok(Self { millicpus, memory_bytes })
    }
}

impl Read<proto::Submission> for Submission {
    fn read(message: proto::Submission) -> Result<Self, Garbled> {
        let part = |part: proto::InputPart| InputPart { key: part.key, bytes: part.bytes };
        Ok(Self {
            key: key(&message.instance_name, message.action.as_ref())?,
            mergeable: message.mergeable,
            requirement: platform(message.requirement),
            timeout: Duration::from_millis(message.timeout_ms),
            priority: message.priority,
            invocation: message.invocation.into(),
            demand: read(message.demand.unwrap_or_default())?,
            inputs: message.inputs.into_iter().take(MAX_INPUT_PARTS).map(part).collect(),
            known: message.known.map(read).transpose()?.map(Box::new),
        })
    }
}

impl Read<proto::Known> for Known {
    fn read(message: proto::Known) -> Result<Self, Garbled> {
        Ok(Self {
            id: read(message.id)?,
            queued_at: time(message.queued_at_us)?,
            held_by: Some(message.held_by).filter(|name| !name.is_empty()).map(Arc::from),
            attempts: message.attempts,
        })
    }
}

impl Read<i32> for Progress {
    fn read(message: i32) -> Result<Self, Garbled> {
        match proto::Progress::try_from(message) {
            Ok(proto::Progress::Fetching) => Ok(Self::Fetching),
            Ok(proto::Progress::Running) => Ok(Self::Running),
            Ok(proto::Progress::Uploading) => Ok(Self::Uploading),
            Err(_) => Err(Garbled("progress")),
        }
    }
}

impl Read<proto::OperationState> for Arc<OperationState> {
    fn read(message: proto::OperationState) -> Result<Self, Garbled> {
        use proto::operation_state::Stage as Wire;
        let stage = match message.stage.ok_or(Garbled("stage"))? {
            Wire::Queued(proto::Queued { ahead, waiting, slots }) => {
                Stage::Queued(Place { ahead, waiting, slots })
            }
            Wire::Executing(executing) => Stage::Executing {
                worker: executing.worker.into(),
                progress: read(executing.progress)?,
                attempt: executing.attempt,
                since: time(executing.since_us)?,
                attempt_id: match executing.attempt_id.is_empty() {
                    true => None,
                    false => Some(read(executing.attempt_id)?),
                },
            },
            Wire::Completed(proto::Completed { at_us, end }) => {
                Stage::Completed { at: time(at_us)?, end: there("end", end)? }
            }
        };
        Ok(Self::new(OperationState {
            id: read(message.id)?,
            key: Arc::new(key(&message.instance_name, message.action.as_ref())?),
            invocation: message.invocation.into(),
            priority: message.priority,
            queued_at: time(message.queued_at_us)?,
            stage,
        }))
    }
}

impl Read<proto::completed::End> for End {
    fn read(message: proto::completed::End) -> Result<Self, Garbled> {
        use proto::completed::End as Wire;
        let failure = match message {
            Wire::Decided(response) => return Ok(Self::Decided(response)),
            Wire::Unsatisfiable(what) => Failure::Unsatisfiable(what.into()),
            Wire::Attempts(story) => Failure::Attempts(Story(story.attempts)),
            Wire::Cancelled(why) => Failure::Cancelled(why.into()),
            Wire::StarvedMs(waited) => Failure::Starved(Duration::from_millis(waited)),
        };
        Ok(Self::Failed(failure))
    }
}

impl Read<proto::NodeSaying> for ToScheduler {
    fn read(message: proto::NodeSaying) -> Result<Self, Garbled> {
        use proto::node_saying::Saying;
        Ok(match message.saying.ok_or(Garbled("saying"))? {
            Saying::Submit(submission) => Self::Submit(Box::new(read(submission)?)),
            Saying::Watch(id) => Self::Watch(read(id)?),
            Saying::Unwatch(id) => Self::Unwatch(read(id)?),
            Saying::Cancel(id) => Self::Cancel(read(id)?),
            Saying::Forget(id) => Self::Forget(read(id)?),
        })
    }
}

impl Read<proto::SchedulerSaying> for FromScheduler {
    fn read(message: proto::SchedulerSaying) -> Result<Self, Garbled> {
        use proto::scheduler_saying::Saying;
        let id = read(message.id)?;
        Ok(match message.saying.ok_or(Garbled("saying"))? {
            Saying::State(state) => Self::State(id, read(state)?),
            Saying::Unknown(proto::Unknown {}) => Self::Unknown(id),
            Saying::Refused(why) => Self::Refused(id, why),
        })
    }
}

impl Read<proto::Task> for Task {
    fn read(message: proto::Task) -> Result<Self, Garbled> {
        Ok(Self {
            operation: read(message.operation)?,
            submission: there("submission", message.submission)?,
            queued_at: time(message.queued_at_us)?,
            attempt: message.attempt,
            attempt_id: read(message.attempt_id)?,
        })
    }
}

impl Read<proto::Offer> for WorkerOffer {
    fn read(message: proto::Offer) -> Result<Self, Garbled> {
        Ok(Self {
            name: message.name,
            slots: message.slots,
            platform: platform(message.platform),
            prefetch: message.prefetch,
            capacity: read(message.capacity.unwrap_or_default())?,
        })
    }
}

impl Read<proto::HeldTask> for Holding {
    fn read(message: proto::HeldTask) -> Result<Self, Garbled> {
        use proto::held_task::State;
        let state = match message.state.ok_or(Garbled("state"))? {
            State::Held(progress) => HoldingState::Held(read(progress)?),
            State::Ended(outcome) => HoldingState::Ended(read(outcome)?),
        };
        Ok(Self { task: there("task", message.task)?, state })
    }
}

impl Read<proto::Outcome> for Outcome {
    fn read(message: proto::Outcome) -> Result<Self, Garbled> {
        match message.outcome.ok_or(Garbled("outcome"))? {
            proto::outcome::Outcome::Decided(response) => Ok(Self::Decided(response)),
            proto::outcome::Outcome::Failed(why) => Ok(Self::Failed(why)),
        }
    }
}

impl Read<proto::Report> for FromWorker {
    fn read(message: proto::Report) -> Result<Self, Garbled> {
        use proto::report::Report;
        let lease = Lease(message.lease);
        Ok(match message.report.ok_or(Garbled("report"))? {
            Report::Progress(progress) => Self::Progress(lease, read(progress)?),
            Report::Staged(proto::Staged { needed_bytes, fetched_bytes }) => {
                Self::Staged(lease, Staged { needed_bytes, fetched_bytes })
            }
            Report::Done(outcome) => Self::Done(lease, read(outcome)?),
            Report::Returned(proto::Returned {}) => Self::Returned(lease),
            Report::Draining(proto::Draining {}) => Self::Draining,
        })
    }
}

impl Read<proto::Order> for ToWorker {
    fn read(message: proto::Order) -> Result<Self, Garbled> {
        use proto::order::Order;
        let lease = Lease(message.lease);
        Ok(match message.order.ok_or(Garbled("order"))? {
            Order::Run(task) => Self::Run(lease, Box::new(read(task)?)),
            Order::Keep(id) => Self::Keep(lease, read(id)?),
            Order::Abandon(id) => Self::Abandon(read(id)?),
            Order::Recall(proto::Recall {}) => Self::Recall(lease),
            Order::Revoke(proto::Revoke {}) => Self::Revoke(lease),
        })
    }
}

impl Read<proto::FindResponse> for Option<Found> {
    fn read(message: proto::FindResponse) -> Result<Self, Garbled> {
        let Some(state) = message.state else { return Ok(None) };
        let submission = message.submission.map(read).transpose()?.map(Box::new);
        Ok(Some(Found { state: read(state)?, submission }))
    }
}

impl Read<i32> for Option<StageKind> {
    fn read(message: i32) -> Result<Self, Garbled> {
        match proto::StageKind::try_from(message) {
            Ok(proto::StageKind::Any) => Ok(None),
            Ok(proto::StageKind::Queued) => Ok(Some(StageKind::Queued)),
            Ok(proto::StageKind::Executing) => Ok(Some(StageKind::Executing)),
            Ok(proto::StageKind::Completed) => Ok(Some(StageKind::Completed)),
            Err(_) => Err(Garbled("stage")),
        }
    }
}

/// No name where there are no bytes.
impl Read<bytes::Bytes> for Option<OperationId> {
    fn read(message: bytes::Bytes) -> Result<Self, Garbled> {
        (!message.is_empty()).then(|| read(message)).transpose()
    }
}

impl Read<proto::ListResponse> for Listing {
    fn read(message: proto::ListResponse) -> Result<Self, Garbled> {
        Ok(Self { operations: all(message.operations)?, next: read(message.next)? })
    }
}

impl Read<proto::SnapshotResponse> for Snapshot {
    fn read(message: proto::SnapshotResponse) -> Result<Self, Garbled> {
        Ok(Self {
            queued: count(message.queued),
            executing: count(message.executing),
            completed: count(message.completed),
            workers: all(message.workers)?,
            pools: all(message.pools)?,
            granted: message.granted,
            waited: Duration::from_micros(message.waited_us),
        })
    }
}

impl Read<proto::WorkerState> for WorkerState {
    fn read(message: proto::WorkerState) -> Result<Self, Garbled> {
        let proto::WorkerState { offer, busy, is_draining } = message;
        Ok(Self { offer: there("offer", offer)?, busy, draining: is_draining })
    }
}

impl Read<proto::PoolState> for PoolState {
    fn read(message: proto::PoolState) -> Result<Self, Garbled> {
        Ok(Self {
            requirement: platform(message.requirement),
            demand: read(message.demand.unwrap_or_default())?,
            queued: count(message.queued),
            executing: count(message.executing),
            oldest_wait: Duration::from_micros(message.oldest_wait_us),
            slots: message.slots,
        })
    }
}
