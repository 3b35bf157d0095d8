//! Clusters in a simulated network: seeded, with simulated time, so that what failed once fails again.
//!
//! `BBB_SIM_SEEDS` says how many seeds each scenario runs with.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap},
    net::SocketAddr,
    time::Duration,
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::{Gossip, MAX_PACKET_BYTES, Node};
use crate::MemberId;

const SECOND: Duration = Duration::from_secs(1);

/// Some nodes and the network between them.
struct Net {
    rng: StdRng,
    now: Duration,
    hosts: Vec<Host>,
    flights: BinaryHeap<Reverse<Flight>>,
    /// Packets sent so far, and their bytes.
    sent: (u64, u64),
    /// The share of packets that get lost.
    loss: f64,
    /// How long a packet takes at least, and how much longer at most.
    delay: (Duration, Duration),
    /// Hosts below this one and the others do not hear each other.
    cut: Option<usize>,
    /// How often a living node was taken for gone.
    flaps: usize,
    watches_for_flaps: bool,
}

struct Host {
    address: SocketAddr,
    name: String,
    node: Option<Gossip>,
    /// Until when it does not run, though it is there.
    stopped_until: Duration,
    queue: Vec<(SocketAddr, Vec<u8>)>,
    live: BTreeSet<String>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Flight {
    arrives: Duration,
    number: u64,
    from: SocketAddr,
    to: SocketAddr,
    packet: Vec<u8>,
}

fn address(host: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, (host / 200) as u8, (host % 200) as u8 + 1], 7946))
}

fn seeds() -> impl Iterator<Item = u64> {
    let count = std::env::var("BBB_SIM_SEEDS").ok().and_then(|seeds| seeds.parse().ok());
    0..count.unwrap_or(8)
}

impl Net {
    fn new(seed: u64, hosts: usize) -> Self {
        let mut net = Self {
            rng: StdRng::seed_from_u64(seed),
            now: SECOND,
            hosts: Vec::new(),
            flights: BinaryHeap::new(),
            sent: (0, 0),
            loss: 0.0,
            delay: (Duration::from_micros(100), Duration::from_micros(300)),
            cut: None,
            flaps: 0,
            watches_for_flaps: false,
        };
        for host in 0..hosts {
            net.hosts.push(Host {
                address: address(host),
                name: format!("node-{host}"),
                node: None,
                stopped_until: Duration::ZERO,
                queue: Vec::new(),
                live: BTreeSet::new(),
            });
        }
        net
    }

    /// A cluster that has formed: all were told of the first one.
    fn formed(seed: u64, hosts: usize) -> Self {
        let mut net = Self::new(seed, hosts);
        for host in 0..hosts {
            net.start(host);
        }
        let took = net.run_until(20 * SECOND, Self::is_whole);
        assert!(took.is_some(), "seed {seed}: {hosts} nodes form a cluster");
        net
    }

    fn start(&mut self, host: usize) {
        let generation = self.now.as_millis() as u64;
        self.start_as(host, generation);
        if host > 0 {
            let first = self.hosts[0].address;
            self.found(host, first);
        }
    }

    fn start_as(&mut self, host: usize, generation: u64) {
        let (name, gossip) = (self.hosts[host].name.as_str().into(), self.hosts[host].address);
        let port = SocketAddr::new(gossip.ip(), 1234);
        let id = Node::try_from(MemberId { name, generation, gossip, port }).unwrap();
        let seed = self.rng.random();
        self.hosts[host].node = Some(Gossip::new(id, seed, self.now));
        self.hosts[host].queue.clear();
        self.hosts[host].live.clear();
    }

    fn found(&mut self, host: usize, address: SocketAddr) {
        let now = self.now;
        self.hosts[host].node.as_mut().unwrap().found(address, now);
    }

    fn kill(&mut self, host: usize) {
        self.hosts[host].node = None;
    }

    fn node(&self, host: usize) -> &Gossip {
        self.hosts[host].node.as_ref().unwrap()
    }

    /// Whether all that run see each other and nobody else.
    fn is_whole(&self) -> bool {
        let running = || self.hosts.iter().filter(|host| host.node.is_some());
        let all: BTreeSet<&MemberId> =
            running().map(|host| host.node.as_ref().unwrap().me()).collect();
        running().all(|host| {
            let node = host.node.as_ref().unwrap();
            let live = node.live();
            live.len() + 1 == all.len() && live.values().all(|id| all.contains(*id))
        })
    }

    /// Whether nobody sees this host.
    fn is_unseen(&self, gone: usize) -> bool {
        self.hosts.iter().all(|host| {
            host.node.as_ref().is_none_or(|node| !node.live().contains_key(&*self.hosts[gone].name))
        })
    }

    fn run(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    /// Runs until it is so, at most so long; says how long it took.
    fn run_until(&mut self, most: Duration, is_so: impl Fn(&Self) -> bool) -> Option<Duration> {
        let start = self.now;
        let mut checked = 0;
        let mut has_changed = true;
        while self.now < start + most {
            if has_changed && is_so(self) {
                return Some(self.now - start);
            }
            checked += 1;
            assert!(checked < 50_000_000, "time goes on");
            has_changed = self.step(start + most);
        }
        is_so(self).then(|| self.now - start)
    }

    /// Does what comes next; says whether a node's members have changed.
    fn step(&mut self, end: Duration) -> bool {
        let wakes =
            |host: &Host| host.node.as_ref().map(|node| node.next_tick().max(host.stopped_until));
        let next =
            (0..self.hosts.len()).filter_map(|host| Some((wakes(&self.hosts[host])?, host))).min();
        let arrival = self.flights.peek().map(|Reverse(flight)| flight.arrives);
        let at =
            next.map(|(at, _)| at).into_iter().chain(arrival).min().unwrap_or(end).max(self.now);
        if at >= end {
            self.now = end;
            return false;
        }
        self.now = at;
        if arrival.is_some_and(|arrives| arrives <= at) {
            let Reverse(flight) = self.flights.pop().unwrap();
            let Some(host) =
                self.hosts.iter().position(|host| host.address == flight.to && host.node.is_some())
            else {
                return false;
            };
            if self.hosts[host].stopped_until > at {
                self.hosts[host].queue.push((flight.from, flight.packet));
                self.hosts[host].queue.truncate(500);
                return false;
            }
            self.hosts[host].node.as_mut().unwrap().receive(flight.from, &flight.packet, at);
            return self.settle(host);
        }
        let (_, host) = next.unwrap();
        let queue = std::mem::take(&mut self.hosts[host].queue);
        let node = self.hosts[host].node.as_mut().unwrap();
        for (from, packet) in queue {
            node.receive(from, &packet, at);
        }
        node.tick(at);
        self.settle(host)
    }

    /// Sends what a host has to send, and looks at who its members are.
    fn settle(&mut self, host: usize) -> bool {
        let node = self.hosts[host].node.as_mut().unwrap();
        let has_changed = node.take_changed();
        for (to, packet) in node.take_outbox() {
            self.send(host, to, packet);
        }
        if has_changed {
            let live: BTreeSet<String> =
                self.node(host).live().keys().map(ToString::to_string).collect();
            let lost = self.hosts[host].live.difference(&live).count();
            if self.watches_for_flaps {
                self.flaps += lost;
            }
            self.hosts[host].live = live;
        }
        has_changed
    }

    fn send(&mut self, host: usize, to: SocketAddr, packet: Vec<u8>) {
        assert!(packet.len() <= MAX_PACKET_BYTES);
        self.sent.0 += 1;
        self.sent.1 += packet.len() as u64;
        let target = self.hosts.iter().position(|host| host.address == to);
        let is_cut =
            self.cut.is_some_and(|cut| target.is_some_and(|target| (host < cut) != (target < cut)));
        if is_cut || self.rng.random_bool(self.loss) {
            return;
        }
        let spread = self.delay.1.as_secs_f64() * self.rng.random::<f64>();
        let arrives = self.now + self.delay.0 + Duration::from_secs_f64(spread);
        let from = self.hosts[host].address;
        self.flights.push(Reverse(Flight { arrives, number: self.sent.0, from, to, packet }));
    }
}

/// The middle and the largest of some times.
fn figures(what: &str, mut times: Vec<Duration>) -> Duration {
    times.sort();
    let worst = times[times.len() - 1];
    println!(
        "{what}: median {:?}, 95 % {:?}, worst {worst:?}",
        times[times.len() / 2],
        times[times.len() * 95 / 100]
    );
    worst
}

#[test]
fn a_cluster_forms_in_seconds() {
    for hosts in [2, 3, 10, 50] {
        let mut times = Vec::new();
        for seed in seeds() {
            let mut net = Net::new(seed, hosts);
            (0..hosts).for_each(|host| net.start(host));
            times.push(net.run_until(20 * SECOND, Net::is_whole).expect("a whole cluster"));
        }
        assert!(figures(&format!("{hosts} nodes form a cluster"), times) < 10 * SECOND);
    }
}

#[test]
fn a_killed_node_is_gone_within_five_seconds() {
    for hosts in [2, 3, 10, 50] {
        let mut times = Vec::new();
        for seed in seeds() {
            let mut net = Net::formed(seed, hosts);
            net.run(10 * SECOND + Duration::from_millis(seed * 37));
            net.kill(hosts - 1);
            let took = net.run_until(20 * SECOND, |net| net.is_unseen(hosts - 1));
            times.push(took.unwrap_or(Duration::MAX));
            assert!(net.is_whole(), "seed {seed}: only it is gone");
        }
        assert!(figures(&format!("one of {hosts} nodes is killed"), times) < 5 * SECOND);
    }
}

#[test]
fn nobody_flaps_in_a_bad_network() {
    let mut flaps = 0;
    for seed in seeds() {
        let mut net = Net::formed(seed, 10);
        net.loss = 0.2;
        net.delay = (Duration::from_millis(100), Duration::from_millis(5));
        net.watches_for_flaps = true;
        net.run(180 * SECOND);
        if net.flaps > 0 {
            println!("seed {seed}: {} flaps", net.flaps);
        }
        flaps += net.flaps;
    }
    assert_eq!(flaps, 0);
}
