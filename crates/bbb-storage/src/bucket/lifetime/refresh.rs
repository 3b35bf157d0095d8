//! Renewing an object: its `Last-Modified` becomes now, its bytes stay.
//!
//! No server has a request for that, but each has a way to it. The cheapest that is known to work is used:
//! files have their modification time set; S3 copies an object onto itself if it is told to replace the
//! metadata; others copy it aside and back; and what can do none of these gets the bytes again. That a way
//! works is believed when it was seen on a real object, whose time must have moved: there are servers on
//! which a copy onto itself succeeds and does nothing.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::SystemTime,
};

use futures::TryStreamExt as _;
use object_store::{
    Error, GetResultPayload, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutPayload, Result,
    path::Path,
};
use tokio::{
    sync::{OnceCell, Semaphore},
    task,
};

use super::{super::keys::Keys, failure};

/// How many objects are renewed at once.
const CONCURRENCY: usize = 32;

/// How many of them by sending their bytes again, each with one part in memory.
const REWRITES: usize = 2;

/// What a rewrite holds in memory. S3 takes 10,000 parts, so this also bounds what can be rewritten.
const PART_BYTES: u64 = 16 << 20;

/// S3 copies no object larger than this in one request.
const MAX_COPY_BYTES: u64 = 5 << 30;

/// How often a way may fail, when it never worked, before it is given up for good.
const STRIKES: u32 = 3;

/// Where objects lie for a moment that are copied aside and back, below the keys for housekeeping.
pub(super) const ASIDE: &str = "aside";

/// How renewal may work, the cheapest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    SetTime,
    CopyOntoItself,
    CopyAside,
    Rewrite,
}

impl Way {
    const fn next(self) -> Option<Self> {
        match self {
            Self::SetTime | Self::CopyAside => Some(Self::Rewrite),
            Self::CopyOntoItself => Some(Self::CopyAside),
            Self::Rewrite => None,
        }
    }
}

/// What kind of bucket it is that objects are renewed in.
#[derive(Clone, Debug)]
pub(crate) enum Ways {
    /// A folder.
    Files,
    /// A server, and a client of the same bucket whose copies replace the metadata: on S3 that is one that
    /// sends `x-amz-metadata-directive: REPLACE` with everything.
    Server {
        /// The client for copies.
        copier: Arc<dyn ObjectStore>,
    },
}

/// What is known of the way in use.
#[derive(Clone, Copy, Debug)]
struct Known {
    way: Way,
    /// Whether the way was seen to work.
    proven: bool,
    strikes: u32,
}

/// Renews objects, each once however many want it.
#[derive(Debug)]
pub(crate) struct Refresher {
    store: Arc<dyn ObjectStore>,
    copier: Arc<dyn ObjectStore>,
    keys: Keys,
    known: Mutex<Known>,
    flights: Mutex<HashMap<Path, Arc<OnceCell<SystemTime>>>>,
    permits: Semaphore,
    rewrites: Semaphore,
    renewed: AtomicU64,
}

impl Refresher {
    pub(crate) fn new(store: Arc<dyn ObjectStore>, keys: &Keys, ways: Ways) -> Self {
        let (way, copier) = match ways {
            Ways::Files => (Way::SetTime, Arc::clone(&store)),
            Ways::Server { copier } => (Way::CopyOntoItself, copier),
        };
        Self {
            store,
            copier,
            keys: keys.clone(),
            known: Mutex::new(Known { way, proven: false, strikes: 0 }),
            flights: Mutex::default(),
            permits: Semaphore::new(CONCURRENCY),
            rewrites: Semaphore::new(REWRITES),
            renewed: AtomicU64::new(0),
        }
    }

    /// How many objects were renewed.
    pub(crate) fn renewed(&self) -> u64 {
        self.renewed.load(Relaxed)
    }

    /// Renews an object that was seen as `meta` says, at `now` by the server's clock. Returns its new time,
    /// or an earlier one.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it is gone; anything else means that nobody knows.
    pub(crate) async fn renew(&self, meta: &ObjectMeta, now: SystemTime) -> Result<SystemTime> {
        let cell = Arc::clone(lock(&self.flights).entry(meta.location.clone()).or_default());
        let flight = Flight { of: self, key: &meta.location, cell };
        flight.cell.get_or_try_init(|| self.renew_once(meta, now)).await.copied()
    }

    async fn renew_once(&self, meta: &ObjectMeta, now: SystemTime) -> Result<SystemTime> {
        let _permit = self.permits.acquire().await.map_err(failure)?;
        let mut known = *lock(&self.known);
        if meta.size > MAX_COPY_BYTES && known.way != Way::SetTime {
            known = Known { way: Way::Rewrite, proven: true, strikes: 0 };
        }
        let mut failed = Vec::new();
        loop {
            let Known { way, proven, .. } = known;
            let error = match self.renew_by(way, meta).await {
                Ok(()) => match self.looked_after(meta, known, now).await? {
                    Some(last_modified) => {
                        // A fault may fail any way; that another one works tells them apart.
                        failed.into_iter().for_each(|way| self.struck(way, 1));
                        self.renewed.fetch_add(1, Relaxed);
                        return Ok(last_modified);
                    }
                    None => failure("an object was renewed, but its time stood still"),
                },
                Err(error @ Error::NotFound { .. }) => return Err(error),
                Err(error) if proven => return Err(error),
                Err(error) => {
                    failed.push(way);
                    error
                }
            };
            // This object goes on by the next way, whatever becomes of the way in general.
            let Some(next) = way.next() else { return Err(error) };
            tracing::debug!(key = %meta.location, ?way, %error, "cannot renew an object this way");
            known = Known { way: next, proven: false, strikes: 0 };
        }
    }

    /// The time of an object that was renewed, or one before it; none if it stood still. Files are always
    /// looked at: it costs little, and a file may have been replaced while it was open.
    async fn looked_after(
        &self,
        meta: &ObjectMeta,
        Known { way, proven, .. }: Known,
        now: SystemTime,
    ) -> Result<Option<SystemTime>> {
        if proven && way != Way::SetTime {
            return Ok(Some(now));
        }
        let last_modified = self.store.head(&meta.location).await?.last_modified;
        let moved = last_modified > meta.last_modified;
        if moved {
            self.proved(way);
        } else {
            self.struck(way, STRIKES);
        }
        Ok(moved.then(|| last_modified.into()))
    }

    async fn renew_by(&self, way: Way, meta: &ObjectMeta) -> Result<()> {
        let key = &meta.location;
        match way {
            Way::SetTime => self.set_time(key).await,
            Way::CopyOntoItself => self.copier.copy(key, key).await,
            Way::CopyAside => {
                let aside = self.keys.meta(&format!("{ASIDE}/{}", uuid::Uuid::new_v4().simple()));
                self.store.copy(key, &aside).await?;
                let copied = self.store.copy(&aside, key).await;
                // What is left behind, the collector takes.
                let _ = self.store.delete(&aside).await;
                copied
            }
            Way::Rewrite => self.rewrite(key, meta.size).await,
        }
    }

    async fn set_time(&self, key: &Path) -> Result<()> {
        let GetResultPayload::File(file, _) = self.store.get(key).await?.payload else {
            return Err(failure("the object is no file"));
        };
        let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
        let times = rustix::fs::Timestamps { last_access: now, last_modification: now };
        let set = task::spawn_blocking(move || rustix::fs::futimens(&file, &times)).await;
        set.map_err(failure)?.map_err(failure)
    }

    async fn rewrite(&self, key: &Path, size_bytes: u64) -> Result<()> {
        let _permit = self.rewrites.acquire().await.map_err(failure)?;
        if size_bytes <= PART_BYTES {
            let got = self.store.get(key).await?;
            let chunks: Vec<_> = got.into_stream().try_collect().await?;
            let payload: PutPayload = chunks.into_iter().collect();
            if payload.content_length() as u64 != size_bytes {
                return Err(failure("the object is not as long as it was"));
            }
            self.store.put(key, payload).await?;
            return Ok(());
        }
        let mut upload = self.store.put_multipart(key).await?;
        let sent = async {
            let mut start = 0;
            while start < size_bytes {
                let end = (start + PART_BYTES).min(size_bytes);
                let part = self.store.get_range(key, start..end).await?;
                if part.len() as u64 != end - start {
                    return Err(failure("the object is not as long as it was"));
                }
                upload.put_part(part.into()).await?;
                start = end;
            }
            upload.complete().await
        }
        .await;
        if sent.is_err() {
            let _ = upload.abort().await;
        }
        sent.map(drop)
    }

    fn proved(&self, way: Way) {
        let mut known = lock(&self.known);
        if known.way == way && !known.proven {
            known.proven = true;
            tracing::info!(?way, "objects can be renewed");
        }
    }

    fn struck(&self, way: Way, strikes: u32) {
        let mut known = lock(&self.known);
        if known.way != way || known.proven {
            return;
        }
        known.strikes += strikes;
        if let Some(next) = way.next()
            && known.strikes >= STRIKES
        {
            *known = Known { way: next, proven: false, strikes: 0 };
            tracing::info!(?way, ?next, "objects are renewed another way from now on");
        }
    }
}

/// One's part in a renewal: when it ends, in whatever way, who comes from then on begins a new one.
struct Flight<'a> {
    of: &'a Refresher,
    key: &'a Path,
    cell: Arc<OnceCell<SystemTime>>,
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        let mut flights = lock(&self.of.flights);
        if flights.get(self.key).is_some_and(|cell| Arc::ptr_eq(cell, &self.cell)) {
            flights.remove(self.key);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
