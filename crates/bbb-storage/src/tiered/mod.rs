//! Two tiers as one store: the disk of this node in front of a store that all nodes share.
//!
//! Promises: a write is acknowledged when it is durable far, and what is said to be there is there far;
//! what is near is served without asking far, so that a slow or dead far tier slows what needs it and
//! nothing else; however many want a blob that is not near, far is asked for it once, and all of them
//! read it while it comes in; trouble near never fails what far can do; a fault of far is never a miss.
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

use std::{fmt, sync::Arc, time::Duration};

use bbb_digest::InstanceName;
use bbb_lifecycle::TaskGroup;

use crate::{ActionCache, Cas, Disk, LocalFiles};
use blobs::Blobs;
use fetch::Fetches;
use results::{Fresh, Results};

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
    /// Its blobs. What it gives whole was checked; a stream that ends without an error too.
    pub cas: Arc<dyn Cas>,
    /// Its results.
    pub results: Arc<dyn ActionCache>,
}

/// The near and the far tier of all instances.
pub struct Tiered {
    near: Arc<Disk>,
    far: Box<dyn Fn(&InstanceName) -> Far + Send + Sync>,
    fetches: Arc<Fetches>,
    fresh: Arc<Fresh>,
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
            far: Box::new(far),
            fetches: Arc::new(Fetches::new(near, settings.buffer_bytes, group)),
            fresh: Arc::new(Fresh::new(settings)),
        }
    }

    /// The blobs of an instance.
    pub fn cas(&self, instance: &InstanceName) -> Arc<dyn Cas> {
        Arc::new(self.blobs(instance))
    }

    /// The results of an instance. Whether their blobs are there is [`Complete`](crate::Complete)'s business.
    pub fn action_cache(&self, instance: &InstanceName) -> Arc<dyn ActionCache> {
        let far = (self.far)(instance).results;
        Arc::new(Results::new(instance.clone(), far, Arc::clone(&self.fresh)))
    }

    /// The blobs of an instance as files to be hard-linked; brings near what is not.
    pub fn local_files(&self, instance: &InstanceName) -> Arc<dyn LocalFiles> {
        let near = self.near.local_files(instance);
        Arc::new(files::Files::new(near, self.blobs(instance)))
    }

    fn blobs(&self, instance: &InstanceName) -> Blobs {
        let far = (self.far)(instance).cas;
        Blobs::new(instance.clone(), far, Arc::clone(&self.near), Arc::clone(&self.fetches))
    }
}

impl fmt::Debug for Tiered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tiered").field("near", &self.near).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
