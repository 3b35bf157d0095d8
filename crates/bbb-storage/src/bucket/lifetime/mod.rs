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
//! | dead and a margin of E/8, at least 5 minutes | deletable: a collector may take them | the same |
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
//! S3 cannot delete an object on the condition that it is still the old one. Two rules make it safe:
//!
//! - *Renewal against deletion*: nothing dead is renewed, and only what is dead and a margin more is deleted. A
//!   renewal that was begun in time and ended within the margin can meet no delete; one that took longer
//!   is not relied upon.
//! - *Writing against deletion*: a write over a deletable object could land between the collector's last look at
//!   the old one and its delete. So a collector tells beforehand which objects it is going to delete
//!   ([`doomed`]), and looks and deletes only while a window is open: in the first seconds of every fifth
//!   minute of the server's clock. Of what is doomed, nothing is promised and no write is acknowledged while
//!   the window may be open; afterwards a look shows what is left. Everything else goes on as ever: a node
//!   pays one listing a window.
//!
//! Both hold for any number of collectors. The lease only saves requests.
//!
//! The room knows nothing of what is inside the objects, nor who remembers which of them are there.

mod clock;
mod collector;
mod doomed;
mod lease;
mod policy;
mod refresh;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bbb_lifecycle::TaskGroup;
use futures::StreamExt as _;
use object_store::{ObjectMeta, path::Path};
use tokio::{sync::mpsc, time};

pub use self::policy::MIN_EXPIRE_AFTER;
use self::{
    clock::ServerClock,
    collector::{Collector, CollectorStats},
    doomed::{Doomed, sleep_until},
    policy::{Stage, Window},
    refresh::Refresher,
};
pub(crate) use self::{
    policy::{CLOCK_ERROR, Policy},
    refresh::Ways,
};
use super::{
    budget::Budget,
    existence::Id,
    keys::{Keys, Kind},
    retry::Failure,
    stats::BucketStats,
    store::Store,
};

/// How many renewals that nobody waits for may queue. What finds no place is renewed when it is used again.
const RENEWALS_BEHIND: usize = 4096;

/// How many of these run at once.
const RENEWALS_BEHIND_AT_ONCE: usize = 8;

/// Keeps what is used and lets go of the rest.
pub(crate) struct Lifetime {
    store: Arc<Store>,
    keys: Keys,
    policy: Policy,
    clock: ServerClock,
    doomed: Doomed,
    refresher: Arc<Refresher>,
    behind: mpsc::Sender<(Kind, ObjectMeta)>,
    collected: CollectorStats,
}

/// What an object that was read is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Used {
    /// To be remembered as there.
    Alive,
    /// To be given to who reads it, but not to be remembered as there.
    Aging,
    /// It counts as missing.
    Dead,
}

/// A write that began.
#[derive(Debug)]
#[must_use = "a write is to be ended before it is acknowledged"]
pub(crate) struct Write {
    begun: SystemTime,
}

impl Lifetime {
    /// Starts what goes on behind. The collector makes use of conditional writes where the bucket `honours`
    /// them.
    pub(crate) fn start(
        store: &Arc<Store>,
        keys: &Keys,
        policy: Policy,
        budget: &Arc<Budget>,
        honours: bool,
        group: &TaskGroup,
    ) -> Arc<Self> {
        let (behind, queue) = mpsc::channel(RENEWALS_BEHIND);
        let refresher = Refresher::new(Arc::clone(store), keys, Arc::clone(budget), group);
        let lifetime = Arc::new(Self {
            clock: ServerClock::new(Arc::clone(store), keys),
            doomed: Doomed::new(Arc::clone(store), keys),
            refresher: Arc::new(refresher),
            keys: keys.clone(),
            store: Arc::clone(store),
            collected: CollectorStats::default(),
            policy,
            behind,
        });
        let (life, stop) = (Arc::clone(&lifetime), group.stop());
        group.spawn("bucket clock", async move { life.clock.run(&stop).await });
        let (life, stop) = (Arc::clone(&lifetime), group.stop());
        group.spawn("bucket doomed", async move { life.doomed.run(&life.clock, &stop).await });
        let (life, stop) = (Arc::clone(&lifetime), group.stop());
        group.spawn("bucket renewals", async move {
            stop.until_requested(life.renew_queued(queue)).await;
        });
        let (collector, stop) = (Collector::new(Arc::clone(&lifetime), honours), group.stop());
        group.spawn("bucket collector", async move { collector.run(&stop).await });
        lifetime
    }

    /// Reads the bucket's clock for the first time.
    ///
    /// # Errors
    /// What the bucket says.
    pub(crate) async fn measure(&self) -> Result<(), Failure> {
        self.clock.measure().await
    }

    pub(crate) fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Tells what was renewed and collected.
    pub(crate) fn add_to(&self, stats: &mut BucketStats) {
        stats.renewed = self.refresher.renewed();
        self.collected.add_to(stats);
    }

    /// Whether an object counts as missing though it is there.
    pub(crate) fn is_dead(&self, kind: Kind, meta: &ObjectMeta) -> bool {
        self.stage(kind, meta) >= Stage::Dead
    }

    /// Whether an object may be promised as it is, as far as its age goes.
    pub(crate) fn is_fresh(&self, kind: Kind, meta: &ObjectMeta) -> bool {
        self.stage(kind, meta) == Stage::Fresh
    }

    /// Whether an object is renewed before it is promised.
    pub(crate) fn is_aging(&self, kind: Kind, meta: &ObjectMeta) -> bool {
        self.stage(kind, meta) == Stage::Aging
    }

    /// Makes sure that an object that was just seen may be promised. Tells whether it may; it counts as
    /// missing otherwise.
    ///
    /// # Errors
    /// If that takes longer than `patience`, or nobody knows.
    pub(crate) async fn hold(
        &self,
        kind: Kind,
        meta: &ObjectMeta,
        patience: Duration,
    ) -> Result<bool, Failure> {
        let held = time::timeout(patience, self.hold_patiently(kind, meta)).await;
        held.unwrap_or_else(|_| Err(Failure::unknown("it takes long to renew an old object")))
    }

    /// Renews an object, whatever its age.
    #[cfg(test)]
    pub(crate) async fn renew(&self, meta: &ObjectMeta) -> Result<SystemTime, Failure> {
        self.refresher.renew(meta, self.clock.now()).await
    }

    async fn hold_patiently(&self, kind: Kind, meta: &ObjectMeta) -> Result<bool, Failure> {
        let last_modified = meta.last_modified.into();
        match self.stage(kind, meta) {
            Stage::Dead | Stage::Deletable => Ok(false),
            Stage::Fresh => match self.doomed_until(meta) {
                None => Ok(true),
                Some(over) => {
                    sleep_until(&self.clock, over).await;
                    self.is_left(kind, &meta.location).await
                }
            },
            Stage::Aging => match self.refresher.renew(meta, self.clock.now()).await {
                Ok(_) if self.policy.is_too_late(kind, self.clock.age(last_modified)) => {
                    Err(Failure::unknown("an object was renewed too late to be promised"))
                }
                Ok(_) => Ok(true),
                Err(Failure::Missing) => Ok(false),
                // Another has written it anew, or renewed it.
                Err(Failure::Condition) => self.is_left(kind, &meta.location).await,
                Err(failure) => Err(failure),
            },
        }
    }

    /// Notes the use of an object that is being read, which promises nothing: if it is aging, it is renewed
    /// behind.
    pub(crate) fn used(&self, kind: Kind, meta: &ObjectMeta) -> Used {
        match self.stage(kind, meta) {
            Stage::Fresh if self.doomed_until(meta).is_some() => Used::Aging,
            Stage::Fresh => Used::Alive,
            Stage::Aging => {
                // A full queue is no fault: the next use tries again.
                let _ = self.behind.try_send((kind, meta.clone()));
                Used::Aging
            }
            Stage::Dead | Stage::Deletable => Used::Dead,
        }
    }

    /// Begins to make an object visible: a put, or the completion of an upload in parts.
    pub(crate) fn begin_write(&self) -> Write {
        Write { begun: self.clock.now() }
    }

    /// Ends a write that the bucket acknowledged. Tells whether its object is there to stay: if not, it is to
    /// be written again.
    ///
    /// # Errors
    /// If nobody can tell.
    pub(crate) async fn end_write(
        &self,
        kind: Kind,
        key: &Path,
        write: Write,
    ) -> Result<bool, Failure> {
        let (id, ended) = (Id::of(key), self.clock.now());
        let mut window = Window::ending_after(write.begun);
        let mut over = None;
        while window.begins() <= ended {
            if self.doomed.names(window, id) {
                over = Some(window.over());
            }
            window = window.next();
        }
        let Some(over) = over else { return Ok(true) };
        sleep_until(&self.clock, over).await;
        self.is_left(kind, key).await
    }

    /// Until when somebody may be deleting this object, which was seen fresh just now, because he took it for
    /// the one that was there before.
    fn doomed_until(&self, meta: &ObjectMeta) -> Option<SystemTime> {
        let window = Window::ending_after(self.clock.now());
        let is_open = window.begins() <= self.clock.now();
        let is_new =
            window.begins() <= SystemTime::from(meta.last_modified) + Duration::from_secs(1);
        (is_open && is_new && self.doomed.names(window, Id::of(&meta.location)))
            .then(|| window.over())
    }

    async fn is_left(&self, kind: Kind, key: &Path) -> Result<bool, Failure> {
        match self.store.head(key).await {
            Ok(meta) => Ok(!self.is_dead(kind, &meta)),
            Err(Failure::Missing) => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    fn stage(&self, kind: Kind, meta: &ObjectMeta) -> Stage {
        self.policy.stage(kind, self.clock.age(meta.last_modified.into()))
    }

    async fn renew_queued(&self, queue: mpsc::Receiver<(Kind, ObjectMeta)>) {
        let queued = futures::stream::unfold(queue, async |mut queue| {
            let next = queue.recv().await?;
            Some((next, queue))
        });
        let renew = async |(kind, meta): (Kind, ObjectMeta)| {
            if let Err(error) = self.hold_patiently(kind, &meta).await {
                tracing::debug!(key = %meta.location, %error, "cannot renew an object that was read");
            }
        };
        queued.for_each_concurrent(RENEWALS_BEHIND_AT_ONCE, renew).await;
    }
}

impl fmt::Debug for Lifetime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lifetime").field("policy", &self.policy).finish_non_exhaustive()
    }
}
