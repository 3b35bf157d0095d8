//! The peer tier: other nodes of the cluster, between this node's disk and the bucket.
//!
//! Each digest has an owner, and a second one in case the first is gone. Who wants a blob that it has not on its disk asks
//! the owner, whose single table of fetches brings it there once, however many nodes want it: from the node that holds it
//! (it was told by a hint when it was written), from the second owner's knowledge, or from the bucket. So an owner is where
//! what is read by many gathers, and nobody copies anything ahead of need.
//!
//! Two far tiers come out of that, for the two roads of [`Tiered`](bbb_storage::Tiered): [`PeerTier::own`] for what this node
//! owns, and for what others ask it for; [`PeerTier::others`] for everything else. The first asks for what nodes hold on
//! their disks alone, so that no request goes round in circles, even while nodes disagree about who owns what.
//!
//! Promises: the bucket acknowledges writes and nobody else; a peer that is gone, slow or at fault costs a bounded time and
//! then the bucket is asked; a fault is never a miss. Peers are believed: both ends of each connection have proven that
//! they belong to the cluster, and whole blobs are hashed once more before they are kept.

mod existence;
mod fetch;
pub(crate) use fetch::{Piece, READ};
mod others;
mod own;
mod results;

use std::{fmt, sync::Arc};

use bbb_cluster::{ClusterView, MemberId};
use bbb_digest::{Digest, InstanceName};
use bbb_lifecycle::TaskGroup;
use bbb_storage::{Bucket, Cas, Far, Result, Source};
use tokio::sync::watch;

use crate::{
    Bounds, Connections, Peer, PeerStats,
    hints::Hints,
    stats::{Counters, add},
    tell::{Hint, Teller},
    wire,
};

/// What the peer tier is set up with.
#[derive(Clone, Debug)]
pub struct PeerTierSettings {
    /// How many bytes the hints of other nodes take in memory, about.
    pub hints_bytes: u64,
}

impl Default for PeerTierSettings {
    fn default() -> Self {
        Self { hints_bytes: 16 << 20 }
    }
}

/// What this node shares with others.
pub struct PeerTier {
    bucket: Arc<Bucket>,
    view: watch::Receiver<Arc<ClusterView>>,
    connections: Arc<Connections>,
    hints: Hints,
    teller: Arc<Teller>,
    counters: Arc<Counters>,
}

impl PeerTier {
    /// The tier of a node that sees `view` of its cluster and reaches the others by `connections`. Tasks of `group` tell
    /// them what this node holds; it is to be stopped after all who read and write.
    pub fn new(
        settings: &PeerTierSettings,
        bucket: Arc<Bucket>,
        view: watch::Receiver<Arc<ClusterView>>,
        connections: Arc<Connections>,
        group: &TaskGroup,
    ) -> Arc<Self> {
        let (name, counters) =
            (Arc::clone(&view.borrow().me().name), Arc::new(Counters::default()));
        let teller = Teller::new(name, Arc::clone(&connections), Arc::clone(&counters), group);
        let hints = Hints::new(settings.hints_bytes);
        Arc::new(Self { bucket, view, connections, hints, teller, counters })
    }

    /// Whether this node owns a digest, as it sees the cluster.
    pub fn is_own(&self, digest: &Digest) -> bool {
        let view = self.view.borrow();
        view.owners(digest.hash())[0] == Some(view.me())
    }

    /// The far tier of what this node owns, and of what others ask it for.
    pub fn own(self: &Arc<Self>, instance: &InstanceName) -> Far {
        let far = self.far(instance);
        Far { cas: Arc::new(own::Blobs { far }), results: self.bucket.action_cache(instance) }
    }

    /// The far tier of what others own; `own` is what this node answers them from.
    pub fn others(self: &Arc<Self>, instance: &InstanceName, own: Far) -> Far {
        let (far, results) = (self.far(instance), self.bucket.action_cache(instance));
        Far {
            results: Arc::new(results::Results {
                far: far.clone(),
                own: own.results,
                bucket: results,
            }),
            cas: Arc::new(others::Blobs { far, own: own.cas }),
        }
    }

    /// What was asked of others, and they of this node, since the start.
    pub fn stats(&self) -> PeerStats {
        PeerStats { hints: self.hints.len() as u64, ..self.counters.stats() }
    }

    /// This node, as it is called by now.
    pub(crate) fn me(&self) -> MemberId {
        self.view.borrow().me().clone()
    }

    /// The other node that is said to hold a blob.
    pub(crate) fn hinted(&self, instance: &InstanceName, digest: Digest) -> Option<MemberId> {
        let holder = self.hints.get(instance, digest)?;
        wire::other_member(&self.view.borrow(), &holder).cloned()
    }

    /// Another node holds blobs that are in the bucket. If it has written them there a moment ago, so much is known from
    /// now on; what it knew itself from before says nothing of the time that is left to them.
    pub(crate) fn heard(
        &self,
        instance: &InstanceName,
        digests: &[Digest],
        holder: &str,
        is_written: bool,
    ) {
        add(&self.counters.hints_heard, digests.len() as u64);
        for digest in digests {
            self.hints.insert(instance, *digest, holder);
        }
        if is_written {
            self.bucket.note_written(instance, digests);
        }
    }

    /// The owners of a digest, best first.
    fn owners(&self, digest: Digest) -> impl Iterator<Item = Owner> + use<> {
        let view = self.view.borrow();
        let owner = |id: &MemberId| match id == view.me() {
            true => Owner::Me,
            false => Owner::Other(id.clone()),
        };
        view.owners(digest.hash()).map(|id| id.map(owner)).into_iter().flatten()
    }

    fn peer(&self, id: &MemberId) -> Arc<Peer> {
        self.connections.to(id)
    }

    fn far(self: &Arc<Self>, instance: &InstanceName) -> Bucketed {
        let bucket = self.bucket.cas(instance);
        Bucketed { tier: Arc::clone(self), instance: instance.clone(), bucket }
    }
}

/// Who owns something, as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Owner {
    Me,
    Other(MemberId),
}

impl Owner {
    fn other(self) -> Option<MemberId> {
        match self {
            Self::Me => None,
            Self::Other(id) => Some(id),
        }
    }
}

/// What both far tiers of an instance's blobs are made of.
#[derive(Clone, Debug)]
struct Bucketed {
    tier: Arc<PeerTier>,
    instance: InstanceName,
    bucket: Arc<dyn Cas>,
}

impl Bucketed {
    /// How long others are waited for.
    fn bounds(&self) -> Bounds {
        self.tier.connections.bounds()
    }

    /// Writes a blob to the bucket, and tells its owners that it lies here, too.
    async fn put(&self, digest: Digest, source: Source) -> Result<()> {
        // What is known to be there is not written again.
        let is_written = !self.tier.bucket.unknown(&self.instance, &[digest]).is_empty();
        self.bucket.put(digest, source).await?;
        let mut owners = self.tier.owners(digest).peekable();
        // The first owner looks on its own disk, and is asked what it has by whoever takes its place.
        if digest.is_empty() || owners.peek() == Some(&Owner::Me) {
            return Ok(());
        }
        let others: Vec<MemberId> = owners.filter_map(Owner::other).collect();
        let hint = Hint { instance: self.instance.clone(), digest, is_written };
        self.tier.teller.tell(&others, hint).await;
        Ok(())
    }
}

impl fmt::Debug for PeerTier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerTier").field("me", &self.me()).finish_non_exhaustive()
    }
}
