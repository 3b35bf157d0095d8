//! The tree cache: input trees that were staged once, each a read-only folder that is the lower layer of many actions'
//! exec roots at a time. An action whose tree differs a little from one of them stands above a layer of what differs.
//!
//! Promises: what staging costs follows what changed; equal trees are staged once, however many actions want them at
//! the same time, also when whoever began gives up; a base stays as it is while an action stands above it; bases count
//! against the store's limit, are bounded in number and in entries, and go when they were used least recently.
//!
//! The room knows nothing of sandboxes and commands. That no action changes a base is the overlay's doing.

mod base;
mod landmarks;
mod shelf;

use std::{
    fmt, io,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use bbb_digest::InstanceName;
use bbb_lifecycle::TaskGroup;
use bbb_reapi::NodeProperties;
use bbb_storage::{Error as Storage, Kept, LocalFiles, Lodger, Lodging, Stores, Subtree};
use tokio::sync::OnceCell;

use crate::{
    error::{Error, blocking},
    fill::{Filling, lay_out},
    ladder::Means,
    layer::Layer,
    place::Place,
};
pub(crate) use base::Held;
use base::{Base, Keeps, Removals};
use landmarks::Landmarks;
use shelf::{Key, MAX_BASES, Shelf};

/// A layer above a base may have this part of the entries of the whole tree. What has more gets a base of its own, which
/// the next tree may be nearer to; see also [`Shelf::stands_above`].
const MAX_LAYER_SHARE: u64 = 2;

/// How many bases live or wait for removal: those that are kept, and those that were dropped while they were in use.
const MAX_LIVING: usize = 2 * MAX_BASES;

/// How often a base is looked for, when the one that was found is given up at that moment.
const ATTEMPTS: usize = 2;

/// What a directory takes on the disk, and each entry in it, in bytes.
const DIRECTORY_BYTES: u64 = 4096;
const ENTRY_BYTES: u64 = 64;

/// The staged trees of one worker.
pub(crate) struct Bases {
    folder: PathBuf,
    next: AtomicU64,
    lodging: Arc<dyn Lodging>,
    removals: Removals,
    shelf: Mutex<Shelf<Shared>>,
    /// How many nodes a tree must and may have to get a base.
    sizes: RangeInclusive<u64>,
    /// Whether layers can hide what is below them.
    has_whiteouts: bool,
}

/// A base that is there, or that whoever comes first makes. When that one gives up, the next one makes it.
type Shared = Arc<OnceCell<Arc<Base>>>;

/// What an exec root stands on.
#[derive(Debug)]
pub(crate) struct Ground {
    pub(crate) base: Held,
    /// What is to be made above the base.
    pub(crate) layer: Layer,
    /// How many bytes of the inputs were not on this machine.
    pub(crate) fetched_bytes: u64,
}

/// From where the blobs of a base come.
#[derive(Clone, Copy)]
pub(crate) struct Sources<'a> {
    pub(crate) instance: &'a InstanceName,
    pub(crate) stores: &'a Stores,
    pub(crate) links: &'a dyn LocalFiles,
    pub(crate) means: Means,
    pub(crate) concurrency: usize,
}

/// Why a base was not made.
#[derive(Debug, thiserror::Error)]
enum Unmade {
    /// There is no room for it, or there are too many.
    #[error("there is no room for one more staged tree")]
    NoRoom,
    #[error(transparent)]
    Failed(#[from] Error),
}

impl Bases {
    /// Takes over a folder on the file system of the store that gives lodging: all that an earlier process left there is
    /// removed. Removal runs as a task of `tasks`. A tree with fewer than `min_nodes` nodes gets no
    /// base; what is known of all bases takes so much memory at the most.
    ///
    /// # Errors
    /// If the folder cannot be made or read.
    pub(crate) fn start(
        folder: PathBuf,
        lodging: Arc<dyn Lodging>,
        min_nodes: u64,
        memory_bytes: u64,
        tasks: &TaskGroup,
    ) -> io::Result<Arc<Self>> {
        let removals = Removals::start(&folder, MAX_LIVING, tasks)?;
        // A name that was used before the restart may still wait for its removal.
        let next = AtomicU64::new(u64::from(std::process::id()) << 32);
        let shelf = Shelf::new(memory_bytes);
        let sizes = min_nodes..=shelf.max_nodes();
        let shelf = Mutex::new(shelf);
        let mut bases =
            Self { folder, next, lodging, removals, shelf, sizes, has_whiteouts: false };
        bases.has_whiteouts = makes_whiteouts(&bases.folder, &bases.name());
        Ok(Arc::new(bases))
    }

    /// What a tree is staged on; none if it is better staged alone.
    ///
    /// # Errors
    /// What keeps a base of exactly this tree from being made: [`Error::Missing`] names some of what is missing.
    pub(crate) async fn ground(
        self: &Arc<Self>,
        tree: &Arc<Subtree>,
        sources: Sources<'_>,
    ) -> Result<Option<Ground>, Error> {
        if !self.sizes.contains(&tree.totals().nodes) {
            return Ok(None);
        }
        for _ in 0..ATTEMPTS {
            let known = self.shelf().of(sources.instance, tree);
            let base = match known {
                Some(base) => base,
                None => {
                    let landmarks = Landmarks::of(tree);
                    if let Some(ground) = self.above_another(tree, &landmarks, sources).await {
                        return Ok(Some(ground));
                    }
                    let (base, gone) =
                        self.shelf().add(sources.instance, tree, landmarks, Shared::default());
                    drop(gone);
                    base
                }
            };
            match self.held(&base, tree, sources).await {
                Ok((Some(base), fetched_bytes)) => {
                    let layer = Layer::default();
                    return Ok(Some(Ground { base, layer, fetched_bytes }));
                }
                Ok((None, _)) => {}
                Err(Unmade::NoRoom) => return Ok(None),
                Err(Unmade::Failed(error)) => return Err(error),
            }
        }
        Ok(None)
    }

    /// The base that needs the smallest layer, if that is small.
    async fn above_another(
        self: &Arc<Self>,
        new: &Arc<Subtree>,
        landmarks: &Landmarks,
        sources: Sources<'_>,
    ) -> Option<Ground> {
        let alike = self.shelf().like(sources.instance, landmarks);
        if alike.is_empty() {
            return None;
        }
        let (tree, has_whiteouts) = (Arc::clone(new), self.has_whiteouts);
        let compare = move || Ok(nearest(alike, &tree, has_whiteouts));
        let (of, base, layer) = blocking("compare trees", compare).await.ok()??;
        let entries = layer.entries();
        if !self.shelf().stands_above(sources.instance, &of, new, entries) {
            return None;
        }
        match self.held(&base, &of, sources).await {
            Ok((held, fetched_bytes)) => {
                // Asked for again, it stays known for longer.
                drop(sources.stores.trees.subtree(of.digest()).await);
                Some(Ground { base: held?, layer, fetched_bytes })
            }
            // It may be what only the other tree has that is at fault.
            Err(error) => {
                tracing::debug!(root = %of.digest(), %error, "staged tree is not made for another");
                None
            }
        }
    }

    /// The base of `tree`, made unless it is there, and what had to be brought for that. None if it is being given up.
    async fn held(
        self: &Arc<Self>,
        base: &Shared,
        tree: &Arc<Subtree>,
        sources: Sources<'_>,
    ) -> Result<(Option<Held>, u64), Unmade> {
        let fetched_bytes = AtomicU64::new(0);
        let made = base
            .get_or_try_init(|| async {
                let (base, bytes) = self.make(tree, sources).await?;
                fetched_bytes.fetch_add(bytes, Ordering::Relaxed);
                Ok(base)
            })
            .await;
        let held = made.as_ref().ok().and_then(|made| made.hold());
        if held.is_none() {
            let key = (sources.instance.clone(), tree.digest());
            let gone = self.shelf().remove(&key, |there| {
                // Where it failed, others may be about to try.
                Arc::ptr_eq(there, base) && (made.is_ok() || Arc::strong_count(there) <= 2)
            });
            drop(gone);
        }
        made.map(|_| (held, fetched_bytes.into_inner()))
    }

    /// Stages a tree. What was made goes away if this fails or is dropped.
    async fn make(
        self: &Arc<Self>,
        tree: &Arc<Subtree>,
        sources: Sources<'_>,
    ) -> Result<(Arc<Base>, u64), Unmade> {
        let place = self.removals.reserve().ok_or(Unmade::NoRoom)?;
        let layer = {
            let tree = Arc::clone(tree);
            blocking("lay a tree out", move || Ok(Arc::new(Layer::whole(&tree)))).await?
        };
        let key = (sources.instance.clone(), tree.digest());
        let path = self.folder.join(self.name());
        let copied_bytes = copied_bytes(&layer);
        let size_bytes = directories_bytes(&layer).saturating_add(copied_bytes);
        let leave = self.leave(key, path.clone());
        let (_kept, lodger) = self.lodge(size_bytes, leave).await?;
        let base = Arc::new(Base::new(path, lodger, place));
        {
            let (base, layer) = (Arc::clone(&base), Arc::clone(&layer));
            let has_whiteout = self.has_whiteouts;
            blocking("stage directories", move || {
                let made = base.make(has_whiteout);
                made.map_err(|error| Error::fault("make a folder for a staged tree", error))?;
                lay_out(&layer, &base.tree(), None)
            })
            .await?;
        }
        let filling = Filling {
            layer,
            stores: sources.stores,
            links: Some(sources.links),
            means: sources.means,
            concurrency: sources.concurrency,
            to: base.tree(),
            blobs: base.blobs(),
            hold: Arc::clone(&base) as _,
            keep_pins: true,
        };
        let filled = filling.fill().await?;
        let mut copies = None;
        if let Some(more_bytes) = filled.copied_bytes.checked_sub(copied_bytes + 1) {
            copies = Some(self.lodge(more_bytes + 1, Box::new(|| {})).await?);
        }
        base.complete(Keeps { _copies: copies, _pins: filled.pins.into() });
        Ok((base, filled.fetched_bytes))
    }

    /// Room in the store's folder that stays taken.
    async fn lodge(
        &self,
        size_bytes: u64,
        leave: Box<dyn FnOnce() + Send>,
    ) -> Result<(Kept, Lodger), Unmade> {
        let lodger = match self.lodging.take(size_bytes, leave).await {
            Ok(lodger) => lodger,
            Err(Storage::Full { .. }) => return Err(Unmade::NoRoom),
            Err(error) => return Err(Error::storage("take room for a staged tree", error).into()),
        };
        Ok((lodger.keep().ok_or(Unmade::NoRoom)?, lodger))
    }

    /// Removes the base at `path` when its turn has come; nobody uses it then.
    fn leave(self: &Arc<Self>, key: Key, path: PathBuf) -> Box<dyn FnOnce() + Send> {
        let bases = Arc::downgrade(self);
        Box::new(move || {
            let Some(bases) = Weak::upgrade(&bases) else { return };
            let is_it = |there: &Shared| there.get().is_some_and(|base| base.path() == path);
            let gone = bases.shelf().remove(&key, is_it);
            if let Some(base) = gone.and_then(|shared| shared.get().map(Arc::clone)) {
                base.remove();
            }
        })
    }

    fn name(&self) -> String {
        format!("{:x}", self.next.fetch_add(1, Ordering::Relaxed))
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf<Shared>> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of some bases the one that needs the smallest layer, if that is small.
fn nearest<B>(
    bases: Vec<(Arc<Subtree>, B)>,
    tree: &Arc<Subtree>,
    has_whiteouts: bool,
) -> Option<(Arc<Subtree>, B, Layer)> {
    let mut limit = tree.totals().nodes / MAX_LAYER_SHARE;
    let mut best = None;
    for (of, base) in bases {
        let layer = Layer::above(&of, tree, limit);
        if let Some(layer) = layer.filter(|layer| has_whiteouts || !layer.has_whiteouts()) {
            limit = layer.entries().saturating_sub(1);
            best = Some((of, base, layer));
        }
    }
    best
}

/// What the files of a layer take that cannot be links, for they have properties of their own.
fn copied_bytes(layer: &Layer) -> u64 {
    let places = layer.blobs.iter().flat_map(|blob| &blob.places);
    let copied = places.map(|place| layer.at(*place).1);
    let copied = copied.filter(|file| file.properties != NodeProperties::default());
    copied.map(|file| file.digest.size_bytes()).fold(0, u64::saturating_add)
}

fn directories_bytes(layer: &Layer) -> u64 {
    let directories = DIRECTORY_BYTES.saturating_mul(layer.directories.len() as u64);
    directories.saturating_add(ENTRY_BYTES.saturating_mul(layer.entries()))
}

/// Whether this system lets us make whiteouts (Linux 5.8 and newer do).
fn makes_whiteouts(folder: &Path, name: &str) -> bool {
    let made = Place::open(folder.to_owned())
        .and_then(|mut place| place.make_whiteout("", name, None))
        .and_then(|()| std::fs::remove_file(folder.join(name)));
    if let Err(error) = &made {
        tracing::info!(%error, "staged trees are shared by equal trees only: no whiteouts here");
    }
    made.is_ok()
}

impl fmt::Debug for Bases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bases").field("folder", &self.folder).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
