//! Whole clusters in one process, from one seed, with everything that can go wrong.
//!
//! Nodes are made of the product's parts: the scheduler with its driver, what accepts operations and hands them in, and the
//! worker's slots. Around them all is simulated: machines, disks, the bucket, the network, who sees whom alive, time, and
//! the clients. A seed decides what there is, what is done and what goes wrong; the same seed does the same each time, so
//! that what failed once fails again. [`simulate`] has to be run on a runtime of one thread whose time is paused.
//!
//! It promises to say so when the cluster breaks a promise: an operation whose client stayed ends, and ends well; nothing
//! hangs; no action runs twice at once in a calm cluster; what a client was told of can be read; nothing is left at the end.

mod client;
mod clock;
mod faults;
mod job;
mod judge;
mod net;
mod node;
mod reach;
mod store;
mod trace;
mod views;
mod workload;
mod world;

use std::{future::ready, pin::Pin, sync::Arc, time::Duration};

use tokio::{sync::oneshot, time};

use crate::{client::Clients, node::Cluster, world::World};
pub use judge::Tally;

/// By then all clients have come to their end, once faults have ceased.
const ENDS_WITHIN: Duration = Duration::from_secs(600);

/// By then all is forgotten, once no client is left: operations that nobody watches and those that have ended.
const FORGETS_WITHIN: Duration = Duration::from_secs(700);

/// What came of a simulation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The seed.
    pub seed: u64,
    /// The promises that were broken.
    pub wrongs: Vec<String>,
    /// Stands for all that happened, in its order.
    pub hash: u64,
    /// How many events that were.
    pub events: u64,
    /// The last of them.
    pub last: Vec<String>,
    /// The time that went by in the simulation.
    pub lasted: Duration,
    /// What was done.
    pub tally: Tally,
}

/// Simulates what the seed decides. All events are printed, if that is wanted.
pub async fn simulate(seed: u64, prints: bool) -> Verdict {
    let world = World::new(seed, prints);
    let (tell, told) = oneshot::channel();
    let simulated = world.clone();
    world.spawn("simulation", async move {
        // Whoever waits for it waits until it is told.
        let _ = tell.send(run(&simulated).await);
    });
    let tally = told.await.unwrap_or_default();
    world.panics().into_iter().for_each(|story| world.is_wrong(story));
    let trace = world.trace();
    Verdict {
        seed,
        hash: trace.hash(),
        events: trace.count(),
        last: trace.last(),
        lasted: world.now(),
        wrongs: world.take_wrongs(),
        tally,
    }
}

async fn run(world: &World) -> Tally {
    let plan = workload::Plan::by(world);
    let cluster = Arc::new(plan.cluster(world));
    (0..cluster.machines.len()).for_each(|host| cluster.start(host));
    world.spawn("views", views::run(Arc::clone(&cluster)));
    let clients = Clients::new(&cluster);
    plan.start(world, &clients);
    faults::run(&cluster, plan.faults_for, plan.fault_every_ms).await;
    settle(world, &cluster, &clients).await;
    for machine in &cluster.machines {
        if let Some(node) = machine.node() {
            cluster.look_for_panics(machine.host, &node);
        }
        // A node knows the cluster, which knows the node.
        cluster.kill(machine.host);
    }
    cluster.judge.tally()
}

/// Waits until all has come to its end in a cluster without faults.
async fn settle(world: &World, cluster: &Cluster, clients: &Clients) {
    let ended = until(world, ENDS_WITHIN, || {
        let open = clients.open();
        let ended = if open.is_empty() { Ok(()) } else { Err(open.join(", ")) };
        Box::pin(ready(ended))
    });
    if let Err(open) = ended.await {
        return world.is_wrong(format!("{ENDS_WITHIN:?} after the last fault there wait: {open}"));
    }
    let promised: Vec<_> = world::lock(&clients.promised).iter().copied().collect();
    for machine in &cluster.machines {
        clients.read("the last reader", machine.host, promised.clone()).await;
    }
    let forgotten = until(world, FORGETS_WITHIN, || Box::pin(has_nothing_left(cluster))).await;
    if let Err(left) = forgotten {
        world.is_wrong(format!("{FORGETS_WITHIN:?} after the last client there is left on {left}"));
    }
}

async fn has_nothing_left(cluster: &Cluster) -> Result<(), String> {
    for machine in &cluster.machines {
        let Some(node) = machine.node() else { continue };
        node.is_empty().await.map_err(|left| format!("{}: {left}", machine.host))?;
    }
    match cluster.judge.running() {
        0 => Ok(()),
        running => Err(format!("{running} commands run")),
    }
}

/// Nothing if it is so, or else why not.
type IsSo<'a> = Pin<Box<dyn Future<Output = Result<(), String>> + Send + 'a>>;

/// Looks each second whether something is so.
async fn until<'a>(
    world: &World,
    within: Duration,
    is_so: impl Fn() -> IsSo<'a>,
) -> Result<(), String> {
    let ends = world.now() + within;
    loop {
        match is_so().await {
            Ok(()) => return Ok(()),
            Err(why) if world.now() >= ends || world.has_wrongs() => return Err(why),
            Err(_) => time::sleep(Duration::from_secs(1)).await,
        }
    }
}
