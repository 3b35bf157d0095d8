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

    /// A fifth of all packets is lost, and each takes 100 ms.
    fn worsen(&mut self) {
        self.loss = 0.2;
        self.delay = (Duration::from_millis(100), Duration::from_millis(5));
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
        net.worsen();
        net.watches_for_flaps = true;
        // Whoever takes a new generation has to be introduced to everyone again.
        let generations = |net: &Net| -> Vec<u64> {
            (0..10).map(|host| net.node(host).me().generation).collect()
        };
        let before = generations(&net);
        net.run(180 * SECOND);
        assert_eq!(generations(&net), before, "seed {seed}");
        if net.flaps > 0 {
            println!("seed {seed}: {} flaps", net.flaps);
        }
        flaps += net.flaps;
    }
    assert_eq!(flaps, 0);
}

#[test]
fn a_killed_node_is_noticed_in_a_bad_network_too() {
    let mut times = Vec::new();
    for seed in seeds() {
        let mut net = Net::formed(seed, 10);
        net.worsen();
        net.run(20 * SECOND + Duration::from_millis(seed * 37));
        net.kill(4);
        times.push(net.run_until(30 * SECOND, |net| net.is_unseen(4)).expect("it is noticed"));
    }
    assert!(figures("one of 10 nodes is killed in a bad network", times) < 15 * SECOND);
}

#[test]
fn half_of_the_nodes_are_killed_at_once() {
    let mut times = Vec::new();
    for seed in seeds() {
        let mut net = Net::formed(seed, 20);
        net.run(5 * SECOND);
        (0..10).for_each(|host| net.kill(host));
        times.push(net.run_until(60 * SECOND, Net::is_whole).expect("they are noticed"));
    }
    assert!(figures("10 of 20 nodes are killed", times) < 15 * SECOND);
}

#[test]
fn a_node_that_starts_again_is_back_at_once() {
    // Found by nobody: those that knew its address see to it.
    for pause in [Duration::ZERO, SECOND, 8 * SECOND] {
        for hosts in [2, 10] {
            let mut times = Vec::new();
            for seed in seeds() {
                let mut net = Net::formed(seed, hosts);
                net.run(3 * SECOND);
                net.kill(1);
                net.run(pause);
                net.start_as(1, net.now.as_millis() as u64);
                times.push(net.run_until(20 * SECOND, Net::is_whole).expect("it is back"));
            }
            assert!(
                figures(&format!("one of {hosts} starts again after {pause:?}"), times)
                    < 5 * SECOND
            );
        }
    }
}

#[test]
fn a_node_is_back_although_its_clock_went_back() {
    let mut times = Vec::new();
    for seed in seeds() {
        let mut net = Net::formed(seed, 5);
        net.run(60 * SECOND);
        net.kill(2);
        net.run(Duration::from_millis(100 * seed));
        net.start_as(2, 1);
        net.found(2, address(0));
        times.push(net.run_until(20 * SECOND, Net::is_whole).expect("it is back"));
        assert!(net.node(2).me().generation > 1_000);
    }
    assert!(figures("a node starts again with an older clock", times) < 5 * SECOND);
}

#[test]
fn a_node_that_starts_again_elsewhere_replaces_itself() {
    for seed in seeds() {
        let mut net = Net::formed(seed, 5);
        net.kill(2);
        net.hosts[2].address = address(100);
        net.start_as(2, net.now.as_millis() as u64 + 1);
        net.found(2, address(0));
        let took = net.run_until(20 * SECOND, Net::is_whole).expect("it is back");
        assert!(took < 2 * SECOND, "seed {seed}: {took:?}, before silence is noticed");
    }
}

#[test]
fn another_name_at_an_address_replaces_the_one_before() {
    for seed in seeds() {
        let mut net = Net::formed(seed, 5);
        net.kill(2);
        net.hosts[2].name = "other".to_owned();
        net.start_as(2, net.now.as_millis() as u64 + 1);
        net.found(2, address(0));
        let took = net.run_until(20 * SECOND, Net::is_whole).expect("it is back");
        assert!(took < 2 * SECOND, "seed {seed}: {took:?}, before silence is noticed");
    }
}

#[test]
fn of_two_with_one_name_the_newer_is_the_member() {
    for seed in seeds() {
        let mut net = Net::new(seed, 4);
        net.hosts[3].name = net.hosts[2].name.clone();
        for host in 0..4 {
            net.now += SECOND;
            net.start(host);
        }
        net.run(30 * SECOND);
        let newer = net.node(3).me().clone();
        for host in [0, 1] {
            assert_eq!(net.node(host).live().get("node-2"), Some(&&newer));
            assert_eq!(net.node(host).live().len(), 2);
        }
        // Both know of each other, neither fights.
        assert_eq!(net.node(2).rivals().collect::<Vec<_>>(), [&newer]);
        assert_eq!(net.node(2).me().generation, 4_000);
        assert_eq!(net.node(3).me().generation, 5_000);
    }
}

#[test]
fn the_halves_of_a_cluster_find_each_other_again() {
    for (hosts, cut) in [(2, 1), (3, 1), (10, 5), (10, 1), (50, 25)] {
        for lasts in [5 * SECOND, 60 * SECOND] {
            let mut times = Vec::new();
            for seed in seeds().take(if hosts == 50 { 3 } else { usize::MAX }) {
                let mut net = Net::formed(seed, hosts);
                net.cut = Some(cut);
                net.run(lasts);
                net.cut = None;
                times.push(net.run_until(60 * SECOND, Net::is_whole).expect("it heals"));
                net.watches_for_flaps = true;
                net.run(20 * SECOND);
                assert_eq!(net.flaps, 0, "seed {seed}: what is healed stays so");
            }
            assert!(
                figures(&format!("{cut} of {hosts} are cut off for {lasts:?}"), times)
                    < 10 * SECOND
            );
        }
    }
}

#[test]
fn a_long_partition_heals_within_minutes() {
    let mut net = Net::formed(1, 4);
    net.cut = Some(2);
    net.run(3_600 * SECOND);
    net.cut = None;
    let took = net.run_until(120 * SECOND, Net::is_whole).expect("it heals");
    println!("a partition of an hour heals after {took:?}");
}

#[test]
fn a_node_that_stood_still_comes_back_and_blames_nobody() {
    for stopped in [2 * SECOND, 20 * SECOND, 60 * SECOND] {
        let mut times = Vec::new();
        for seed in seeds() {
            let mut net = Net::formed(seed, 5);
            net.run(2 * SECOND);
            net.hosts[3].stopped_until = net.now + stopped;
            net.run(stopped);
            let others: Vec<MemberId> = [0, 1, 2, 4].map(|host| net.node(host).me().clone()).into();
            times.push(net.run_until(30 * SECOND, Net::is_whole).expect("it is back"));
            net.run(10 * SECOND);
            assert!(net.is_whole(), "seed {seed}: it stays so");
            let unchanged =
                [0, 1, 2, 4].iter().zip(&others).all(|(host, id)| net.node(*host).me() == id);
            assert!(unchanged, "seed {seed}: none of the others was taken for gone");
        }
        assert!(figures(&format!("a node stands still for {stopped:?}"), times) < 5 * SECOND);
    }
}

#[test]
fn who_leaves_is_gone_at_once() {
    for hosts in [2, 10, 50] {
        let mut times = Vec::new();
        for seed in seeds() {
            let mut net = Net::formed(seed, hosts);
            net.run(SECOND);
            for _ in 0..5 {
                let now = net.now;
                net.hosts[1].node.as_mut().unwrap().leave(now);
                net.settle(1);
                net.run(Duration::from_millis(40));
            }
            net.kill(1);
            times.push(net.run_until(20 * SECOND, |net| net.is_unseen(1)).expect("it is gone"));
        }
        assert!(figures(&format!("one of {hosts} leaves"), times) < 2 * SECOND);
    }
}

#[test]
fn a_cluster_forms_in_a_bad_network() {
    let mut times = Vec::new();
    for seed in seeds() {
        let mut net = Net::new(seed, 10);
        net.worsen();
        (0..10).for_each(|host| net.start(host));
        times.push(net.run_until(60 * SECOND, Net::is_whole).expect("a whole cluster"));
    }
    assert!(figures("10 nodes form a cluster in a bad network", times) < 15 * SECOND);
}

#[test]
fn no_bytes_make_it_panic_or_change_its_members() {
    let mut net = Net::formed(7, 5);
    let mut packets: Vec<Vec<u8>> = Vec::new();
    net.hosts[0].node.as_mut().unwrap().found(address(50), SECOND);
    for _ in 0..200 {
        net.step(1_000 * SECOND);
        packets.extend(net.flights.iter().map(|Reverse(flight)| flight.packet.clone()).take(2));
    }
    let mut rng = StdRng::seed_from_u64(7);
    for _ in 0..20_000 {
        let mut packet = packets[rng.random_range(0..packets.len())].clone();
        match rng.random_range(0..3) {
            0 => packet.truncate(rng.random_range(0..=packet.len())),
            1 => packet.extend((0..rng.random_range(0..2_000)).map(|_| rng.random::<u8>())),
            _ => (0..packet.len()).for_each(|at| packet[at] = rng.random()),
        }
        let now = net.now;
        net.hosts[0].node.as_mut().unwrap().receive(address(60), &packet, now);
        net.hosts[0].node.as_mut().unwrap().take_outbox();
    }
    assert_eq!(net.node(0).live().len(), 4);
}
