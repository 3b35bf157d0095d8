//! A node's part in its cluster: keys, gossip, introductions, the ways to meet, and the tier of the cache that is shared.
//!
//! `node.rs` puts the node together; this is the part that only a node with a bucket and an address has.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context as _;
use bbb_cluster::{
    BucketList, Cluster, ClusterView, Discovery, Envelope, JoinList, KeyRing, Load, Meeting,
    MemberId, NodeTls, OwnProperties, Properties, Purpose, RefusalLog, Sealer, Udp,
};
use bbb_lifecycle::TaskGroup;
use bbb_peer::{
    Connections, Introductions, NodeServer, NodeService, PeerTier, PeerTierSettings, SharedLogs,
    assets::SharedAssets,
    work::{ClusterDispatch, PeerReach, WorkSettings},
};
use bbb_storage::{Bucket, Disk, LocalLogs};
use tokio::{
    net::UdpSocket,
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use crate::{
    assets::Elsewhere,
    cluster_page::InCluster,
    flags::{ClusterFlags, Settings},
    work::Work,
};

/// How often a node looks how busy it is.
const LOAD_EVERY: Duration = Duration::from_secs(1);

/// A node's part in its cluster.
pub(crate) struct Membership {
    cluster: Cluster,
    connections: Arc<Connections>,
    tier: Arc<PeerTier>,
    introductions: Arc<Introductions>,
    tls: NodeTls,
    ring: KeyRing,
    bound: SocketAddr,
    about: Arc<About>,
}

/// What a node says of itself.
struct About {
    fixed: Properties,
    load: watch::Sender<Load>,
    is_leaving: AtomicBool,
}

impl About {
    fn new(settings: &Settings) -> Self {
        let fixed = Properties {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            slots: u32::try_from(settings.worker_slots).unwrap_or(u32::MAX),
            platform: settings.platform.iter().cloned().collect(),
            ..Properties::default()
        };
        let (load, is_leaving) = (watch::Sender::new(Load::default()), AtomicBool::new(false));
        Self { fixed, load, is_leaving }
    }

    fn properties(&self) -> Properties {
        Properties {
            load: *self.load.borrow(),
            is_leaving: self.is_leaving.load(Ordering::Relaxed),
            ..self.fixed.clone()
        }
    }
}

impl Membership {
    /// Takes part in the cluster of `flags` as a node whose port listens on `listening`. Gossip runs in `gossip`, what
    /// goes over connections to other nodes in `peers`. Nobody is looked for yet, see [`Self::meet`].
    ///
    /// # Errors
    /// If gossip cannot listen where it is told to, or the bucket takes no mark.
    pub(crate) async fn start(
        flags: &ClusterFlags,
        settings: &Settings,
        listening: SocketAddr,
        bucket: &Arc<Bucket>,
        hints_bytes: u64,
        (gossip, peers): (&TaskGroup, &TaskGroup),
    ) -> anyhow::Result<Self> {
        let ring = ring(flags)?;
        let tls = NodeTls::new(&ring).context("cannot make the certificates of the node")?;
        let socket = UdpSocket::bind(flags.bind).await.with_context(|| {
            format!("cannot listen on {} for gossip (--bind_host, --bind_port)", flags.bind)
        })?;
        let bound = socket.local_addr().context("cannot tell the own address")?;
        let me = MemberId {
            name: settings.node_name.as_str().into(),
            generation: SystemTime::UNIX_EPOCH.elapsed().map_or(0, |now| now.as_millis() as u64),
            gossip: flags.advertised_gossip(bound),
            port: flags.advertised_port(listening),
        };
        let about = Arc::new(About::new(settings));
        let own: OwnProperties = {
            let about = Arc::clone(&about);
            Arc::new(move || about.properties())
        };
        let mark = bucket.leave_mark(peers).await.context("cannot leave a mark in the bucket")?;
        let connections = Connections::new(tls.client(), NodeTls::server_name(), peers);
        let introductions = Introductions::new(
            Arc::clone(bucket),
            mark,
            Arc::clone(&own),
            Arc::clone(&connections),
        );
        let envelope = Sealed {
            sealer: Sealer::new(&ring, Purpose::Gossip),
            refused: RefusalLog::new("gossip packet"),
        };
        let introduce = Arc::clone(&introductions);
        let cluster = Cluster::start(me, socket, envelope, introduce, own, gossip)?;
        let told = cluster.clone();
        introductions.tell(move |member, properties| told.heard(member, properties));
        connections.follow(cluster.view(), peers);
        let tier = PeerTier::new(
            &PeerTierSettings { hints_bytes },
            Arc::clone(bucket),
            cluster.view(),
            Arc::clone(&connections),
            peers,
        );
        Ok(Self { cluster, connections, tier, introductions, tls, ring, bound, about })
    }

    /// Looks for others by all ways that the flags ask for, by tasks of `tasks`.
    ///
    /// # Errors
    /// If a flag names what cannot be used.
    pub(crate) fn meet(
        &self,
        flags: &ClusterFlags,
        bucket: &Bucket,
        tasks: &TaskGroup,
    ) -> anyhow::Result<()> {
        let mut ways: Vec<(&'static str, Box<dyn Discovery>)> = Vec::new();
        if !flags.join.is_empty() {
            let list = JoinList::new(flags.join.clone(), self.bound).context("--join")?;
            ways.push(("join", Box::new(list)));
        }
        if !flags.autojoin_udp.is_empty() {
            let udp = Udp::new(flags.autojoin_udp.clone(), &self.ring);
            ways.push(("autojoin udp", Box::new(udp)));
        }
        if let Some(key) = &flags.autojoin_s3 {
            let list = BucketList::new(bucket.objects(), bucket.key(key).as_ref(), &self.ring);
            ways.push(("autojoin s3", Box::new(list)));
        }
        for (name, way) in ways {
            tracing::info!("looks for other nodes by {way}");
            let meeting =
                Meeting::new(self.cluster.view(), self.cluster.candidates(), tasks.stop());
            tasks.spawn(name, async move { way.run(meeting).await });
        }
        Ok(())
    }

    /// Takes part in the work of the cluster, by tasks of `scheduler`; what comes over connections is carried by `peers`.
    pub(crate) fn share_work(
        &self,
        scheduler: &TaskGroup,
        peers: &TaskGroup,
    ) -> Arc<ClusterDispatch> {
        let reach = PeerReach::new(Arc::clone(&self.connections), peers);
        ClusterDispatch::start(WorkSettings::default(), self.cluster.view(), reach, scheduler)
    }

    /// The fetches of remote assets at other nodes.
    pub(crate) fn share_assets(&self) -> Elsewhere {
        Elsewhere(SharedAssets::new(self.cluster.view(), Arc::clone(&self.connections)))
    }

    /// Who is in the cluster.
    pub(crate) fn view(&self) -> watch::Receiver<Arc<ClusterView>> {
        self.cluster.view()
    }

    /// The logs of all nodes, `local` being those of this one.
    pub(crate) fn share_logs(&self, local: &Arc<LocalLogs>) -> SharedLogs {
        SharedLogs::new(Arc::clone(local), self.cluster.view(), Arc::clone(&self.connections))
    }

    /// Looks again and again how busy the node is, to tell the others.
    pub(crate) fn measure(&self, disk: &Arc<Disk>, work: &Work, tasks: &TaskGroup) {
        let (about, stop) = (Arc::clone(&self.about), tasks.stop());
        let (disk, work) = (Arc::clone(disk), work.clone());
        tasks.spawn("load", async move {
            let mut ticks = interval(LOAD_EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let measure = async {
                loop {
                    ticks.tick().await;
                    about.load.send_replace(load(&disk, &work).await);
                }
            };
            stop.until_requested(measure).await;
        });
    }

    /// Where gossip listens.
    pub(crate) const fn bound(&self) -> SocketAddr {
        self.bound
    }

    /// The tier of the cache that members share.
    pub(crate) const fn tier(&self) -> &Arc<PeerTier> {
        &self.tier
    }

    /// What other nodes ask of this one, beside blobs and results.
    pub(crate) fn service(&self, near: &Arc<Disk>) -> NodeServer<NodeService> {
        NodeService::new(Arc::clone(near), Arc::clone(&self.tier), Arc::clone(&self.introductions))
    }

    /// For connections that other nodes make.
    pub(crate) fn server_tls(&self) -> Arc<rustls::ServerConfig> {
        self.tls.server()
    }

    /// What is said of nodes that fail to prove that they are of this cluster.
    pub(crate) fn refusals_of_nodes(&self) -> impl Fn(SocketAddr, &io::Error) + use<> {
        let (tls, refused) = (self.tls.clone(), RefusalLog::new("node"));
        move |from, error| refused.warn(Instant::now(), from.ip(), &tls.explain(error))
    }

    /// What the page shows of it.
    pub(crate) fn shown(&self) -> InCluster {
        let tier = Arc::clone(&self.tier);
        InCluster {
            name: self.ring.cluster_name().to_owned(),
            is_sealed: !self.ring.is_open(),
            view: self.cluster.view(),
            stats: Arc::new(move || tier.stats()),
        }
    }

    /// Says that this node is about to leave: others ask it for nothing any more.
    pub(crate) fn set_leaving(&self) {
        self.about.is_leaving.store(true, Ordering::Relaxed);
        self.cluster.set_leaving();
    }

    /// Leaves the cluster.
    pub(crate) async fn leave(&self) {
        self.cluster.leave().await;
    }
}

fn ring(flags: &ClusterFlags) -> anyhow::Result<KeyRing> {
    if flags.secret_keys.is_empty() {
        return Ok(KeyRing::open(&flags.name));
    }
    KeyRing::new(&flags.name, &flags.secret_keys).context("--secret_key")
}

/// How busy the node is now.
async fn load(disk: &Disk, work: &Work) -> Load {
    let queued = work.scheduled_here().await.map_or(0, |scheduled| scheduled.queued);
    Load {
        running: work.own().await.busy_slots,
        queued: u32::try_from(queued).unwrap_or(u32::MAX),
        per_processor: load_per_processor().unwrap_or_default(),
        stored_bytes: disk.stats().taken_bytes,
    }
}

/// The system's load average over a minute, for each processor.
fn load_per_processor() -> io::Result<f32> {
    let text = std::fs::read_to_string("/proc/loadavg")?;
    let average = text.split(' ').next().and_then(|minute| minute.parse::<f32>().ok());
    let average = average.ok_or(io::ErrorKind::InvalidData)?;
    Ok(average / std::thread::available_parallelism()?.get() as f32)
}

/// Seals gossip with the keys of the cluster.
struct Sealed {
    sealer: Sealer,
    refused: RefusalLog,
}

impl Envelope for Sealed {
    fn seal(&mut self, packet: &[u8]) -> Vec<u8> {
        self.sealer.seal(SystemTime::now(), packet)
    }

    fn open(&mut self, from: SocketAddr, datagram: &[u8]) -> Option<Vec<u8>> {
        match self.sealer.open(SystemTime::now(), datagram) {
            Ok(opened) => Some(opened.payload),
            Err(refusal) => {
                self.refused.packet(from, refusal);
                None
            }
        }
    }
}
