//! Writing back (`--write_back`): acknowledged on the local disk, written far behind.
//!
//! Promises: what waits survives `kill -9` of the process at any moment; it is never evicted, and it is
//! readable and counts as present meanwhile; a result is written far only after everything that was
//! acknowledged before it and once far has all that it needs; the queue has bounds, past which writes
//! go to both tiers at once as they do without it.
//!
//! What it gives up: what waits is on this machine alone. If its disk is lost, so is that; if the machine
//! goes down, files that the kernel had not written out are noticed by their hash and dropped.
//!
//! [`Journal`] is what is on the disk, [`Queue`] what is in memory, `upload` the task that empties both; [`Queued`] are results
//! of which some wait.

mod journal;
mod results;
mod upload;

use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bbb_digest::{Digest, Function, InstanceName};
use tokio::{sync::Notify, task, time::Instant};

use crate::{ActionResult, Disk, Error, Result};
use journal::{Entry, Journal, Kind};
pub(super) use results::Queued;
pub(super) use upload::Target;

/// How many things wait at the most: what each takes in memory is some hundred bytes.
const MAX_WAITING: usize = 50_000;

/// How long writes go to both tiers at once after one could not be acknowledged near.
const REST: Duration = Duration::from_secs(10);

/// What writing back is set up with.
#[derive(Clone, Debug)]
pub struct WriteBackSettings {
    /// How many bytes of blobs wait at the most; never more than half of what the disk may take.
    pub limit_bytes: u64,
    /// How many are written far at once.
    pub concurrency: usize,
    /// How long the queue goes on when it is asked to stop. What is left then goes on at the next start.
    pub drain: Duration,
}

impl Default for WriteBackSettings {
    fn default() -> Self {
        Self { limit_bytes: 4 << 30, concurrency: 16, drain: Duration::from_secs(8) }
    }
}

impl WriteBackSettings {
    /// For a node that does not write back: nothing new waits, and what an earlier one left is written.
    pub fn leftovers() -> Self {
        Self { limit_bytes: 0, ..Self::default() }
    }
}

/// What waits, at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Blobs.
    pub blobs: usize,
    /// Results.
    pub results: usize,
    /// The bytes of the blobs.
    pub bytes: u64,
    /// How many things were written far since the start.
    pub written: u64,
    /// How many were given up since the start, because they were damaged or incomplete.
    pub dropped: u64,
}

/// All that waits to be written far.
pub(super) struct Queue {
    settings: WriteBackSettings,
    disk: Arc<Disk>,
    journal: Journal,
    state: Mutex<State>,
    /// Something waits that did not before.
    added: Notify,
}

#[derive(Default)]
struct State {
    items: BTreeMap<u64, Item>,
    by_digest: HashMap<(InstanceName, Kind, Digest), u64>,
    /// Blobs that are not far yet.
    blobs: BTreeSet<u64>,
    /// What is not being written far just now, by kind.
    idle_blobs: BTreeSet<u64>,
    idle_results: BTreeSet<u64>,
    /// Actions whose results are being written.
    writing: HashSet<(InstanceName, Digest)>,
    /// Bytes of the blobs that wait and of those that are about to.
    bytes: u64,
    claims: usize,
    rests_until: Option<Instant>,
    is_closing: bool,
    written: u64,
    dropped: u64,
}

struct Item {
    entry: Entry,
    _hold: Hold,
}

/// What keeps the room of a thing that waits until dropped: a pin of the blob that it is a link to, or a
/// reservation; nothing where there was no room when it was found at the start.
type Hold = Option<Box<dyn Any + Send + Sync>>;

/// What becomes of a blob that is to be written back.
pub(super) enum Claim {
    /// It may wait.
    Room(Room),
    /// It waits already.
    Waits,
    /// Write it far at once.
    Full,
}

/// A place in the queue, given back when dropped.
pub(super) struct Room {
    queue: Arc<Queue>,
    bytes: u64,
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut state = self.queue.state();
        state.bytes -= self.bytes;
        state.claims -= 1;
    }
}

impl Queue {
    /// Opens the queue of a disk with what waits in it.
    pub(super) async fn open(
        mut settings: WriteBackSettings,
        disk: &Arc<Disk>,
    ) -> Result<Arc<Self>> {
        settings.limit_bytes = settings.limit_bytes.min(disk.stats().limit_bytes / 2);
        let dir = disk.queue_dir();
        let what = format!("opening {}", dir.display());
        let opened = task::spawn_blocking(move || Journal::open(dir)).await;
        let opened = opened.map_err(io::Error::other).flatten();
        let (journal, entries) = opened.map_err(|error| Error::unavailable(what, error))?;
        let disk = Arc::clone(disk);
        let (state, added) = (Mutex::default(), Notify::new());
        let queue = Arc::new(Self { settings, disk, journal, state, added });
        for entry in entries {
            let hold = queue.hold_again(&entry).await?;
            queue.state().insert(entry, hold);
        }
        let waiting = queue.waiting();
        if waiting.blobs + waiting.results > 0 {
            tracing::info!(?waiting, "what waited to be written far still does");
        }
        Ok(queue)
    }

    pub(super) fn waiting(&self) -> Waiting {
        let state = self.state();
        let (blobs, bytes) = (state.blobs.len(), state.bytes);
        let results = state.items.len() - blobs;
        let (written, dropped) = (state.written, state.dropped);
        Waiting { blobs, results, bytes, written, dropped }
    }

    /// Those of the blobs that do not wait.
    pub(super) fn without(&self, instance: &InstanceName, digests: &[Digest]) -> Vec<Digest> {
        let state = self.state();
        let mut key = (instance.clone(), Kind::Blob, Digest::empty(Function::Sha256));
        let waits = |digest: &&Digest| {
            key.2 = **digest;
            !state.by_digest.contains_key(&key)
        };
        digests.iter().filter(waits).copied().collect()
    }

    /// Takes a place for a blob that will be near in a moment.
    pub(super) fn claim(self: &Arc<Self>, instance: &InstanceName, digest: Digest) -> Claim {
        let mut state = self.state();
        if state.by_digest.contains_key(&(instance.clone(), Kind::Blob, digest)) {
            return Claim::Waits;
        }
        let bytes = digest.size_bytes();
        let is_resting = state.rests_until.is_some_and(|until| Instant::now() < until);
        if is_resting
            || state.is_closing
            || state.is_full()
            || state.bytes.saturating_add(bytes) > self.settings.limit_bytes
        {
            return Claim::Full;
        }
        state.bytes += bytes;
        state.claims += 1;
        Claim::Room(Room { queue: Arc::clone(self), bytes })
    }

    /// Has a blob wait that is near. When this returns, it survives the end of the process.
    pub(super) async fn add_blob(
        self: &Arc<Self>,
        instance: &InstanceName,
        digest: Digest,
        room: Room,
    ) -> Result<()> {
        let blob = self.disk.local_files(instance).pin(digest, false).await?;
        let (queue, instance) = (Arc::clone(self), instance.clone());
        run(move || {
            let entry = queue.journal.entry(&instance, Kind::Blob, digest);
            queue.journal.add_blob(&entry, &*blob)?;
            drop(room);
            let is_new = queue.state().insert(entry.clone(), Some(Box::new(blob)));
            match is_new {
                true => queue.added.notify_one(),
                // Another put of the same was faster.
                false => queue.journal.remove(&entry),
            }
            Ok(())
        })
        .await
    }

    /// Whether results are to wait: where writes are not, only as long as something waits before them.
    pub(super) fn takes_results(&self) -> bool {
        self.settings.limit_bytes > 0 || !self.state().items.is_empty()
    }

    /// Has a result wait. When this returns, it survives the end of the process.
    pub(super) async fn add_result(
        self: &Arc<Self>,
        instance: &InstanceName,
        action: Digest,
        result: &ActionResult,
    ) -> Result<()> {
        let bytes = journal::encode(instance, action, result);
        // Also while the queue closes: it may not be far before its blobs are, so it waits for the next start.
        if self.state().is_full() {
            let what = format!("{MAX_WAITING} things wait to be written far");
            return Err(Error::Full { size_bytes: bytes.len() as u64, what });
        }
        let room = self.disk.reserve_file(bytes.len() as u64).await?;
        let (queue, instance) = (Arc::clone(self), instance.clone());
        run(move || {
            let entry = queue.journal.entry(&instance, Kind::Result, action);
            queue.journal.add_result(&entry, &bytes)?;
            queue.state().insert(entry, Some(Box::new(room)));
            queue.added.notify_one();
            Ok(())
        })
        .await
    }

    /// The result of an action that was put last, if it waits.
    pub(super) async fn result(
        self: &Arc<Self>,
        instance: &InstanceName,
        action: Digest,
    ) -> Result<Option<ActionResult>> {
        let entry = {
            let state = self.state();
            let number = state.by_digest.get(&(instance.clone(), Kind::Result, action));
            number.and_then(|number| state.items.get(number)).map(|item| item.entry.clone())
        };
        let Some(entry) = entry else { return Ok(None) };
        let queue = Arc::clone(self);
        run(move || match queue.journal.result(&entry) {
            // Written far since.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            read => read.map_err(|error| Error::unavailable("reading a result that waits", error)),
        })
        .await
    }

    /// A blob could not be kept near: for a while none is to be written back.
    pub(super) fn rest(&self) {
        self.state().rests_until = Some(Instant::now() + REST);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the room of something that waited when the process ended. A blob that was evicted before
    /// this was run is made one of the disk again, so that it can be read.
    async fn hold_again(&self, entry: &Entry) -> Result<Hold> {
        let Entry { instance, digest, .. } = entry;
        if entry.kind == Kind::Blob {
            let files = self.disk.local_files(instance);
            if let Ok(blob) = files.pin(*digest, false).await {
                return Ok(Some(Box::new(blob)));
            }
            let restored = match super::write::open(*digest, self.journal.path(entry)).await {
                Ok(source) => self.disk.cas(instance).put(*digest, source).await,
                Err(error) => Err(Error::unavailable("reading what waits", error)),
            };
            match restored {
                Ok(()) => return Ok(Some(Box::new(files.pin(*digest, false).await?))),
                Err(error) => tracing::warn!(%digest, %error, "what waits is not readable near"),
            }
        }
        let reserved = match entry.kind {
            Kind::Blob => self.disk.reserve_file(digest.size_bytes()).await,
            Kind::Result => self.disk.reserve_file(self.journal.len(entry)).await,
        };
        match reserved {
            Ok(room) => Ok(Some(Box::new(room))),
            Err(error) => {
                tracing::warn!(%digest, %error, "what waits takes more room than there is");
                Ok(None)
            }
        }
    }
}

impl State {
    fn is_full(&self) -> bool {
        self.items.len() + self.claims >= MAX_WAITING
    }

    /// False if a blob waits already.
    fn insert(&mut self, entry: Entry, hold: Hold) -> bool {
        let (number, kind) = (entry.number, entry.kind);
        let key = (entry.instance.clone(), kind, entry.digest);
        match kind {
            Kind::Blob if self.by_digest.contains_key(&key) => return false,
            Kind::Blob => {
                self.bytes += entry.digest.size_bytes();
                self.blobs.insert(number);
                self.idle_blobs.insert(number);
            }
            Kind::Result => {
                self.idle_results.insert(number);
            }
        }
        self.by_digest.insert(key, number);
        self.items.insert(number, Item { entry, _hold: hold });
        true
    }

    /// What is to be written far next: a result if all blobs that came before it are there, else a blob.
    fn take(&mut self) -> Option<Entry> {
        let first_blob = self.blobs.first().copied().unwrap_or(u64::MAX);
        if let Some(number) = self.idle_results.first().copied()
            && number < first_blob
            && let Some(Item { entry, .. }) = self.items.get(&number)
            && self.writing.insert((entry.instance.clone(), entry.digest))
        {
            self.idle_results.remove(&number);
            return Some(entry.clone());
        }
        let number = self.idle_blobs.pop_first()?;
        Some(self.items.get(&number)?.entry.clone())
    }

    /// Has something wait again that was taken.
    fn put_back(&mut self, entry: &Entry) {
        match entry.kind {
            Kind::Blob => self.idle_blobs.insert(entry.number),
            Kind::Result => {
                self.writing.remove(&(entry.instance.clone(), entry.digest));
                self.idle_results.insert(entry.number)
            }
        };
    }

    /// Forgets something that was taken.
    fn settle(&mut self, entry: &Entry) -> Option<Item> {
        let key = (entry.instance.clone(), entry.kind, entry.digest);
        if self.by_digest.get(&key) == Some(&entry.number) {
            self.by_digest.remove(&key);
        }
        match entry.kind {
            Kind::Blob => {
                self.bytes -= entry.digest.size_bytes();
                self.blobs.remove(&entry.number);
            }
            Kind::Result => {
                self.writing.remove(&(entry.instance.clone(), entry.digest));
            }
        }
        self.items.remove(&entry.number)
    }
}

async fn run<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = task::spawn_blocking(work).await;
    done.map_err(|error| Error::unavailable("writing back", io::Error::other(error)))?
}
