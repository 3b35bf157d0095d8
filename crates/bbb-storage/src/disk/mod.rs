//! The disk tier: blobs and results as files in one folder, within one limit.
//!
//! Promises: what was acknowledged survives `kill -9` of the process; after the machine went down without
//! a clean stop, and when a file's size or time of change is not the expected one, the file is hashed again
//! before it is served or promised; the folder takes no more than its limit, temporary files and
//! reservations counted in; what was used least recently goes first; what is in use stays.
//!
//! How a changed file is told: every file gets the same time of change when it is stored. That time is
//! drawn anew whenever the machine went down without a clean stop, so that every file from before has to
//! be hashed once more.
//!
//! The room knows nothing of what blobs mean. `layout` makes every path, `index` keeps the books, `state`
//! opens the folder, `room` makes room; `blobs` and `results` are the seams' two views of one instance, `lodgers`
//! is that of things which others keep in the folder.

mod blobs;
mod file;
mod growing;
mod index;
mod layout;
mod links;
mod load;
mod lodgers;
mod read;
mod results;
mod room;
mod scan;
mod scrub;
mod snapshot;
mod state;
mod verify;
mod view;
mod write;

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use bbb_digest::{Digest, InstanceName};
use bbb_lifecycle::TaskGroup;
use bytes::Bytes;
use quick_cache::{Weighter, sync::Cache};
use tokio::sync::{Notify, Semaphore, SemaphorePermit, watch};

use crate::{
    ActionCache, ActionResult, Cas, Error, LocalFiles, Lodging, Result, blocking::blocking,
};
use index::{Index, InstanceId};
use layout::{Kind, Layout};
use load::{LastSession, Loading};
use snapshot::Snapshot;
use view::{Segments, View};

pub(crate) use file::open as open_stored;
pub(crate) use growing::Spool;
pub use lodgers::{Kept, Lodger};
pub(crate) use results::{decode as decode_result, encode as encode_result};
pub use room::Reservation;
pub use state::OpenError;
pub(crate) use state::write_durably;

/// What a disk tier is set up with.
#[derive(Clone, Debug)]
pub struct DiskSettings {
    /// The folder; made if it is not there.
    pub dir: PathBuf,
    /// How many bytes all files in it may take, in blocks of 4 KiB.
    pub limit_bytes: u64,
    /// How many bytes of small blobs and of results are kept in memory.
    pub memory_bytes: u64,
    /// How many bytes a second are read again at the most to find damage. 0 turns it off.
    pub scrub_bytes_per_second: u64,
    /// How often the index is written down.
    pub snapshot_interval: Duration,
}

impl DiskSettings {
    /// The usual settings for this folder and limit.
    pub fn new(dir: impl Into<PathBuf>, limit_bytes: u64) -> Self {
        Self {
            dir: dir.into(),
            limit_bytes,
            memory_bytes: 64 << 20,
            scrub_bytes_per_second: 4 << 20,
            snapshot_interval: Duration::from_secs(600),
        }
    }
}

/// The embedded store: one folder on the local disk, for all instances.
pub struct Disk {
    layout: Layout,
    settings: DiskSettings,
    /// The time of change of every file that is as it was stored, in seconds since 1970.
    mtime: i64,
    index: Mutex<Index>,
    segments: Segments,
    /// Whether the index knows all that lies in the folder. Until then a miss is looked up in the folder.
    complete: AtomicBool,
    /// How far the snapshot of the last session is taken in.
    loading: watch::Sender<Loading>,
    closed: AtomicBool,
    /// What orders changes of one path and of its entry: held for one system call or two, and only by
    /// those who change the same 256th of all paths.
    gates: [Mutex<()>; GATES],
    /// One check of a file at a time: whoever else asks for it waits for the outcome.
    turns: [tokio::sync::Mutex<()>; GATES],
    /// How many threads write small files at once: more would only wait for each other in the kernel.
    writers: Semaphore,
    /// One eviction at a time. Whoever has it gives it back when the eviction ends, not when he stops waiting for it.
    eviction: Arc<tokio::sync::Mutex<()>>,
    eviction_wanted: Notify,
    small: Cache<(InstanceId, Digest), Bytes, BlobWeight>,
    results: Cache<(InstanceId, Digest), Arc<ActionResult>, ResultWeight>,
    counters: Counters,
    _lock: std::fs::File,
}

const GATES: usize = 256;

/// The largest blob that is given as bytes and kept in memory.
pub const SMALL_BLOB_BYTES: u64 = 64 << 10;

/// What a disk tier holds and has done, at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskStats {
    /// Bytes that files and reservations take.
    pub taken_bytes: u64,
    /// Bytes that they may take.
    pub limit_bytes: u64,
    /// Blobs, in all instances.
    pub blobs: u64,
    /// Results, in all instances.
    pub results: u64,
    /// Copies of blobs that may be executed.
    pub executables: u64,
    /// What others keep in the folder.
    pub lodgers: u64,
    /// The bytes that that takes.
    pub lodged_bytes: u64,
    /// Whether everything that lies in the folder is known by now.
    pub is_complete: bool,
    /// Reads of blobs and results that were there, since the store was opened.
    pub hits: u64,
    /// Reads of blobs and results that were not.
    pub misses: u64,
    /// Entries evicted.
    pub evictions: u64,
    /// Files that were damaged and dropped.
    pub damaged: u64,
}

#[derive(Debug, Default)]
struct Counters {
    hits: AtomicU64,
    misses: AtomicU64,
    evictions: AtomicU64,
    damaged: AtomicU64,
}

#[derive(Clone, Debug)]
struct BlobWeight;

impl Weighter<(InstanceId, Digest), Bytes> for BlobWeight {
    fn weight(&self, _: &(InstanceId, Digest), bytes: &Bytes) -> u64 {
        160 + bytes.len() as u64
    }
}

#[derive(Clone, Debug)]
struct ResultWeight;

impl Weighter<(InstanceId, Digest), Arc<ActionResult>> for ResultWeight {
    fn weight(&self, _: &(InstanceId, Digest), result: &Arc<ActionResult>) -> u64 {
        256 + 2 * prost::Message::encoded_len(result.as_ref()) as u64
    }
}

impl Disk {
    /// Opens the folder and starts what runs behind, as tasks of `group`. Blocks for some milliseconds,
    /// however many entries there are: the index is read behind, and until it is, what is asked for is looked
    /// up in the folder. Needs a runtime around it.
    ///
    /// # Errors
    /// If the folder is another's, of another version, in use by another node, or cannot be read.
    pub fn open(settings: DiskSettings, group: &TaskGroup) -> Result<Arc<Self>, OpenError> {
        let (disk, last) = Self::open_still(settings)?;
        let stop = group.stop();
        group.spawn("evict", Arc::clone(&disk).evict_behind(stop.clone()));
        group.spawn("snapshot", Arc::clone(&disk).snapshot_at_intervals(stop.clone()));
        group.spawn("look around", Arc::clone(&disk).look_around(last, stop));
        Ok(disk)
    }

    /// Opens the folder and starts nothing.
    fn open_still(settings: DiskSettings) -> Result<(Arc<Self>, LastSession), OpenError> {
        let folder = state::Folder::open(&settings.dir)?;
        let mut index = Index::new(settings.limit_bytes);
        let snapshot = Snapshot::find(&folder.layout.snapshot());
        if let Some(snapshot) = &snapshot {
            index.expect(snapshot.entries, snapshot.charged_bytes);
        }
        let opened_at = index.opened();
        let last = LastSession { snapshot, was_clean: folder.was_clean, opened_at };
        let memory_bytes = settings.memory_bytes;
        let disk = Arc::new(Self {
            layout: folder.layout,
            settings,
            mtime: folder.mtime,
            index: Mutex::new(index),
            segments: Segments::default(),
            complete: AtomicBool::new(false),
            loading: watch::Sender::new(Loading::Running),
            closed: AtomicBool::new(false),
            gates: [const { Mutex::new(()) }; GATES],
            turns: [const { tokio::sync::Mutex::const_new(()) }; GATES],
            writers: Semaphore::new(thread::available_parallelism().map_or(4, usize::from)),
            eviction: Arc::default(),
            eviction_wanted: Notify::new(),
            small: Cache::with_weighter(10_000, memory_bytes / 4 * 3, BlobWeight),
            results: Cache::with_weighter(5_000, memory_bytes / 4, ResultWeight),
            counters: Counters::default(),
            _lock: folder.lock,
        });
        tracing::info!(dir = %disk.layout.root().display(), taken_bytes = disk.stats().taken_bytes,
            was_clean = last.was_clean, "opened the disk store");
        Ok((disk, last))
    }

    /// The blobs of an instance.
    pub fn cas(self: &Arc<Self>, instance: &InstanceName) -> Arc<dyn Cas> {
        Arc::new(blobs::Blobs(View::new(self, instance)))
    }

    /// The results of an instance. Whether their blobs are there is [`Complete`](crate::Complete)'s business.
    pub fn action_cache(self: &Arc<Self>, instance: &InstanceName) -> Arc<dyn ActionCache> {
        Arc::new(results::Results(View::new(self, instance)))
    }

    /// The pages of an instance's logs, which have the form of results. No client reaches them.
    pub fn log_pages(self: &Arc<Self>, instance: &InstanceName) -> Arc<dyn ActionCache> {
        Arc::new(results::Results(View::beside(self, instance, "log")))
    }

    /// The records of an instance's remote assets, which have the form of results.
    pub fn assets(self: &Arc<Self>, instance: &InstanceName) -> Arc<dyn ActionCache> {
        Arc::new(results::Results(View::beside(self, instance, "asset")))
    }

    /// The blobs of an instance as files to be hard-linked.
    pub fn local_files(self: &Arc<Self>, instance: &InstanceName) -> Arc<dyn LocalFiles> {
        Arc::new(links::Links(View::new(self, instance)))
    }

    /// The store as one that others may keep things with.
    pub fn lodging(self: &Arc<Self>) -> Arc<dyn Lodging> {
        Arc::new(lodgers::House(Arc::clone(self)))
    }

    /// A folder on the same file system for whatever wants to link to blobs or hand files over. It was
    /// empty when the store was opened. Account for what lies there by [`Self::reserve`].
    pub fn scratch(&self) -> PathBuf {
        self.layout.scratch()
    }

    /// The folder for what waits to be written to a store that is not local. Nothing in it is ever evicted.
    pub(crate) fn queue_dir(&self) -> PathBuf {
        self.layout.queue()
    }

    /// The folder of the store.
    pub fn dir(&self) -> &Path {
        self.layout.root()
    }

    /// What it holds and has done.
    pub fn stats(&self) -> DiskStats {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let index = self.index();
        let (lodgers, lodged_bytes) = index.lodgers();
        DiskStats {
            taken_bytes: index.taken_bytes(),
            limit_bytes: index.limit_bytes(),
            blobs: index.count(Kind::Blob),
            results: index.count(Kind::Result),
            executables: index.count(Kind::Executable),
            lodgers,
            lodged_bytes,
            is_complete: self.is_complete(),
            hits: load(&self.counters.hits),
            misses: load(&self.counters.misses),
            evictions: load(&self.counters.evictions),
            damaged: load(&self.counters.damaged),
        }
    }

    /// Stops cleanly: takes no more writes, writes the index down and the whole file system out, so that
    /// nothing needs to be hashed again after the machine went down. Call it when all tasks have ended.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if that cannot be written; files are then looked at again at the next start.
    pub async fn close(self: &Arc<Self>) -> Result<()> {
        self.closed.store(true, Ordering::Release);
        let disk = Arc::clone(self);
        blocking("closing the store", move || {
            let whole = disk.is_complete();
            // A part of the index would take the place of all that the last session knew.
            let written = if disk.is_loaded() { disk.write_snapshot() } else { Ok(()) };
            written
                .and_then(|()| state::mark_clean(&disk.layout, disk.mtime, whole))
                .map_err(|error| Error::unavailable("closing the store", error))
        })
        .await
    }

    fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Held while a path and its entry change; only by threads that may block.
    fn gate(&self, digest: Digest) -> MutexGuard<'_, ()> {
        self.gates[gate_of(digest)].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, key: &index::Key) -> PathBuf {
        self.layout.entry(&self.segments.get(key.instance), key.kind, key.digest)
    }

    fn refuse_when_closed(&self) -> Result<()> {
        match self.closed.load(Ordering::Acquire) {
            true => Err(Error::unavailable("writing", io::Error::other("the store is closed"))),
            false => Ok(()),
        }
    }
}

fn gate_of(digest: Digest) -> usize {
    usize::from(digest.hash()[1]) % GATES
}

impl Disk {
    /// Waits for the turn to write a small file. Taken before room is, so that those who wait hold none.
    async fn turn_to_write(&self) -> Result<SemaphorePermit<'_>> {
        let turn = self.writers.acquire().await;
        turn.map_err(|error| Error::unavailable("writing", io::Error::other(error)))
    }
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "disk({})", self.layout.root().display())
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").field("dir", &self.layout.root()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
