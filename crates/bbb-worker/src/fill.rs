//! Brings a layer of inputs into an empty folder.
//!
//! Directories, symlinks and whiteouts come first, then files in the order in which their blobs arrive, and the
//! properties of directories last. Blobs are pinned until they stand in the folder, where links and copies keep them
//! from then on, so that a layer of any size needs but few open files; unless the pins are wanted for longer.

use std::{
    any::Any,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bbb_reapi::{FileNode, NodeProperties};
use bbb_storage::{LocalFile, LocalFiles, Stores};
use futures::{StreamExt as _, TryStreamExt as _, stream};

use crate::{
    error::{Error, blocking},
    fetch::{Fetched, Forms, fetch},
    ladder::Means,
    layer::{Layer, LayerBlob, LayerDirectory},
    place::Place,
};

/// How many blobs are put in place in one go off the reactor.
const BATCH: usize = 64;

/// How many such goes run at once.
const CONCURRENT_BATCHES: usize = 2;

/// How the files of a layer are brought to a folder.
pub(crate) struct Filling<'a> {
    pub(crate) layer: Arc<Layer>,
    pub(crate) stores: &'a Stores,
    /// Where blobs lie that can be linked to. The action must not be able to change what is in the folder then.
    pub(crate) links: Option<&'a dyn LocalFiles>,
    pub(crate) means: Means,
    /// How many blobs are transferred at once.
    pub(crate) concurrency: usize,
    /// The folder, in which the layer was laid out.
    pub(crate) to: PathBuf,
    /// A folder beside it for blobs that no store has as files; made when there is one.
    pub(crate) blobs: PathBuf,
    /// Keeps both from removal.
    pub(crate) hold: Arc<dyn Any + Send + Sync>,
    /// Whether the pins of what was linked to are wanted.
    pub(crate) keep_pins: bool,
}

/// What filling took.
#[derive(Debug, Default)]
pub(crate) struct Filled {
    /// How many bytes of inputs were not on this machine.
    pub(crate) fetched_bytes: u64,
    /// How many bytes are no links, but copies.
    pub(crate) copied_bytes: u64,
    /// What keeps in place whatever was linked to.
    pub(crate) pins: Vec<Arc<dyn LocalFile>>,
}

/// Makes the directories, symlinks and whiteouts of a layer in an empty folder; blocks. The whiteouts are links to
/// `whiteout` where that can be done.
pub(crate) fn lay_out(layer: &Layer, to: &Path, whiteout: Option<&Path>) -> Result<(), Error> {
    let mut place = open(to)?;
    for planned in &layer.directories {
        let path = planned.path.as_str();
        let fault = |error| Error::fault(format!("stage the input {path:?}"), error);
        if !path.is_empty() {
            place.make_directory(path).map_err(fault)?;
        }
        for symlink in planned.symlinks() {
            let (name, target) = (symlink.name.as_str(), symlink.target.as_str());
            place.make_symlink(path, name, target, symlink.properties).map_err(fault)?;
        }
        for name in &planned.whiteouts {
            place.make_whiteout(path, name.as_str(), whiteout).map_err(fault)?;
        }
    }
    Ok(())
}

/// Gives the directories of a filled layer their properties, those below first; blocks.
pub(crate) fn set_properties(layer: &Layer, to: &Path) -> Result<(), Error> {
    let mut place = open(to)?;
    for planned in layer.directories.iter().rev() {
        let properties = planned.directory.properties;
        if properties != NodeProperties::default() {
            let set = place.set_properties(&planned.path, properties);
            set.map_err(|error| Error::fault("set the properties of a directory", error))?;
        }
    }
    Ok(())
}

fn open(folder: &Path) -> Result<Place, Error> {
    Place::open(folder.to_owned()).map_err(|error| Error::fault("open the exec root", error))
}

/// One place of a blob: the index of the blob, and the place as the layer has it.
type Unlinked = (usize, (usize, usize));

/// What came of putting some blobs in place.
#[derive(Default)]
struct Placed {
    /// The places that could not be linked, such as those on another file system than the store.
    unlinked: Vec<Unlinked>,
    copied_bytes: u64,
    pins: Vec<Arc<dyn LocalFile>>,
}

impl Filling<'_> {
    /// Brings all files of the layer to their places.
    pub(crate) async fn fill(&self) -> Result<Filled, Error> {
        let mut filled = Filled::default();
        if !self.layer.blobs.is_empty() {
            let fetched_bytes = AtomicU64::new(0);
            let mut batches = stream::iter(0..self.layer.blobs.len())
                .map(|index| self.fetch(index, &fetched_bytes))
                .buffered(self.concurrency.max(1))
                .ready_chunks(BATCH)
                .map(|batch| async {
                    self.place(batch.into_iter().collect::<Result<_, _>>()?).await
                })
                .buffer_unordered(CONCURRENT_BATCHES);
            let mut unlinked = Vec::new();
            while let Some(placed) = batches.try_next().await? {
                unlinked.extend(placed.unlinked);
                filled.copied_bytes = filled.copied_bytes.saturating_add(placed.copied_bytes);
                filled.pins.extend(placed.pins);
            }
            drop(batches);
            filled.fetched_bytes = fetched_bytes.into_inner();
            for (index, place) in unlinked {
                let size_bytes = self.layer.blobs[index].digest.size_bytes();
                filled.copied_bytes = filled.copied_bytes.saturating_add(size_bytes);
                self.copy(index, place).await?;
            }
        }
        if self.layer.has_properties() {
            let (layer, to, hold) = (Arc::clone(&self.layer), self.to.clone(), self.hold.clone());
            blocking("stage properties", move || {
                let _hold = hold;
                set_properties(&layer, &to)
            })
            .await?;
        }
        Ok(filled)
    }

    async fn fetch(&self, index: usize, bytes: &AtomicU64) -> Result<(usize, Fetched), Error> {
        let LayerBlob { digest, places } = &self.layer.blobs[index];
        let digest = *digest;
        let own = || self.blobs.join(index.to_string());
        let wanted = wanted(&self.layer, index, self.links.is_some());
        let fetched = fetch(self.stores, self.links, digest, wanted, own).await?;
        if fetched.was_brought {
            let all_bytes = digest.size_bytes().saturating_mul(places.len() as u64);
            bytes.fetch_add(all_bytes, Ordering::Relaxed);
        }
        Ok((index, fetched))
    }

    async fn place(&self, batch: Vec<(usize, Fetched)>) -> Result<Placed, Error> {
        let (layer, to, hold) = (Arc::clone(&self.layer), self.to.clone(), self.hold.clone());
        let (keep_pins, means) = (self.keep_pins, self.means);
        blocking("stage files", move || {
            let _hold = hold;
            let mut placed = place_files(&layer, &to, &batch, means)?;
            if keep_pins {
                let pins = batch.into_iter();
                let pins = pins.flat_map(|(_, fetched)| [fetched.executable, fetched.plain]);
                placed.pins.extend(pins.flatten());
            }
            Ok(placed)
        })
        .await
    }

    /// Copies to a place that could not be linked.
    async fn copy(&self, index: usize, place: (usize, usize)) -> Result<(), Error> {
        let digest = self.layer.blobs[index].digest;
        let wanted = Forms { content: true, ..Forms::default() };
        let own = || self.blobs.join(format!("{index}-{}-{}", place.0, place.1));
        let fetched = fetch(self.stores, None, digest, wanted, own).await?;
        let (layer, to, hold) = (Arc::clone(&self.layer), self.to.clone(), self.hold.clone());
        let means = self.means;
        blocking("stage files", move || {
            let _hold = hold;
            let (directory, file) = layer.at(place);
            let copied = copy_file(&mut open(&to)?, directory, file, &fetched, means);
            copied.map_err(|error| unplaced(file, error)).map(drop)
        })
        .await
    }
}

/// In which forms the places of a blob want it. A link has the mode and times of the store's file, so a
/// place with properties of its own wants a copy.
fn wanted(layer: &Layer, index: usize, may_link: bool) -> Forms {
    let mut wanted = Forms::default();
    for place in &layer.blobs[index].places {
        let (_, file) = layer.at(*place);
        match (may_link && file.properties == NodeProperties::default(), file.is_executable) {
            (false, _) => wanted.content = true,
            (true, true) => wanted.executable = true,
            (true, false) => wanted.plain = true,
        }
    }
    wanted
}

/// Puts blobs at all of their places: as links where nothing can change them, and as copies where the action could.
fn place_files(
    layer: &Layer,
    to: &Path,
    batch: &[(usize, Fetched)],
    means: Means,
) -> Result<Placed, Error> {
    let mut inputs = open(to)?;
    let mut placed = Placed::default();
    for (index, fetched) in batch {
        let blob = &layer.blobs[*index];
        for place in &blob.places {
            let (directory, file) = layer.at(*place);
            let may_link = file.properties == NodeProperties::default();
            let link = match file.is_executable {
                _ if !may_link => None,
                true => fetched.executable.as_ref(),
                false => fetched.plain.as_ref(),
            };
            let is_there = match link {
                Some(link) => link_file(&mut inputs, directory, file, &**link, means),
                None => {
                    let copied = copy_file(&mut inputs, directory, file, fetched, means);
                    copied.inspect(|was_copied| {
                        if *was_copied {
                            let size_bytes = blob.digest.size_bytes();
                            placed.copied_bytes = placed.copied_bytes.saturating_add(size_bytes);
                        }
                    })
                }
            };
            if !is_there.map_err(|error| unplaced(file, error))? {
                placed.unlinked.push((*index, *place));
            }
        }
    }
    Ok(placed)
}

fn unplaced(file: &FileNode, error: io::Error) -> Error {
    Error::fault(format!("stage the input {file:?}"), error)
}

/// Links a file to its place; whether that could be done.
fn link_file(
    inputs: &mut Place,
    directory: &LayerDirectory,
    file: &FileNode,
    link: &dyn LocalFile,
    means: Means,
) -> io::Result<bool> {
    let (path, name) = (directory.path.as_str(), file.name.as_str());
    if link.link(&inputs.name(path, name)?).is_err() {
        return Ok(false);
    }
    match means.owner {
        Some(owner) => inputs.give(path, name, owner),
        None => Ok(true),
    }
}

/// Makes a file of its own; whether the content was there.
fn copy_file(
    inputs: &mut Place,
    directory: &LayerDirectory,
    file: &FileNode,
    fetched: &Fetched,
    means: Means,
) -> io::Result<bool> {
    let (path, name) = (directory.path.as_str(), file.name.as_str());
    let copied = match (&fetched.content, &fetched.file) {
        (Some(bytes), _) => inputs.write(path, name, file.is_executable, file.properties, bytes),
        (None, Some((from, _pin))) => {
            let shares_blocks = means.shares_blocks;
            inputs.copy(path, name, file.is_executable, file.properties, from, shares_blocks)
        }
        (None, None) => return Ok(false),
    };
    copied.map(|()| true)
}
