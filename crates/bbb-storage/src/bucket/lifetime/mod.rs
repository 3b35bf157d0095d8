//! How long things stay in the bucket, when `--expire_after` = E is given.
//!
//! The only record of when an object was last used is its own `Last-Modified`, told by the server's clock.
//! From its age follows what may be done with it ([`policy`]):
//!
//! | age | results | blobs |
//! |---|---|---|
//! | below E/2 | fresh: may be promised as they are | the same |
//! | from E/2 | aging: renewed before they are promised | the same |
//! | from E | dead: count as missing, are never renewed | aging |
//! | from 3E/2 | | dead |
//! | dead and a margin of E/8, at least 5 minutes | deletable: the collector may take them | the same |
//!
//! # The promise
//! What a node said to be there (an answer of `FindMissingBlobs`, the blobs of a served result, a write
//! that was acknowledged or cut short since the blob was there) stays readable on every node for E/2 from
//! the answer. For when a node looks at a blob that it is about to promise, the blob is younger than E/2 or
//! is made so. The node may repeat what it found for at most E/4. So no blob is older than 3E/4 in any answer,
//! and dies at 3E/2: E/2 for the promise, E/4 for the error of two clocks and the answer's way.
//!
//! A result is served only when its blobs were promised with it. When it is written or renewed, its blobs are
//! younger than 3E/4 and live at least that much longer; it dies at E, they at 3E/2, and every use of it
//! renews them too: results leave before their blobs, and one that did not would be a miss, no lie.
//!
//! # Deleting among writers
//! S3 cannot delete an object on the condition that it is still the old one. Three rules make it safe:
//!
//! - *Renewal against deletion*: nothing dead is renewed, and only what is dead and a margin more is deleted. A
//!   renewal that was begun in time and ended within the margin can meet no delete; one that took longer
//!   is not relied upon.
//! - *Writing against deletion*: a write over a deletable object could land between the collector's last look at
//!   the old one and its delete. So the collector looks and deletes only while a window is open, in the first
//!   seconds of every fifth minute of the server's clock. A writer asks what it writes over if its write may
//!   meet a window, and if that was dead, it acknowledges only after the window is over and the object was
//!   seen to be there. Writes at other times, and over nothing, cost nothing.
//! - *Two collectors* keep to the same windows and look for themselves: they do no harm. The lease only
//!   saves requests.
//!
//! The room knows nothing of what is inside the objects, nor who remembers which of them are there.

mod clock;
mod collector;
mod lease;
mod policy;
mod refresh;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::SystemTime};

use bbb_lifecycle::TaskGroup;
use object_store::{Error, ObjectMeta, ObjectStore, ObjectStoreExt as _, Result, path::Path};
use tokio::{sync::mpsc, time};

use self::{
    clock::ServerClock,
    collector::Collector,
    policy::{Stage, WRITE_BOUND, Window},
    refresh::Refresher,
};
pub(crate) use self::{collector::CollectorStats, policy::Policy, refresh::Ways};
use super::keys::{Keys, Kind};

/// How many renewals that nobody waits for may queue. What finds no place is renewed when it is used again.
const RENEWALS_BEHIND: usize = 4096;

/// How many of these run at once.
const RENEWALS_BEHIND_AT_ONCE: usize = 8;

/// Keeps what is used and lets go of the rest.
#[derive(Debug)]
pub(crate) struct Lifetime {
    store: Arc<dyn ObjectStore>,
    keys: Keys,
    policy: Policy,
    clock: ServerClock,
    refresher: Refresher,
    behind: mpsc::Sender<(Kind, ObjectMeta)>,
    collected: Arc<CollectorStats>,
}

/// A write that began.
#[derive(Debug)]
#[must_use = "a write is to be ended before it is acknowledged"]
pub(crate) struct Write {
    begun: SystemTime,
    over: Over,
}

/// What a write goes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    /// Nothing, or something that is alive: nobody is about to delete it.
    Safe,
    /// Something that may be deleted.
    Dead,
    /// Nobody asked, since it was not going to matter.
    Unasked,
}

impl Lifetime {
    /// Reads the server's clock and starts what goes on behind. The collector makes use of conditional
    /// writes where the bucket `honours` them.
    ///
    /// # Errors
    /// If the bucket's clock cannot be read.
    pub(crate) async fn start(
        store: Arc<dyn ObjectStore>,
        keys: &Keys,
        policy: Policy,
        ways: Ways,
        honours: bool,
        tasks: &TaskGroup,
    ) -> Result<Arc<Self>> {
        let (behind, queue) = mpsc::channel(RENEWALS_BEHIND);
        let lifetime = Arc::new(Self {
            clock: ServerClock::new(Arc::clone(&store), keys),
            refresher: Refresher::new(Arc::clone(&store), keys, ways),
            keys: keys.clone(),
            collected: Arc::default(),
            store,
            policy,
            behind,
        });
        lifetime.clock.measure().await?;
        let (life, stop) = (Arc::clone(&lifetime), tasks.stop());
        tasks.spawn("bucket clock", async move { life.clock.run(&stop).await });
        let (life, stop) = (Arc::clone(&lifetime), tasks.stop());
        tasks.spawn("bucket renewals", async move {
            tokio::select! {
                () = stop.requested() => {}
                () = life.renew_queued(queue) => {}
            }
        });
        let (collector, stop) = (Collector::new(Arc::clone(&lifetime), honours), tasks.stop());
        tasks.spawn("bucket collector", async move { collector.run(&stop).await });
        Ok(lifetime)
    }

    pub(crate) fn policy(&self) -> &Policy {
        &self.policy
    }

    /// How many objects were renewed.
    pub(crate) fn renewed(&self) -> u64 {
        self.refresher.renewed()
    }

    pub(crate) fn collected(&self) -> &CollectorStats {
        &self.collected
    }

    /// Whether an object counts as missing though it is there.
    pub(crate) fn is_dead(&self, kind: Kind, last_modified: SystemTime) -> bool {
        self.policy.stage(kind, self.clock.age(last_modified)) >= Stage::Dead
    }

    /// Makes sure that an object that was just seen may be promised, and tells since when it counts as used.
    /// None if it counts as missing.
    ///
    /// # Errors
    /// If it was to be renewed and nobody knows whether it was.
    pub(crate) async fn hold(&self, kind: Kind, meta: &ObjectMeta) -> Result<Option<SystemTime>> {
        let last_modified = meta.last_modified.into();
        let now = self.clock.now();
        match self.policy.stage(kind, self.clock.age(last_modified)) {
            Stage::Fresh => Ok(Some(last_modified)),
            Stage::Dead | Stage::Deletable => Ok(None),
            Stage::Aging => match self.refresher.renew(meta, now).await {
                Ok(_) if self.policy.is_too_late(kind, self.clock.age(last_modified)) => {
                    Err(failure("an object was renewed too late to be promised"))
                }
                Ok(renewed) => Ok(Some(renewed)),
                Err(Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(error),
            },
        }
    }

    /// Notes the use of an object that is being read, which promises nothing: if it is aging, it is renewed
    /// behind. Tells whether it is alive; it counts as missing otherwise.
    pub(crate) fn used(&self, kind: Kind, meta: &ObjectMeta) -> bool {
        match self.policy.stage(kind, self.clock.age(meta.last_modified.into())) {
            Stage::Fresh => true,
            Stage::Aging => {
                // A full queue is no fault: the next use tries again.
                let _ = self.behind.try_send((kind, meta.clone()));
                true
            }
            Stage::Dead | Stage::Deletable => false,
        }
    }

    /// Begins to make an object visible: a put, or the completion of a multipart upload, but not the
    /// sending of its parts. `absent` says that the key was seen to be free within the time that
    /// [`Policy::existence_ttl`] allows.
    ///
    /// # Errors
    /// If it matters what lies there, and nobody can tell.
    pub(crate) async fn begin_write(&self, kind: Kind, key: &Path, absent: bool) -> Result<Write> {
        let begun = self.clock.now();
        let over = if absent {
            Over::Safe
        } else if Window::met_by_write(begun, begun + WRITE_BOUND).is_none() {
            Over::Unasked
        } else {
            match self.store.head(key).await {
                Ok(meta) if self.is_dead(kind, meta.last_modified.into()) => Over::Dead,
                Ok(_) | Err(Error::NotFound { .. }) => Over::Safe,
                Err(error) => return Err(error),
            }
        };
        Ok(Write { begun, over })
    }

    /// Ends a write whose object the bucket took. Tells whether it is there to stay: if not, it is to be
    /// written again.
    ///
    /// # Errors
    /// If nobody can tell.
    pub(crate) async fn end_write(&self, kind: Kind, key: &Path, write: Write) -> Result<bool> {
        let ended = self.clock.now();
        let Some(over) = Window::met_by_write(write.begun, ended) else { return Ok(true) };
        if write.over == Over::Safe {
            return Ok(true);
        }
        time::sleep(over.duration_since(ended).unwrap_or_default()).await;
        match self.store.head(key).await {
            Ok(meta) => Ok(!self.is_dead(kind, meta.last_modified.into())),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn renew_queued(&self, queue: mpsc::Receiver<(Kind, ObjectMeta)>) {
        use futures::StreamExt as _;
        let queued = futures::stream::unfold(queue, async |mut queue| {
            let next = queue.recv().await?;
            Some((next, queue))
        });
        let renew = async |(kind, meta): (Kind, ObjectMeta)| {
            if let Err(error) = self.hold(kind, &meta).await {
                tracing::debug!(key = %meta.location, %error, "cannot renew an object that was read");
            }
        };
        queued.for_each_concurrent(RENEWALS_BEHIND_AT_ONCE, renew).await;
    }
}

/// A fault of ours in the words of the object store library.
fn failure(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Generic { store: "lifetime", source: source.into() }
}
