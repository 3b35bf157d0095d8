//! Several nodes of one process, with their time paused and calls in place of a network.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bbb_cluster::{ClusterView, Member, MemberId, Properties};
use bbb_digest::{Digest, Function, InstanceName};
use bbb_lifecycle::TaskGroup;
use bbb_scheduler::{
    ActionKey, Dispatch, End, Failure, Filter, FromWorker, Holding, OperationId, Outcome, Page,
    Progress, Stage, Submission, Task, ToWorker, Watch, WorkerOffer,
};
use bbb_worker::{Executor, Report, Slots};
use tokio::{sync::watch, time::Instant};

use super::*;

/// What the network does to what is sent to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cable {
    Whole,
    /// Nothing comes through, and nobody is told.
    Stalled,
    /// All breaks.
    Cut,
}

#[derive(Debug, Default)]
struct Net(Mutex<BTreeMap<String, Plug>>);

/// A node, and what becomes of what is sent to it.
type Plug = (Arc<ClusterDispatch>, watch::Sender<Cable>);

impl Net {
    fn plug(&self, node: &str) -> Option<(Arc<ClusterDispatch>, watch::Receiver<Cable>)> {
        let nodes = self.0.lock().unwrap();
        nodes.get(node).map(|(work, cable)| (Arc::clone(work), cable.subscribe()))
    }

    fn set(&self, node: &str, cable: Cable) {
        self.0.lock().unwrap()[node].1.send_replace(cable);
    }
}

#[derive(Debug)]
struct Ways(Arc<Net>, TaskGroup);

impl Reach for Ways {
    fn to(&self, member: &MemberId) -> Arc<dyn Work> {
        Arc::new(Way {
            net: Arc::clone(&self.0),
            to: member.name.to_string(),
            tasks: self.1.clone(),
        })
    }
}

#[derive(Debug)]
struct Way {
    net: Arc<Net>,
    to: String,
    tasks: TaskGroup,
}

impl Way {
    async fn reach(&self) -> Result<(Arc<ClusterDispatch>, watch::Receiver<Cable>), WorkError> {
        let (work, mut cable) =
            self.net.plug(&self.to).ok_or_else(|| WorkError::Unreachable("unknown".into()))?;
        let state = *cable.wait_for(|cable| *cable != Cable::Stalled).await.unwrap();
        match state {
            Cable::Whole => Ok((work, cable)),
            _ => Err(WorkError::Unreachable("cut".into())),
        }
    }

    fn carry<Out: Send + 'static, In: Send + 'static>(
        &self,
        far: Ends<Out, In>,
        mut cable: watch::Receiver<Cable>,
    ) -> Ends<Out, In> {
        let (near, Ends { to, mut from }) = Ends::<Out, In>::pair(8, 8);
        let Ends { to: far_to, from: mut far_from } = far;
        self.tasks.spawn("cable", async move {
            loop {
                if cable.wait_for(|cable| *cable != Cable::Stalled).await.is_err()
                    || *cable.borrow() == Cable::Cut
                {
                    return;
                }
                tokio::select! {
                    biased;
                    changed = cable.changed() => if changed.is_err() { return },
                    word = from.recv() => match word {
                        Some(word) => if far_to.send(word).await.is_err() { return },
                        None => return,
                    },
                    word = far_from.recv() => match word {
                        Some(word) => if to.send(word).await.is_err() { return },
                        None => return,
                    },
                }
            }
        });
        near
    }
}

#[async_trait]
impl Work for Way {
    async fn operations(&self) -> Result<Ends<ToScheduler, FromScheduler>, WorkError> {
        let (work, cable) = self.reach().await?;
        Ok(self.carry(work.operations().await?, cable))
    }

    async fn worker(
        &self,
        offer: WorkerOffer,
        holdings: Vec<Holding>,
    ) -> Result<Ends<FromWorker, ToWorker>, WorkError> {
        let (work, cable) = self.reach().await?;
        Ok(self.carry(work.worker(offer, holdings).await?, cable))
    }

    async fn ask(&self, question: Question) -> Result<Answer, WorkError> {
        let (work, _) = self.reach().await?;
        work.ask(question).await
    }
}

struct Node {
    member: Member,
    dispatch: Arc<ClusterDispatch>,
    view: watch::Sender<Arc<ClusterView>>,
    tasks: TaskGroup,
}

/// Nodes `a`, `b`, ... of which the first has been there longest.
struct Rig {
    net: Arc<Net>,
    nodes: Vec<Node>,
    runs: Arc<Runs>,
}

impl Rig {
    async fn of(names: &[&str]) -> Self {
        let mut rig = Self { net: Arc::default(), nodes: Vec::new(), runs: Arc::default() };
        for (generation, name) in names.iter().enumerate() {
            let address = ([127, 0, 0, 1], 1).into();
            let generation = generation as u64;
            let id = MemberId { name: (*name).into(), generation, gossip: address, port: address };
            let member = Member { id, properties: Properties::default() };
            let tasks = TaskGroup::new("node");
            let (view, seen) = watch::channel(Arc::new(ClusterView::new(member.clone(), [])));
            let reach = Arc::new(Ways(Arc::clone(&rig.net), tasks.clone()));
            let dispatch = ClusterDispatch::start(WorkSettings::default(), seen, reach, &tasks);
            let cable = watch::Sender::new(Cable::Whole);
            rig.net.0.lock().unwrap().insert((*name).into(), (Arc::clone(&dispatch), cable));
            rig.nodes.push(Node { member, dispatch, view, tasks });
        }
        rig.see(names);
        rig
    }

    /// Has all nodes see these, and themselves.
    fn see(&self, names: &[&str]) {
        for node in &self.nodes {
            let others = self.nodes.iter().filter(|other| other.member.id != node.member.id);
            let others = others.filter(|other| names.contains(&&*other.member.id.name));
            let others = others.map(|other| other.member.clone());
            node.view.send_replace(Arc::new(ClusterView::new(node.member.clone(), others)));
        }
    }

    fn node(&self, name: &str) -> &Node {
        self.nodes.iter().find(|node| *node.member.id.name == *name).unwrap()
    }

    fn on(&self, name: &str) -> &ClusterDispatch {
        &self.node(name).dispatch
    }

    /// Starts the worker of a node.
    fn work(&self, name: &str, slots: u32) {
        let node = self.node(name);
        let executor = Counting { runs: Arc::clone(&self.runs), name: name.into() };
        let dispatch = Arc::clone(&node.dispatch) as Arc<dyn Dispatch>;
        Slots::new(WorkerOffer::of(name, slots), dispatch, Arc::new(executor)).start(&node.tasks);
    }

    /// Ends a node as if its process was killed; the others notice after a while.
    async fn kill(&self, name: &str, left: &[&str]) {
        self.net.set(name, Cable::Cut);
        let node = self.node(name);
        node.tasks.shut_down(Duration::ZERO).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        self.see(left);
    }
}

/// What was run, how often, and what is let to end.
#[derive(Debug, Default)]
struct Runs {
    count: Mutex<BTreeMap<Digest, u32>>,
    ending: watch::Sender<bool>,
}

impl Runs {
    fn of(&self, action: &str) -> u32 {
        self.count.lock().unwrap().get(&key(action).action).copied().unwrap_or(0)
    }
}

#[derive(Debug)]
struct Counting {
    runs: Arc<Runs>,
    name: String,
}

impl fmt::Display for Counting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("counting")
    }
}

#[async_trait]
impl Executor for Counting {
    async fn execute(&self, task: Task, report: Report) -> Outcome {
        report.turn().await;
        report.progress(Progress::Running);
        *self.runs.count.lock().unwrap().entry(task.submission.key.action).or_default() += 1;
        self.runs.ending.subscribe().wait_for(|may| *may).await.unwrap();
        Outcome::Decided(self.name.clone().into())
    }
}

fn key(action: &str) -> ActionKey {
    let action = Digest::of(Function::Sha256, action.as_bytes());
    ActionKey { instance: InstanceName::default(), action }
}

fn submission(action: &str) -> Submission {
    Submission::of(key(action))
}

async fn end(watch: &mut Watch) -> End {
    loop {
        if let Stage::Completed { end, .. } = &watch.current().stage {
            return end.clone();
        }
        watch.changed().await.expect("it goes on");
    }
}

async fn decided_by(watch: &mut Watch) -> String {
    match end(watch).await {
        End::Decided(worker) => String::from_utf8(worker.to_vec()).unwrap(),
        End::Failed(failure) => panic!("{failure}"),
    }
}

async fn executing(watch: &mut Watch) {
    while !matches!(watch.current().stage, Stage::Executing { progress: Progress::Running, .. }) {
        watch.changed().await.expect("it goes on");
    }
}

fn id(watch: &mut Watch) -> OperationId {
    watch.current().id
}

#[tokio::test(start_paused = true)]
async fn any_node_accepts_and_any_runs() {
    let rig = Rig::of(&["a", "b", "c"]).await;
    rig.work("c", 1);
    rig.runs.ending.send_replace(true);
    for node in ["a", "b", "c"] {
        let mut watch = rig.on(node).submit(submission(node)).await.unwrap();
        assert_eq!(decided_by(&mut watch).await, "c");
        assert_eq!(rig.runs.of(node), 1);
    }
    let snapshot = rig.on("b").snapshot().await.unwrap();
    assert_eq!((snapshot.completed, snapshot.workers.len()), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn equal_work_runs_once_wherever_it_is_accepted() {
    let rig = Rig::of(&["a", "b", "c"]).await;
    let mut watches = Vec::new();
    for node in ["a", "b", "c", "b"] {
        watches.push(rig.on(node).submit(submission("x")).await.unwrap());
    }
    rig.work("b", 4);
    executing(&mut watches[2]).await;
    rig.runs.ending.send_replace(true);
    for watch in &mut watches {
        assert_eq!(decided_by(watch).await, "b");
    }
    let names: std::collections::BTreeSet<_> = watches.iter_mut().map(id).collect();
    assert_eq!((rig.runs.of("x"), names.len()), (1, 3));
}

#[tokio::test(start_paused = true)]
async fn work_outlives_its_scheduler() {
    let rig = Rig::of(&["a", "b", "c"]).await;
    rig.work("b", 1);
    let mut running = rig.on("c").submit(submission("running")).await.unwrap();
    executing(&mut running).await;
    let mut waiting = rig.on("c").submit(submission("waiting")).await.unwrap();
    let began = Instant::now();
    rig.kill("a", &["b", "c"]).await;
    let mut late = rig.on("b").submit(submission("late")).await.unwrap();
    while rig.on("c").snapshot().await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    rig.runs.ending.send_replace(true);
    for watch in [&mut running, &mut waiting, &mut late] {
        assert_eq!(decided_by(watch).await, "b");
    }
    println!("all had ended {:?} after the scheduler was killed", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(7));
    for action in ["running", "waiting", "late"] {
        assert_eq!(rig.runs.of(action), 1, "{action}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_scheduler_is_left() {
    let rig = Rig::of(&["a", "b", "c"]).await;
    rig.work("b", 1);
    let mut running = rig.on("c").submit(submission("x")).await.unwrap();
    executing(&mut running).await;
    rig.net.set("a", Cable::Stalled);
    // Long enough for both to have given it up.
    tokio::time::sleep(Duration::from_secs(10)).await;
    rig.net.set("a", Cable::Whole);
    rig.runs.ending.send_replace(true);
    assert_eq!(decided_by(&mut running).await, "b");
}

#[tokio::test(start_paused = true)]
async fn operations_are_found_through_any_node() {
    let rig = Rig::of(&["a", "b", "c"]).await;
    rig.work("a", 1);
    let mut watch = rig.on("b").submit(submission("x")).await.unwrap();
    executing(&mut watch).await;
    let id = id(&mut watch);
    let mut elsewhere = rig.on("c").find(id).await.unwrap().expect("it is known");
    assert_eq!(elsewhere.current().id, id);
    // The node that accepted it dies: others see it end.
    drop(watch);
    rig.kill("b", &["a", "c"]).await;
    rig.runs.ending.send_replace(true);
    assert_eq!(decided_by(&mut elsewhere).await, "a");
    let mut after = rig.on("a").find(id).await.unwrap().expect("it is still known");
    assert_eq!(decided_by(&mut after).await, "a");
    assert_eq!(rig.runs.of("x"), 1);
    assert!(rig.on("c").find(OperationId(77)).await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn operations_are_cancelled_forgotten_and_listed_through_any_node() {
    let rig = Rig::of(&["a", "b", "c"]).await;
    let mut watch = rig.on("b").submit(submission("x")).await.unwrap();
    let id = id(&mut watch);
    let filter = || Filter { instance: InstanceName::default(), stage: None };
    let listed = || async {
        let page = Page { after: None, size: 10 };
        rig.on("c").list(filter(), page).await.unwrap().operations.len()
    };
    while listed().await == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    rig.on("c").cancel(id).await.unwrap();
    assert!(matches!(end(&mut watch).await, End::Failed(Failure::Cancelled(_))));
    drop(rig.on("c").find(id).await.unwrap().expect("it is known"));
    rig.on("c").forget(id).await.unwrap();
    while listed().await > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_leaves_hands_its_queue_over() {
    let rig = Rig::of(&["a", "b", "c"]).await;
    let mut watch = rig.on("a").submit(submission("x")).await.unwrap();
    let mut leaving = rig.node("a").member.clone();
    leaving.properties.is_leaving = true;
    for node in &rig.nodes {
        let members: Vec<Member> = rig
            .nodes
            .iter()
            .filter(|other| other.member.id.name != leaving.id.name)
            .map(|other| other.member.clone())
            .chain([leaving.clone()])
            .collect();
        let me = members.iter().find(|member| member.id == node.member.id).unwrap().clone();
        let others: Vec<_> = members.into_iter().filter(|member| member.id != me.id).collect();
        node.view.send_replace(Arc::new(ClusterView::new(me, others)));
    }
    rig.work("c", 1);
    rig.runs.ending.send_replace(true);
    assert_eq!(decided_by(&mut watch).await, "c");
    assert!(rig.on("b").local_scheduler().is_some() && rig.on("a").local_scheduler().is_none());
}

#[tokio::test(start_paused = true)]
async fn what_nobody_watches_ends() {
    let rig = Rig::of(&["a", "b"]).await;
    rig.work("a", 1);
    let mut watch = rig.on("b").submit(submission("x")).await.unwrap();
    executing(&mut watch).await;
    let id = id(&mut watch);
    drop(watch);
    tokio::time::sleep(Duration::from_secs(70)).await;
    let mut watch = rig.on("a").find(id).await.unwrap().expect("its end is known");
    assert!(matches!(end(&mut watch).await, End::Failed(Failure::Cancelled(_))));
    assert_eq!(rig.on("b").counts().await.unwrap(), Counts::default());
}
