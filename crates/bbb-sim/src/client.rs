//! Builds: clients that upload, execute, watch, vanish, come back and cancel, as Bazel does.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use bbb_digest::Digest;
use bbb_scheduler::{
    ActionKey, Demand, End, Failure, InputPart, OperationId, OperationState, Platform, Stage,
    Submission,
};
use tokio::time;

use crate::{
    job::Job,
    net::Host,
    node::{Ask, Cluster, Say},
    world::{lock, note},
};

/// An end that was said earlier is no news, nor is one that comes so soon after a client began to watch: a machine that was
/// away when that was decided may be back.
const NEWS: Duration = Duration::from_secs(1);

/// How often a client tries to cancel.
const CANCELS: usize = 20;

/// How often an action is tried before it is refused, by the scheduler's limits.
const MAX_ATTEMPTS: usize = 4;

/// What clients share.
#[derive(Debug)]
pub(crate) struct Clients {
    cluster: Arc<Cluster>,
    /// Those that have not ended, by what they are doing.
    open: Mutex<BTreeSet<String>>,
    /// What clients were told to be there.
    pub(crate) promised: Mutex<BTreeSet<Digest>>,
}

/// One action of one client.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) job: Job,
    pub(crate) invocation: Arc<str>,
    pub(crate) priority: i32,
    pub(crate) requirement: Platform,
    pub(crate) demand: Demand,
    pub(crate) inputs: Arc<[InputPart]>,
    /// Whether no worker offers what it asks for.
    pub(crate) is_impossible: bool,
    pub(crate) timeout: Duration,
    pub(crate) conduct: Conduct,
}

/// How a client behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Conduct {
    /// Waits for the end.
    Stays,
    /// Drops its connection after a time, and comes back later.
    Returns(Duration, Duration),
    /// Is gone for good after a time.
    Vanishes(Duration),
    /// Cancels after a time, and waits for the end.
    Cancels(Duration),
}

/// How a stream came to its end.
enum Outcome {
    /// And whether that has just happened, while the client watched.
    Ended(Arc<OperationState>, bool),
    Cached(Vec<Digest>),
    /// It broke: the operation goes on, or not.
    Broken,
    Unknown,
    Left,
}

impl Clients {
    pub(crate) fn new(cluster: &Arc<Cluster>) -> Arc<Self> {
        let cluster = Arc::clone(cluster);
        Arc::new(Self { cluster, open: Mutex::default(), promised: Mutex::default() })
    }

    /// What has not ended.
    pub(crate) fn open(&self) -> Vec<String> {
        lock(&self.open).iter().cloned().collect()
    }

    /// Starts a client.
    pub(crate) fn start(self: &Arc<Self>, name: String, wish: Wish, begins: Duration) {
        let clients = Arc::clone(self);
        lock(&self.open).insert(name.clone());
        self.cluster.world.spawn("client", async move {
            time::sleep(begins).await;
            clients.upload(&wish.job).await;
            clients.execute(&name, &wish).await;
            lock(&clients.open).remove(&name);
        });
    }

    async fn upload(&self, job: &Job) {
        loop {
            if let Ok(mut answer) = self.cluster.call(self.any(), Ask::Write(job.blobs())).await
                && let Some(Say::Done) = answer.from.recv().await
            {
                return;
            }
            self.pause().await;
        }
    }

    /// Executes until there is an end that a client would accept.
    async fn execute(self: &Arc<Self>, name: &str, wish: &Wish) {
        let world = &self.cluster.world;
        let mut conduct = wish.conduct;
        let mut known: Option<OperationId> = None;
        loop {
            let host = self.any();
            let ask = match known {
                Some(id) => Ask::Wait(id),
                None => Ask::Execute(Box::new(wish.submission())),
            };
            match self.follow(name, host, ask, &mut known, &mut conduct).await {
                Outcome::Cached(outputs) => {
                    note!(world, "{name} got a known result");
                    self.cluster.judge.count(|tally| tally.cached += 1);
                    return self.promise(name, host, outputs);
                }
                Outcome::Ended(state, is_news) => {
                    if self.accept(name, host, wish, &state, is_news) {
                        return;
                    }
                    known = None;
                }
                Outcome::Broken => self.cluster.judge.count(|tally| tally.reconnects += 1),
                Outcome::Unknown => {
                    note!(world, "{name} is not known any more");
                    self.cluster.judge.count(|tally| tally.forgotten += 1);
                    known = None;
                }
                Outcome::Left => match conduct {
                    Conduct::Returns(_, away) => {
                        conduct = Conduct::Stays;
                        time::sleep(away).await;
                    }
                    _ => return note!(world, "{name} has gone"),
                },
            }
            self.pause().await;
        }
    }

    /// Follows an operation over one connection.
    async fn follow(
        self: &Arc<Self>,
        name: &str,
        host: Host,
        ask: Ask,
        known: &mut Option<OperationId>,
        conduct: &mut Conduct,
    ) -> Outcome {
        let Ok(mut answer) = self.cluster.call(host, ask).await else { return Outcome::Broken };
        let deadline = match *conduct {
            Conduct::Stays => Duration::from_secs(86_400),
            Conduct::Returns(after, _) | Conduct::Vanishes(after) | Conduct::Cancels(after) => {
                after
            }
        };
        let mut deadline = Box::pin(time::sleep(deadline));
        let (mut last, mut followed_since) = ("", None);
        loop {
            let said = tokio::select! {
                biased;
                said = answer.from.recv() => said,
                () = &mut deadline, if *conduct != Conduct::Stays => match (*conduct, *known) {
                    (Conduct::Cancels(_), None) => {
                        deadline.as_mut().reset(time::Instant::now() + Duration::from_secs(1));
                        continue;
                    }
                    (Conduct::Cancels(_), Some(id)) => {
                        note!(self.cluster.world, "{name} cancels");
                        *conduct = Conduct::Stays;
                        let canceller = Arc::clone(self);
                        self.cluster.world.spawn("canceller", async move {
                            canceller.cancel(id).await;
                        });
                        continue;
                    }
                    _ => return Outcome::Left,
                },
            };
            match said {
                Some(Say::State(state, said_at)) => {
                    *known = Some(state.id);
                    let stage = stage(&state.stage);
                    if stage != last {
                        note!(self.cluster.world, "{name} is {stage}, says {host}");
                    }
                    last = stage;
                    let followed_since = *followed_since.get_or_insert(said_at);
                    let is_news = followed_since.elapsed() > NEWS && said_at.elapsed() < NEWS;
                    if state.stage.is_completed() {
                        return Outcome::Ended(state, is_news);
                    }
                }
                Some(Say::Cached(outputs)) => return Outcome::Cached(outputs),
                Some(Say::Unknown) => return Outcome::Unknown,
                Some(Say::Refused(reason)) => {
                    note!(self.cluster.world, "{name} is refused by {host}: {reason}");
                    return Outcome::Broken;
                }
                Some(Say::Done | Say::Missing(_)) | None => return Outcome::Broken,
            }
        }
    }

    /// Cancels an operation through any node, until one has said that it did.
    async fn cancel(&self, id: OperationId) {
        for _ in 0..CANCELS {
            if let Ok(mut answer) = self.cluster.call(self.any(), Ask::Cancel(id)).await
                && let Some(Say::Done) = answer.from.recv().await
            {
                return;
            }
            self.pause().await;
        }
    }

    /// Whether the client is content with an end. One that should not be is wrong.
    fn accept(
        self: &Arc<Self>,
        name: &str,
        host: Host,
        wish: &Wish,
        state: &OperationState,
        is_news: bool,
    ) -> bool {
        let world = &self.cluster.world;
        let Stage::Completed { end, .. } = &state.stage else { return false };
        match end {
            End::Decided(outcome) => {
                note!(world, "{name} is done");
                self.cluster.judge.count(|tally| tally.decided += 1);
                match wish.job.read_outcome(outcome) {
                    Some(outputs) => self.promise(name, host, outputs),
                    None => world.is_wrong(format!("{name} got another one's outcome")),
                }
                true
            }
            End::Failed(Failure::Unsatisfiable(_)) if wish.is_impossible => true,
            End::Failed(Failure::Cancelled(_)) if matches!(wish.conduct, Conduct::Cancels(_)) => {
                true
            }
            // A machine that is away may be away for longer than anybody waits for it.
            End::Failed(Failure::Unsatisfiable(why)) if !is_news || !self.is_offered(wish) => {
                note!(world, "{name} finds no worker: {why}");
                self.cluster.judge.count(|tally| tally.unsatisfied += 1);
                false
            }
            // The client tries once more, as people do.
            End::Failed(Failure::Attempts(story)) if story.0.len() >= MAX_ATTEMPTS => {
                note!(world, "{name} was refused: {story}");
                self.cluster.judge.count(|tally| tally.refused += 1);
                false
            }
            End::Failed(failure) => {
                world.is_wrong(format!("{name} failed: {failure}"));
                true
            }
        }
    }

    /// A client was told of these blobs: from now on they can be read, from any node.
    fn promise(self: &Arc<Self>, name: &str, host: Host, outputs: Vec<Digest>) {
        lock(&self.promised).extend(outputs.iter().copied());
        let (clients, name) = (Arc::clone(self), name.to_owned());
        self.cluster.world.spawn("reader", async move { clients.read(&name, host, outputs).await });
    }

    /// Reads blobs from a node until that has worked, first from this one.
    pub(crate) async fn read(&self, name: &str, mut host: Host, outputs: Vec<Digest>) {
        loop {
            if let Ok(mut answer) = self.cluster.call(host, Ask::Read(outputs.clone())).await {
                match answer.from.recv().await {
                    Some(Say::Done) => return,
                    Some(Say::Missing(digest)) => {
                        let world = &self.cluster.world;
                        return world.is_wrong(format!("{name} was told of {digest}: missing"));
                    }
                    _ => {}
                }
            }
            self.pause().await;
            host = self.any();
        }
    }

    /// Whether a machine that was not hurt lately offers what a wish asks for.
    fn is_offered(&self, wish: &Wish) -> bool {
        let machines = self.cluster.machines.iter();
        let mut able = machines.filter(|machine| {
            let offered: Vec<_> = machine.offer.platform.iter().collect();
            wish.requirement.iter().all(|asked| offered.contains(&asked))
        });
        able.any(|machine| self.cluster.judge.is_calm(machine.host))
    }

    fn any(&self) -> Host {
        self.cluster.world.below(self.cluster.machines.len())
    }

    async fn pause(&self) {
        time::sleep(self.cluster.world.millis(50, 1500)).await;
    }
}

impl Wish {
    fn submission(&self) -> Submission {
        let key = ActionKey { instance: Default::default(), action: self.job.digest() };
        Submission {
            requirement: self.requirement.clone(),
            demand: self.demand,
            inputs: Arc::clone(&self.inputs),
            timeout: self.timeout,
            priority: self.priority,
            invocation: Arc::clone(&self.invocation),
            ..Submission::of(key)
        }
    }
}

fn stage(stage: &Stage) -> &'static str {
    match stage {
        Stage::Queued(_) => "queued",
        Stage::Executing { .. } => "executing",
        Stage::Completed { .. } => "completed",
    }
}
