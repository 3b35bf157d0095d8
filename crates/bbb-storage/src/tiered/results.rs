//! The results of one instance: far's, and for a moment what far said last.
//!
//! Results change, other than blobs, and any node may write one. So far is asked for each, and near keeps
//! what it said in memory for a few seconds alone: long enough for the burst in which a build asks, short
//! enough that nobody is given for long what another node has replaced. What far does not know is not
//! remembered at all, and after that moment a fault of far is a fault: an old answer is never better than none.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bbb_digest::{Digest, InstanceName};
use prost::Message as _;
use quick_cache::{Weighter, sync::Cache};
use tokio::time::Instant;

use crate::{ActionCache, ActionResult, Result};

use super::TieredSettings;

type Key = (InstanceName, Digest);

/// Results of all instances as far gave them a moment ago.
pub(super) struct Fresh {
    results: Cache<Key, (Instant, Arc<ActionResult>), Weight>,
    fresh: Duration,
    /// How many puts have come to their end. What far said before the last of them is not kept.
    puts: AtomicU64,
}

#[derive(Clone, Debug)]
struct Weight;

impl Weighter<Key, (Instant, Arc<ActionResult>)> for Weight {
    fn weight(&self, _: &Key, (_, result): &(Instant, Arc<ActionResult>)) -> u64 {
        // A message takes about twice its length in memory.
        320 + 2 * result.encoded_len() as u64
    }
}

impl Fresh {
    pub(super) fn new(settings: &TieredSettings) -> Self {
        let results = Cache::with_weighter(4_000, settings.results_bytes, Weight);
        Self { results, fresh: settings.results_fresh, puts: AtomicU64::new(0) }
    }

    fn get(&self, key: &Key) -> Option<Arc<ActionResult>> {
        let (since, result) = self.results.get(key)?;
        (since.elapsed() < self.fresh).then_some(result)
    }

    /// Takes in what far said when there had been so many puts.
    fn insert(&self, key: Key, result: Arc<ActionResult>, puts: u64) {
        let since = Instant::now();
        if self.puts.load(Ordering::Acquire) == puts {
            self.results.insert(key.clone(), (since, result));
        }
        if self.puts.load(Ordering::Acquire) != puts {
            self.results.remove(&key);
        }
    }

    fn forget(&self, key: &Key) {
        self.puts.fetch_add(1, Ordering::AcqRel);
        self.results.remove(key);
    }
}

pub(super) struct Results {
    pub(super) instance: InstanceName,
    pub(super) far: Arc<dyn ActionCache>,
    pub(super) fresh: Arc<Fresh>,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ActionCache for Results {
    async fn get(&self, action: Digest) -> Result<Option<Arc<ActionResult>>> {
        let key = (self.instance.clone(), action);
        if let Some(result) = self.fresh.get(&key) {
            return Ok(Some(result));
        }
        let puts = self.fresh.puts.load(Ordering::Acquire);
        let result = self.far.get(action).await?;
        if let Some(result) = &result {
            self.fresh.insert(key, Arc::clone(result), puts);
        }
        Ok(result)
    }

    async fn put(&self, action: Digest, result: ActionResult) -> Result<()> {
        let key = (self.instance.clone(), action);
        let stored = self.far.put(action, result).await;
        // Also when it failed: it may have come about.
        self.fresh.forget(&key);
        stored
    }
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fresh({})", self.far)
    }
}

impl fmt::Debug for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
