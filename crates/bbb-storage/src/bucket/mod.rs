//! The bucket tier: blobs and results as objects of an S3-compatible bucket, or of a folder that all
//! nodes see.
//!
//! Promises: what was acknowledged is in the bucket; every byte that is given was checked after it came
//! from there; a fault of the bucket is never a miss; all buffers are taken out of one budget; an
//! operation ends within its deadline. How objects look is in `object.rs`, where they lie in `keys.rs`;
//! `retry.rs` is the only place that tries again.
//!
//! The room knows nothing of other tiers, and nothing of what a result needs.

use std::{fmt, sync::Arc, time::Duration};

use bbb_digest::InstanceName;
use bbb_lifecycle::TaskGroup;
use object_store::{ObjectStore, path::Path};

use crate::{ActionCache, Cas, JournalStore, Result, blocking::blocking};

mod anchor;
mod budget;
mod cas;
mod connect;
mod existence;
mod fetch;
#[cfg(any(test, feature = "conformance"))]
#[allow(clippy::panic, reason = "a check that fails panics")]
pub mod hostile;
mod journal;
mod keys;
mod lifetime;
mod location;
mod marks;
mod object;
mod pack;
mod parts;
mod probe;
mod profile;
mod quarantine;
mod read;
mod results;
mod retry;
mod stats;
mod store;
mod unpack;
mod wire;
mod write;

pub(crate) use lifetime::CLOCK_ERROR;
pub use lifetime::MIN_EXPIRE_AFTER;
pub use location::{BucketLocation, LocationError};
pub use marks::{Mark, MarkError};
pub use probe::BucketError;
pub use stats::BucketStats;
pub use store::Objects;

#[cfg(any(test, feature = "conformance"))]
pub(crate) use wire::ServerFault;

use anchor::Anchor;
use budget::Budget;
use existence::Existence;
use keys::Keys;
use lifetime::{Lifetime, Policy};
use store::Store;

/// How long an object is taken to be there after it was seen, in a bucket from which nothing expires.
const KNOWN_FOR: Duration = Duration::from_secs(3600);

/// What a bucket tier is to be.
#[derive(Clone, Debug)]
pub struct BucketSettings {
    /// Where the bucket is.
    pub location: BucketLocation,
    /// The region that requests are signed for.
    pub region: String,
    /// The URL of a server that is not Amazon's.
    pub endpoint: Option<String>,
    /// Whether the bucket's name is part of the host name, not of the path.
    pub virtual_hosted_style: bool,
    /// Whether blobs are compressed that come as they are.
    pub compress: bool,
    /// How many transfers one operation may have at once.
    pub concurrency: usize,
    /// Limit of all buffers of the tier, in bytes; less than 32 MiB is taken as that.
    pub buffer_bytes: u64,
    /// How long an operation may take, retries counted in.
    pub deadline: Duration,
    /// The age at which what is not used leaves the bucket.
    pub expire_after: Option<Duration>,
}

impl BucketSettings {
    /// The settings that the flags have when they are not given.
    pub fn new(location: BucketLocation) -> Self {
        Self {
            location,
            region: "us-east-1".to_owned(),
            endpoint: None,
            virtual_hosted_style: false,
            compress: true,
            concurrency: 10,
            buffer_bytes: 256 << 20,
            deadline: Duration::from_secs(50),
            expire_after: None,
        }
    }
}

/// A bucket of blobs and results.
pub struct Bucket {
    settings: BucketSettings,
    keys: Keys,
    store: Arc<Store>,
    existence: Existence,
    budget: Arc<Budget>,
    honours_conditions: bool,
    /// None if everything stays.
    lifetime: Option<Arc<Lifetime>>,
    /// None where nobody has seen to it that there is one.
    anchor: Option<Anchor>,
    group: TaskGroup,
}

impl Bucket {
    /// Connects to a bucket and tries it: that it can be written, read and deleted from, and whether it
    /// honours conditions. Takes some ten seconds at the most. `group` owns what goes on behind.
    ///
    /// # Errors
    /// If anything of that fails, with what to look at in one line.
    pub async fn open(
        settings: BucketSettings,
        group: &TaskGroup,
    ) -> Result<Arc<Self>, BucketError> {
        let objects = connect::connect(&settings)?;
        let needs_keys = matches!(settings.location, BucketLocation::S3 { .. });
        let opened = Self::open_over(objects, settings, group).await;
        opened.map_err(|error| match needs_keys && !connect::are_keys_named() {
            true => error.without_keys(),
            false => error,
        })
    }

    /// The same over what speaks to the bucket already. The location gives no more than the prefix.
    ///
    /// # Errors
    /// As [`Bucket::open`].
    pub async fn open_over(
        objects: Objects,
        settings: BucketSettings,
        group: &TaskGroup,
    ) -> Result<Arc<Self>, BucketError> {
        if let Some(Err(too_short)) = settings.expire_after.map(Policy::new) {
            return Err(BucketError::ExpireAfter { what: too_short.to_string() });
        }
        let honours_conditions = probe::probe(&objects, &settings).await?;
        let bucket = Self::assemble(objects, settings, honours_conditions, group);
        if let Some(lifetime) = &bucket.lifetime {
            lifetime.measure().await.map_err(|failure| BucketError::Unreachable {
                location: bucket.settings.location.to_string(),
                step: "read the server's clock",
                what: failure.to_string(),
            })?;
        }
        Ok(Arc::new(Self { anchor: Some(Anchor::default()), ..bucket }))
    }

    /// A tier over what speaks to a bucket, which is taken to be as it should be.
    pub fn over(
        objects: Objects,
        settings: BucketSettings,
        honours_conditions: bool,
        group: &TaskGroup,
    ) -> Arc<Self> {
        Arc::new(Self::assemble(objects, settings, honours_conditions, group))
    }

    fn assemble(
        objects: Objects,
        settings: BucketSettings,
        honours_conditions: bool,
        group: &TaskGroup,
    ) -> Self {
        let keys = Keys::new(&prefix(&settings.location));
        let store = Arc::new(Store::new(objects, settings.deadline));
        let budget = Arc::new(Budget::new(settings.buffer_bytes, settings.deadline));
        let policy = settings.expire_after.map(Policy::clamped);
        let start =
            |policy| Lifetime::start(&store, &keys, policy, &budget, honours_conditions, group);
        Self {
            existence: Existence::new(policy.map_or(KNOWN_FOR, |policy| policy.existence_ttl())),
            lifetime: policy.map(start),
            honours_conditions,
            anchor: None,
            group: group.clone(),
            keys,
            store,
            budget,
            settings,
        }
    }

    /// The blobs of an instance.
    pub fn cas(self: &Arc<Self>, instance: &InstanceName) -> Arc<dyn Cas> {
        Arc::new(cas::Blobs::new(self, instance))
    }

    /// The results of an instance. They are not checked to be complete.
    pub fn action_cache(self: &Arc<Self>, instance: &InstanceName) -> Arc<dyn ActionCache> {
        Arc::new(results::Results::new(self, instance, keys::Kind::Result))
    }

    /// The pages of an instance's logs, which have the form of results.
    pub fn log_pages(self: &Arc<Self>, instance: &InstanceName) -> Arc<dyn ActionCache> {
        Arc::new(results::Results::new(self, instance, keys::Kind::Log))
    }

    /// The records of an instance's remote assets, which have the form of results.
    pub fn assets(self: &Arc<Self>, instance: &InstanceName) -> Arc<dyn ActionCache> {
        Arc::new(results::Results::new(self, instance, keys::Kind::Asset))
    }

    /// Where journals of logs lie.
    pub fn log_journals(self: &Arc<Self>) -> Arc<dyn JournalStore> {
        Arc::new(journal::Journals(Arc::clone(self)))
    }

    /// What was asked of the bucket since the start.
    pub fn stats(&self) -> BucketStats {
        let mut stats = self.store.counters.stats();
        if let Some(lifetime) = &self.lifetime {
            lifetime.add_to(&mut stats);
        }
        stats
    }

    /// What speaks to the bucket, for what lies there beside blobs and results. Nothing of that is counted here.
    pub fn objects(&self) -> Arc<dyn ObjectStore> {
        self.store.objects()
    }

    /// The key of what lies in the bucket under a name of somebody else's choice.
    pub fn key(&self, name: &str) -> Path {
        let names = Path::from(name);
        names.parts().fold(prefix(&self.settings.location), |key, part| key.join(part))
    }

    /// How long at least what was found or written stays in the bucket; none if nothing ever leaves it.
    pub fn promise(&self) -> Option<Duration> {
        Some(self.lifetime.as_ref()?.policy().promise())
    }

    /// Whether a write on condition that there is no such object is refused where there is one. Some
    /// servers write all the same.
    pub const fn honours_conditions(&self) -> bool {
        self.honours_conditions
    }
}

/// What all keys begin with.
fn prefix(location: &BucketLocation) -> Path {
    match location {
        BucketLocation::S3 { prefix, .. } => prefix.clone(),
        BucketLocation::Folder(_) => Path::default(),
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bucket({})", self.settings.location)
    }
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bucket").field("location", &self.settings.location).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
