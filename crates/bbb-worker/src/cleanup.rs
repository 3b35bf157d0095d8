//! The folder of one action, and what removes it behind the action.
//!
//! Promises: a folder goes away when nobody holds it any more, whatever its action left there; the number
//! of folders that live or wait for removal is bounded; no removal stands in the way of an action before
//! that bound is met.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bbb_lifecycle::TaskGroup;
use bbb_sandbox::remove_tree;
use tokio::sync::mpsc;

use crate::{Report, error::Error};

/// How many folders may live or wait for removal at a time. Past that, actions wait for the remover.
const MAX_FOLDERS: usize = 1024;

/// Where kept folders are moved, below the worker's own.
const KEPT: &str = "kept";

/// Makes folders for actions, and removes them.
#[derive(Debug)]
pub(crate) struct Cleaner {
    base: PathBuf,
    next: AtomicU64,
    queue: mpsc::Sender<PathBuf>,
}

/// The folder of one action. It is removed when this is dropped, unless it is to be kept.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    kept: PathBuf,
    is_kept: AtomicBool,
    /// Taken when dropped; its place in the queue was reserved when the folder was made.
    place: Option<mpsc::OwnedPermit<PathBuf>>,
    /// Keeps the slot of the action: what still lives of it holds the folder, too.
    _slot: Report,
}

impl Cleaner {
    /// Takes over the folder `base`, which belongs to one worker alone: all that an earlier process left
    /// there is removed, except what was kept for people. Removal runs as a task of `tasks`.
    ///
    /// # Errors
    /// If the folder cannot be made or read.
    pub(crate) fn start(base: PathBuf, tasks: &TaskGroup) -> io::Result<Self> {
        fs::create_dir_all(&base)?;
        let mut left = Vec::new();
        for entry in fs::read_dir(&base)? {
            let entry = entry?;
            if entry.file_name() != KEPT {
                left.push(entry.path());
            }
        }
        let (queue, folders) = mpsc::channel(MAX_FOLDERS);
        let stop = tasks.stop();
        tasks.spawn("cleanup", async move {
            remove_all(left).await;
            run(folders, stop).await;
        });
        // A name that was used before the restart may still wait for its removal.
        let next = AtomicU64::new(u64::from(std::process::id()) << 32);
        Ok(Self { base, next, queue })
    }

    /// A folder whose name begins with `name`, still to be made, which holds the slot of `report`. Waits
    /// while too many wait for removal.
    ///
    /// # Errors
    /// If the worker stops.
    pub(crate) async fn folder(&self, name: &str, report: &Report) -> Result<Folder, Error> {
        let place = self.queue.clone().reserve_owned().await;
        let place = place.map_err(|error| Error::fault("make a folder", error))?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let name = format!("{name}-{number:x}");
        let path = self.base.join(&name);
        let kept = self.base.join(KEPT).join(name);
        let is_kept = AtomicBool::new(false);
        Ok(Folder { path, kept, is_kept, place: Some(place), _slot: report.clone() })
    }
}

impl Folder {
    /// Makes it; blocks. What is to be in it is made where it is needed.
    pub(crate) fn make(&self) -> io::Result<()> {
        fs::create_dir(&self.path)
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The input root where it is no overlay.
    pub(crate) fn root(&self) -> PathBuf {
        self.path.join("root")
    }

    /// The staged inputs below an overlay.
    pub(crate) fn lower(&self) -> PathBuf {
        self.path.join("lower")
    }

    /// What an action changes of an overlay.
    pub(crate) fn upper(&self) -> PathBuf {
        self.path.join("upper")
    }

    /// For the kernel's own use of an overlay.
    pub(crate) fn work(&self) -> PathBuf {
        self.path.join("work")
    }

    /// What the action sees as `/tmp`.
    pub(crate) fn temporary(&self) -> PathBuf {
        self.path.join("tmp")
    }

    /// Blobs that no local store holds as files, and copies of outputs; made by whoever first has one.
    pub(crate) fn blobs(&self) -> PathBuf {
        self.path.join("blobs")
    }

    /// The action's standard output.
    pub(crate) fn stdout(&self) -> PathBuf {
        self.path.join("stdout")
    }

    /// The action's standard error.
    pub(crate) fn stderr(&self) -> PathBuf {
        self.path.join("stderr")
    }

    /// Keeps the folder for people. Returns where it will be found once nobody holds it any more.
    pub(crate) fn keep(&self) -> &Path {
        self.is_kept.store(true, Ordering::Relaxed);
        &self.kept
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
            place.send(std::mem::take(&mut self.path));
        }
    }
}

/// Removes folders as they come, and those that wait when the word to stop comes.
async fn run(mut folders: mpsc::Receiver<PathBuf>, stop: bbb_lifecycle::Stop) {
    let mut batch = Vec::new();
    loop {
        let count = tokio::select! {
            count = folders.recv_many(&mut batch, MAX_FOLDERS) => count,
            () = stop.requested() => break,
        };
        if count == 0 {
            return;
        }
        remove_all(std::mem::take(&mut batch)).await;
    }
    while let Ok(folder) = folders.try_recv() {
        batch.push(folder);
    }
    remove_all(batch).await;
}

async fn remove_all(folders: Vec<PathBuf>) {
    if folders.is_empty() {
        return;
    }
    let removed = tokio::task::spawn_blocking(move || {
        for folder in folders {
            if let Err(error) = remove_tree(&folder) {
                tracing::warn!(path = %folder.display(), %error, "cannot remove folder");
            }
        }
    });
    if removed.await.is_err() {
        tracing::error!("removal of folders panicked");
    }
}

/// Shares of a folder: whoever holds one keeps it from removal.
pub(crate) type SharedFolder = Arc<Folder>;
