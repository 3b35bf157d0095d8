//! `--autojoin_s3`: a list of members in the bucket.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use object_store::{ObjectStore, path::Path};

use super::{Discovery, Envelope, Meeting};

/// Keeps an object for this node in the bucket, and reads those of others.
pub struct BucketList {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    envelope: Arc<dyn Envelope>,
}

impl BucketList {
    /// A list of the cluster `cluster` under `key` in `store`, sealed by `envelope`.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        key: &str,
        cluster: &str,
        envelope: Arc<dyn Envelope>,
    ) -> Self {
        Self { store, prefix: Path::from(key).join(cluster), envelope }
    }
}

#[async_trait]
impl Discovery for BucketList {
    async fn run(&self, meeting: Meeting) {
        let _ = (&self.store, &self.envelope);
        meeting.stop.requested().await;
    }
}

impl fmt::Display for BucketList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bucket list {}", self.prefix)
    }
}
