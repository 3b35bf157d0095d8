use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bbb_digest::{Digest, Function};
use bbb_scheduler::{
    ActionKey, AttemptId, Demand, End, Failure, FromWorker, Holding, HoldingState, InputPart,
    Known, Lease, Listing, OperationId, OperationState, Outcome, Place, PoolState, Progress,
    Snapshot, Stage, Staged, Story, Submission, Task, ToWorker, WorkerOffer, WorkerState,
};

use super::*;
use crate::{
    proto,
    work::{Found, FromScheduler, ToScheduler},
};

const ID: OperationId = OperationId(1 << 127 | 7);

fn moment(us: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(us)
}

fn submission() -> Submission {
    let known = Known {
        id: ID,
        queued_at: moment(1),
        held_by: Some("w".into()),
        attempts: vec!["one".into()],
    };
    let key = ActionKey {
        instance: "main/ci".parse().unwrap(),
        action: Digest::of(Function::Blake3, b"a"),
    };
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    Submission {
        mergeable: false,
        requirement: [pair("a", "1"), pair("a", "2")].into_iter().collect(),
        timeout: Duration::from_millis(1500),
        priority: -3,
        invocation: "build".into(),
        demand: Demand { millicpus: 500, memory_bytes: 7 },
        inputs: [InputPart { key: u64::MAX, bytes: 9 }].into(),
        known: Some(Box::new(known)),
        ..Submission::of(key)
    }
}

fn state(stage: Stage) -> Arc<OperationState> {
    Arc::new(OperationState {
        id: ID,
        key: Arc::new(submission().key),
        invocation: "build".into(),
        priority: 5,
        queued_at: moment(2),
        stage,
    })
}

fn states() -> Vec<Arc<OperationState>> {
    let failures = [
        Failure::Unsatisfiable("nobody".into()),
        Failure::Attempts(Story(vec!["one".into(), "two".into()])),
        Failure::Cancelled("so".into()),
        Failure::Starved(Duration::from_secs(9)),
    ];
    let ends = failures.into_iter().map(End::Failed).chain([End::Decided("response".into())]);
    let completed = ends.map(|end| Stage::Completed { at: moment(3), end });
    let executing = [Progress::Fetching, Progress::Running, Progress::Uploading].map(|progress| {
        Stage::Executing {
            worker: "w".into(),
            progress,
            attempt: 2,
            since: moment(4),
            attempt_id: (progress != Progress::Fetching).then_some(AttemptId(7 << 90)),
        }
    });
    let queued = Stage::Queued(Place { ahead: 1, waiting: 2, slots: 3 });
    completed.chain(executing).chain([queued]).map(state).collect()
}

fn task() -> Task {
    let attempt_id = AttemptId(9 << 80);
    Task { operation: ID, submission: submission(), queued_at: moment(5), attempt: 3, attempt_id }
}

/// That a word is the same after its way over the wire.
#[track_caller]
fn comes_through<W, M>(word: W)
where
    W: Read<M> + Write<M> + Clone + PartialEq + std::fmt::Debug,
{
    let message = word.clone().write().expect("it is more than a sign of life");
    assert_eq!(read(message), Ok(word));
}

#[test]
fn what_is_said_of_operations_comes_through() {
    for said in [
        ToScheduler::Submit(Box::new(submission())),
        ToScheduler::Watch(ID),
        ToScheduler::Unwatch(ID),
        ToScheduler::Cancel(ID),
        ToScheduler::Forget(ID),
    ] {
        comes_through::<_, proto::NodeSaying>(said);
    }
    let states = states().into_iter().map(|state| FromScheduler::State(ID, state));
    let others = [FromScheduler::Unknown(ID), FromScheduler::Refused(ID, "full".into())];
    for said in states.chain(others) {
        comes_through::<_, proto::SchedulerSaying>(said);
    }
}

#[test]
fn what_workers_and_schedulers_say_comes_through() {
    let lease = Lease(7);
    for said in [
        FromWorker::Progress(lease, Progress::Uploading),
        FromWorker::Staged(lease, Staged { needed_bytes: 1, fetched_bytes: 2 }),
        FromWorker::Done(lease, Outcome::Decided("response".into())),
        FromWorker::Done(lease, Outcome::Failed("why".into())),
        FromWorker::Returned(lease),
        FromWorker::Draining,
    ] {
        comes_through::<_, proto::Report>(said);
    }
    for said in [
        ToWorker::Run(lease, Box::new(task())),
        ToWorker::Keep(lease, ID),
        ToWorker::Abandon(ID),
        ToWorker::Recall(lease),
        ToWorker::Revoke(lease),
    ] {
        comes_through::<_, proto::Order>(said);
    }
    let states =
        [HoldingState::Held(Progress::Running), HoldingState::Ended(Outcome::Failed("why".into()))];
    for state in states {
        let holding = Holding { task: task(), state };
        assert_eq!(read(proto::HeldTask::from(holding.clone())), Ok(holding));
    }
}

#[test]
fn answers_come_through() {
    let (operations, next) = (states(), Some(ID));
    let listing: Listing =
        read(proto::ListResponse::from(Listing { operations: operations.clone(), next })).unwrap();
    assert_eq!((listing.operations, listing.next), (operations, next));
    let end: Listing = read(proto::ListResponse::from(Listing::default())).unwrap();
    assert!(end.operations.is_empty() && end.next.is_none());
    let found = Some(Found { state: states().remove(0), submission: Some(submission().into()) });
    assert_eq!(read(proto::FindResponse::from(found.clone())), Ok(found));
    assert_eq!(read::<Option<Found>, _>(proto::FindResponse::from(None)), Ok(None));
    let offer = WorkerOffer {
        platform: submission().requirement,
        prefetch: 2,
        capacity: Demand { millicpus: 8000, memory_bytes: 9 },
        ..WorkerOffer::of("w", 4)
    };
    let snapshot = Snapshot {
        queued: 1,
        executing: 2,
        completed: 3,
        workers: vec![WorkerState { offer, busy: 3, draining: true }],
        pools: vec![PoolState {
            requirement: submission().requirement,
            demand: submission().demand,
            queued: 4,
            executing: 5,
            oldest_wait: Duration::from_micros(6),
            slots: 7,
        }],
        granted: 8,
        waited: Duration::from_micros(9),
    };
    assert_eq!(read(proto::SnapshotResponse::from(snapshot.clone())), Ok(snapshot));
}

#[test]
fn what_says_nothing_sensible_is_none() {
    let garbled = |message: proto::NodeSaying| read::<ToScheduler, _>(message).unwrap_err();
    assert_eq!(garbled(proto::NodeSaying { saying: None }), Garbled("saying"));
    let short = proto::node_saying::Saying::Watch("short".into());
    assert_eq!(garbled(proto::NodeSaying { saying: Some(short) }), Garbled("operation's name"));
    let mut message = proto::Submission::from(&submission());
    message.instance_name = "a//b".into();
    assert_eq!(read::<Submission, _>(message), Err(Garbled("instance")));
    let mut message = proto::Submission::from(&submission());
    message.action = None;
    assert_eq!(read::<Submission, _>(message), Err(Garbled("digest")));
    let mut message = proto::OperationState::from(&*states()[0]);
    message.stage = None;
    assert_eq!(read::<Arc<OperationState>, _>(message), Err(Garbled("stage")));
}
