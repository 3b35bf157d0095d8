//! The blobs of one instance in both tiers.

use std::{collections::HashSet, fmt, sync::Arc};

use async_trait::async_trait;
use bbb_digest::{Digest, InstanceName};

use crate::{Blob, Cas, Disk, Error, Result, Source, Wanted};

use super::{
    fetch::{Fetches, Progress, Request, SMALL_BYTES},
    read::{Reader, straight},
};

/// How far behind its fetch a read may begin that would rather wait than ask far itself.
const WORTH_WAITING_BYTES: u64 = 8 << 20;

/// Which part of a large blob has to be wanted for the whole of it to be fetched.
const WORTH_FETCHING_PART: u64 = 4;

/// How often a read looks near again because blobs have landed there since.
const LOOKS: usize = 4;

#[derive(Clone)]
pub(super) struct Blobs {
    pub(super) instance: InstanceName,
    pub(super) near: Arc<dyn Cas>,
    pub(super) far: Arc<dyn Cas>,
    pub(super) disk: Arc<Disk>,
    pub(super) fetches: Arc<Fetches>,
}

impl Blobs {
    pub(super) fn new(
        instance: InstanceName,
        far: Arc<dyn Cas>,
        disk: Arc<Disk>,
        fetches: Arc<Fetches>,
    ) -> Self {
        Self { near: disk.cas(&instance), instance, far, disk, fetches }
    }

    /// Reads what is not near.
    async fn get_far(&self, digest: Digest, wanted: Wanted, landed: u64) -> Result<Option<Blob>> {
        let reader = match self.is_worth_fetching(digest, wanted) {
            true => self.begin(digest, wanted, landed),
            false => match self.join_in_reach(digest, wanted) {
                Some(reader) => Some(reader),
                None => return straight(&self.far, digest, wanted).await.map(Some),
            },
        };
        match reader {
            Some(reader) => reader.blob(wanted).await.map(Some),
            None => Ok(None),
        }
    }

    /// Becomes a reader of the blob's fetch, which begins if none runs; nothing if it may be near by now.
    pub(super) fn begin(&self, digest: Digest, wanted: Wanted, landed: u64) -> Option<Reader> {
        let request = Request { far: Arc::clone(&self.far), prefer: wanted.prefer };
        let begun = self.fetches.join_or_begin(&self.instance, digest, request, landed);
        begun.map(|progress| self.reader(progress, digest))
    }

    /// Becomes a reader of a fetch that has come or soon comes to where the read begins.
    fn join_in_reach(&self, digest: Digest, wanted: Wanted) -> Option<Reader> {
        let progress = self.fetches.join(&self.instance, digest)?;
        let reached = match &*progress.borrow() {
            Progress::Growing { readable_bytes, .. } => *readable_bytes,
            Progress::Here(_) => u64::MAX,
            Progress::Asked | Progress::NoRoom | Progress::Failed(_) => 0,
        };
        let start = wanted.within(digest.size_bytes()).start;
        let is_in_reach = start <= reached.saturating_add(WORTH_WAITING_BYTES);
        is_in_reach.then(|| self.reader(progress, digest))
    }

    /// Whether the whole blob is fetched for this read. A small part of a large blob is read straight
    /// from far instead, since those who want it would wait for all that stands before it.
    fn is_worth_fetching(&self, digest: Digest, wanted: Wanted) -> bool {
        let size_bytes = digest.size_bytes();
        let range = wanted.within(size_bytes);
        size_bytes <= SMALL_BYTES
            || range.start <= WORTH_WAITING_BYTES
                && range.end - range.start >= size_bytes / WORTH_FETCHING_PART
    }

    fn reader(&self, progress: tokio::sync::watch::Receiver<Progress>, digest: Digest) -> Reader {
        Reader { progress, far: Arc::clone(&self.far), digest }
    }
}

#[async_trait]
impl Cas for Blobs {
    async fn get(&self, digest: Digest, wanted: Wanted) -> Result<Blob> {
        for _ in 0..LOOKS {
            let landed = self.fetches.landed();
            match self.near.get(digest, wanted).await {
                Ok(blob) => return Ok(blob),
                Err(Error::Missing(_)) => {}
                Err(error) => tracing::warn!(%digest, %error, "cannot read near, asking far"),
            }
            if let Some(blob) = self.get_far(digest, wanted, landed).await? {
                return Ok(blob);
            }
        }
        // Others land all the time: at the worst this one is fetched twice.
        match self.get_far(digest, wanted, self.fetches.landed()).await? {
            Some(blob) => Ok(blob),
            None => straight(&self.far, digest, wanted).await,
        }
    }

    async fn put(&self, digest: Digest, source: Source) -> Result<()> {
        self.write(digest, source).await
    }

    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>> {
        let missing = self.far.find_missing(digests).await?;
        let absent: HashSet<Digest> = missing.iter().copied().collect();
        let present: Vec<Digest> =
            digests.iter().filter(|digest| !absent.contains(digest)).copied().collect();
        self.disk.touch(&self.instance, &present);
        Ok(missing)
    }
}

impl fmt::Display for Blobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tiered({}, {})", self.near, self.far)
    }
}

impl fmt::Debug for Blobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
