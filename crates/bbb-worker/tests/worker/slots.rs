//! A worker's slots on a real scheduler.

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bbb_digest::{Digest, Function};
use bbb_lifecycle::TaskGroup;
use bbb_reapi::proto::reapi;
use bbb_sandbox::Mode;
use bbb_scheduler::{
    ActionKey, Dispatch, DispatchError, End, Filter, Holding, Known, Listing, OperationId, Outcome,
    Page, Progress, Scheduler, Snapshot, Stage, Submission, Task, Watch, WorkerLink, WorkerOffer,
};
use bbb_worker::{Executor, Report, Slots};
use prost::Message as _;
use tokio::sync::mpsc;

use crate::rig::{Rig, Tree, command};

struct Pool {
    rig: Rig,
    scheduler: Arc<Scheduler>,
    tasks: TaskGroup,
}

impl Pool {
    async fn new(slots: u32) -> Self {
        let rig = Rig::new(Mode::Namespaces).await;
        let scheduler = Scheduler::start(&rig.tasks, Default::default());
        let offer = WorkerOffer::of("worker-1", slots);
        let tasks = TaskGroup::new("slots");
        Slots::new(offer, Arc::clone(&scheduler) as _, Arc::clone(&rig.local) as _).start(&tasks);
        Self { rig, scheduler, tasks }
    }

    async fn submit(&self, script: &str) -> Watch {
        let action = self.rig.action(Tree::default(), &command(script, &[]), |_| {}).await;
        self.scheduler.submit(submission(action)).await.unwrap()
    }
}

fn submission(action: Digest) -> Submission {
    Submission::of(ActionKey { instance: Default::default(), action })
}

/// Never comes to an end by itself, and hands out what keeps each of its tasks alive.
#[derive(Debug)]
struct Undying(mpsc::UnboundedSender<Report>);

#[async_trait]
impl Executor for Undying {
    async fn execute(&self, _task: Task, report: Report) -> Outcome {
        report.progress(Progress::Running);
        self.0.send(report).unwrap();
        std::future::pending().await
    }
}

impl fmt::Display for Undying {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("undying")
    }
}

/// Another executor, whose tasks are counted as they begin.
#[derive(Debug)]
struct Counted(Arc<dyn Executor>, AtomicUsize);

#[async_trait]
impl Executor for Counted {
    async fn execute(&self, task: Task, report: Report) -> Outcome {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.execute(task, report).await
    }
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "counted({})", self.0)
    }
}

/// Whoever schedules now.
#[derive(Debug)]
struct Current(Mutex<Arc<Scheduler>>);

impl Current {
    fn get(&self) -> Arc<Scheduler> {
        Arc::clone(&self.0.lock().unwrap())
    }
}

#[async_trait]
impl Dispatch for Current {
    async fn submit(&self, submission: Submission) -> Result<Watch, DispatchError> {
        self.get().submit(submission).await
    }

    async fn find(&self, id: OperationId) -> Result<Option<Watch>, DispatchError> {
        self.get().find(id).await
    }

    async fn list(&self, filter: Filter, page: Page) -> Result<Listing, DispatchError> {
        self.get().list(filter, page).await
    }

    async fn cancel(&self, id: OperationId) -> Result<(), DispatchError> {
        self.get().cancel(id).await
    }

    async fn forget(&self, id: OperationId) -> Result<(), DispatchError> {
        self.get().forget(id).await
    }

    async fn attach(
        &self,
        offer: WorkerOffer,
        holdings: Vec<Holding>,
    ) -> Result<WorkerLink, DispatchError> {
        self.get().attach(offer, holdings).await
    }

    async fn snapshot(&self) -> Result<Snapshot, DispatchError> {
        self.get().snapshot().await
    }
}

fn is_running(watch: &mut Watch) -> bool {
    matches!(watch.current().stage, Stage::Executing { progress: Progress::Running, .. })
}

async fn until_running(watch: &mut Watch) {
    while !is_running(watch) {
        watch.changed().await.unwrap();
    }
}

/// Known to whoever submits it as operation 7, for the first time or again.
fn known(action: Digest, held_by: Option<&str>) -> Submission {
    let known = Known {
        id: OperationId(7),
        queued_at: SystemTime::now(),
        held_by: held_by.map(Into::into),
        attempts: Vec::new(),
    };
    Submission { known: Some(Box::new(known)), ..submission(action) }
}

async fn end(watch: &mut Watch) -> End {
    let wait = async {
        let mut state = watch.current();
        loop {
            if let Stage::Completed { end, .. } = &state.stage {
                return end.clone();
            }
            state = watch.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.unwrap()
}

fn exit_code(end: &End) -> i32 {
    let End::Decided(bytes) = end else { panic!("{end:?}") };
    reapi::ExecuteResponse::decode(bytes.clone()).unwrap().result.unwrap().exit_code
}

#[tokio::test]
async fn tasks_come_and_go() {
    let pool = Pool::new(2).await;
    let mut watches = Vec::new();
    for code in 0..6 {
        watches.push(pool.submit(&format!("exit {code}")).await);
    }
    for (code, mut watch) in (0..).zip(watches) {
        assert_eq!(exit_code(&end(&mut watch).await), code);
    }
}

#[tokio::test]
async fn what_runs_is_done_when_the_worker_stops_and_what_is_cancelled_is_not() {
    let pool = Pool::new(2).await;
    let mut cancelled = pool.submit("sleep 1000").await;
    let mut last = pool.submit("sleep 1").await;
    until_running(&mut cancelled).await;
    until_running(&mut last).await;
    let id = cancelled.current().id;
    pool.scheduler.cancel(id).await.unwrap();
    assert!(matches!(end(&mut cancelled).await, End::Failed(_)));
    assert_eq!(pool.tasks.shut_down(Duration::from_secs(60)).await, 0);
    assert_eq!(exit_code(&end(&mut last).await), 0);
    pool.rig.is_clean().await;
}

#[tokio::test]
async fn a_slot_is_free_only_when_nothing_of_its_task_is_left() {
    let tasks = TaskGroup::new("test");
    let scheduler = Scheduler::start(&tasks, Default::default());
    let offer = WorkerOffer::of("w", 1);
    let (reports, mut running) = mpsc::unbounded_channel();
    Slots::new(offer, Arc::clone(&scheduler) as _, Arc::new(Undying(reports))).start(&tasks);
    let submit =
        |content: &[u8]| scheduler.submit(submission(Digest::of(Function::Sha256, content)));
    let mut first = submit(b"first").await.unwrap();
    let what_is_left = running.recv().await.unwrap();
    let mut second = submit(b"second").await.unwrap();
    let id = first.current().id;
    scheduler.cancel(id).await.unwrap();
    // Whoever asked hears of it at once; the slot stays with what is left.
    assert!(matches!(end(&mut first).await, End::Failed(_)));
    let early = tokio::time::timeout(Duration::from_millis(200), running.recv()).await;
    assert!(early.is_err(), "the slot was given away");
    assert!(matches!(second.current().stage, Stage::Queued(_)));
    drop(what_is_left);
    drop(running.recv().await.unwrap());
    let id = second.current().id;
    scheduler.cancel(id).await.unwrap();
    assert_eq!(tasks.shut_down(Duration::from_secs(10)).await, 0);
}

#[tokio::test]
async fn what_runs_when_its_scheduler_is_lost_is_run_once() {
    let rig = Rig::new(Mode::Namespaces).await;
    let first_tasks = TaskGroup::new("first");
    let current = Arc::new(Current(Scheduler::start(&first_tasks, Default::default()).into()));
    let counted = Arc::new(Counted(Arc::clone(&rig.local) as _, AtomicUsize::new(0)));
    let tasks = TaskGroup::new("slots");
    let offer = WorkerOffer::of("worker-1", 2);
    Slots::new(offer, Arc::clone(&current) as _, Arc::clone(&counted) as _).start(&tasks);
    let script = "sleep 1; exit 7";
    let action = rig.action(Tree::default(), &command(script, &[]), |_| {}).await;
    let mut watch = current.submit(known(action, None)).await.unwrap();
    until_running(&mut watch).await;
    let second = Scheduler::start(&rig.tasks, Default::default());
    let mut again = second.submit(known(action, Some("worker-1"))).await.unwrap();
    *current.0.lock().unwrap() = second;
    first_tasks.shut_down(Duration::from_secs(10)).await;
    assert_eq!(exit_code(&end(&mut again).await), 7);
    assert_eq!(counted.1.load(Ordering::SeqCst), 1);
    assert_eq!(tasks.shut_down(Duration::from_secs(10)).await, 0);
}

#[tokio::test]
async fn what_a_leaving_worker_cannot_finish_another_runs() {
    let rig = Rig::new(Mode::Namespaces).await;
    let scheduler = Scheduler::start(&rig.tasks, Default::default());
    let (leaving, staying) = (TaskGroup::new("leaving"), TaskGroup::new("staying"));
    let start = |name, drain, tasks: &TaskGroup| {
        let offer = WorkerOffer::of(name, 1);
        Slots::new(offer, Arc::clone(&scheduler) as _, Arc::clone(&rig.local) as _)
            .draining_for(drain)
            .start(tasks);
    };
    start("leaving", Duration::from_millis(100), &leaving);
    let action = rig.action(Tree::default(), &command("sleep 2; exit 3", &[]), |_| {}).await;
    let mut watch = scheduler.submit(submission(action)).await.unwrap();
    until_running(&mut watch).await;
    start("staying", Duration::from_secs(60), &staying);
    assert_eq!(leaving.shut_down(Duration::from_secs(60)).await, 0);
    until_running(&mut watch).await;
    match &watch.current().stage {
        Stage::Executing { worker, attempt, .. } => {
            assert_eq!((&**worker, *attempt), ("staying", 1));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(exit_code(&end(&mut watch).await), 3);
    assert_eq!(staying.shut_down(Duration::from_secs(60)).await, 0);
}

/// Blocks the thread that it runs on, as a deadlock does.
#[derive(Debug)]
struct Stuck(Mutex<std::sync::mpsc::Receiver<()>>);

#[async_trait]
impl Executor for Stuck {
    async fn execute(&self, _task: Task, report: Report) -> Outcome {
        report.progress(Progress::Running);
        let _ = self.0.lock().unwrap().recv();
        Outcome::Failed("stuck".into())
    }
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("stuck")
    }
}

/// A process whose threads are all blocked looks alive; a worker in it does not.
#[tokio::test]
async fn a_worker_whose_threads_are_all_blocked_is_lost() {
    let rig = Rig::new(Mode::Namespaces).await;
    let scheduler = Scheduler::start(&rig.tasks, Default::default());
    let (release, blocked) = std::sync::mpsc::channel();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.unwrap();
    let stuck = TaskGroup::new("stuck");
    {
        let _inside = runtime.enter();
        let executor = Arc::new(Stuck(Mutex::new(blocked)));
        let offer = WorkerOffer::of("stuck", 1);
        Slots::new(offer, Arc::clone(&scheduler) as _, executor).start(&stuck);
    }
    let action = rig.action(Tree::default(), &command("exit 5", &[]), |_| {}).await;
    let mut watch = scheduler.submit(submission(action)).await.unwrap();
    while matches!(watch.current().stage, Stage::Queued(_)) {
        watch.changed().await.unwrap();
    }
    let well = TaskGroup::new("well");
    let offer = WorkerOffer::of("well", 1);
    Slots::new(offer, Arc::clone(&scheduler) as _, Arc::clone(&rig.local) as _).start(&well);
    assert_eq!(exit_code(&end(&mut watch).await), 5);
    drop(release);
    runtime.shutdown_background();
    assert_eq!(well.shut_down(Duration::from_secs(60)).await, 0);
}
