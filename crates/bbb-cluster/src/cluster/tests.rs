//! Real nodes over loopback: their sockets, their clocks, a stand-in for the connections between them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use async_trait::async_trait;

use super::*;
use crate::{IntroduceError, KeyRing, Purpose};

/// How long anything that has to happen may take, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A sealer that counts what goes out through it.
struct Counted {
    sealer: Sealer,
    counts: Arc<[AtomicU64; 2]>,
}

impl Envelope for Counted {
    fn seal(&mut self, packet: &[u8]) -> Vec<u8> {
        let sealed = self.sealer.seal(SystemTime::now(), packet);
        self.counts[0].fetch_add(1, Ordering::Relaxed);
        self.counts[1].fetch_add(sealed.len() as u64, Ordering::Relaxed);
        sealed
    }

    fn open(&mut self, _: SocketAddr, datagram: &[u8]) -> Option<Vec<u8>> {
        self.sealer.open(SystemTime::now(), datagram).ok().map(|opened| opened.payload)
    }
}

fn sealer(cluster: &str) -> Sealer {
    Sealer::new(&KeyRing::open(cluster), Purpose::Gossip)
}

/// The connections between the nodes of a test.
#[derive(Default)]
struct Town {
    clusters: Mutex<BTreeMap<Arc<str>, Cluster>>,
    refused: Mutex<BTreeSet<Arc<str>>>,
}

#[async_trait]
impl Introduce for Town {
    async fn introduce(&self, me: &Member, to: &MemberId) -> Result<Properties, IntroduceError> {
        if self.refused.lock().unwrap().contains(&to.name) {
            return Err(IntroduceError::Refused("it has another bucket".to_owned()));
        }
        let Some(other) = self.clusters.lock().unwrap().get(&to.name).cloned() else {
            return Err(IntroduceError::Unreachable("nobody is there".into()));
        };
        other.heard(&me.id, me.properties.clone());
        Ok(other.me().properties)
    }
}

struct Real {
    cluster: Cluster,
    id: MemberId,
    tasks: TaskGroup,
    counts: Arc<[AtomicU64; 2]>,
}

impl Town {
    async fn start(self: &Arc<Self>, name: &str, generation: u64) -> Real {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let gossip = socket.local_addr().unwrap();
        let id = MemberId { name: name.into(), generation, gossip, port: gossip };
        let tasks = TaskGroup::new("test");
        let own = || Properties { version: "1".to_owned(), ..Properties::default() };
        let counts = Arc::<[AtomicU64; 2]>::default();
        let envelope = Counted { sealer: sealer("test"), counts: Arc::clone(&counts) };
        let introduce: Arc<dyn Introduce> = Arc::clone(self) as _;
        let cluster =
            Cluster::start(id.clone(), socket, envelope, introduce, Arc::new(own), &tasks).unwrap();
        self.clusters.lock().unwrap().insert(Arc::clone(&id.name), cluster.clone());
        Real { cluster, id, tasks, counts }
    }
}

impl Real {
    async fn sees(&self, is_so: impl FnMut(&Arc<ClusterView>) -> bool) {
        let seen =
            time::timeout(PATIENCE, async { self.cluster.view().wait_for(is_so).await.map(drop) });
        seen.await.expect("it is seen in time").unwrap();
    }

    async fn meets(&self, other: &Self) {
        self.cluster.candidates().send(other.id.gossip).await.unwrap();
    }
}

fn names(view: &ClusterView) -> Vec<&str> {
    view.members().iter().map(|member| &*member.id.name).collect()
}

#[tokio::test]
async fn three_meet_and_one_leaves() {
    let town = Arc::new(Town::default());
    let (a, b, c) = (town.start("a", 1).await, town.start("b", 1).await, town.start("c", 1).await);
    b.meets(&a).await;
    c.meets(&b).await;
    for node in [&a, &b, &c] {
        node.sees(|view| names(view) == ["a", "b", "c"]).await;
    }
    c.cluster.set_leaving();
    c.sees(|view| view.own().properties.is_leaving).await;
    for node in [&a, &b] {
        node.sees(|view| view.members()[2].properties.is_leaving).await;
        assert_eq!(node.cluster.view().borrow().owners(b"12345678").iter().flatten().count(), 2);
    }
    let before = std::time::Instant::now();
    c.cluster.leave().await;
    for node in [&a, &b] {
        node.sees(|view| names(view) == ["a", "b"]).await;
    }
    assert!(
        before.elapsed() < Duration::from_millis(2_500),
        "sooner than silence would be noticed"
    );
    for node in [a, b, c] {
        assert_eq!(node.tasks.shut_down(PATIENCE).await, 0);
    }
}

#[tokio::test]
async fn who_is_refused_is_no_member() {
    let town = Arc::new(Town::default());
    town.refused.lock().unwrap().insert("foreign".into());
    let (a, b, foreign) =
        (town.start("a", 1).await, town.start("b", 1).await, town.start("foreign", 1).await);
    foreign.meets(&a).await;
    b.meets(&foreign).await;
    for node in [&a, &b] {
        node.sees(|view| names(view) == ["a", "b"]).await;
    }
    foreign.sees(|view| names(view) == ["a", "b", "foreign"]).await;
    // It was seen by gossip for as long; what the others saw of it is in no view.
    assert_eq!(names(&a.cluster.view().borrow()), ["a", "b"]);
    assert_eq!(names(&b.cluster.view().borrow()), ["a", "b"]);
}

#[tokio::test]
async fn who_starts_again_elsewhere_replaces_its_former_self_at_once() {
    let town = Arc::new(Town::default());
    let (a, old) = (town.start("a", 1).await, town.start("b", 1).await);
    a.meets(&old).await;
    a.sees(|view| names(view) == ["a", "b"]).await;
    let new = town.start("b", 2).await;
    new.meets(&a).await;
    a.sees(|view| view.members().iter().any(|member| member.id == new.id)).await;
    assert_eq!(names(&a.cluster.view().borrow()), ["a", "b"]);
}

#[tokio::test]
async fn garbage_changes_nothing() {
    let town = Arc::new(Town::default());
    let (a, b) = (town.start("a", 1).await, town.start("b", 1).await);
    a.meets(&b).await;
    a.sees(|view| names(view) == ["a", "b"]).await;
    let before = a.cluster.view().borrow().clone();
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    for length in (0..2_000).step_by(7) {
        let garbage: Vec<u8> = (0..length).map(|_| rand::random()).collect();
        socket.send_to(&garbage, a.id.gossip).await.unwrap();
        // Sealed, so that it gets further; and of another cluster.
        socket
            .send_to(&sealer("test").seal(SystemTime::now(), &garbage), a.id.gossip)
            .await
            .unwrap();
        socket
            .send_to(&sealer("other").seal(SystemTime::now(), &garbage), a.id.gossip)
            .await
            .unwrap();
    }
    let c = town.start("c", 1).await;
    c.meets(&a).await;
    a.sees(|view| names(view) == ["a", "b", "c"]).await;
    assert_eq!(before.members(), &a.cluster.view().borrow().members()[..2]);
}

#[tokio::test]
async fn a_node_that_cannot_be_told_of_is_refused() {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let gossip = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 7946));
    let id = MemberId { name: "a".into(), generation: 1, gossip, port: gossip };
    let (tasks, town) = (TaskGroup::new("test"), Arc::new(Town::default()));
    let own: OwnProperties = Arc::new(Properties::default);
    let envelope = Counted { sealer: sealer("test"), counts: Arc::default() };
    assert!(Cluster::start(id, socket, envelope, town, own, &tasks).is_err());
    assert!(tasks.is_empty());
}

/// Starts so many nodes that all know of the first one, and waits until all see all.
async fn crowd(nodes: usize) -> Vec<Real> {
    let town = Arc::new(Town::default());
    let mut crowd = Vec::new();
    for number in 0..nodes {
        crowd.push(town.start(&format!("node-{number}"), 1).await);
    }
    for node in &crowd[1..] {
        node.meets(&crowd[0]).await;
    }
    for node in &crowd {
        node.sees(|view| view.members().len() == nodes).await;
    }
    crowd
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_nodes_form_a_cluster() {
    let began = std::time::Instant::now();
    let nodes = crowd(50).await;
    println!("{} nodes see each other after {:?}", nodes.len(), began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(15));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it measures, for ten seconds: run it with --run-ignored=only --no-capture"]
async fn what_gossip_costs() {
    let nodes = crowd(50).await;
    // What joining set in motion ends before the quiet is measured.
    time::sleep(Duration::from_secs(5)).await;
    let sent = |at: usize| {
        nodes.iter().map(|node| node.counts[at].load(Ordering::Relaxed)).sum::<u64>() as f64
    };
    let (packets, bytes, quiet) = (sent(0), sent(1), std::time::Instant::now());
    time::sleep(Duration::from_secs(5)).await;
    let rate = |more: f64| more / quiet.elapsed().as_secs_f64() / nodes.len() as f64;
    let (packets, bytes) = (rate(sent(0) - packets), rate(sent(1) - bytes));
    println!(
        "idle, each of {} nodes sends {packets:.1} packets/s, {bytes:.0} bytes/s with seals",
        nodes.len()
    );
    assert!(packets < 30.0 && bytes < 20_000.0);
}
