//! Work that is accepted on one node, scheduled by another and run by a third, over real connections.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bbb_digest::{Digest, Function};
use bbb_scheduler::{
    ActionKey, Dispatch as _, End, Filter, OperationId, Outcome, Page, Progress, Stage, Submission,
    Task, Watch, WorkerOffer,
};
use bbb_worker::{Executor, Report, Slots};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use crate::{
    link::State,
    rig::{Rig, instance},
};

/// Says who ran what, and lets it end when it may.
#[derive(Clone, Debug, Default)]
struct Runs {
    count: Arc<Mutex<BTreeMap<Digest, u32>>>,
    may_end: watch::Sender<bool>,
}

#[derive(Debug)]
struct Counting(Runs, String);

impl fmt::Display for Counting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("counting")
    }
}

#[async_trait]
impl Executor for Counting {
    async fn execute(&self, task: Task, report: Report) -> Outcome {
        report.turn().await;
        *self.0.count.lock().unwrap().entry(task.submission.key.action).or_default() += 1;
        report.progress(Progress::Running);
        self.0.may_end.subscribe().wait_for(|may| *may).await.unwrap();
        Outcome::Decided(self.1.clone().into())
    }
}

impl Runs {
    /// Starts the worker of a node.
    fn work(&self, rig: &Rig, name: &str, slots: u32) {
        let node = rig.node(name);
        let executor = Arc::new(Counting(self.clone(), name.to_owned()));
        Slots::new(WorkerOffer::of(name, slots), node.dispatch.clone(), executor).start(&node.work);
    }

    fn of(&self, action: &str) -> u32 {
        self.count.lock().unwrap().get(&digest(action)).copied().unwrap_or(0)
    }
}

fn digest(action: &str) -> Digest {
    Digest::of(Function::Sha256, action.as_bytes())
}

fn submission(action: &str) -> Submission {
    Submission::of(ActionKey { instance: instance(), action: digest(action) })
}

async fn submit(rig: &Rig, node: &str, action: &str) -> Watch {
    rig.node(node).dispatch.submit(submission(action)).await.unwrap()
}

async fn until(watch: &mut Watch, is_so: impl Fn(&Stage) -> bool) {
    let waiting = async {
        while !is_so(&watch.current().stage) {
            watch.changed().await.expect("it goes on");
        }
    };
    timeout(Duration::from_secs(60), waiting).await.expect("it comes to be so");
}

async fn runs(watch: &mut Watch) {
    let is_so =
        |stage: &Stage| matches!(stage, Stage::Executing { progress: Progress::Running, .. });
    until(watch, is_so).await;
}

async fn decided_by(watch: &mut Watch) -> String {
    until(watch, Stage::is_completed).await;
    let state = watch.current();
    let Stage::Completed { end: End::Decided(worker), .. } = &state.stage else {
        unreachable!("no worker decided it: {:?}", state.stage)
    };
    String::from_utf8(worker.to_vec()).unwrap()
}

#[tokio::test]
async fn any_node_accepts_and_equal_work_runs_once() {
    let (rig, work) = (Rig::of(&["a", "b", "c"]).await, Runs::default());
    let mut watches = Vec::new();
    for node in ["a", "b", "c"] {
        watches.push(submit(&rig, node, "x").await);
    }
    work.work(&rig, "c", 2);
    runs(&mut watches[1]).await;
    work.may_end.send_replace(true);
    for watch in &mut watches {
        assert_eq!(decided_by(watch).await, "c");
    }
    assert_eq!(work.of("x"), 1);
    let page = Page { after: None, size: 10 };
    let filter = Filter { instance: instance(), stage: None };
    let listing = rig.node("b").dispatch.list(filter, page).await.unwrap();
    assert_eq!(listing.operations.len(), 3, "one for each name");
    assert_eq!(rig.node("b").dispatch.snapshot().await.unwrap().workers.len(), 1);
}

#[tokio::test]
async fn an_operation_is_found_and_cancelled_through_another_node() {
    let (rig, work) = (Rig::of(&["a", "b", "c"]).await, Runs::default());
    work.work(&rig, "a", 1);
    let mut watch = submit(&rig, "b", "x").await;
    runs(&mut watch).await;
    let id = watch.current().id;
    let elsewhere = &rig.node("c").dispatch;
    let mut found = elsewhere.find(id).await.unwrap().expect("it is known");
    elsewhere.cancel(id).await.unwrap();
    for watch in [&mut watch, &mut found] {
        until(watch, |stage| matches!(stage, Stage::Completed { end: End::Failed(_), .. })).await;
        assert_eq!(watch.current().id, id);
    }
}

/// Has the scheduler `a` go in some way, and says how long it took until all was known to the next one.
async fn fail_over(how: State) -> Duration {
    const WAITING: usize = 500;
    let (rig, work) = (Rig::bounded(&["a", "b", "c"]).await, Runs::default());
    work.work(&rig, "b", 1);
    let mut running = submit(&rig, "c", "running").await;
    runs(&mut running).await;
    let mut waiting = Vec::new();
    for index in 0..WAITING {
        waiting.push(submit(&rig, "c", &index.to_string()).await);
    }
    let began = Instant::now();
    rig.node("a").link.set(how);
    // It takes the others some seconds to notice, in which nothing is lost.
    sleep(Duration::from_secs(1)).await;
    let noticed = Instant::now();
    for node in ["b", "c"] {
        rig.see(node, &["b", "c"]);
    }
    let next = &rig.node("b").dispatch;
    let is_whole = async {
        loop {
            let snapshot = next.snapshot().await.unwrap_or_default();
            if (snapshot.executing, snapshot.queued) == (1, WAITING) {
                return;
            }
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(60), is_whole).await.expect("all is handed in");
    let took = noticed.elapsed();
    work.may_end.send_replace(true);
    assert_eq!(decided_by(&mut running).await, "b");
    for watch in &mut waiting {
        assert_eq!(decided_by(watch).await, "b");
    }
    println!("{how:?}: all ended {:?} after the scheduler was lost", began.elapsed());
    assert_eq!(work.of("running"), 1, "it was taken up");
    assert!((0..WAITING).all(|index| work.of(&index.to_string()) == 1));
    took
}

#[tokio::test]
async fn work_outlives_a_scheduler_that_breaks_off() {
    println!("known to the next scheduler after {:?}", fail_over(State::Cut).await);
}

#[tokio::test]
async fn work_outlives_a_scheduler_that_falls_silent() {
    println!("known to the next scheduler after {:?}", fail_over(State::Hung).await);
}

#[tokio::test]
async fn work_outlives_the_node_that_accepted_it() {
    let (rig, work) = (Rig::bounded(&["a", "b", "c"]).await, Runs::default());
    work.work(&rig, "c", 1);
    let mut watch = submit(&rig, "b", "x").await;
    runs(&mut watch).await;
    let id = watch.current().id;
    drop(watch);
    rig.kill("b");
    rig.node("b").work.shut_down(Duration::from_secs(1)).await;
    for node in ["a", "c"] {
        rig.see(node, &["a", "c"]);
    }
    // As a client does that waits again.
    let mut again = rig.node("c").dispatch.find(id).await.unwrap().expect("it is known");
    work.may_end.send_replace(true);
    assert_eq!(decided_by(&mut again).await, "c");
    assert_eq!(work.of("x"), 1);
}

#[tokio::test]
async fn what_a_node_that_began_anew_does_not_know_is_given_up_soon() {
    let began = Instant::now();
    let (rig, work) = (Rig::bounded(&["a", "b", "c"]).await, Runs::default());
    work.work(&rig, "c", 1);
    let mut watch = submit(&rig, "b", "x").await;
    // A name that it gave before it was killed and came back.
    let before = OperationId(watch.current().id.0 ^ 1);
    assert!(rig.node("c").dispatch.find(before).await.unwrap().is_none());
    println!("given up {:?} after the first node began", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(4), "1 s after the scheduler began, not 5");
    work.may_end.send_replace(true);
}

#[tokio::test]
async fn a_silent_scheduler_is_left_by_nodes_and_workers_in_time() {
    let (rig, work) = (Rig::bounded(&["a", "b"]).await, Runs::default());
    work.work(&rig, "b", 1);
    let mut watch = submit(&rig, "b", "x").await;
    runs(&mut watch).await;
    rig.node("a").link.set(State::Hung);
    let began = Instant::now();
    while rig.node("b").dispatch.busy_slots() > 0 {
        sleep(Duration::from_millis(10)).await;
    }
    println!("the worker left after {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(6), "4 s, and the machine may be busy");
    // It is the same one that comes back, as after a pause.
    rig.node("a").link.set(State::Whole);
    work.may_end.send_replace(true);
    assert_eq!(decided_by(&mut watch).await, "b");
    assert_eq!(work.of("x"), 1);
}
