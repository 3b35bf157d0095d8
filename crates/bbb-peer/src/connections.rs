//! The ways to other nodes: one connection for each, made when it is first needed.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bbb_cluster::{ClusterView, MemberId};
use bbb_lifecycle::TaskGroup;
use rustls::pki_types::ServerName;
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint};

use crate::{Bounds, breaker::Breaker, connector::Connector};

/// How many bytes another node may send on one stream ahead of being read, and on all streams of a connection.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// The largest frame that is taken.
const MAX_FRAME_BYTES: u32 = 256 << 10;

/// How many nodes there are connections to. Past that all of them are made anew.
const MAX_PEERS: usize = 4096;

/// The connections of this node to others.
pub struct Connections {
    tls: Arc<rustls::ClientConfig>,
    server_name: ServerName<'static>,
    bounds: Bounds,
    peers: Mutex<HashMap<MemberId, Arc<Peer>>>,
    executor: Executor,
}

/// Another node, and the connection to it.
pub struct Peer {
    pub(crate) id: MemberId,
    pub(crate) channel: Channel,
    /// Whether it answers.
    pub(crate) node: Arc<Breaker>,
    /// Whether it answers what it may have to ask the bucket for.
    pub(crate) bucket: Arc<Breaker>,
}

impl Connections {
    /// None yet. `tls` proves this node and checks others, who are to have certificates for `server_name`; it names the
    /// protocol, too. Tasks of `group` serve the connections.
    pub fn new(
        tls: Arc<rustls::ClientConfig>,
        server_name: ServerName<'static>,
        group: &TaskGroup,
    ) -> Arc<Self> {
        Self::with_bounds(tls, server_name, Bounds::default(), group)
    }

    /// The same, for those who wait for longer or shorter.
    pub fn with_bounds(
        tls: Arc<rustls::ClientConfig>,
        server_name: ServerName<'static>,
        bounds: Bounds,
        group: &TaskGroup,
    ) -> Arc<Self> {
        let executor = Executor { group: group.clone() };
        Arc::new(Self { tls, server_name, bounds, peers: Mutex::default(), executor })
    }

    /// How long others are waited for.
    pub(crate) const fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// Lets go of connections to members as they leave the view, by a task of `group`.
    pub fn follow(
        self: &Arc<Self>,
        mut view: watch::Receiver<Arc<ClusterView>>,
        group: &TaskGroup,
    ) {
        let (connections, stop) = (Arc::clone(self), group.stop());
        let follow = async move {
            let mut before = Arc::clone(&view.borrow_and_update());
            while view.changed().await.is_ok() {
                let now = Arc::clone(&view.borrow_and_update());
                let is_there = |id: &MemberId| now.others().any(|member| member.id == *id);
                for gone in before.others().filter(|member| !is_there(&member.id)) {
                    connections.forget(&gone.id);
                }
                before = now;
            }
        };
        group.spawn("connections", async move {
            stop.until_requested(follow).await;
        });
    }

    /// The way to a node. Nothing is sent yet.
    pub fn to(&self, id: &MemberId) -> Arc<Peer> {
        let mut peers = self.peers();
        if let Some(peer) = peers.get(id) {
            return Arc::clone(peer);
        }
        if peers.len() >= MAX_PEERS {
            peers.clear();
        }
        let peer = Arc::new(self.connect(id));
        peers.insert(id.clone(), Arc::clone(&peer));
        peer
    }

    /// Lets go of the connection to a node; what goes on over it may end.
    pub fn forget(&self, id: &MemberId) {
        self.peers().remove(id);
    }

    fn connect(&self, id: &MemberId) -> Peer {
        let (tls, server_name) = (Arc::clone(&self.tls), self.server_name.clone());
        // Where it goes is the connector's business; that it goes by TLS, too.
        let channel = Endpoint::from_static("http://node")
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_frame_size(MAX_FRAME_BYTES)
            .http2_keep_alive_interval(self.bounds.ping_after)
            .keep_alive_timeout(self.bounds.ping)
            .executor(self.executor.clone())
            .connect_with_connector_lazy(Connector::new(id.port, tls, server_name, self.bounds));
        Peer { id: id.clone(), channel, node: Arc::default(), bucket: Arc::default() }
    }

    fn peers(&self) -> MutexGuard<'_, HashMap<MemberId, Arc<Peer>>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Has the tasks of connections owned.
#[derive(Clone)]
struct Executor {
    group: TaskGroup,
}

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future + Send + 'static,
{
    fn execute(&self, task: F) {
        let stop = self.group.stop();
        self.group.spawn("peer connection", async move {
            stop.until_requested(task).await;
        });
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections").field("peers", &self.peers().len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Peer").field(&self.id).finish()
    }
}
