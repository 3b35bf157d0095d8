//! The blobs of one instance in both tiers.

use std::{collections::HashSet, fmt, sync::Arc};

use async_trait::async_trait;
use bbb_digest::{Digest, InstanceName};

use crate::{Blob, Cas, Disk, Error, Result, Source, Wanted};

use super::{
    fetch::{Fetches, Progress, Request, SMALL_BYTES, Seat},
    read::{Reader, straight},
    write_back::Queue,
};

/// How far behind its fetch a read may begin that would rather wait than ask far itself.
const WORTH_WAITING_BYTES: u64 = 8 << 20;

/// Which part of a large blob has to be wanted for the whole of it to be fetched.
const WORTH_FETCHING_PART: u64 = 4;

#[derive(Clone)]
pub(super) struct Blobs {
    pub(super) instance: InstanceName,
    pub(super) near: Arc<dyn Cas>,
    pub(super) far: Arc<dyn Cas>,
    pub(super) disk: Arc<Disk>,
    pub(super) fetches: Arc<Fetches>,
    /// Where writes wait that are acknowledged near; none if far acknowledges them.
    pub(super) queue: Option<Arc<Queue>>,
}

impl Blobs {
    pub(super) fn new(
        instance: InstanceName,
        far: Arc<dyn Cas>,
        disk: Arc<Disk>,
        fetches: Arc<Fetches>,
    ) -> Self {
        Self { near: disk.cas(&instance), instance, far, disk, fetches, queue: None }
    }

    /// Reads what is not near; nothing if it may be near by now.
    async fn get_far(
        &self,
        digest: Digest,
        wanted: Wanted,
        landed: Option<u64>,
    ) -> Result<Option<Blob>> {
        let is_small = digest.size_bytes() <= SMALL_BYTES;
        let reader = match is_small || is_worth_fetching(digest, wanted) {
            true => self.begin(digest, wanted, landed),
            false => match self.join_in_reach(digest, wanted) {
                Some(reader) => Some(reader),
                None => return straight(&self.far, digest, wanted).await.map(Some),
            },
        };
        let Some(reader) = reader else { return Ok(None) };
        let is_late = reader.is_late;
        match reader.blob(wanted).await {
            // It may have been written since the fetch asked, and acknowledged before this read began. Whichever fetch
            // runs next began later than that.
            Err(Error::Missing(_)) if is_late => match self.begin(digest, wanted, None) {
                Some(reader) => reader.blob(wanted).await.map(Some),
                None => Ok(None),
            },
            read => read.map(Some),
        }
    }

    /// Becomes a reader of the blob's fetch, which begins if none runs; nothing if it may be near by now.
    pub(super) fn begin(
        &self,
        digest: Digest,
        wanted: Wanted,
        landed: Option<u64>,
    ) -> Option<Reader> {
        let request = Request { far: Arc::clone(&self.far), prefer: wanted.prefer };
        let begun = self.fetches.join_or_begin(&self.instance, digest, request, landed);
        begun.map(|seat| self.reader(seat, digest))
    }

    /// Becomes a reader of a fetch that has come or soon comes to where the read begins.
    fn join_in_reach(&self, digest: Digest, wanted: Wanted) -> Option<Reader> {
        let seat = self.fetches.join(&self.instance, digest)?;
        let reached = match &*seat.progress.borrow() {
            Progress::Growing { readable_bytes, .. } => *readable_bytes,
            Progress::Here(_) => u64::MAX,
            Progress::Asked | Progress::NoRoom | Progress::Failed(_) => 0,
        };
        let start = wanted.within(digest.size_bytes()).start;
        let is_in_reach = start <= reached.saturating_add(WORTH_WAITING_BYTES);
        is_in_reach.then(|| self.reader(seat, digest))
    }

    fn reader(&self, seat: Seat, digest: Digest) -> Reader {
        let Seat { progress, is_late } = seat;
        Reader { progress, is_late, far: Arc::clone(&self.far), digest }
    }
}

/// Whether the whole of a large blob is fetched for this read. A small part is read straight from far
/// instead, since those who want it would wait for all that stands before it.
fn is_worth_fetching(digest: Digest, wanted: Wanted) -> bool {
    let size_bytes = digest.size_bytes();
    let range = wanted.within(size_bytes);
    range.start <= WORTH_WAITING_BYTES
        && range.end - range.start >= size_bytes / WORTH_FETCHING_PART
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Cas for Blobs {
    async fn get(&self, digest: Digest, wanted: Wanted) -> Result<Blob> {
        // Looks near once more if blobs have landed there since it did; then it may be fetched twice.
        for is_last in [false, true] {
            let landed = self.fetches.landed();
            match self.near.get(digest, wanted).await {
                Ok(blob) => return Ok(blob),
                Err(Error::Missing(_)) => {}
                Err(error) => tracing::warn!(%digest, %error, "cannot read near, asking far"),
            }
            let landed = (!is_last).then_some(landed);
            if let Some(blob) = self.get_far(digest, wanted, landed).await? {
                return Ok(blob);
            }
        }
        straight(&self.far, digest, wanted).await
    }

    async fn put(&self, digest: Digest, source: Source) -> Result<()> {
        match &self.queue {
            Some(queue) => self.write_later(queue, digest, source).await,
            None => self.write(digest, source).await,
        }
    }

    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>> {
        let missing = match &self.queue {
            Some(queue) => {
                // The queue first: what leaves it meanwhile is far.
                let asked: Vec<Digest> = queue.without(&self.instance, digests);
                match asked.is_empty() {
                    true => Vec::new(),
                    false => self.far.find_missing(&asked).await?,
                }
            }
            None => self.far.find_missing(digests).await?,
        };
        // Mostly nothing is missing.
        if missing.is_empty() {
            self.disk.touch(&self.instance, digests);
            return Ok(missing);
        }
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
