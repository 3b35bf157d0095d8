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

use std::{sync::Arc, time::Duration};

use tokio::time;

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
    let plan = workload::Plan::by(&world);
    let cluster = Arc::new(plan.cluster(&world));
    (0..cluster.machines.len()).for_each(|host| cluster.start(host));
    world.spawn("views", views::run(Arc::clone(&cluster)));
    let clients = Clients::new(&cluster);
    plan.start(&world, &clients);
    faults::run(&cluster, plan.faults_for, plan.fault_every_ms).await;
    settle(&world, &cluster, &clients).await;
    for machine in &cluster.machines {
        if let Some(node) = machine.node() {
            cluster.look_for_panics(machine.host, &node);
        }
        // A node knows the cluster, which knows the node.
        cluster.kill(machine.host);
    }
    let trace = world.trace();
    Verdict {
        seed,
        wrongs: world.take_wrongs(),
        hash: trace.hash(),
        events: trace.count(),
        last: trace.last(),
        lasted: world.now(),
        tally: cluster.judge.tally(),
    }
}

/// Waits until all has come to its end in a cluster without faults.
async fn settle(world: &World, cluster: &Cluster, clients: &Clients) {
    let ended = until(world, ENDS_WITHIN, async || match clients.open() {
        open if open.is_empty() => Ok(()),
        open => Err(open.join(", ")),
    });
    if let Err(open) = ended.await {
        return world.is_wrong(format!("{ENDS_WITHIN:?} after the last fault there wait: {open}"));
    }
    let promised: Vec<_> = world::lock(&clients.promised).iter().copied().collect();
    for machine in &cluster.machines {
        clients.read("the last reader", machine.host, promised.clone()).await;
    }
    let forgotten = until(world, FORGETS_WITHIN, async || {
        for machine in &cluster.machines {
            let Some(node) = machine.node() else { continue };
            node.is_empty().await.map_err(|left| format!("{}: {left}", machine.host))?;
        }
        match cluster.judge.running() {
            0 => Ok(()),
            running => Err(format!("{running} commands run")),
        }
    });
    if let Err(left) = forgotten.await {
        world.is_wrong(format!("{FORGETS_WITHIN:?} after the last client there is left on {left}"));
    }
}

/// Looks each second whether something is so.
async fn until(
    world: &World,
    within: Duration,
    is_so: impl AsyncFn() -> Result<(), String>,
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
