//! One store out of two: what this node owns goes one way, everything else another.
//!
//! A layer without state: who owns what is asked each time, for it changes as members come and go. Both ways lead to the
//! same blobs, so that an answer of yesterday's way is as good as one of today's.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use bbb_digest::Digest;

use crate::{ActionCache, ActionResult, Blob, Cas, LocalFile, LocalFiles, Result, Source, Wanted};

/// Tells whether this node owns a digest.
pub(super) type IsOwn = Arc<dyn Fn(&Digest) -> bool + Send + Sync>;

/// One of the seams, twice.
pub(super) struct ByOwner<T: ?Sized> {
    pub(super) own: Arc<T>,
    pub(super) others: Arc<T>,
    pub(super) is_own: IsOwn,
}

impl<T: ?Sized> ByOwner<T> {
    fn way(&self, digest: &Digest) -> &T {
        match (self.is_own)(digest) {
            true => &self.own,
            false => &self.others,
        }
    }
}

impl From<ByOwner<dyn Cas>> for Arc<dyn Cas> {
    fn from(both: ByOwner<dyn Cas>) -> Self {
        Arc::new(both)
    }
}

impl From<ByOwner<dyn ActionCache>> for Arc<dyn ActionCache> {
    fn from(both: ByOwner<dyn ActionCache>) -> Self {
        Arc::new(both)
    }
}

impl From<ByOwner<dyn LocalFiles>> for Arc<dyn LocalFiles> {
    fn from(both: ByOwner<dyn LocalFiles>) -> Self {
        Arc::new(both)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Cas for ByOwner<dyn Cas> {
    async fn get(&self, digest: Digest, wanted: Wanted) -> Result<Blob> {
        self.way(&digest).get(digest, wanted).await
    }

    async fn put(&self, digest: Digest, source: Source) -> Result<()> {
        self.way(&digest).put(digest, source).await
    }

    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>> {
        let (own, others): (Vec<Digest>, Vec<Digest>) =
            digests.iter().partition(|digest| (self.is_own)(digest));
        match (own.is_empty(), others.is_empty()) {
            (_, true) => self.own.find_missing(&own).await,
            (true, false) => self.others.find_missing(&others).await,
            (false, false) => {
                let both = (self.own.find_missing(&own), self.others.find_missing(&others));
                let (mut missing, of_others) = tokio::try_join!(both.0, both.1)?;
                missing.extend(of_others);
                Ok(missing)
            }
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ActionCache for ByOwner<dyn ActionCache> {
    async fn get(&self, action: Digest) -> Result<Option<Arc<ActionResult>>> {
        self.way(&action).get(action).await
    }

    async fn put(&self, action: Digest, result: ActionResult) -> Result<()> {
        self.way(&action).put(action, result).await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl LocalFiles for ByOwner<dyn LocalFiles> {
    async fn pin(&self, digest: Digest, executable: bool) -> Result<Arc<dyn LocalFile>> {
        self.way(&digest).pin(digest, executable).await
    }
}

impl<T: ?Sized + fmt::Display> fmt::Display for ByOwner<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "by owner({}, {})", self.own, self.others)
    }
}

impl<T: ?Sized + fmt::Display> fmt::Debug for ByOwner<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
