//! The folder of one action, and what cleans up behind the action.
//!
//! Promises: what an action left goes away when nobody holds its folder any more, whatever that is; the number
//! of folders that live or wait for that is bounded; no removal stands in the way of an action before that
//! bound is met. A folder that is as new again is given to another action, instead of being removed. One with much in
//! it is removed apart, so that small ones, which the next actions want, do not stand behind it.

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
use bbb_sandbox::{
    removal::{Budget, Left, remove_tree_within},
    remove_tree,
};
use bbb_storage::Kept;
use tokio::sync::mpsc;

use crate::{
    Report,
    apart::put_folders_apart,
    bases::Held,
    error::Error,
    renewal::{Part, Parts, renew},
    scratch::Claim,
};

/// How many folders may live or wait for removal at a time, besides those that are being removed: a batch of them, and large
/// ones. Past that, actions wait for the remover.
const MAX_FOLDERS: usize = 1024;

/// How many folders are emptied in one go off the reactor.
const BATCH: usize = 64;

/// How many names a folder may have in it to be emptied among others: some milliseconds' work.
const FEW_NAMES: u64 = 2000;

/// How many larger ones may wait for their removal. Past that, they are removed before whatever comes behind them.
const MAX_LARGE: usize = 64;

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
        put_folders_apart(&base);
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
        let (large, large_folders) = mpsc::channel(MAX_LARGE);
        let spare = Arc::new(Spare { folders: Mutex::default(), limit: spare });
        let emptier = Emptier { spare: Arc::clone(&spare), large };
        let stop = tasks.stop();
        tasks.spawn("cleanup", async move {
            emptier.empty(left).await;
            emptier.run(folders, stop).await;
        });
        tasks.spawn("cleanup of large folders", remove_all(large_folders));
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

    /// Makes a folder ready for its next action, if it is wanted for one; whether it is. Blocks.
    fn set_aside(&self, folder: &Path, budget: &mut Budget) -> Result<bool, Left> {
        let lock = || self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody else adds any, so that it is wanted later if it is now.
        if lock().len() >= self.limit {
            return Ok(false);
        }
        let parts = renew(folder, budget)?;
        lock().push((folder.to_owned(), parts));
        Ok(true)
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

/// Empties folders one after the other, and hands on those that take long.
#[derive(Clone)]
struct Emptier {
    spare: Arc<Spare>,
    large: mpsc::Sender<Used>,
}

impl Emptier {
    /// Empties folders as they come, and removes those that wait when the word to stop comes.
    async fn run(self, mut folders: mpsc::Receiver<Used>, stop: bbb_lifecycle::Stop) {
        let mut batch = Vec::new();
        loop {
            let count = tokio::select! {
                count = folders.recv_many(&mut batch, BATCH) => count,
                () = stop.requested() => break,
            };
            if count == 0 {
                return;
            }
            self.empty(std::mem::take(&mut batch)).await;
        }
        while let Ok(folder) = folders.try_recv() {
            batch.push(folder);
        }
        batch.iter_mut().for_each(|used| used.may_be_renewed = false);
        self.empty(batch).await;
    }

    async fn empty(&self, folders: Vec<Used>) {
        if folders.is_empty() {
            return;
        }
        let emptier = self.clone();
        let emptied = tokio::task::spawn_blocking(move || {
            folders.into_iter().for_each(|used| emptier.empty_one(used));
        });
        if emptied.await.is_err() {
            tracing::error!("removal of folders panicked");
        }
    }

    /// Gives a folder to the next action, or removes it, or has it removed; blocks.
    fn empty_one(&self, used: Used) {
        let path = &used.path;
        let mut budget = Budget::of(FEW_NAMES);
        let set_aside = match used.may_be_renewed {
            true => self.spare.set_aside(path, &mut budget),
            false => Ok(false),
        };
        let removed = match set_aside {
            Ok(true) => return,
            Err(Left::Over) => Err(Left::Over),
            // What stands in the way of a renewal stands in that of the removal too, and is told there.
            Ok(false) | Err(Left::Stuck(_)) => remove_tree_within(path, &mut budget),
        };
        match removed {
            Ok(()) => {}
            Err(Left::Over) => {
                if let Err(error) = self.large.try_send(used) {
                    remove(&error.into_inner());
                }
            }
            Err(Left::Stuck(error)) => cannot_remove(path, &error),
        }
    }
}

/// Removes large folders as they come, until nobody can send any more.
async fn remove_all(mut folders: mpsc::Receiver<Used>) {
    while let Some(used) = folders.recv().await {
        if tokio::task::spawn_blocking(move || remove(&used)).await.is_err() {
            tracing::error!("removal of a large folder panicked");
        }
    }
}

fn remove(used: &Used) {
    if let Err(error) = remove_tree(&used.path) {
        cannot_remove(&used.path, &error);
    }
}

fn cannot_remove(path: &Path, error: &io::Error) {
    tracing::warn!(path = %path.display(), %error, "cannot remove folder");
}

/// Shares of a folder: whoever holds one keeps it from removal.
pub(crate) type SharedFolder = Arc<Folder>;

#[cfg(test)]
mod tests {
    use super::*;

    impl Used {
        fn test(path: &Path, may_be_renewed: bool) -> Self {
            Self { path: path.to_owned(), may_be_renewed, _claim: Arc::default() }
        }
    }

    /// A folder as an action leaves it, with so many files in it.
    fn used(base: &Path, name: &str, files: u64) -> PathBuf {
        let path = base.join(name);
        fs::create_dir_all(path.join("tmp")).unwrap();
        for file in 0..files {
            fs::write(path.join("tmp").join(file.to_string()), "").unwrap();
        }
        path
    }

    #[tokio::test]
    async fn large_folders_do_not_stand_before_small_ones() {
        let folder = tempfile::tempdir().unwrap();
        let (large, mut apart) = mpsc::channel(1);
        let spare = Arc::new(Spare { folders: Mutex::default(), limit: 1 });
        let emptier = Emptier { spare: Arc::clone(&spare), large };
        let paths = [("large", FEW_NAMES + 10), ("small", 10), ("more", 10)]
            .map(|(name, files)| used(folder.path(), name, files));
        let [large, small, more] = &paths;
        let all = paths.iter().map(|path| Used::test(path, true));
        emptier.empty(all.collect()).await;
        // Nobody removes large ones here, and the others are done with.
        assert!(large.exists() && !more.exists());
        let (set_aside, _) = spare.take().unwrap();
        assert_eq!(&set_aside, small);
        assert_eq!(fs::read_dir(small.join("tmp")).unwrap().count(), 0);
        assert_eq!(apart.try_recv().unwrap().path, *large);
        // When too many wait, they go at once.
        let again = ["a", "b"].map(|name| used(folder.path(), name, FEW_NAMES + 10));
        let all = again.iter().map(|path| Used::test(path, false));
        emptier.empty(all.collect()).await;
        assert!(again[0].exists() && !again[1].exists());
        drop(emptier);
        remove_all(apart).await;
        assert!(!again[0].exists());
    }
}
