//! The second stage: from a checked task to an exec root in which its command can run.
//!
//! The tree's directories and symlinks come first, then its files in the order in which their blobs arrive,
//! and the properties of directories last. Blobs are pinned until they stand in the exec root, where links
//! and copies keep them from then on; so that an action of any size needs but few open files.
//!
//! A small tree is copied into a plain folder: an overlay would protect little there, and to mount one costs
//! the kernel some ten files and folders of its own.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bbb_digest::Digest;
use bbb_reapi::{FileNode, NodeProperties};
use bbb_sandbox::{ExecRoot, Staging as SandboxStaging};
use bbb_scheduler::Staged;
use bbb_storage::LocalFiles;
use futures::{StreamExt as _, TryStreamExt as _, stream};

use crate::{
    cleanup::SharedFolder,
    error::{Error, blocking},
    fetch::{Fetched, Forms, Lease, fetch},
    inputs::{Node, Plan, PlannedDirectory},
    place::Place,
    renewal::Part,
};

/// How many blobs are put in place in one go off the reactor.
const BATCH: usize = 64;

/// How many such goes run at once.
const CONCURRENT_BATCHES: usize = 2;

/// How many bytes a tree may have in all to be copied instead of standing below an overlay.
const COPIED_BYTES: u64 = 64 << 10;

/// A task whose exec root is complete.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) lease: Arc<Lease>,
    pub(crate) folder: SharedFolder,
    pub(crate) root: ExecRoot,
    /// What it took.
    pub(crate) staged: Staged,
}

/// How exec roots are staged.
pub(crate) struct Staging<'a> {
    /// Which kinds of them the sandbox takes.
    pub(crate) kind: SandboxStaging,
    /// How many files a tree may have to be copied instead of standing below an overlay.
    pub(crate) copied_files: usize,
    /// How many blobs are transferred at once.
    pub(crate) concurrency: usize,
    /// Where blobs lie that can be linked to.
    pub(crate) links: Option<&'a dyn LocalFiles>,
}

impl Prepared {
    /// Stages the inputs of a task in `folder`.
    pub(crate) async fn stage(
        lease: Lease,
        folder: SharedFolder,
        staging: Staging<'_>,
    ) -> Result<Self, Error> {
        let lease = Arc::new(lease);
        let kind = staging.kind_for(&lease.plan);
        let root = {
            let (lease, folder) = (Arc::clone(&lease), Arc::clone(&folder));
            blocking("stage directories", move || {
                let root = make_folders(&folder, kind)?;
                lay_out(&lease, &root)?;
                Ok(root)
            })
            .await?
        };
        let staged = match staging.fetch_files(&lease, &folder, &root).await {
            Err(Error::Missing(digests)) => return Err(lease.missing(&digests).await?),
            staged => staged?,
        };
        if lease.plan.has_properties() {
            let (lease, folder, root) = (Arc::clone(&lease), Arc::clone(&folder), root.clone());
            blocking("stage properties", move || {
                let _folder = folder;
                set_properties(&lease, &root)
            })
            .await?;
        }
        Ok(Self { lease, folder, root, staged })
    }
}

fn make_folders(folder: &SharedFolder, kind: SandboxStaging) -> Result<ExecRoot, Error> {
    let always = [Part::Temporary, Part::Stdout, Part::Stderr];
    let (root, parts) = match kind {
        SandboxStaging::Plain => (ExecRoot::Plain(folder.part(Part::Root)), &[Part::Root][..]),
        SandboxStaging::Overlay => {
            let lowers = vec![folder.part(Part::Lower)];
            let (upper, work) = (folder.part(Part::Upper), folder.part(Part::Work));
            let root = ExecRoot::Overlay { lowers, upper, work };
            (root, &[Part::Lower, Part::Upper, Part::Work][..])
        }
    };
    folder
        .make(&[parts, &always].concat())
        .map_err(|error| Error::fault(format!("make {}", folder.path().display()), error))?;
    Ok(root)
}

/// Where inputs go, and where output directories do.
fn places(root: &ExecRoot) -> Result<(Place, Option<Place>), Error> {
    let open = |path| Place::open(path).map_err(|error| Error::fault("open the exec root", error));
    match root {
        ExecRoot::Plain(path) => Ok((open(path.clone())?, None)),
        ExecRoot::Overlay { lowers, upper, .. } => {
            let lower = lowers.first().cloned();
            let lower =
                lower.ok_or_else(|| Error::Unable("the overlay has no lower layer".into()))?;
            Ok((open(lower)?, Some(open(upper.clone())?)))
        }
    }
}

/// Makes the directories and symlinks of the tree, and the directories in which outputs go.
fn lay_out(lease: &Lease, root: &ExecRoot) -> Result<(), Error> {
    let (mut inputs, outputs) = places(root)?;
    let fault = |path: &str| {
        let what = format!("stage the input {path:?}");
        move |error: io::Error| Error::fault(what, error)
    };
    for (index, planned) in lease.plan.directories.iter().enumerate() {
        if !planned.path.is_empty() {
            inputs.make_directory(&planned.path).map_err(fault(&planned.path))?;
        }
        for symlink in lease.plan.symlinks(index) {
            let (name, target) = (symlink.name.as_str(), symlink.target.as_str());
            inputs
                .make_symlink(&planned.path, name, target, symlink.properties)
                .map_err(fault(&planned.path))?;
        }
    }
    let mut outputs = outputs.unwrap_or(inputs);
    for parent in &lease.output_parents {
        outputs.make_directory(parent.as_str()).map_err(fault(parent.as_str()))?;
    }
    Ok(())
}

impl Staging<'_> {
    /// The kind of exec root that costs least for a tree.
    fn kind_for(&self, plan: &Plan) -> SandboxStaging {
        let (files, bytes) = plan.blobs.iter().fold((0, 0_u64), |(files, bytes), blob| {
            let places = blob.places.len();
            let size = blob.digest.size_bytes().saturating_mul(places as u64);
            (files + places, bytes.saturating_add(size))
        });
        match self.kind {
            SandboxStaging::Overlay if files > self.copied_files || bytes > COPIED_BYTES => {
                SandboxStaging::Overlay
            }
            SandboxStaging::Overlay | SandboxStaging::Plain => SandboxStaging::Plain,
        }
    }

    /// Brings all files of the tree to their places.
    async fn fetch_files(
        &self,
        lease: &Arc<Lease>,
        folder: &SharedFolder,
        root: &ExecRoot,
    ) -> Result<Staged, Error> {
        if lease.plan.blobs.is_empty() {
            return Ok(Staged::default());
        }
        let fetched_bytes = AtomicU64::new(0);
        let count = |fetched: &Fetched, digest: Digest| {
            if fetched.was_brought {
                fetched_bytes.fetch_add(digest.size_bytes(), Ordering::Relaxed);
            }
        };
        let links = self.links.filter(|_| matches!(root, ExecRoot::Overlay { .. }));
        let fetched = stream::iter(0..lease.plan.blobs.len())
            .map(|index| async move {
                let count = &count;
                let wanted = wanted(lease, index, links.is_some());
                let digest = lease.plan.blobs[index].digest;
                let own = || folder.blobs().join(index.to_string());
                let fetched = fetch(&lease.stores, links, digest, wanted, own).await?;
                count(&fetched, digest);
                Ok((index, fetched))
            })
            .buffered(self.concurrency.max(1));
        let unlinked = fetched
            .ready_chunks(BATCH)
            .map(|batch| {
                let (lease, folder, root) = (Arc::clone(lease), Arc::clone(folder), root.clone());
                async move {
                    let batch: Vec<_> = batch.into_iter().collect::<Result<_, Error>>()?;
                    blocking("stage files", move || {
                        let _folder = folder;
                        place_files(&lease, &root, &batch)
                    })
                    .await
                }
            })
            .buffer_unordered(CONCURRENT_BATCHES)
            .try_concat()
            .await?;
        copy_files(lease, folder, root, unlinked).await?;
        let needed = lease.plan.blobs.iter().map(|blob| blob.digest.size_bytes());
        Ok(Staged {
            needed_bytes: needed.fold(0, u64::saturating_add),
            fetched_bytes: fetched_bytes.into_inner(),
        })
    }
}

/// In which forms the places of a blob want it. A link has the mode and times of the store's file, so a
/// place with properties of its own wants a copy.
fn wanted(lease: &Lease, index: usize, may_link: bool) -> Forms {
    let mut wanted = Forms::default();
    for place in &lease.plan.blobs[index].places {
        let (_, file) = lease.plan.at(*place);
        match (may_link && file.properties == NodeProperties::default(), file.is_executable) {
            (false, _) => wanted.content = true,
            (true, true) => wanted.executable = true,
            (true, false) => wanted.plain = true,
        }
    }
    wanted
}

/// One place of a blob: the index of the blob, and the place as the plan has it.
type Unlinked = (usize, (usize, usize));

/// Puts blobs at all of their places: as links below an overlay, where nothing can change them, and as
/// copies where the action could. Returns the places that could not be linked, such as those on another
/// file system than the store.
fn place_files(
    lease: &Lease,
    root: &ExecRoot,
    batch: &[(usize, Fetched)],
) -> Result<Vec<Unlinked>, Error> {
    let (mut inputs, _) = places(root)?;
    let mut unlinked = Vec::new();
    for (index, fetched) in batch {
        for place in &lease.plan.blobs[*index].places {
            let (directory, file) = lease.plan.at(*place);
            let may_link = file.properties == NodeProperties::default();
            let link = match file.is_executable {
                _ if !may_link => None,
                true => fetched.executable.as_ref(),
                false => fetched.plain.as_ref(),
            };
            let placed = match link {
                Some(link) => {
                    let to = inputs.name(&directory.path, file.name.as_str());
                    to.map(|to| link.link(&to).is_ok())
                }
                None => copy_file(&mut inputs, directory, file, fetched),
            };
            let fault = |error| Error::fault(format!("stage the input {file:?}"), error);
            if !placed.map_err(fault)? {
                unlinked.push((*index, *place));
            }
        }
    }
    Ok(unlinked)
}

/// Makes a file of its own; whether the content was there.
fn copy_file(
    inputs: &mut Place,
    directory: &PlannedDirectory,
    file: &FileNode,
    fetched: &Fetched,
) -> io::Result<bool> {
    let (path, name) = (directory.path.as_str(), file.name.as_str());
    let copied = match (&fetched.content, &fetched.file) {
        (Some(bytes), _) => inputs.write(path, name, file.is_executable, file.properties, bytes),
        (None, Some((from, _pin))) => {
            inputs.copy(path, name, file.is_executable, file.properties, from)
        }
        (None, None) => return Ok(false),
    };
    copied.map(|()| true)
}

/// Copies to the places that could not be linked.
async fn copy_files(
    lease: &Arc<Lease>,
    folder: &SharedFolder,
    root: &ExecRoot,
    unlinked: Vec<Unlinked>,
) -> Result<(), Error> {
    let wanted = Forms { content: true, ..Forms::default() };
    for (index, place) in unlinked {
        let digest = lease.plan.blobs[index].digest;
        let own = || folder.blobs().join(format!("{index}-{}-{}", place.0, place.1));
        let fetched = fetch(&lease.stores, None, digest, wanted, own).await?;
        let (lease, folder, root) = (Arc::clone(lease), Arc::clone(folder), root.clone());
        blocking("stage files", move || {
            let _folder = folder;
            let (directory, file) = lease.plan.at(place);
            let fault = |error| Error::fault(format!("stage the input {file:?}"), error);
            copy_file(&mut places(&root)?.0, directory, file, &fetched).map_err(fault).map(drop)
        })
        .await?;
    }
    Ok(())
}

/// Gives directories their properties, those below first. What was made for outputs hides the directory
/// of the same name below the overlay, so it gets them too.
fn set_properties(lease: &Lease, root: &ExecRoot) -> Result<(), Error> {
    let (mut inputs, outputs) = places(root)?;
    let fault = |error: io::Error| Error::fault("set the properties of a directory", error);
    for planned in lease.plan.directories.iter().rev() {
        let properties = planned.directory.properties;
        if properties != NodeProperties::default() {
            inputs.set_properties(&planned.path, properties).map_err(fault)?;
        }
    }
    let Some(mut outputs) = outputs else { return Ok(()) };
    let top = bbb_reapi::OutputPath::default();
    for parent in lease.output_parents.iter().rev().chain([&top]) {
        if let Some(Node::Directory(directory)) = lease.inputs.at(parent) {
            outputs.set_properties(parent.as_str(), directory.properties).map_err(fault)?;
        }
    }
    Ok(())
}
