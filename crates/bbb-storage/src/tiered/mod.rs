//! Two tiers as one store: the disk of this node in front of a store that all nodes share.
//!
//! Promises: a write is acknowledged when it is durable far, and what is said to be there is there far;
//! what is near is served without asking far, so that a slow or dead far tier slows what needs it and
//! nothing else; however many want a blob that is not near, far is asked for it once, and all of them
//! read it while it comes in; trouble near never fails what far can do; a fault of far is never a miss.
//!
//! Blobs are checked against their hash before the last of their bytes is given to anyone, and before they
//! are near. A part of a large blob that is not near yet cannot be: it is what far says it is, and the far
//! tier has to check what it gives by other means (as the bucket does, frame by frame).
//!
//! What lies near is a copy and no promise: it may be evicted at any moment, and a blob that is near may
//! be gone far. The one exception is what waits to be written back, see `write_back`.
//!
//! In a cluster there are two roads over the one near tier: what this node owns comes from the bucket, and everything else from
//! whoever owns it. So each blob is fetched in one place, however many nodes want it.
//!
//! The room knows nothing of buckets, nor of clusters: far is the two seams, and anything that keeps them will do.
//! `fetch` brings blobs near, `read` hands them on meanwhile, `write` writes to both tiers at once;
//! `blobs`, `results` and `files` are the views of one instance; `by_owner` chooses the road.

mod blobs;
mod by_owner;
mod fetch;
mod files;
mod read;
mod results;
mod write;
mod write_back;

use std::{fmt, sync::Arc, time::Duration};

use bbb_digest::{Digest, InstanceName};
use bbb_lifecycle::TaskGroup;

use crate::{ActionCache, Cas, Complete, Disk, LocalFiles, Result, TreeCache, Trees};
use blobs::Blobs;
use by_owner::{ByOwner, IsOwn};
use fetch::Fetches;
use results::{Fresh, Results};
use write_back::{Queue, Queued, Target};

pub use write_back::{Waiting, WriteBackSettings};

/// How many bytes of tree messages are kept while results are written back.
const WRITE_BACK_TREE_BYTES: u64 = 4 << 20;

/// What the two tiers are set up with.
#[derive(Clone, Debug)]
pub struct TieredSettings {
    /// How many bytes all blobs take in memory that are on their way from far at once.
    pub buffer_bytes: u64,
    /// How many bytes of results are kept in memory.
    pub results_bytes: u64,
    /// How long a result is served after far gave it. Meanwhile another node may have written another.
    pub results_fresh: Duration,
}

impl Default for TieredSettings {
    fn default() -> Self {
        Self {
            buffer_bytes: 128 << 20,
            results_bytes: 16 << 20,
            results_fresh: Duration::from_secs(2),
        }
    }
}

/// The far tier of one instance.
#[derive(Clone, Debug)]
pub struct Far {
    /// Its blobs. Parts that it gives are right; what it gives whole is checked here once more.
    pub cas: Arc<dyn Cas>,
    /// Its results.
    pub results: Arc<dyn ActionCache>,
}

/// The near and the far tier of all instances.
pub struct Tiered {
    near: Arc<Disk>,
    /// The way of what this node owns; of everything where there are no others.
    own: Road,
    others: Option<Others>,
    queue: Option<Arc<Queue>>,
}

/// A way to a far tier, with a table of fetches of its own.
#[derive(Clone)]
struct Road {
    far: Arc<dyn Fn(&InstanceName) -> Far + Send + Sync>,
    fetches: Arc<Fetches>,
    /// None if somebody else keeps results fresh.
    fresh: Option<Arc<Fresh>>,
}

/// The way of what other nodes own.
#[derive(Clone)]
struct Others {
    road: Road,
    is_own: IsOwn,
}

impl Tiered {
    /// Puts `near` in front of what `far` gives for each instance. What runs behind, runs in `group`,
    /// which is to be stopped after all who read and write, and before the tiers are.
    pub fn new(
        settings: &TieredSettings,
        near: &Arc<Disk>,
        far: impl Fn(&InstanceName) -> Far + Send + Sync + 'static,
        group: &TaskGroup,
    ) -> Self {
        let own = Road {
            far: Arc::new(far),
            fetches: Arc::new(Fetches::new(near, settings.buffer_bytes, group)),
            fresh: Some(Arc::new(Fresh::new(settings))),
        };
        Self { near: Arc::clone(near), own, others: None, queue: None }
    }

    /// Has what `is_own` does not claim take another road, over the same near tier, to what `far` gives for each
    /// instance. It is told what the own road is, as other nodes see it ([`Self::for_peers`]), and may lead there.
    ///
    /// The new road has fetches of its own, with `buffer_bytes` of memory: one may wait for a fetch of the own road, here
    /// or on another node, and never the other way round. It keeps no results: whoever owns them does.
    #[must_use]
    pub fn with_others(
        mut self,
        buffer_bytes: u64,
        is_own: impl Fn(&Digest) -> bool + Send + Sync + 'static,
        far: impl Fn(&InstanceName, Far) -> Far + Send + Sync + 'static,
        group: &TaskGroup,
    ) -> Self {
        let (near, own) = (Arc::clone(&self.near), self.own.clone());
        let fetches = Arc::new(Fetches::new(&near, buffer_bytes, group));
        let far = move |instance: &InstanceName| far(instance, own.stores(instance, &near));
        let road = Road { far: Arc::new(far), fetches, fresh: None };
        self.others = Some(Others { road, is_own: Arc::new(is_own) });
        self
    }

    /// Has writes acknowledged by the near tier and written far behind, by a task of `group`; goes on with
    /// what waited when the node ended. Call it right after the disk was opened; with
    /// [`WriteBackSettings::leftovers`] where writes are not to wait.
    ///
    /// # Errors
    /// [`Error::Unavailable`](crate::Error::Unavailable) if the folder of what waits cannot be read.
    pub async fn with_write_back(
        mut self,
        settings: WriteBackSettings,
        group: &TaskGroup,
    ) -> Result<Self> {
        let is_wanted = settings.limit_bytes > 0;
        let queue = Queue::open(settings, &self.near).await?;
        if !is_wanted && queue.waiting() == Waiting::default() {
            return Ok(self);
        }
        let (near, own, others) = (Arc::clone(&self.near), self.own.clone(), self.others.clone());
        let trees = Arc::new(TreeCache::new(WRITE_BACK_TREE_BYTES));
        let target = move |instance: &InstanceName| {
            let far = by_owner(&own, others.as_ref(), |road| (road.far)(instance).cas);
            // Reads may be near; what is said to be there is far.
            let blobs = by_owner(&own, others.as_ref(), |road| road.stores(instance, &near).cas);
            let results =
                by_owner(&own, others.as_ref(), |road| road.stores(instance, &near).results);
            let trees = Trees::new(instance.clone(), Arc::clone(&blobs), Arc::clone(&trees));
            let results = Arc::new(Complete::new(results, blobs, Arc::new(trees)));
            Target { cas: far, results }
        };
        group.spawn("write back", Arc::clone(&queue).run(target, group.stop()));
        self.queue = Some(queue);
        Ok(self)
    }

    /// What waits to be written far.
    pub fn waiting(&self) -> Waiting {
        self.queue.as_ref().map(|queue| queue.waiting()).unwrap_or_default()
    }

    /// The blobs of an instance.
    pub fn cas(&self, instance: &InstanceName) -> Arc<dyn Cas> {
        self.by_owner(|road| -> Arc<dyn Cas> { Arc::new(self.blobs(road, instance)) })
    }

    /// The results of an instance. Whether their blobs are there is [`Complete`](crate::Complete)'s business.
    pub fn action_cache(&self, instance: &InstanceName) -> Arc<dyn ActionCache> {
        let far = self.by_owner(|road| road.stores(instance, &self.near).results);
        match self.queue.clone() {
            Some(queue) => Arc::new(Queued { instance: instance.clone(), far, queue }),
            None => far,
        }
    }

    /// The blobs of an instance as files to be hard-linked; brings near what is not.
    pub fn local_files(&self, instance: &InstanceName) -> Arc<dyn LocalFiles> {
        self.by_owner(|road| -> Arc<dyn LocalFiles> {
            let near = self.near.local_files(instance);
            Arc::new(files::Files::new(near, self.blobs(road, instance)))
        })
    }

    /// What other nodes are answered from: the own road, whoever owns what they ask for, so that no request goes round in
    /// circles; and nothing of what waits to be written back, which is on this machine alone.
    pub fn for_peers(&self, instance: &InstanceName) -> Far {
        self.own.stores(instance, &self.near)
    }

    fn blobs(&self, road: &Road, instance: &InstanceName) -> Blobs {
        Blobs { queue: self.queue.clone(), ..road.blobs(instance, &self.near) }
    }

    fn by_owner<T: ?Sized>(&self, of: impl Fn(&Road) -> Arc<T>) -> Arc<T>
    where
        ByOwner<T>: Into<Arc<T>>,
    {
        by_owner(&self.own, self.others.as_ref(), of)
    }
}

/// What `of` makes of the one road there is, or of both, with the choice between them.
fn by_owner<T: ?Sized>(own: &Road, others: Option<&Others>, of: impl Fn(&Road) -> Arc<T>) -> Arc<T>
where
    ByOwner<T>: Into<Arc<T>>,
{
    match others {
        None => of(own),
        Some(Others { road, is_own }) => {
            ByOwner { own: of(own), others: of(road), is_own: Arc::clone(is_own) }.into()
        }
    }
}

impl Road {
    /// Both seams over this road, with nothing that waits.
    fn stores(&self, instance: &InstanceName, near: &Arc<Disk>) -> Far {
        let far = (self.far)(instance).results;
        let results = match &self.fresh {
            Some(fresh) => {
                Arc::new(Results { instance: instance.clone(), far, fresh: Arc::clone(fresh) })
            }
            None => far,
        };
        Far { cas: Arc::new(self.blobs(instance, near)), results }
    }

    fn blobs(&self, instance: &InstanceName, near: &Arc<Disk>) -> Blobs {
        let far = (self.far)(instance).cas;
        Blobs::new(instance.clone(), far, Arc::clone(near), Arc::clone(&self.fetches))
    }
}

impl fmt::Debug for Tiered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tiered").field("near", &self.near).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
