//! The second stage: from a checked task to an exec root in which its command can run.
//!
//! A small tree is copied into a plain folder: an overlay would protect little there, and to mount one costs
//! the kernel some ten files and folders of its own.

use std::sync::Arc;

use bbb_reapi::OutputPath;
use bbb_sandbox::{ExecRoot, Staging as SandboxStaging};
use bbb_scheduler::Staged;
use bbb_storage::{LocalFiles, Totals};

use crate::{
    cleanup::SharedFolder,
    error::{Error, blocking},
    fetch::Lease,
    fill::{Filling, lay_out},
    inputs::Node,
    layer::Layer,
    place::Place,
    renewal::Part,
};

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
        let totals = lease.inputs.totals();
        let layer = Arc::new(Layer::whole(&lease.inputs));
        let kind = staging.kind_for(totals);
        let (root, to) = {
            let (lease, layer) = (Arc::clone(&lease), Arc::clone(&layer));
            let folder = Arc::clone(&folder);
            blocking("stage directories", move || {
                let root = make_folders(&folder, kind)?;
                let to = match &root {
                    ExecRoot::Plain(path) => path.clone(),
                    ExecRoot::Overlay { .. } => folder.part(Part::Lower),
                };
                lay_out(&layer, &to)?;
                make_output_parents(&lease, &root)?;
                Ok((root, to))
            })
            .await?
        };
        let filling = Filling {
            layer,
            stores: &lease.stores,
            links: staging.links.filter(|_| matches!(root, ExecRoot::Overlay { .. })),
            concurrency: staging.concurrency,
            to,
            blobs: folder.blobs(),
            hold: Arc::clone(&folder) as _,
            keep_pins: false,
        };
        let filled = match filling.fill().await {
            Err(Error::Missing(digests)) => return Err(lease.missing(&digests).await?),
            filled => filled?,
        };
        let staged = Staged { needed_bytes: totals.bytes, fetched_bytes: filled.fetched_bytes };
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
    /// The kind of exec root that costs least for a tree.
    fn kind_for(&self, totals: Totals) -> SandboxStaging {
        match self.kind {
            SandboxStaging::Overlay
                if totals.files > self.copied_files as u64 || totals.bytes > COPIED_BYTES =>
            {
                SandboxStaging::Overlay
            }
            SandboxStaging::Overlay | SandboxStaging::Plain => SandboxStaging::Plain,
        }
    }
}
