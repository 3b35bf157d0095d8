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

use bbb_lifecycle::TaskGroup;
use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use object_store::{
    CopyMode, CopyOptions, GetResultPayload, ObjectMeta, ObjectStore, ObjectStoreExt as _,
    PutPayload, path::Path,
};
use tokio::{sync::Semaphore, task};

use super::super::{
    budget::Budget,
    keys::Keys,
    parts::Upload,
    retry::Failure,
    stats::Request,
    store::{Part, Store},
};

/// How many objects are renewed at once.
const CONCURRENCY: usize = 32;

/// What a rewrite holds in memory, at least.
const PART_BYTES: u64 = 8 << 20;

/// S3 takes so many parts.
const MAX_PARTS: u64 = 10_000;

/// What is larger takes a server too long to copy for one request, or is more than S3 copies in one.
const MAX_COPY_BYTES: u64 = 1 << 30;

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
}

/// Renews objects, each once however many want it, and to the end also if nobody waits any more: what is
/// big may take longer than who asks has time.
#[derive(Debug)]
pub(crate) struct Refresher {
    store: Arc<Store>,
    keys: Keys,
    budget: Arc<Budget>,
    group: TaskGroup,
    known: Mutex<Known>,
    flights: Mutex<HashMap<Path, Flight>>,
    permits: Semaphore,
    renewed: AtomicU64,
}

type Flight = Shared<BoxFuture<'static, Result<SystemTime, Failure>>>;

impl Refresher {
    pub(crate) fn new(
        store: Arc<Store>,
        keys: &Keys,
        budget: Arc<Budget>,
        group: &TaskGroup,
    ) -> Self {
        let way = match store.objects.ways {
            Ways::Files => Way::SetTime,
            Ways::Server { .. } => Way::CopyOntoItself,
        };
        Self {
            store,
            budget,
            keys: keys.clone(),
            group: group.clone(),
            known: Mutex::new(Known { way, proven: false }),
            flights: Mutex::default(),
            permits: Semaphore::new(CONCURRENCY),
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
    /// [`Failure::Missing`] if it is gone; anything else means that nobody knows.
    pub(crate) async fn renew(
        self: &Arc<Self>,
        meta: &ObjectMeta,
        now: SystemTime,
    ) -> Result<SystemTime, Failure> {
        let flight = self.flight(meta, now);
        flight.await
    }

    fn flight(self: &Arc<Self>, meta: &ObjectMeta, now: SystemTime) -> Flight {
        let mut flights = lock(&self.flights);
        if let Some(flight) = flights.get(&meta.location) {
            return flight.clone();
        }
        let (refresher, of) = (Arc::clone(self), meta.clone());
        let flight = async move {
            let renewed = refresher.renew_once(&of, now).await;
            lock(&refresher.flights).remove(&of.location);
            renewed
        };
        let flight = flight.boxed().shared();
        flights.insert(meta.location.clone(), flight.clone());
        self.group.spawn("renewal", flight.clone().map(drop));
        flight
    }

    async fn renew_once(&self, meta: &ObjectMeta, now: SystemTime) -> Result<SystemTime, Failure> {
        // It is never closed.
        let _permit = self.permits.acquire().await;
        let mut known = *lock(&self.known);
        if meta.size > MAX_COPY_BYTES && known.way != Way::SetTime {
            known = Known { way: Way::Rewrite, proven: true };
        }
        let mut refused = Vec::new();
        loop {
            let way = known.way;
            let failure = match self.renew_by(way, meta).await {
                Ok(()) => match self.looked_after(meta, known, now).await? {
                    Some(last_modified) => {
                        // That another way works shows that it was not the object's fault.
                        refused.into_iter().for_each(|way| self.give_up(way));
                        self.renewed.fetch_add(1, Relaxed);
                        return Ok(last_modified);
                    }
                    None => {
                        Failure::Refused("an object was renewed and its time stood still".into())
                    }
                },
                Err(failure @ Failure::Refused(_)) => {
                    refused.push(way);
                    failure
                }
                Err(failure) => return Err(failure),
            };
            // This object goes on by the next way, whatever becomes of the way in general.
            let Some(next) = way.next() else { return Err(failure) };
            tracing::debug!(key = %meta.location, ?way, %failure, "cannot renew an object this way");
            known = Known { way: next, proven: false };
        }
    }

    /// The time of an object that was renewed, or one before it; none if it stood still. Files are always
    /// looked at: it costs little, and a file may have been replaced while it was open.
    async fn looked_after(
        &self,
        meta: &ObjectMeta,
        Known { way, proven }: Known,
        now: SystemTime,
    ) -> Result<Option<SystemTime>, Failure> {
        if proven && way != Way::SetTime {
            return Ok(Some(now));
        }
        let last_modified = self.store.head(&meta.location).await?.last_modified;
        let moved = last_modified > meta.last_modified;
        if moved {
            self.proved(way);
        } else {
            self.give_up(way);
        }
        Ok(moved.then(|| last_modified.into()))
    }

    async fn renew_by(&self, way: Way, meta: &ObjectMeta) -> Result<(), Failure> {
        let key = &meta.location;
        match (way, &self.store.objects.ways) {
            (Way::SetTime, _) => self.set_time(key).await,
            (Way::CopyOntoItself, Ways::Server { copier }) => {
                let copy = || {
                    let options =
                        CopyOptions { mode: CopyMode::Overwrite, ..CopyOptions::default() };
                    copier.copy_opts(key, key, options)
                };
                self.store.run(Request::Copy, meta.size, copy).await
            }
            (Way::CopyAside, _) => {
                let aside = self.keys.meta(&format!("{ASIDE}/{}", uuid::Uuid::new_v4().simple()));
                self.store.copy(key, &aside).await?;
                let copied = self.store.copy(&aside, key).await;
                // What is left behind, the collector takes.
                let _ = self.store.delete(&aside).await;
                copied
            }
            (Way::CopyOntoItself | Way::Rewrite, _) => self.rewrite(meta).await,
        }
    }

    async fn set_time(&self, key: &Path) -> Result<(), Failure> {
        let get = || self.store.objects.store.get(key);
        let GetResultPayload::File(file, _) = self.store.run(Request::Get, 0, get).await?.payload
        else {
            return Err(Failure::Refused("the object is no file".into()));
        };
        let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
        let times = rustix::fs::Timestamps { last_access: now, last_modification: now };
        let set = task::spawn_blocking(move || rustix::fs::futimens(&file, &times)).await;
        match set {
            Ok(Ok(())) => Ok(()),
            // Who may not change it may perhaps write it anew.
            Ok(Err(error)) => Err(Failure::Refused(error.to_string())),
            Err(error) => Err(Failure::unknown(error.to_string())),
        }
    }

    /// Sends the bytes again, as they are; [`Failure::Condition`] if they are others by now, of which a part would be taken
    /// for a part of these.
    async fn rewrite(&self, meta: &ObjectMeta) -> Result<(), Failure> {
        let (key, size_bytes) = (&meta.location, meta.size);
        let part_bytes = PART_BYTES.max(size_bytes.div_ceil(MAX_PARTS));
        let taken = self.budget.parts.take(part_bytes.min(size_bytes)).await;
        let _taken = taken.map_err(|error| Failure::unknown(error.to_string()))?;
        let read = async |start: u64| {
            let end = (start + part_bytes).min(size_bytes);
            let part = Part::Range(start..end);
            let e_tag = meta.e_tag.as_deref();
            Ok::<_, Failure>(self.store.get(key, part, part_bytes, e_tag).await?.bytes)
        };
        if size_bytes <= part_bytes {
            return self.store.put(key, PutPayload::from(read(0).await?)).await;
        }
        let mut upload = Upload::begin(&self.store, key, &self.group).await?;
        let (mut sent, mut start) = (Vec::new(), 0);
        while start < size_bytes {
            sent.push(upload.send(read(start).await?).await?.1);
            start += part_bytes;
        }
        let is_new = |after: &ObjectMeta| after.last_modified > meta.last_modified;
        upload.complete(sent, size_bytes, is_new).await
    }

    fn proved(&self, way: Way) {
        let mut known = lock(&self.known);
        if known.way == way && !known.proven {
            known.proven = true;
            tracing::info!(?way, "objects can be renewed");
        }
    }

    fn give_up(&self, way: Way) {
        let mut known = lock(&self.known);
        if let Some(next) = way.next()
            && known.way == way
            && !known.proven
        {
            *known = Known { way: next, proven: false };
            tracing::info!(?way, ?next, "objects are renewed another way from now on");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
