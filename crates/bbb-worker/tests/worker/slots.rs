//! A worker's slots on a real scheduler.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bbb_digest::{Digest, Function};
use bbb_lifecycle::TaskGroup;
use bbb_reapi::proto::reapi;
use bbb_sandbox::Mode;
use bbb_scheduler::{
    ActionKey, Dispatch, End, Outcome, Progress, Scheduler, Stage, Submission, Task, Watch,
    WorkerOffer,
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
    let running = |watch: &mut Watch| {
        matches!(watch.current().stage, Stage::Executing { progress: Progress::Running, .. })
    };
    let mut cancelled = pool.submit("sleep 1000").await;
    let mut last = pool.submit("sleep 1").await;
    while !running(&mut cancelled) || !running(&mut last) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
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
