//! What a seed decides at the beginning: the machines, and what clients will want of them.

use std::{sync::Arc, time::Duration};

use bbb_scheduler::{Demand, InputPart, Platform, WorkerOffer};
use bbb_worker::usual_prefetch;

use crate::{
    client::{Clients, Conduct, Wish},
    job::{Job, Mishaps},
    judge::Judge,
    net::Net,
    node::{Cluster, Machine},
    store::Bucket,
    world::{World, note},
};

/// What each machine has for its tasks.
const CAPACITY: Demand = Demand { millicpus: 4000, memory_bytes: 8 << 30 };

/// How large everything is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    nodes: usize,
    builds: usize,
    actions: usize,
    mishaps: Mishaps,
    pub(crate) faults_for: Duration,
    pub(crate) fault_every_ms: u64,
}

impl Plan {
    pub(crate) fn by(world: &World) -> Self {
        let plan = Self {
            nodes: 1 + world.below(5),
            builds: 1 + world.below(4),
            actions: 2 + world.below(20),
            mishaps: Mishaps {
                gives_up: [0, 10, 30][world.below(3)],
                hangs: [0, 0, 60][world.below(3)],
            },
            faults_for: world.millis(20_000, 90_000),
            fault_every_ms: [700, 2500, 8000][world.below(3)],
        };
        note!(world, "{plan:?}");
        plan
    }

    /// Machines without nodes yet.
    pub(crate) fn cluster(&self, world: &World) -> Cluster {
        let machines = (0..self.nodes).map(|host| {
            let mut offer = WorkerOffer::of(format!("node-{host}"), 1 + world.below(3) as u32);
            offer.prefetch = usual_prefetch(offer.slots);
            offer.capacity = CAPACITY;
            if host % 2 == 0 {
                offer.platform = platform("pool", "even");
            }
            Machine::new(world, host, offer)
        });
        let machines = machines.collect();
        let net = Net::new(world);
        Cluster {
            world: world.clone(),
            net,
            judge: Judge::new(world),
            bucket: Bucket::new(world),
            machines,
            mishaps: self.mishaps,
        }
    }

    /// Starts all clients.
    pub(crate) fn start(&self, world: &World, clients: &Arc<Clients>) {
        for build in 0..self.builds {
            let invocation: Arc<str> = format!("build-{build}").into();
            for action in 0..self.actions {
                let wish = self.wish(world, build, action, &invocation);
                let begins = world.millis(0, self.faults_for.as_millis() as u64);
                clients.start(format!("{invocation}/{action}"), wish, begins);
            }
        }
    }

    fn wish(&self, world: &World, build: usize, action: usize, invocation: &Arc<str>) -> Wish {
        let conduct = match world.below(12) {
            0 => Conduct::Vanishes(world.millis(0, 20_000)),
            1 | 2 => Conduct::Returns(world.millis(0, 10_000), world.millis(100, 30_000)),
            3 => Conduct::Cancels(world.millis(0, 10_000)),
            _ => Conduct::Stays,
        };
        // What several builds want is equal; what is cancelled is wanted by one alone.
        let is_shared = world.one_in(3) && !matches!(conduct, Conduct::Cancels(_));
        let build = if is_shared { 0 } else { 1 + build };
        let number = (build * 1000 + action) as u64;
        let (is_impossible, requirement) = match (is_shared, world.below(10)) {
            (false, 0) => (true, platform("pool", "none")),
            (false, 1 | 2) => (false, platform("pool", "even")),
            _ => (false, Platform::default()),
        };
        let job = Job {
            number,
            inputs: number as usize % 4,
            outputs: 1 + number as usize % 3,
            runs_for: Duration::from_millis(number * 7919 % 9000),
        };
        let demand = match number % 4 {
            0 => Demand { millicpus: 3000, memory_bytes: 1 << 30 },
            1 => Demand { millicpus: 500, memory_bytes: 6 << 30 },
            _ => Demand::default(),
        };
        // Some actions have inputs in common.
        let part = InputPart { key: number % 7, bytes: 1 << 20 };
        Wish {
            demand,
            inputs: [part].into(),
            job,
            invocation: Arc::clone(invocation),
            priority: world.below(3) as i32 - 1,
            requirement,
            is_impossible,
            timeout: Duration::from_secs(20),
            conduct,
        }
    }
}

fn platform(name: &str, value: &str) -> Platform {
    [(name.to_owned(), value.to_owned())].into_iter().collect()
}
