//! Who sees whom alive: what gossip brings about, without the gossip.
//!
//! Each node has its own view. It loses a member some seconds after it could last be heard, directly or by way of a third
//! node, and finds one some time after it can be; how long that takes differs each time, so that views disagree for
//! seconds. Whoever was lost to anyone and is found again has begun anew, as in the true cluster.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bbb_cluster::{ClusterView, Member, MemberId, Properties};
use tokio::time;

use crate::{
    net::Host,
    node::{Cluster, Node},
    world::{World, note},
};

/// How often views are looked at.
const LOOKS_EVERY: Duration = Duration::from_millis(100);

/// What all nodes know of each other.
#[derive(Debug, Default)]
struct Views {
    /// When each node began, or began anew: milliseconds.
    generations: BTreeMap<Host, u64>,
    /// By who sees and who is seen.
    pairs: BTreeMap<(Host, Host), Pair>,
}

/// How one node sees another.
#[derive(Clone, Copy, Debug)]
struct Pair {
    /// Which generation of it is in the view.
    seen: Option<u64>,
    /// The generation that was in the view last.
    lost: Option<u64>,
    /// Since when it can be heard, or cannot.
    heard: bool,
    since: Duration,
    /// How long it takes until that is noticed.
    notices_after: Duration,
}

/// A node that begins now, as it sees the cluster: it is alone.
pub(crate) fn alone(world: &World, host: Host) -> ClusterView {
    ClusterView::new(member(host, generation(world)), [])
}

/// The host of a member.
pub(crate) fn host_of(id: &MemberId) -> Option<Host> {
    id.name.strip_prefix("node-")?.parse().ok()
}

/// Keeps the views of all nodes.
pub(crate) async fn run(cluster: Arc<Cluster>) {
    let mut views = Views::default();
    loop {
        time::sleep(LOOKS_EVERY).await;
        views.look(&cluster);
        cluster.judge.scheduler_is(views.scheduler(&cluster));
    }
}

fn generation(world: &World) -> u64 {
    world.wall().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

fn member(host: Host, generation: u64) -> Member {
    let at = |port| ([10, 0, 0, host as u8 + 1], port).into();
    let name = format!("node-{host}").into();
    let id = MemberId { name, generation, gossip: at(1), port: at(2) };
    Member { id, properties: Properties::default() }
}

impl Views {
    fn look(&mut self, cluster: &Cluster) {
        let nodes: Vec<(Host, Arc<Node>)> = (cluster.machines.iter())
            .filter_map(|machine| Some((machine.host, machine.node()?)))
            .collect();
        // A node that was started since has a new generation, and has seen nobody yet.
        for (host, node) in &nodes {
            if self.generations.get(host).is_none_or(|known| *known < node.generation) {
                self.generations.insert(*host, node.generation);
                self.pairs.retain(|(seer, _), _| seer != host);
            }
        }
        let running: Vec<Host> = (nodes.iter())
            .filter(|(_, node)| !node.process.is_stopped())
            .map(|(host, _)| *host)
            .collect();
        for seer in &running {
            for machine in &cluster.machines {
                if machine.host != *seer {
                    self.see(cluster, &running, *seer, machine.host);
                }
            }
        }
        for (host, node) in nodes.iter().filter(|(_, node)| !node.process.is_stopped()) {
            self.show(cluster, *host, node);
        }
    }

    /// What one node notices of another.
    fn see(&mut self, cluster: &Cluster, running: &[Host], seer: Host, other: Host) {
        let world = &cluster.world;
        let now = world.now();
        let heard = running.contains(&other) && hears(cluster, running, seer, other);
        let pair = self.pairs.entry((seer, other)).or_insert(Pair {
            seen: None,
            lost: None,
            heard: false,
            since: now,
            notices_after: Duration::ZERO,
        });
        if pair.heard != heard {
            let notices_after = match heard {
                true => world.millis(100, 1500),
                false => world.millis(1500, 4500),
            };
            *pair = Pair { heard, since: now, notices_after, ..*pair };
        }
        if now < pair.since + pair.notices_after {
            return;
        }
        let Some(generation) = self.generations.get_mut(&other) else { return };
        match (heard, pair.seen) {
            (true, seen) if seen != Some(*generation) => {
                if pair.lost == Some(*generation) {
                    *generation = self::generation(world).max(*generation + 1);
                    note!(world, "node {other} begins anew, since {seer} had lost it");
                }
                pair.seen = Some(*generation);
            }
            (false, Some(seen)) => {
                (pair.seen, pair.lost) = (None, Some(seen));
                note!(world, "node {seer} loses {other}");
            }
            _ => {}
        }
    }

    /// Gives a node its view, where that has changed.
    fn show(&self, cluster: &Cluster, host: Host, node: &Node) {
        let own = self.generations.get(&host).copied().unwrap_or(node.generation);
        let others = self.pairs.iter().filter(|((seer, _), _)| *seer == host);
        let others = others.filter_map(|((_, other), pair)| Some(member(*other, pair.seen?)));
        let view = ClusterView::new(member(host, own), others);
        let is_new = node.view.send_if_modified(|shown| {
            let is_new = **shown != view;
            if is_new {
                *shown = Arc::new(view);
            }
            is_new
        });
        if is_new {
            let view = node.view.borrow();
            let names: Vec<String> =
                view.members().iter().map(|member| member.id.name.to_string()).collect();
            let scheduler = view.scheduler().id.name.to_string();
            note!(cluster.world, "node {host} sees {names:?}, {scheduler} schedules");
        }
    }

    /// Whom all nodes take for the scheduler, and since which generation; none if they do not agree.
    fn scheduler(&self, cluster: &Cluster) -> Option<(Host, u64)> {
        let mut agreed = None;
        for node in cluster.machines.iter().filter_map(|machine| machine.node()) {
            let id = node.view.borrow().scheduler().id.clone();
            let named = Some((host_of(&id)?, id.generation));
            if agreed.is_some() && agreed != named {
                return None;
            }
            agreed = named;
        }
        agreed
    }
}

/// Whether two nodes hear each other, directly or by way of a third.
fn hears(cluster: &Cluster, running: &[Host], one: Host, other: Host) -> bool {
    let is_open = |one, other| !cluster.net.is_cut(one, other) && !cluster.net.is_cut(other, one);
    let by = |third: &Host| is_open(one, *third) && is_open(*third, other);
    is_open(one, other) || running.iter().filter(|third| ![one, other].contains(third)).any(by)
}
