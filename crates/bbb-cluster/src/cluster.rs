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
    sync::{mpsc, oneshot, watch},
    time::{self, Instant},
};

use self::{driver::Driver, members::Members};
use crate::{
    ClusterView, Introduce, Member, MemberId, Properties, Sealer,
    gossip::{Gossip, MAX_PACKET_BYTES, Node, Unsound},
};

mod admission;
mod driver;
mod members;
mod rivals;

#[cfg(test)]
mod tests;

/// How long an introduction may take.
///
/// With the connection that may have to be made first: in a network that loses packets each loss costs a second at first.
pub const INTRODUCTION_TIMEOUT: Duration = Duration::from_secs(5);

/// The most bytes that an [`Envelope`] may add to a packet.
pub const MAX_SEAL_BYTES: usize = 112;
const _: () = assert!(Sealer::OVERHEAD_BYTES <= MAX_SEAL_BYTES);

/// The largest datagram that is sent, and that is looked at.
const MAX_DATAGRAM_BYTES: usize = MAX_PACKET_BYTES + MAX_SEAL_BYTES;

/// How many found addresses wait for the gossip task to greet them: more wait with their finders.
const MAX_CANDIDATES: usize = 256;

/// How much of what nodes said unasked waits to be taken note of: more is left out, it is asked for soon anyway.
const MAX_HEARD: usize = 256;

/// How long leaving may take.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);

/// What closes and opens the packets of gossip.
pub trait Envelope: Send + 'static {
    /// The datagram that carries `packet`: at most [`MAX_SEAL_BYTES`] longer.
    fn seal(&mut self, packet: &[u8]) -> Vec<u8>;

    /// The packet that a datagram carries; nothing if it is not of this cluster, is forged or was seen before. The
    /// envelope itself logs why.
    fn open(&mut self, from: SocketAddr, datagram: &[u8]) -> Option<Vec<u8>>;
}

/// Asks a node about itself.
pub type OwnProperties = Arc<dyn Fn() -> Properties + Send + Sync>;

/// A node's part in its cluster.
#[derive(Clone)]
pub struct Cluster {
    view: watch::Receiver<Arc<ClusterView>>,
    candidates: mpsc::Sender<SocketAddr>,
    heard: mpsc::Sender<(MemberId, Properties)>,
    is_leaving: Arc<watch::Sender<bool>>,
    leave: mpsc::Sender<oneshot::Sender<()>>,
}

/// A node cannot be a member as it is.
#[derive(Debug, thiserror::Error)]
#[error("the node {name} cannot take part in a cluster")]
pub struct StartError {
    name: Arc<str>,
    #[source]
    cause: Unsound,
}

/// Who lives, as gossip believes.
#[derive(Clone, Debug, PartialEq)]
struct Live {
    me: MemberId,
    others: Vec<MemberId>,
}

impl Cluster {
    /// Takes part in the cluster as `me`: starts tasks in `tasks` that gossip over `socket` and introduce members.
    ///
    /// `me` holds the addresses that others are told. `own` is asked about the node every second, and at each event; it
    /// must not wait. There is company only when [`candidates`](Self::candidates) are told, or when others tell of this
    /// node.
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
        let name = Arc::clone(&me.name);
        let node = Node::try_from(me.clone()).map_err(|cause| StartError { name, cause })?;
        let start = Instant::now();
        let (to_candidates, candidates) = mpsc::channel(MAX_CANDIDATES);
        let (to_heard, heard) = mpsc::channel(MAX_HEARD);
        let (to_leave, leave) = mpsc::channel(1);
        let (to_live, live) = watch::channel(Arc::new(Live { me: me.clone(), others: Vec::new() }));
        let (to_is_leaving, is_leaving) = watch::channel(false);
        let (to_view, view) =
            watch::channel(Arc::new(ClusterView::new(Member { id: me, properties: own() }, [])));
        let gossip = Gossip::new(node, rand::random(), Duration::ZERO);
        let driver = Driver { gossip, socket, envelope, candidates, leave, live: to_live, start };
        let members = Members { live, heard, is_leaving, introduce, own, view: to_view, start };
        tasks.spawn("gossip", driver.run(tasks.stop()));
        tasks.spawn("members", members.run(tasks.stop()));
        Ok(Self {
            view,
            candidates: to_candidates,
            heard: to_heard,
            is_leaving: Arc::new(to_is_leaving),
            leave: to_leave,
        })
    }

    /// The cluster as this node sees it now and from now on.
    ///
    /// [`ClusterView::me`] is what this node is called by now: its generation grows when the others took it for gone
    /// and it comes back.
    pub fn view(&self) -> watch::Receiver<Arc<ClusterView>> {
        self.view.clone()
    }

    /// This node as it is to be told to others.
    pub fn me(&self) -> Member {
        let view = self.view.borrow();
        let mut me = view.own().clone();
        me.properties.is_leaving |= *self.is_leaving.borrow();
        me
    }

    /// Where those who look for other nodes put the gossip addresses that they found. An address that is a member's
    /// already costs nothing.
    pub fn candidates(&self) -> mpsc::Sender<SocketAddr> {
        self.candidates.clone()
    }

    /// Takes note of what another node said of itself when it asked this one for an introduction: it shows in the view
    /// at once if the node is a member, and makes this node ask back at once if it is not yet. Whoever calls it has made
    /// sure that it is the node itself that said so.
    pub fn heard(&self, from: &MemberId, properties: Properties) {
        // What finds no place is asked for within seconds.
        let _ = self.heard.try_send((from.clone(), properties));
    }

    /// Says that this node is about to leave: its own view shows it at once, and all members are told.
    pub fn set_leaving(&self) {
        self.is_leaving.send_replace(true);
    }

    /// Leaves the cluster and ends gossip. It takes 2 s at most: other nodes that do not hear of it find out for
    /// themselves.
    pub async fn leave(&self) {
        let (done, is_done) = oneshot::channel();
        // Both fail only if gossip has ended already.
        let _ = self.leave.try_send(done);
        let _ = time::timeout(LEAVE_TIMEOUT, is_done).await;
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("me", self.view.borrow().me()).finish_non_exhaustive()
    }
}
