//! Several nodes over one bucket.

use std::{sync::Arc, time::Duration};

use bbb_cluster::{ClusterView, KeyRing, Member, MemberId, NodeTls, Properties};
use bbb_digest::{Digest, Function, InstanceName};
use bbb_grpc::{Budgets, Doors, Port, Settings};
use bbb_lifecycle::TaskGroup;
use bbb_peer::{
    Bounds, Connections, Introductions, NodeServer, NodeService, PeerTier, PeerTierSettings,
    assets::SharedAssets,
    work::{ClusterDispatch, PeerReach, Work, WorkServer, WorkService, WorkSettings},
};
use bbb_reapi::proto::asset::fetch_server::FetchServer;
use bbb_storage::{
    ActionCache, Bucket, BucketSettings, Cas, Disk, DiskSettings, Far, Instances, Objects, Stores,
    Tiered, TieredSettings, TreeCache, Trees, Wanted,
    conformance::{self, Faulty},
};
use bytes::Bytes;
use futures::TryStreamExt as _;
use object_store::{ObjectStore as _, ObjectStoreExt as _, memory::InMemory};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::watch};

use crate::{
    assets::Origin,
    link::{Link, State},
};

/// How long the bucket may take: longer than anyone waits for an owner, and no longer than a test likes to.
const BUCKET_DEADLINE: Duration = Duration::from_secs(7);

const MAX_BLOB_BYTES: u64 = 1 << 30;

/// Nodes and what they share.
pub(crate) struct Rig {
    pub(crate) nodes: Vec<Node>,
    pub(crate) objects: Arc<InMemory>,
    bounds: Bounds,
}

/// One node.
pub(crate) struct Node {
    pub(crate) member: Member,
    pub(crate) tiered: Arc<Tiered>,
    pub(crate) near: Arc<Disk>,
    pub(crate) bucket: Arc<Bucket>,
    pub(crate) faulty: Arc<Faulty<InMemory>>,
    pub(crate) peers: Arc<PeerTier>,
    pub(crate) introductions: Arc<Introductions>,
    /// The fetches that others own.
    pub(crate) assets: SharedAssets,
    /// What becomes of fetches that this node owns.
    pub(crate) origin: Arc<Origin>,
    pub(crate) link: Link,
    pub(crate) dispatch: Arc<ClusterDispatch>,
    /// What has to do with work.
    pub(crate) work: TaskGroup,
    view: watch::Sender<Arc<ClusterView>>,
    heads_at_start: u64,
    dir: TempDir,
}

impl Rig {
    /// Nodes that all see each other, and wait for each other as long as a busy machine may take.
    pub(crate) async fn of(names: &[&str]) -> Self {
        Self::with(names, Bounds::default().times(20)).await
    }

    /// The same with the bounds that nodes have.
    pub(crate) async fn bounded(names: &[&str]) -> Self {
        Self::with(names, Bounds::default()).await
    }

    /// The same, which wait for the owner of a fetch no longer than that may take.
    pub(crate) async fn punctual(names: &[&str]) -> Self {
        let bounds = Bounds { fetched: Duration::from_millis(100), ..Bounds::default().times(20) };
        Self::with(names, bounds).await
    }

    async fn with(names: &[&str], bounds: Bounds) -> Self {
        let mut rig = Self { nodes: Vec::new(), objects: Arc::new(InMemory::new()), bounds };
        for name in names {
            rig.add(name).await;
        }
        rig.meet();
        rig
    }

    /// One more node, alone yet.
    pub(crate) async fn add(&mut self, name: &str) {
        let node = Node::start(name, &self.objects, self.bounds).await;
        self.nodes.push(node);
    }

    /// Has everyone see all.
    pub(crate) fn meet(&self) {
        let names: Vec<&str> = self.nodes.iter().map(|node| node.name()).collect();
        names.iter().for_each(|name| self.see(name, &names));
    }

    /// Has one node see these.
    pub(crate) fn see(&self, of: &str, names: &[&str]) {
        let of = self.node(of);
        let others = self
            .nodes
            .iter()
            .filter(|node| names.contains(&node.name()) && node.name() != of.name());
        let others = others.map(|node| node.member.clone());
        of.view.send_replace(Arc::new(ClusterView::new(of.member.clone(), others)));
    }

    /// Has a node believe that another owns everything.
    pub(crate) fn leave_it_to(&self, of: &str, owner: &str) {
        let (of, owner) = (self.node(of), self.node(owner));
        let mut me = of.member.clone();
        // Who leaves owns nothing any more.
        me.properties.is_leaving = true;
        of.view.send_replace(Arc::new(ClusterView::new(me, [owner.member.clone()])));
    }

    /// Cuts a node off, for ever: nobody has noticed yet.
    pub(crate) fn kill(&self, name: &str) {
        self.node(name).link.set(State::Cut);
    }

    pub(crate) fn node(&self, name: &str) -> &Node {
        self.nodes.iter().find(|node| node.name() == name).expect("a node of that name")
    }

    /// A blob that nobody has, with these owners as everyone sees it.
    pub(crate) fn blob_of(&self, owners: &[&str], len: usize) -> (Digest, Bytes) {
        let view = self.nodes[0].view.borrow().clone();
        loop {
            let (digest, bytes) = blob(len);
            let found = view.owners(digest.hash());
            let is_so = owners
                .iter()
                .zip(found)
                .all(|(name, found)| found.is_some_and(|found| *found.name == **name));
            if is_so {
                return (digest, bytes);
            }
        }
    }

    /// A blob that is in the bucket and near nowhere.
    pub(crate) async fn stored(&self, owners: &[&str], len: usize) -> (Digest, Bytes) {
        let (digest, bytes) = self.blob_of(owners, len);
        let group = TaskGroup::new("elsewhere");
        let elsewhere = bucket(&Arc::new(Faulty::new(Arc::clone(&self.objects), 1)), &group);
        elsewhere.cas(&instance()).put(digest, bytes.clone().into()).await.unwrap();
        (digest, bytes)
    }

    /// Takes a blob out of the bucket behind everyone's back.
    pub(crate) async fn lose_object(&self, digest: Digest) {
        let (objects, hash) = (&self.objects, digest.hex());
        let all: Vec<_> =
            objects.list(None).map_ok(|meta| meta.location).try_collect().await.unwrap();
        let lost: Vec<_> = all.iter().filter(|key| key.as_ref().contains(hash.as_str())).collect();
        assert_eq!(lost.len(), 1, "{all:?}");
        objects.delete(lost[0]).await.unwrap();
    }

    /// All reads that the bucket had to answer.
    pub(crate) fn gets(&self) -> u64 {
        self.nodes.iter().map(|node| node.bucket.stats().get).sum()
    }

    /// All looks that the bucket had to answer.
    pub(crate) fn heads(&self) -> u64 {
        self.nodes.iter().map(|node| node.bucket.stats().head - node.heads_at_start).sum()
    }
}

impl Node {
    async fn start(name: &str, objects: &Arc<InMemory>, bounds: Bounds) -> Self {
        let (dir, group) = (TempDir::new().unwrap(), TaskGroup::new("node"));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let link = Link::to(listener.local_addr().unwrap(), &group).await;
        let id =
            MemberId { name: name.into(), generation: 1, gossip: link.address, port: link.address };
        let member = Member { id, properties: Properties::default() };
        let (view, seen) = watch::channel(Arc::new(ClusterView::new(member.clone(), [])));

        let faulty = Arc::new(Faulty::new(Arc::clone(objects), 7));
        let bucket = bucket(&faulty, &group);
        let settings = DiskSettings::new(dir.path().join("near"), 1 << 30);
        let near = Disk::open(settings, &group).unwrap();
        let tls = NodeTls::new(&KeyRing::open("test")).unwrap();
        let connections =
            Connections::with_bounds(tls.client(), NodeTls::server_name(), bounds, &group);
        connections.follow(seen.clone(), &group);
        let work = TaskGroup::new("work");
        let reach = PeerReach::new(Arc::clone(&connections), &work);
        let dispatch = ClusterDispatch::start(WorkSettings::default(), seen.clone(), reach, &work);
        let work_service = WorkService::new(Arc::clone(&dispatch) as Arc<dyn Work>, &work);
        let assets = SharedAssets::new(seen.clone(), Arc::clone(&connections));
        let origin = Arc::new(Origin::default());
        let peers = PeerTier::new(
            &PeerTierSettings::default(),
            Arc::clone(&bucket),
            seen,
            Arc::clone(&connections),
            &group,
        );
        let tiered = tiered(&near, &peers, &group);
        let mark = bucket.leave_mark(&group).await.unwrap();
        until(|| bucket.stats().list > 0).await;
        let heads_at_start = bucket.stats().head;
        let own = Arc::new(Properties::default);
        let introductions = Introductions::new(Arc::clone(&bucket), mark, own, connections);

        let service =
            NodeService::new(Arc::clone(&near), Arc::clone(&peers), Arc::clone(&introductions));
        let tiered = Arc::new(tiered);
        let fetches = FetchServer::from_arc(Arc::clone(&origin));
        let port = port(&tiered, &near, (service, work_service, fetches), &tls);
        port.serve(listener, &group);
        Self {
            member,
            tiered,
            near,
            bucket,
            faulty,
            peers,
            introductions,
            assets,
            origin,
            link,
            dispatch,
            work,
            view,
            heads_at_start,
            dir,
        }
    }

    /// Its blobs, as its clients see them.
    pub(crate) fn cas(&self) -> Arc<dyn Cas> {
        self.tiered.cas(&instance())
    }

    /// Its results, as its clients see them.
    pub(crate) fn results(&self) -> Arc<dyn ActionCache> {
        self.tiered.action_cache(&instance())
    }

    /// Writes a blob here. Its owners know when this returns, however busy the machine is: a write waits for them but so
    /// long.
    pub(crate) async fn put(&self, blob: &(Digest, Bytes)) {
        let settled = || {
            let stats = self.peers.stats();
            stats.hints_told + stats.hints_dropped
        };
        let before = settled();
        self.cas().put(blob.0, blob.1.clone().into()).await.unwrap();
        let view = self.view.borrow().clone();
        let owners = view.owners(blob.0.hash());
        let told = match owners[0] == Some(view.me()) {
            true => 0,
            false => owners.iter().flatten().filter(|owner| **owner != view.me()).count(),
        };
        until(|| settled() >= before + told as u64).await;
    }

    /// Reads a blob here, which is to be what it was.
    pub(crate) async fn read(&self, blob: &(Digest, Bytes)) {
        let read = self.cas().get(blob.0, Wanted::ALL).await.unwrap();
        assert!(conformance::read_all(read).await.unwrap() == blob.1, "other bytes");
    }

    /// Takes away all files on its disk of this size.
    pub(crate) fn lose_files(&self, len: u64) {
        let mut folders = vec![self.dir.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                match entry.metadata().unwrap() {
                    metadata if metadata.is_dir() => folders.push(entry.path()),
                    metadata if metadata.len() == len => {
                        std::fs::remove_file(entry.path()).unwrap();
                    }
                    _ => {}
                }
            }
        }
    }

    /// Whether a blob is on the disk here.
    pub(crate) async fn holds(&self, digest: Digest) -> bool {
        self.near.cas(&instance()).find_missing(&[digest]).await.unwrap().is_empty()
    }

    /// Waits until a blob is on the disk here that was read a moment ago: it is given before it is kept.
    pub(crate) async fn keeps(&self, digest: Digest) {
        let keeping = async {
            while !self.holds(digest).await {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), keeping).await.expect("it is kept");
    }

    pub(crate) fn name(&self) -> &str {
        &self.member.id.name
    }
}

/// The stack of a node: its disk before the bucket for what it owns, before the owners for the rest.
fn tiered(near: &Arc<Disk>, peers: &Arc<PeerTier>, group: &TaskGroup) -> Tiered {
    let (own, others, is_own) = (Arc::clone(peers), Arc::clone(peers), Arc::clone(peers));
    let settings = TieredSettings { buffer_bytes: 64 << 20, ..TieredSettings::default() };
    Tiered::new(&settings, near, move |name| own.own(name), group).with_others(
        64 << 20,
        move |digest| is_own.is_own(digest),
        move |name, own| others.others(name, own),
        group,
    )
}

fn port(
    tiered: &Arc<Tiered>,
    near: &Arc<Disk>,
    (service, work, fetches): (NodeServer<NodeService>, WorkServer, FetchServer<Origin>),
    tls: &NodeTls,
) -> Port {
    let settings = Settings {
        client_results: true,
        exec_enabled: false,
        required_header: None,
        max_blob_bytes: MAX_BLOB_BYTES,
    };
    let (for_clients, for_peers, near) = (Arc::clone(tiered), Arc::clone(tiered), Arc::clone(near));
    let clients = instances(move |name| Far {
        cas: for_clients.cas(name),
        results: for_clients.action_cache(name),
    });
    let peers = instances(move |name| for_peers.for_peers(name));
    let near = instances(move |name| Far { cas: near.cas(name), results: near.action_cache(name) });
    // What waits for another node must not be what that node waits for.
    let [clients_budget, peers_budget, near_budget] =
        [(); 3].map(|()| Budgets::new(64 << 20, 64 << 20));
    let near = Doors::for_nodes_near(MAX_BLOB_BYTES, &near_budget, near);
    let nodes = Doors::for_nodes(MAX_BLOB_BYTES, &peers_budget, peers, None)
        .with_service(service)
        .with_service(work)
        .with_service(fetches)
        .with_doors_under("/near", near);
    Port::new(256 << 20, Doors::new(settings, &clients_budget, clients))
        .with_nodes(nodes, tls.server())
}

fn instances(stores: impl Fn(&InstanceName) -> Far + Send + Sync + 'static) -> Arc<Instances> {
    let cache = Arc::new(TreeCache::new(1 << 20));
    Arc::new(Instances::new(move |name| {
        let Far { cas, results } = stores(name);
        let trees = Arc::new(Trees::new(name.clone(), Arc::clone(&cas), Arc::clone(&cache)));
        Stores { cas, action_cache: results, trees }
    }))
}

fn bucket(objects: &Arc<Faulty<InMemory>>, group: &TaskGroup) -> Arc<Bucket> {
    let settings = BucketSettings::new("s3://builds/prefix".parse().unwrap());
    let settings = BucketSettings { deadline: BUCKET_DEADLINE, ..settings };
    Bucket::over(Objects::with_parts(Arc::clone(objects)), settings, true, group)
}

/// Waits until something is so.
pub(crate) async fn until(is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting).await.expect("it comes to be so");
}

/// The instance of all tests that do not say otherwise.
pub(crate) fn instance() -> InstanceName {
    "main/ci".parse().unwrap()
}

/// A blob that nobody has.
pub(crate) fn blob(len: usize) -> (Digest, Bytes) {
    let bytes = Bytes::from(conformance::data(len));
    (Digest::of(Function::Sha256, &bytes), bytes)
}

impl Drop for Rig {
    fn drop(&mut self) {
        for node in &self.nodes {
            node.link.set(State::Cut);
        }
    }
}
