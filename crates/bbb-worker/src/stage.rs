//! The second stage: from a checked task to an exec root in which its command can run.
//!
//! A small tree is copied into a plain folder: an overlay would protect little there, and to mount one costs
//! the kernel some ten files and folders of its own. So is any tree whose action asks for it (see `ladder`).

use std::{path::PathBuf, sync::Arc};

use bbb_reapi::OutputPath;
use bbb_sandbox::ExecRoot;
use bbb_scheduler::Staged;
use bbb_storage::LocalFiles;

use crate::{
    bases::{Bases, Ground, Sources},
    cleanup::SharedFolder,
    error::{Error, blocking},
    fetch::Lease,
    fill::{Filling, lay_out},
    inputs::Node,
    ladder::{Ladder, Rung},
    layer::Layer,
    place::Place,
    renewal::Part,
};

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
    /// Which ways there are.
    pub(crate) ladder: &'a Ladder,
    /// How many files a tree may have to be copied instead of standing below an overlay.
    pub(crate) copied_files: usize,
    /// How many blobs are transferred at once.
    pub(crate) concurrency: usize,
    /// Where blobs lie that can be linked to.
    pub(crate) links: Option<&'a dyn LocalFiles>,
    /// The trees that are staged already.
    pub(crate) bases: Option<&'a Arc<Bases>>,
}

impl Prepared {
    /// Stages the inputs of a task in `folder`.
    pub(crate) async fn stage(
        lease: Lease,
        folder: SharedFolder,
        staging: Staging<'_>,
    ) -> Result<Self, Error> {
        let lease = Arc::new(lease);
        let totals = lease.inputs.totals();
        let rung = staging.ladder.choose(&lease.platform, totals, staging.copied_files);
        let ground = match rung {
            Rung::Overlays => staging.ground(&lease).await,
            Rung::Reflinks | Rung::HardLinks | Rung::Copies => Ok(None),
        };
        let ground = or_all_missing(&lease, ground).await?;
        let mut fetched_bytes = 0;
        let (base, layer) = match ground {
            Some(ground) => {
                let paths = (ground.base.tree(), ground.base.whiteout());
                folder.stand_on(ground.base);
                fetched_bytes = ground.fetched_bytes;
                (Some(paths), Some(ground.layer))
            }
            None => (None, None),
        };
        let (root, layer) = {
            let (lease, folder) = (Arc::clone(&lease), Arc::clone(&folder));
            blocking("stage directories", move || {
                let (base, whiteout) = base.unzip();
                let layer = layer.unwrap_or_else(|| Layer::whole(&lease.inputs));
                let root = make_folders(&folder, rung, base, &layer)?;
                if !layer.is_empty() {
                    lay_out(&layer, &inputs_of(&root), whiteout.as_deref())?;
                }
                make_output_parents(&lease, &root)?;
                Ok((root, Arc::new(layer)))
            })
            .await?
        };
        let filling = Filling {
            layer,
            stores: &lease.stores,
            links: staging.links.filter(|_| matches!(rung, Rung::Overlays | Rung::HardLinks)),
            means: staging.ladder.means(),
            concurrency: staging.concurrency,
            to: inputs_of(&root),
            blobs: folder.blobs(),
            hold: Arc::clone(&folder) as _,
            keep_pins: false,
        };
        let filled = or_all_missing(&lease, filling.fill().await).await?;
        fetched_bytes += filled.fetched_bytes;
        let staged = Staged { needed_bytes: totals.bytes, fetched_bytes };
        Ok(Self { lease, folder, root, staged })
    }
}

/// Names all that is missing where something is.
async fn or_all_missing<T>(lease: &Lease, done: Result<T, Error>) -> Result<T, Error> {
    match done {
        Err(Error::Missing(found)) => Err(lease.missing(&found).await?),
        done => done,
    }
}

fn make_folders(
    folder: &SharedFolder,
    rung: Rung,
    base: Option<PathBuf>,
    layer: &Layer,
) -> Result<ExecRoot, Error> {
    let mut parts = vec![Part::Temporary, Part::Stdout, Part::Stderr];
    let root = match rung {
        Rung::Reflinks | Rung::HardLinks | Rung::Copies => {
            parts.push(Part::Root);
            ExecRoot::Plain(folder.part(Part::Root))
        }
        Rung::Overlays => {
            parts.extend([Part::Upper, Part::Work]);
            let mut lowers = Vec::new();
            if base.is_none() || !layer.is_empty() {
                parts.push(Part::Lower);
                lowers.push(folder.part(Part::Lower));
            }
            lowers.extend(base);
            let (upper, work) = (folder.part(Part::Upper), folder.part(Part::Work));
            ExecRoot::Overlay { lowers, upper, work }
        }
    };
    let made = folder.make(&parts);
    made.map_err(|error| Error::fault(format!("make {}", folder.path().display()), error))?;
    Ok(root)
}

/// Where the layer of an action's own inputs goes.
fn inputs_of(root: &ExecRoot) -> PathBuf {
    match root {
        ExecRoot::Plain(path) => path.clone(),
        // There is always one.
        ExecRoot::Overlay { lowers, .. } => lowers.first().cloned().unwrap_or_default(),
    }
}

/// Makes the directories in which outputs go. Above layers they hide the properties of the directories below, so they
/// get them too.
fn make_output_parents(lease: &Lease, root: &ExecRoot) -> Result<(), Error> {
    let (to, is_above) = match root {
        ExecRoot::Plain(path) => (path, false),
        ExecRoot::Overlay { upper, .. } => (upper, true),
    };
    let mut place =
        Place::open(to.clone()).map_err(|error| Error::fault("open the exec root", error))?;
    for parent in &lease.output_parents {
        let made = place.make_directory(parent.as_str());
        made.map_err(|error| Error::fault(format!("make {parent} for outputs"), error))?;
    }
    let top = OutputPath::default();
    for parent in lease.output_parents.iter().rev().chain([&top]).filter(|_| is_above) {
        if let Some(Node::Directory(directory)) = lease.inputs.at(parent) {
            let set = place.set_properties(parent.as_str(), directory.directory().properties);
            set.map_err(|error| Error::fault("set the properties of a directory", error))?;
        }
    }
    Ok(())
}

impl Staging<'_> {
    /// What of the inputs is staged already, or should be for the next action, too.
    async fn ground(&self, lease: &Lease) -> Result<Option<Ground>, Error> {
        let (Some(bases), Some(links)) = (self.bases, self.links) else { return Ok(None) };
        let sources = Sources {
            instance: &lease.task.submission.key.instance,
            stores: &lease.stores,
            links,
            means: self.ladder.means(),
            concurrency: self.concurrency,
        };
        bases.ground(&lease.inputs, sources).await
    }
}
