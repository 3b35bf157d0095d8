//! The second stage: from a checked task to an exec root in which its command can run.
//!
//! The tree's directories and symlinks come first, then its files in the order in which their blobs arrive,
//! and the properties of directories last. Blobs are pinned until they stand in the exec root, where links
//! and copies keep them from then on; so that an action of any size needs but few open files.

use std::{io, sync::Arc};

use bbb_reapi::NodeProperties;
use bbb_sandbox::{ExecRoot, Staging};
use futures::{StreamExt as _, TryStreamExt as _, stream};

use crate::{
    cleanup::SharedFolder,
    error::{Error, blocking},
    fetch::{Fetched, Lease, fetch},
    inputs::Node,
    place::Place,
};

/// How many blobs are put in place in one go off the reactor.
const BATCH: usize = 64;

/// How many such goes run at once.
const CONCURRENT_BATCHES: usize = 2;

/// A task whose exec root is complete.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) lease: Arc<Lease>,
    pub(crate) folder: SharedFolder,
    pub(crate) root: ExecRoot,
}

impl Prepared {
    /// Stages the inputs of a task in `folder`, with so many transfers at once.
    pub(crate) async fn stage(
        lease: Lease,
        folder: SharedFolder,
        staging: Staging,
        concurrency: usize,
    ) -> Result<Self, Error> {
        let lease = Arc::new(lease);
        let root = {
            let (lease, folder) = (Arc::clone(&lease), Arc::clone(&folder));
            blocking("stage directories", move || {
                let root = make_folders(&folder, staging)?;
                lay_out(&lease, &root)?;
                Ok(root)
            })
            .await?
        };
        fetch_files(&lease, &folder, &root, concurrency).await?;
        if lease.plan.has_properties() {
            let (lease, folder, root) = (Arc::clone(&lease), Arc::clone(&folder), root.clone());
            blocking("stage properties", move || {
                let _folder = folder;
                set_properties(&lease, &root)
            })
            .await?;
        }
        Ok(Self { lease, folder, root })
    }
}

fn make_folders(folder: &SharedFolder, staging: Staging) -> Result<ExecRoot, Error> {
    let (root, made) = match staging {
        Staging::Plain => (ExecRoot::Plain(folder.root()), vec![folder.root()]),
        Staging::Overlay => {
            let (lower, upper, work) = (folder.lower(), folder.upper(), folder.work());
            let made = vec![lower.clone(), upper.clone(), work.clone()];
            (ExecRoot::Overlay { lowers: vec![lower], upper, work }, made)
        }
    };
    for path in made.into_iter().chain([folder.temporary(), folder.blobs()]) {
        std::fs::create_dir(&path)
            .map_err(|error| Error::fault(format!("make {}", path.display()), error))?;
    }
    for path in [folder.stdout(), folder.stderr()] {
        std::fs::File::create_new(&path)
            .map_err(|error| Error::fault(format!("make {}", path.display()), error))?;
    }
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

async fn fetch_files(
    lease: &Arc<Lease>,
    folder: &SharedFolder,
    root: &ExecRoot,
    concurrency: usize,
) -> Result<(), Error> {
    if lease.plan.blobs.is_empty() {
        return Ok(());
    }
    let fetched = stream::iter(0..lease.plan.blobs.len())
        .map(|index| async move {
            let digest = lease.plan.blobs[index].digest;
            let own = || folder.blobs().join(index.to_string());
            Ok((index, fetch(&lease.stores, digest, own).await?))
        })
        .buffered(concurrency.max(1));
    let placed = fetched
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
        .try_collect::<()>();
    match placed.await {
        Err(Error::Missing(digests)) if !digests.is_empty() => {
            Err(lease.missing(digests[0]).await?)
        }
        placed => placed,
    }
}

/// Puts blobs at all of their places: as links below an overlay, where nothing can change them, and as
/// copies where the action could.
fn place_files(lease: &Lease, root: &ExecRoot, batch: &[(usize, Fetched)]) -> Result<(), Error> {
    let (mut inputs, _) = places(root)?;
    for (index, fetched) in batch {
        for place in &lease.plan.blobs[*index].places {
            let (directory, file) = lease.plan.at(*place);
            let (path, name) = (directory.path.as_str(), file.name.as_str());
            let (executable, properties) = (file.is_executable, file.properties);
            match fetched {
                Fetched::Bytes(bytes) => inputs.write(path, name, executable, properties, bytes),
                Fetched::Pinned(pinned) => {
                    inputs.copy(path, name, executable, properties, &pinned.path)
                }
                Fetched::Own(own) => inputs.copy(path, name, executable, properties, own),
            }
            .map_err(|error| Error::fault(format!("stage the input {path:?}/{name:?}"), error))?;
        }
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
