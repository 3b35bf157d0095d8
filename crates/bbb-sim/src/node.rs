//! Machines, and the node that runs on each: the product's parts put together, as `node.rs` of the binary does.

use std::sync::{Arc, Mutex};

use bbb_cluster::ClusterView;
use bbb_digest::Digest;
use bbb_lifecycle::{Process, TaskGroup};
use bbb_peer::work::{ClusterDispatch, Ends, Work, WorkSettings};
use bbb_scheduler::{
    Dispatch, DispatchError, OperationId, OperationState, Scheduler, Submission, Watch,
    WorkerOffer, core::Limits,
};
use bbb_storage::Cas;
use bbb_worker::Slots;
use bytes::Bytes;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use crate::{
    clock::Clock,
    job::{Mishaps, Simulated},
    judge::Judge,
    net::{Broken, CLIENTS, Host, Net},
    reach::Ways,
    store::{Bucket, Disk, Store},
    views,
    world::{World, lock, note},
};

/// How many answers to a client may wait for it.
const ANSWERS: usize = 16;

/// All machines, and what they share.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) world: World,
    pub(crate) net: Net,
    pub(crate) judge: Arc<Judge>,
    pub(crate) bucket: Arc<Bucket>,
    pub(crate) machines: Vec<Machine>,
    pub(crate) mishaps: Mishaps,
}

/// What stays when a node dies.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) host: Host,
    pub(crate) disk: Arc<Disk>,
    pub(crate) offer: WorkerOffer,
    pub(crate) clock: Arc<Clock>,
    pub(crate) node: Mutex<Option<Arc<Node>>>,
}

/// A node while it lives.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) process: Process,
    /// When it began, as members of a cluster are told apart.
    pub(crate) generation: u64,
    pub(crate) view: watch::Sender<Arc<ClusterView>>,
    /// What other nodes may ask of it.
    pub(crate) work: Arc<dyn Work>,
    tasks: TaskGroup,
    dispatch: Arc<dyn Dispatch>,
    store: Arc<Store>,
}

/// What a client asks of a node.
#[derive(Debug)]
pub(crate) enum Ask {
    /// Upload these.
    Write(Vec<(Digest, Bytes)>),
    /// Say whether these can be read.
    Read(Vec<Digest>),
    /// Do this, unless its result is known, and tell how it goes.
    Execute(Box<Submission>),
    /// Tell how an operation goes.
    Wait(OperationId),
    /// End an operation.
    Cancel(OperationId),
}

/// What a node answers.
#[derive(Debug)]
pub(crate) enum Say {
    /// It is done.
    Done,
    /// A blob that cannot be read, since it is not there.
    Missing(Digest),
    /// The result was known.
    Cached(Vec<Digest>),
    /// How the operation stands, and when that was said: it may be long on its way.
    State(Arc<OperationState>, Instant),
    /// There is no such operation.
    Unknown,
    /// It cannot be done now.
    Refused(String),
}

impl Machine {
    pub(crate) fn new(world: &World, host: Host, offer: WorkerOffer) -> Self {
        let clock = Arc::new(Clock::new(world));
        Self { host, disk: Arc::default(), offer, clock, node: Mutex::default() }
    }

    /// The node on it, if it lives.
    pub(crate) fn node(&self) -> Option<Arc<Node>> {
        lock(&self.node).clone()
    }
}

impl Cluster {
    /// Starts a node on a machine that has none.
    pub(crate) fn start(self: &Arc<Self>, host: Host) {
        let machine = &self.machines[host];
        let process = self.world.process();
        let node = process.clone().enter(|| Node::start(self, machine, process));
        *lock(&machine.node) = Some(Arc::new(node));
        note!(self.world, "node {host} starts");
    }

    /// Kills the node on a machine.
    pub(crate) fn kill(&self, host: Host) {
        if let Some(node) = lock(&self.machines[host].node).take() {
            note!(self.world, "node {host} is killed");
            self.look_for_panics(host, &node);
            node.process.kill();
        }
    }

    /// A task that panics is wrong, whatever else happens.
    pub(crate) fn look_for_panics(&self, host: Host, node: &Node) {
        for story in node.process.panics() {
            self.world.is_wrong(format!("node {host}: {story}"));
        }
    }

    /// Asks the node on a machine for something. What it says comes as long as both ends of the answer are held.
    pub(crate) async fn call(&self, host: Host, ask: Ask) -> Result<Ends<(), Say>, Broken> {
        self.net.travel(CLIENTS, host).await?;
        let node = self.machines[host].node().ok_or(Broken)?;
        let (client, server) = Ends::pair(1, ANSWERS);
        let serving = Arc::clone(&node);
        node.spawn("door", async move { serving.serve(ask, server).await });
        Ok(self.net.join(CLIENTS, host, client))
    }
}

impl Node {
    fn start(cluster: &Arc<Cluster>, machine: &Machine, process: Process) -> Self {
        let (tasks, world) = (TaskGroup::new("node"), &cluster.world);
        let store = Store::new(world, &machine.disk, &cluster.bucket);
        let seen = views::alone(world, machine.host);
        let generation = seen.me().generation;
        let (view, views) = watch::channel(Arc::new(seen));
        let clock = Arc::clone(&machine.clock);
        let scheduler = move |tasks: &TaskGroup| {
            Scheduler::start_with(tasks, Limits::default(), Arc::clone(&clock) as _)
        };
        let settings = WorkSettings {
            scheduler: Arc::new(scheduler),
            ids: Arc::clone(&machine.clock) as _,
            ..WorkSettings::default()
        };
        let ways = Ways { cluster: Arc::clone(cluster), from: machine.host };
        let work = ClusterDispatch::start(settings, views, Arc::new(ways), &tasks);
        let executor = Simulated {
            world: world.clone(),
            judge: Arc::clone(&cluster.judge),
            host: machine.host,
            store: Arc::clone(&store),
            mishaps: cluster.mishaps,
        };
        let dispatch: Arc<dyn Dispatch> = Arc::clone(&work) as _;
        let slots = Slots::new(machine.offer.clone(), Arc::clone(&dispatch), Arc::new(executor));
        slots.start(&tasks);
        Self { process, generation, view, work, tasks, dispatch, store }
    }

    /// Starts a task of this node.
    pub(crate) fn spawn(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        self.process.enter(|| drop(self.tasks.spawn(name, task)));
    }

    /// Serves one call, as long as its client listens.
    async fn serve(&self, ask: Ask, client: Ends<Say, ()>) {
        let answer = async {
            let last = match ask {
                Ask::Write(blobs) => self.write(blobs).await,
                Ask::Read(blobs) => self.read(blobs).await,
                Ask::Execute(submission) => self.execute(*submission, &client.to).await,
                Ask::Wait(id) => match self.dispatch.find(id).await {
                    Ok(Some(watch)) => follow(watch, &client.to).await,
                    Ok(None) => Say::Unknown,
                    Err(error) => refused(&error),
                },
                Ask::Cancel(id) => match self.dispatch.cancel(id).await {
                    Ok(()) => Say::Done,
                    Err(error) => refused(&error),
                },
            };
            // A client that has gone needs no answer.
            let _ = client.to.send(last).await;
        };
        tokio::select! {
            biased;
            () = answer => {}
            () = client.to.closed() => {}
        }
    }

    async fn write(&self, blobs: Vec<(Digest, Bytes)>) -> Say {
        for (digest, bytes) in blobs {
            if let Err(error) = Cas::put(&*self.store, digest, bytes.into()).await {
                return Say::Refused(error.to_string());
            }
        }
        Say::Done
    }

    async fn read(&self, blobs: Vec<Digest>) -> Say {
        for digest in blobs {
            match self.store.read(digest).await {
                Ok(_) => {}
                Err(bbb_storage::Error::Missing(digest)) => return Say::Missing(digest),
                Err(error) => return Say::Refused(error.to_string()),
            }
        }
        Say::Done
    }

    async fn execute(&self, submission: Submission, client: &mpsc::Sender<Say>) -> Say {
        if submission.mergeable {
            match self.store.result(submission.key.action).await {
                Ok(Some(outputs)) => return Say::Cached(outputs),
                Ok(None) => {}
                Err(error) => return Say::Refused(error.to_string()),
            }
        }
        match self.dispatch.submit(submission).await {
            Ok(watch) => follow(watch, client).await,
            Err(error) => refused(&error),
        }
    }

    /// Whether nothing is queued, runs, or is remembered here; says what is otherwise.
    pub(crate) async fn is_empty(&self) -> Result<(), String> {
        let snapshot = self.dispatch.snapshot().await.map_err(|error| error.to_string())?;
        let left = (snapshot.queued, snapshot.executing, snapshot.completed);
        match left {
            (0, 0, 0) => Ok(()),
            (queued, executing, completed) => {
                Err(format!("{queued} queued, {executing} executing, {completed} completed"))
            }
        }
    }
}

fn refused(error: &DispatchError) -> Say {
    Say::Refused(error.to_string())
}

/// Tells a client all states of an operation but the last, which is returned, as is the end of the watch.
async fn follow(mut watch: Watch, client: &mpsc::Sender<Say>) -> Say {
    let mut state = watch.current();
    loop {
        if state.stage.is_completed() {
            return Say::State(state, Instant::now());
        }
        if client.send(Say::State(state, Instant::now())).await.is_err() {
            return Say::Done;
        }
        match watch.changed().await {
            Some(next) => state = next,
            None => return Say::Refused("the operation is not known any more".to_owned()),
        }
    }
}
