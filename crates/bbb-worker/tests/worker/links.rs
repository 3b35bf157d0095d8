//! A worker whose schedulers come and go.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bbb_digest::{Digest, Function};
use bbb_lifecycle::TaskGroup;
use bbb_scheduler::{
    ActionKey, AttemptId, Dispatch, DispatchError, Filter, FromWorker, Holding, HoldingState,
    Lease, Listing, OperationId, Outcome, Page, Progress, SchedulerEnd, Snapshot, Submission, Task,
    ToWorker, Watch, WorkerLink, WorkerOffer,
};
use bbb_worker::{Executor, Report, Slots};
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

/// Schedulers that a test plays: each attachment of the worker is one.
#[derive(Debug)]
struct Played(mpsc::Sender<Attachment>);

/// What a worker brought, and the end that the test has.
struct Attachment {
    holdings: Vec<Holding>,
    end: SchedulerEnd,
}

#[async_trait]
impl Dispatch for Played {
    async fn attach(
        &self,
        offer: WorkerOffer,
        holdings: Vec<Holding>,
    ) -> Result<WorkerLink, DispatchError> {
        let (link, end) = WorkerLink::pair(offer.slots + offer.prefetch + holdings.len() as u32);
        let attachment = Attachment { holdings, end };
        self.0.send(attachment).await.map_err(|_| DispatchError::Stopped)?;
        Ok(link)
    }

    async fn submit(&self, _: Submission) -> Result<Watch, DispatchError> {
        Err(DispatchError::Stopped)
    }

    async fn find(&self, _: OperationId) -> Result<Option<Watch>, DispatchError> {
        Err(DispatchError::Stopped)
    }

    async fn list(&self, _: Filter, _: Page) -> Result<Listing, DispatchError> {
        Err(DispatchError::Stopped)
    }

    async fn cancel(&self, _: OperationId) -> Result<(), DispatchError> {
        Err(DispatchError::Stopped)
    }

    async fn forget(&self, _: OperationId) -> Result<(), DispatchError> {
        Err(DispatchError::Stopped)
    }

    async fn snapshot(&self) -> Result<Snapshot, DispatchError> {
        Err(DispatchError::Stopped)
    }
}

/// Runs each task until the test says what comes of it.
#[derive(Debug)]
struct Steered(mpsc::UnboundedSender<Running>);

/// A task in the hands of the test.
struct Running {
    operation: OperationId,
    outcome: oneshot::Sender<Outcome>,
}

#[async_trait]
impl Executor for Steered {
    async fn execute(&self, task: Task, report: Report) -> Outcome {
        report.turn().await;
        report.progress(Progress::Running);
        let (outcome, decided) = oneshot::channel();
        self.0.send(Running { operation: task.operation, outcome }).unwrap();
        decided.await.unwrap()
    }
}

impl fmt::Display for Steered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("steered")
    }
}

/// A worker between schedulers and actions that the test plays.
struct Stage {
    attachments: mpsc::Receiver<Attachment>,
    running: mpsc::UnboundedReceiver<Running>,
    tasks: TaskGroup,
}

impl Stage {
    fn new(slots: u32, prefetch: u32) -> Self {
        let (attach, attachments) = mpsc::channel(1);
        let (run, running) = mpsc::unbounded_channel();
        let tasks = TaskGroup::new("slots");
        let offer = WorkerOffer { prefetch, ..WorkerOffer::of("w", slots) };
        let dispatch = Arc::new(Played(attach));
        Slots::new(offer, dispatch, Arc::new(Steered(run)))
            .draining_for(Duration::from_secs(20))
            .start(&tasks);
        Self { attachments, running, tasks }
    }

    async fn attachment(&mut self) -> Attachment {
        self.attachments.recv().await.unwrap()
    }

    async fn running(&mut self) -> Running {
        self.running.recv().await.unwrap()
    }
}

impl Attachment {
    async fn grant(&self, lease: u64, operation: u128) {
        let task = Box::new(task(operation));
        self.end.orders.send(ToWorker::Run(Lease(lease), task)).await.unwrap();
    }

    /// Says all the time that it lives.
    fn live(&self, tasks: &TaskGroup) {
        let orders = self.end.orders.clone();
        tasks.spawn("alive", async move {
            while orders.send(ToWorker::Alive).await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
    }

    /// The next report that is not a sign of life.
    async fn report(&mut self) -> FromWorker {
        loop {
            match self.end.reports.recv().await.unwrap() {
                FromWorker::Alive => {}
                report => return report,
            }
        }
    }
}

fn task(operation: u128) -> Task {
    Task {
        operation: OperationId(operation),
        submission: Submission::of(ActionKey {
            instance: Default::default(),
            action: Digest::of(Function::Sha256, &operation.to_be_bytes()),
        }),
        queued_at: std::time::SystemTime::UNIX_EPOCH,
        attempt: 1,
        attempt_id: AttemptId(operation),
    }
}

fn decided(what: &'static str) -> Outcome {
    Outcome::Decided(Bytes::from_static(what.as_bytes()))
}

#[tokio::test(start_paused = true)]
async fn what_runs_when_the_scheduler_is_lost_ends_under_the_next_one() {
    let mut stage = Stage::new(1, 0);
    let mut first = stage.attachment().await;
    assert!(first.holdings.is_empty());
    first.grant(1, 7).await;
    let running = stage.running().await;
    assert_eq!(first.report().await, FromWorker::Progress(Lease(1), Progress::Running));
    drop(first);
    let mut second = stage.attachment().await;
    let held = Holding { task: task(7), state: HoldingState::Held(Progress::Running) };
    assert_eq!(second.holdings, [held]);
    second.end.orders.send(ToWorker::Keep(Lease(5), OperationId(7))).await.unwrap();
    assert_eq!(second.report().await, FromWorker::Progress(Lease(5), Progress::Running));
    assert!(!running.outcome.is_closed(), "it was stopped");
    running.outcome.send(decided("good")).unwrap();
    assert_eq!(second.report().await, FromWorker::Done(Lease(5), decided("good")));
}

#[tokio::test(start_paused = true)]
async fn a_scheduler_that_falls_silent_is_left_and_hears_of_all_when_it_is_back() {
    let mut stage = Stage::new(2, 0);
    let first = stage.attachment().await;
    first.end.orders.send(ToWorker::Alive).await.unwrap();
    first.grant(1, 7).await;
    first.grant(2, 8).await;
    let (one, two) = (stage.running().await, stage.running().await);
    assert_eq!((one.operation, two.operation), (OperationId(7), OperationId(8)));
    // Its end is told to a scheduler that does not read it any more.
    one.outcome.send(decided("unheard")).unwrap();
    let mut second = stage.attachment().await;
    let mut holdings = std::mem::take(&mut second.holdings);
    holdings.sort_by_key(|holding| holding.task.operation);
    let states: Vec<_> = holdings.into_iter().map(|holding| holding.state).collect();
    let ended = HoldingState::Ended(decided("unheard"));
    assert_eq!(states, [ended, HoldingState::Held(Progress::Running)]);
    for operation in [7, 8] {
        second.end.orders.send(ToWorker::Abandon(OperationId(operation))).await.unwrap();
    }
    let mut stopped = two.outcome;
    stopped.closed().await;
    drop(second);
    assert!(stage.attachment().await.holdings.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_no_scheduler_wants_for_a_minute_is_stopped() {
    let mut stage = Stage::new(1, 0);
    let first = stage.attachment().await;
    first.grant(1, 7).await;
    let mut running = stage.running().await;
    let began = tokio::time::Instant::now();
    drop(first);
    // Takes the worker on, and then says nothing of what that brought.
    let second = stage.attachment().await;
    assert_eq!(second.holdings.len(), 1);
    running.outcome.closed().await;
    let after = began.elapsed();
    assert!(after >= Duration::from_secs(60) && after < Duration::from_secs(63), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_stops_gives_back_what_it_cannot_finish() {
    let mut stage = Stage::new(1, 1);
    let mut scheduler = stage.attachment().await;
    scheduler.grant(1, 7).await;
    let mut running = stage.running().await;
    assert_eq!(scheduler.report().await, FromWorker::Progress(Lease(1), Progress::Running));
    scheduler.grant(2, 8).await;
    let began = tokio::time::Instant::now();
    scheduler.live(&stage.tasks);
    let tasks = stage.tasks.clone();
    let leave = async {
        assert_eq!(tasks.shut_down(Duration::from_secs(60)).await, 0);
    };
    let hear = async {
        assert_eq!(scheduler.report().await, FromWorker::Draining);
        assert_eq!(scheduler.report().await, FromWorker::Returned(Lease(2)));
        running.outcome.closed().await;
        assert!(began.elapsed() >= Duration::from_secs(20));
        assert_eq!(scheduler.report().await, FromWorker::Returned(Lease(1)));
        assert_eq!(scheduler.end.reports.recv().await, None);
    };
    tokio::join!(leave, hear);
}

#[tokio::test(start_paused = true)]
async fn a_prefetched_task_is_recalled_until_its_turn_has_come() {
    let mut stage = Stage::new(1, 1);
    let mut scheduler = stage.attachment().await;
    scheduler.grant(1, 7).await;
    scheduler.grant(2, 8).await;
    let running = stage.running().await;
    assert_eq!(running.operation, OperationId(7));
    for lease in [1, 2] {
        scheduler.end.orders.send(ToWorker::Recall(Lease(lease))).await.unwrap();
    }
    assert_eq!(scheduler.report().await, FromWorker::Progress(Lease(1), Progress::Running));
    assert_eq!(scheduler.report().await, FromWorker::Returned(Lease(2)));
    scheduler.grant(3, 9).await;
    running.outcome.send(decided("good")).unwrap();
    assert_eq!(scheduler.report().await, FromWorker::Done(Lease(1), decided("good")));
    assert_eq!(stage.running().await.operation, OperationId(9));
}
