//! What goes wrong, when, and for how long: all of it by chance.

use std::{sync::Arc, time::Duration};

use tokio::time;

use crate::{
    net::{CLIENTS, Host},
    node::Cluster,
    store::Mood,
    world::{lock, note},
};

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// A node is killed, and starts again a while later.
    Kill,
    /// A machine goes down: nobody is told. It loses its disk at times.
    PowerOff,
    /// A node is stopped, as by SIGSTOP, and goes on later.
    Pause,
    /// A machine and all others do not hear each other, or only one way.
    Isolate,
    /// Some of the machines and the rest do not hear each other.
    Split,
    /// One machine does not hear another one.
    OneWay,
    /// The clock of a machine jumps.
    ClockJump,
    /// A disk is slow, refuses, or lies.
    BadDisk,
    /// The bucket is slow, refuses, loses answers, or lies.
    BadBucket,
}

use Fault::{BadBucket, BadDisk, ClockJump, Isolate, Kill, OneWay, Pause, PowerOff, Split};

const FAULTS: [Fault; 9] =
    [Kill, PowerOff, Pause, Isolate, Split, OneWay, ClockJump, BadDisk, BadBucket];

/// Does harm for so long, about every so many milliseconds; returns when all is healed again.
pub(crate) async fn run(cluster: &Arc<Cluster>, lasts: Duration, every_ms: u64) {
    let world = &cluster.world;
    let ends = world.now() + lasts;
    let mut open = Vec::new();
    while world.now() < ends {
        time::sleep(world.millis(every_ms / 10, every_ms * 2)).await;
        let (fault, host) =
            (FAULTS[world.below(FAULTS.len())], world.below(cluster.machines.len()));
        let long = match world.below(4) {
            0 => world.millis(50, 1000),
            1 => world.millis(5000, 20_000),
            _ => world.millis(1000, 8000),
        };
        let (done, over) = tokio::sync::oneshot::channel::<()>();
        open.push(over);
        let harmed = Arc::clone(cluster);
        world.spawn("fault", async move {
            harmed.suffer(fault, host, long).await;
            drop(done);
        });
    }
    for over in open {
        // Its sender says nothing; it is dropped at the end.
        let _ = over.await;
    }
    note!(world, "faults cease");
}

impl Cluster {
    async fn suffer(self: &Arc<Self>, fault: Fault, host: Host, long: Duration) {
        let world = &self.world;
        note!(world, "fault {fault:?} of {host} for {long:?}");
        match fault {
            Kill => {
                self.judge.hurt(host);
                self.kill(host);
                time::sleep(long).await;
                self.revive(host);
                self.judge.healed(host);
            }
            PowerOff => {
                self.judge.hurt(host);
                let ways = self.ways_around(&[host], true, true);
                self.cut(&ways);
                self.kill(host);
                if world.one_in(3) {
                    self.machines[host].disk.wipe();
                }
                time::sleep(long).await;
                self.mend(&ways);
                self.revive(host);
                self.judge.healed(host);
            }
            Pause => self.pause(host, long).await,
            Isolate => {
                let (out, into) = [(true, true), (true, false), (false, true)][world.below(3)];
                self.part(self.ways_around(&[host], out, into), long).await;
            }
            Split => {
                let some: Vec<Host> =
                    (0..self.machines.len()).filter(|_| world.one_in(2)).collect();
                self.part(self.ways_around(&some, true, true), long).await;
            }
            OneWay => {
                let other = world.below(self.machines.len());
                self.part(vec![(host, other)], long).await;
            }
            ClockJump => {
                let (clock, off) = (&self.machines[host].clock, world.millis(0, 3_600_000));
                match world.one_in(2) {
                    true => clock.jump(off, Duration::ZERO),
                    false => clock.jump(Duration::ZERO, off),
                }
            }
            BadDisk => {
                let mood = self.mood();
                *lock(&self.machines[host].disk.mood) = mood;
                time::sleep(long).await;
                *lock(&self.machines[host].disk.mood) = Mood::default();
            }
            BadBucket => {
                *lock(&self.bucket.mood) = self.mood();
                time::sleep(long).await;
                *lock(&self.bucket.mood) = Mood::default();
            }
        }
    }

    fn mood(&self) -> Mood {
        let mut mood = Mood::default();
        match self.world.below(4) {
            0 => mood.slow_ms = 3000,
            1 => mood.refuses = 2,
            2 => mood.loses = 2,
            _ => mood.lies = 2,
        }
        note!(self.world, "{mood:?}");
        mood
    }

    async fn pause(&self, host: Host, long: Duration) {
        let Some(node) = self.machines[host].node() else { return };
        self.judge.hurt(host);
        node.process.stop();
        time::sleep(long).await;
        node.process.resume();
        self.judge.healed(host);
    }

    /// Starts the node on a machine, unless another fault's end has done so.
    fn revive(self: &Arc<Self>, host: Host) {
        if self.machines[host].node().is_none() {
            self.start(host);
        }
    }

    async fn part(&self, ways: Vec<(Host, Host)>, long: Duration) {
        // Who speaks to nobody else is not parted from anybody.
        let mut hurt: Vec<Host> = ways.iter().flat_map(|(from, to)| [*from, *to]).collect();
        hurt.sort_unstable();
        hurt.dedup();
        hurt.retain(|host| *host != CLIENTS);
        hurt.iter().for_each(|host| self.judge.hurt(*host));
        self.cut(&ways);
        time::sleep(long).await;
        self.mend(&ways);
        hurt.iter().for_each(|host| self.judge.healed(*host));
    }

    /// The ways from some hosts to all others, and those back.
    fn ways_around(&self, some: &[Host], out: bool, into: bool) -> Vec<(Host, Host)> {
        let mut ways = Vec::new();
        for host in some {
            let others = (0..self.machines.len()).filter(|other| !some.contains(other));
            for other in others.chain([CLIENTS]) {
                ways.extend(out.then_some((*host, other)));
                ways.extend(into.then_some((other, *host)));
            }
        }
        ways
    }

    fn cut(&self, ways: &[(Host, Host)]) {
        ways.iter().for_each(|(from, to)| self.net.cut(*from, *to));
    }

    fn mend(&self, ways: &[(Host, Host)]) {
        ways.iter().for_each(|(from, to)| self.net.mend(*from, *to));
    }
}
