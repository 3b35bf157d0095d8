//! One staged tree that many actions stand above, and what removes such trees behind.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use bbb_lifecycle::TaskGroup;
use bbb_sandbox::remove_tree;
use bbb_storage::{Kept, LocalFile, Lodger};
use tokio::sync::mpsc;

use crate::place::Place;

/// The part of a base's folder that holds the tree.
const TREE: &str = "tree";

/// The part that whiteouts of layers above the tree are links to.
const WHITEOUT: &str = "whiteout";

/// The part for blobs that no store has as files, while the tree is made.
const BLOBS: &str = "blobs";

/// A read-only folder with a whole input tree. Removed when the last who holds it lets go.
#[derive(Debug)]
pub(crate) struct Base {
    /// Taken when dropped.
    parts: Option<Parts>,
    /// Its place in the queue for removal was reserved when it was made.
    place: Option<mpsc::OwnedPermit<Parts>>,
}

/// What a base consists of.
#[derive(Debug)]
pub(crate) struct Parts {
    path: PathBuf,
    /// The room that it takes; given back when it is gone.
    lodger: Lodger,
    /// Set when it is complete.
    keeps: OnceLock<Keeps>,
}

/// What a complete base keeps in the store.
#[derive(Debug, Default)]
pub(crate) struct Keeps {
    /// The room of what turned out to be no links.
    pub(crate) _copies: Option<(Kept, Lodger)>,
    /// Blobs must not be evicted while they are linked to: it would make no room.
    pub(crate) _pins: Box<[Arc<dyn LocalFile>]>,
}

/// Keeps a base for an action.
#[derive(Debug)]
pub(crate) struct Held {
    base: Arc<Base>,
    _kept: Kept,
}

impl Base {
    /// A base still to be made at `path`.
    pub(crate) fn new(path: PathBuf, lodger: Lodger, place: mpsc::OwnedPermit<Parts>) -> Self {
        let parts = Parts { path, lodger, keeps: OnceLock::new() };
        Self { parts: Some(parts), place: Some(place) }
    }

    /// Where its tree lies.
    pub(crate) fn tree(&self) -> PathBuf {
        self.path().join(TREE)
    }

    /// Where blobs may lie that no store has as files, while it is made.
    pub(crate) fn blobs(&self) -> PathBuf {
        self.path().join(BLOBS)
    }

    /// Its folder.
    pub(crate) fn path(&self) -> &Path {
        // There are parts until it is dropped.
        self.parts.as_ref().map_or(Path::new(""), |parts| &parts.path)
    }

    /// Makes its folder, with a whiteout if layers above may have some; blocks.
    pub(crate) fn make(&self, has_whiteout: bool) -> io::Result<()> {
        fs::create_dir(self.path())?;
        fs::create_dir(self.tree())?;
        match has_whiteout {
            true => Place::open(self.path().to_owned())?.make_whiteout("", WHITEOUT, None),
            false => Ok(()),
        }
    }

    /// Says that it is complete.
    pub(crate) fn complete(&self, keeps: Keeps) {
        if let Some(parts) = &self.parts {
            // Once only: whoever makes a base has it alone.
            let _ = parts.keeps.set(keeps);
        }
    }

    /// Keeps it for an action; none if its room is being given to something else.
    pub(crate) fn hold(self: &Arc<Self>) -> Option<Held> {
        let lodger = &self.parts.as_ref()?.lodger;
        let kept = lodger.keep()?;
        lodger.used();
        Some(Held { base: Arc::clone(self), _kept: kept })
    }

    /// Removes it unless someone else still holds it; blocks.
    pub(crate) fn remove(self: Arc<Self>) {
        if let Some(parts) = Arc::into_inner(self).and_then(|mut base| base.parts.take()) {
            parts.remove();
        }
    }
}

impl Held {
    /// Where the tree lies.
    pub(crate) fn tree(&self) -> PathBuf {
        self.base.tree()
    }

    /// What whiteouts may be links to.
    pub(crate) fn whiteout(&self) -> PathBuf {
        self.base.path().join(WHITEOUT)
    }
}

impl Parts {
    fn remove(self) {
        if let Err(error) = remove_tree(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove staged tree");
        }
    }
}

impl Drop for Base {
    fn drop(&mut self) {
        if let (Some(parts), Some(place)) = (self.parts.take(), self.place.take()) {
            place.send(parts);
        }
    }
}

/// Where bases go that nobody holds any more.
#[derive(Clone, Debug)]
pub(crate) struct Removals(mpsc::Sender<Parts>);

impl Removals {
    /// Takes over a folder of bases, and removes what an earlier process left there, then bases as they come, as a task
    /// of `tasks`. At most `limit` bases live or wait for removal.
    ///
    /// # Errors
    /// If the folder cannot be made or read.
    pub(crate) fn start(folder: &Path, limit: usize, tasks: &TaskGroup) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let left = fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path()));
        let left = left.collect::<io::Result<Vec<_>>>()?;
        let (queue, mut bases) = mpsc::channel::<Parts>(limit);
        let stop = tasks.stop();
        tasks.spawn("tree cache", async move {
            off_the_reactor(move || {
                for path in left {
                    if let Err(error) = remove_tree(&path) {
                        tracing::warn!(path = %path.display(), %error, "cannot remove what was left");
                    }
                }
            })
            .await;
            loop {
                tokio::select! {
                    next = bases.recv() => match next {
                        Some(parts) => off_the_reactor(move || parts.remove()).await,
                        None => return,
                    },
                    // What is there then is removed when the next process begins.
                    () = stop.requested() => return,
                }
            }
        });
        Ok(Self(queue))
    }

    /// A place for one more base; none if there are too many.
    pub(crate) fn reserve(&self) -> Option<mpsc::OwnedPermit<Parts>> {
        self.0.clone().try_reserve_owned().ok()
    }
}

async fn off_the_reactor(work: impl FnOnce() + Send + 'static) {
    if tokio::task::spawn_blocking(work).await.is_err() {
        tracing::error!("removal of staged trees panicked");
    }
}
