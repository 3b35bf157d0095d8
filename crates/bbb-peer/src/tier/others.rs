//! The far tier of what other nodes own: their owners, else the bucket.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use bbb_digest::Digest;
use bbb_storage::{Blob, Cas, Error, Result, Source, Wanted};

use crate::stats::add;

use super::{Bucketed, Owner, fetch::Asked};

#[derive(Debug)]
pub(super) struct Blobs {
    pub(super) far: Bucketed,
    /// What this node answers others from.
    pub(super) own: Arc<dyn Cas>,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Cas for Blobs {
    async fn get(&self, digest: Digest, wanted: Wanted) -> Result<Blob> {
        if digest.is_empty() {
            return self.far.bucket.get(digest, wanted).await;
        }
        for owner in self.far.tier.owners(digest) {
            let Owner::Other(owner) = owner else { return self.own.get(digest, wanted).await };
            match self.far.ask_owner(&owner, digest, wanted).await {
                Asked::Given(blob) => return Ok(blob),
                Asked::Missing => {
                    // Or this node would take it for written when it comes again.
                    self.far.tier.bucket.note_missing(&self.far.instance, digest);
                    return Err(Error::Missing(digest));
                }
                // The second owner knows what the first did, and waits for nobody but those who hold it.
                Asked::Lost => {}
                Asked::Failed => break,
            }
        }
        add(&self.far.tier.counters.fallbacks, 1);
        self.far.bucket.get(digest, wanted).await
    }

    async fn put(&self, digest: Digest, source: Source) -> Result<()> {
        self.far.put(digest, source).await
    }

    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>> {
        self.far.find_missing(digests).await
    }
}

impl fmt::Display for Blobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "owners({})", self.far.bucket)
    }
}
