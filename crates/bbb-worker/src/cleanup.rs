//! The folder of one action, and what cleans up behind the action.
//!
//! Promises: what an action left goes away when nobody holds its folder any more, whatever that is; the number
//! of folders that live or wait for that is bounded; no removal stands in the way of an action before that
//! bound is met. A folder that is as new again is given to another action, instead of being removed.

use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bbb_lifecycle::TaskGroup;
use bbb_sandbox::remove_tree;
use bbb_storage::Kept;
use tokio::sync::mpsc;

use crate::{
    Report,
    bases::Held,
    error::Error,
    renewal::{Part, Parts, renew},
    scratch::Claim,
};

/// How many folders may live or wait for removal at a time. Past that, actions wait for the remover.
const MAX_FOLDERS: usize = 1024;

/// Where kept folders are moved, below the worker's own.
pub(crate) const KEPT: &str = "kept";

/// Where staged trees lie, below the worker's own; others look after them.
pub(crate) const TREES: &str = "trees";

/// Makes folders for actions, and removes them.
#[derive(Debug)]
pub(crate) struct Cleaner {
    base: PathBuf,
    next: AtomicU64,
    queue: mpsc::Sender<Used>,
    spare: Arc<Spare>,
}

/// Folders that wait for their next action.
#[derive(Debug)]
struct Spare {
    /// They are as new; which parts of each there are.
    folders: Mutex<Vec<(PathBuf, Parts)>>,
    /// How many there may be.
    limit: usize,
}

/// A folder whose action is over.
#[derive(Debug)]
struct Used {
    path: PathBuf,
    /// Whether another action may get it.
    may_be_renewed: bool,
    /// The room that it takes until then.
    _claim: Arc<Claim>,
}

/// The folder of one action. It is cleaned up when this is dropped, unless it is to be kept.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    /// What is there; none if not even the folder is.
    parts: Option<Parts>,
    kept: PathBuf,
    is_kept: AtomicBool,
    /// Keeps what is kept from being removed before it is in its place.
    kept_room: OnceLock<Kept>,
    may_be_renewed: AtomicBool,
    /// Taken when dropped; its place in the queue was reserved when the folder was made.
    place: Option<mpsc::OwnedPermit<Used>>,
    /// The room that it takes in the store.
    claim: Arc<Claim>,
    /// What the exec root stands on: it stays as long as anything of the action lives.
    ground: OnceLock<Held>,
    /// Keeps the slot of the action: what still lives of it holds the folder, too.
    _slot: Report,
}

impl Cleaner {
    /// Takes over the folder `base`, which belongs to one worker alone: all that an earlier process left
    /// there is removed, except what was kept for people. Removal runs as a task of `tasks`. At most
    /// `spare` folders wait for their next action; only where actions reach nothing of them but what they are given.
    ///
    /// # Errors
    /// If the folder cannot be made or read.
    pub(crate) fn start(base: PathBuf, spare: usize, tasks: &TaskGroup) -> io::Result<Self> {
        fs::create_dir_all(&base)?;
        let mut left = Vec::new();
        for entry in fs::read_dir(&base)? {
            let entry = entry?;
            if ![KEPT, TREES].map(OsStr::new).contains(&&*entry.file_name()) {
                left.push(Used {
                    path: entry.path(),
                    may_be_renewed: false,
                    _claim: Arc::default(),
                });
            }
        }
        let (queue, folders) = mpsc::channel(MAX_FOLDERS);
        let spare = Arc::new(Spare { folders: Mutex::default(), limit: spare });
        let (stop, shelf) = (tasks.stop(), Arc::clone(&spare));
        tasks.spawn("cleanup", async move {
            clean_up(left, &shelf).await;
            run(folders, &shelf, stop).await;
        });
        // A name that was used before the restart may still wait for its removal.
        let next = AtomicU64::new(u64::from(std::process::id()) << 32);
        Ok(Self { base, next, queue, spare })
    }

    /// A folder still to be made, which holds the slot of `report`; if it is kept, its name begins with `name`.
    /// Waits while too many wait for removal.
    ///
    /// # Errors
    /// If the worker stops.
    pub(crate) async fn folder(&self, name: &str, report: &Report) -> Result<Folder, Error> {
        let place = self.queue.clone().reserve_owned().await;
        let place = place.map_err(|error| Error::fault("make a folder", error))?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let kept = self.base.join(KEPT).join(format!("{name}-{number:x}"));
        let (path, parts) = match self.spare.take() {
            Some((path, parts)) => (path, Some(parts)),
            None => (self.base.join(format!("{number:x}")), None),
        };
        Ok(Folder {
            path,
            parts,
            kept,
            is_kept: AtomicBool::new(false),
            kept_room: OnceLock::new(),
            may_be_renewed: AtomicBool::new(true),
            place: Some(place),
            claim: Arc::default(),
            ground: OnceLock::new(),
            _slot: report.clone(),
        })
    }
}

impl Spare {
    fn take(&self) -> Option<(PathBuf, Parts)> {
        self.folders.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// Makes a folder ready for its next action, if it is wanted for one and that can be done; blocks.
    fn set_aside(&self, folder: &Path) -> bool {
        let lock = || self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody else adds any, so that it is wanted later if it is now.
        if lock().len() >= self.limit {
            return false;
        }
        // What stands in the way of a renewal stands in that of the removal too, and is told there.
        let Ok(parts) = renew(folder) else { return false };
        lock().push((folder.to_owned(), parts));
        true
    }
}

impl Folder {
    /// Makes it with these parts; blocks. What else is to be in it is made where it is needed.
    pub(crate) fn make(&self, parts: &[Part]) -> io::Result<()> {
        if self.parts.is_none() {
            fs::create_dir(&self.path)?;
        }
        let there = self.parts.unwrap_or_default();
        for part in parts.iter().filter(|part| !there.has(**part)) {
            let path = self.part(*part);
            match part.is_file() {
                true => drop(fs::File::create_new(path)?),
                false => fs::create_dir(path)?,
            }
        }
        Ok(())
    }

    /// Has a staged tree stay as long as this folder.
    pub(crate) fn stand_on(&self, base: Held) {
        // An action is staged once.
        let _ = self.ground.set(base);
    }

    /// The room that it takes in the store.
    pub(crate) fn claim(&self) -> &Arc<Claim> {
        &self.claim
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where a part of it lies.
    pub(crate) fn part(&self, part: Part) -> PathBuf {
        self.path.join(part.name())
    }

    /// Blobs that no local store holds as files, and copies of outputs; made by whoever first has one.
    pub(crate) fn blobs(&self) -> PathBuf {
        self.path.join("blobs")
    }

    /// Where it will be found if it is kept.
    pub(crate) fn kept_path(&self) -> &Path {
        &self.kept
    }

    /// Keeps the folder for people, in this room of the store. Returns where it will be found once nobody holds it any more.
    pub(crate) fn keep(&self, room: Option<Kept>) -> &Path {
        if let Some(room) = room {
            // An action ends once.
            let _ = self.kept_room.set(room);
        }
        self.is_kept.store(true, Ordering::Relaxed);
        &self.kept
    }

    /// Sees to it that no other action gets the folder: someone outside of its action may come to hold it open.
    pub(crate) fn retire(&self) {
        self.may_be_renewed.store(false, Ordering::Relaxed);
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.is_kept.load(Ordering::Relaxed) {
            let moved = self.kept.parent().map_or(Ok(()), fs::create_dir_all);
            match moved.and_then(|()| fs::rename(&self.path, &self.kept)) {
                Ok(()) => return,
                Err(error) => {
                    tracing::warn!(path = %self.path.display(), %error, "cannot keep folder");
                }
            }
        }
        if let Some(place) = self.place.take() {
            let may_be_renewed = self.may_be_renewed.load(Ordering::Relaxed);
            let (path, claim) = (std::mem::take(&mut self.path), Arc::clone(&self.claim));
            place.send(Used { path, may_be_renewed, _claim: claim });
        }
    }
}

/// Cleans folders up as they come, and removes those that wait when the word to stop comes.
async fn run(mut folders: mpsc::Receiver<Used>, spare: &Arc<Spare>, stop: bbb_lifecycle::Stop) {
    let mut batch = Vec::new();
    loop {
        let count = tokio::select! {
            count = folders.recv_many(&mut batch, MAX_FOLDERS) => count,
            () = stop.requested() => break,
        };
        if count == 0 {
            return;
        }
        clean_up(std::mem::take(&mut batch), spare).await;
    }
    while let Ok(folder) = folders.try_recv() {
        batch.push(folder);
    }
    batch.iter_mut().for_each(|used| used.may_be_renewed = false);
    clean_up(batch, spare).await;
}

async fn clean_up(folders: Vec<Used>, spare: &Arc<Spare>) {
    if folders.is_empty() {
        return;
    }
    let spare = Arc::clone(spare);
    let cleaned = tokio::task::spawn_blocking(move || {
        for Used { path, may_be_renewed, _claim } in folders {
            if may_be_renewed && spare.set_aside(&path) {
                continue;
            }
            if let Err(error) = remove_tree(&path) {
                tracing::warn!(path = %path.display(), %error, "cannot remove folder");
            }
        }
    });
    if cleaned.await.is_err() {
        tracing::error!("removal of folders panicked");
    }
}

/// Shares of a folder: whoever holds one keeps it from removal.
pub(crate) type SharedFolder = Arc<Folder>;
