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
//! The room knows nothing of buckets: far is the two seams, and anything that keeps them will do.
//! `fetch` brings blobs near, `read` hands them on meanwhile, `write` writes to both tiers at once;
//! `blobs`, `results` and `files` are the views of one instance.

mod blobs;
mod fetch;
mod files;
mod read;
mod results;
mod write;
mod write_back;

use std::{fmt, sync::Arc, time::Duration};

use bbb_digest::InstanceName;
use bbb_lifecycle::TaskGroup;

use crate::{ActionCache, Cas, Complete, Disk, LocalFiles, Result, TreeCache, Trees};
use blobs::Blobs;
use fetch::Fetches;
use results::{Fresh, Results};
use write_back::{Queue, Target};

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
    far: Arc<dyn Fn(&InstanceName) -> Far + Send + Sync>,
    fetches: Arc<Fetches>,
    fresh: Arc<Fresh>,
    queue: Option<Arc<Queue>>,
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
        Self {
            near: Arc::clone(near),
            far: Arc::new(far),
            fetches: Arc::new(Fetches::new(near, settings.buffer_bytes, group)),
            fresh: Arc::new(Fresh::new(settings)),
            queue: None,
        }
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
        let (near, far, fetches) =
            (Arc::clone(&self.near), Arc::clone(&self.far), Arc::clone(&self.fetches));
        let trees = Arc::new(TreeCache::new(WRITE_BACK_TREE_BYTES));
        let target = move |instance: &InstanceName| {
            let Far { cas: far, results } = far(instance);
            // Reads may be near; what is said to be there is far.
            let (near, fetches) = (Arc::clone(&near), Arc::clone(&fetches));
            let blobs = Blobs::new(instance.clone(), Arc::clone(&far), near, fetches);
            let blobs: Arc<dyn Cas> = Arc::new(blobs);
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
        Arc::new(self.blobs(instance))
    }

    /// The results of an instance. Whether their blobs are there is [`Complete`](crate::Complete)'s business.
    pub fn action_cache(&self, instance: &InstanceName) -> Arc<dyn ActionCache> {
        let far = (self.far)(instance).results;
        let (fresh, queue) = (Arc::clone(&self.fresh), self.queue.clone());
        Arc::new(Results { instance: instance.clone(), far, fresh, queue })
    }

    /// The blobs of an instance as files to be hard-linked; brings near what is not.
    pub fn local_files(&self, instance: &InstanceName) -> Arc<dyn LocalFiles> {
        let near = self.near.local_files(instance);
        Arc::new(files::Files::new(near, self.blobs(instance)))
    }

    fn blobs(&self, instance: &InstanceName) -> Blobs {
        let far = (self.far)(instance).cas;
        let (near, fetches) = (Arc::clone(&self.near), Arc::clone(&self.fetches));
        Blobs { queue: self.queue.clone(), ..Blobs::new(instance.clone(), far, near, fetches) }
    }
}

impl fmt::Debug for Tiered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tiered").field("near", &self.near).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
