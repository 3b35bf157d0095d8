//! The first stage: from a task to the action, its command and its input tree, all of them checked, and
//! the blobs of the tree one by one.

use std::{path::PathBuf, sync::Arc};

use bbb_digest::Digest;
use bbb_reapi::{Action, Command, OutputPath, Properties};
use bbb_scheduler::Task;
use bbb_storage::{
    Blob, CasExt as _, Content, Encoding, Error as Storage, LocalFile, LocalFiles,
    MAX_MESSAGE_BYTES, PinnedFile, Stores, TreeError, Wanted,
};
use bytes::Bytes;
use futures::TryStreamExt as _;
use tokio::io::AsyncWriteExt as _;

use crate::{error::Error, inputs::InputTree};

/// A task and what it says, read and checked; nothing was done for it yet.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) task: Task,
    pub(crate) stores: Stores,
    pub(crate) action: Action,
    pub(crate) command: Command,
    /// The properties that count: the action's, else the command's (comment of `Action.platform`).
    pub(crate) platform: Properties,
    pub(crate) inputs: InputTree,
    /// Directories to be made for outputs, parents first, relative to the input root.
    pub(crate) output_parents: Vec<OutputPath>,
}

impl Lease {
    /// Reads what the task names, and refuses what can never be run.
    pub(crate) async fn read(task: Task, stores: Stores) -> Result<Self, Error> {
        let digest = task.submission.key.action;
        let bytes = stores.cas.get_bytes(digest, MAX_MESSAGE_BYTES).await;
        let bytes = bytes.map_err(|error| Error::storage("read the action", error))?;
        let action = Action::decode(digest.function(), &bytes)?;
        let (command, tree) = tokio::join!(
            stores.cas.get_bytes(action.command, MAX_MESSAGE_BYTES),
            stores.trees.subtree(action.input_root),
        );
        let (command, tree) = match (command, tree) {
            (Ok(command), Ok(tree)) => (Command::decode(&command)?, tree),
            (_, Err(TreeError::Storage(Storage::Missing(_))))
            | (Err(Storage::Missing(_)), Ok(_)) => {
                return Err(all_missing(&stores, &action).await?);
            }
            (_, Err(error)) => return Err(Error::tree("action.input_root_digest", error)),
            (Err(error), _) => return Err(Error::storage("read the command", error)),
        };
        let inputs = InputTree::new(tree)?;
        inputs.check_working_directory(&command.working_directory)?;
        let output_parents = inputs.output_parents(&command.outputs)?;
        let platform = match &action.platform {
            Some(platform) if !platform.is_empty() => platform.clone(),
            _ => command.platform.clone(),
        };
        Ok(Self { task, stores, action, command, platform, inputs, output_parents })
    }

    /// Everything that the action needs and that is not stored, when `found` turned out not to be.
    pub(crate) async fn missing(&self, found: &[Digest]) -> Result<Error, Error> {
        let mut missing = found.to_vec();
        if let Error::Missing(all) = all_missing(&self.stores, &self.action).await? {
            missing.extend(all);
        }
        Ok(Error::Missing(missing))
    }
}

async fn all_missing(stores: &Stores, action: &Action) -> Result<Error, Error> {
    let tree = stores.trees.missing(action.input_root).await;
    let mut missing = tree.map_err(|error| Error::tree("action.input_root_digest", error))?;
    let command = stores.cas.find_missing(&[action.command]).await;
    missing.extend(command.map_err(|error| Error::storage("look for the command", error))?);
    Ok(Error::Missing(missing))
}

/// A blob of the input tree as it was fetched: in each form in which one of its places wants it.
#[derive(Debug, Default)]
pub(crate) struct Fetched {
    /// Pinned files to link to: what may be executed, and what may not.
    pub(crate) executable: Option<Arc<dyn LocalFile>>,
    pub(crate) plain: Option<Arc<dyn LocalFile>>,
    /// To be written or copied.
    pub(crate) content: Option<Bytes>,
    /// A file to be copied, and what keeps it there.
    pub(crate) file: Option<(PathBuf, Option<PinnedFile>)>,
    /// Whether it was not on this machine before.
    pub(crate) was_brought: bool,
}

/// In which forms the places of a blob want it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Forms {
    pub(crate) executable: bool,
    pub(crate) plain: bool,
    pub(crate) content: bool,
}

/// Fetches one blob. What no store has as a file or in memory is written to `own`.
pub(crate) async fn fetch(
    stores: &Stores,
    links: Option<&dyn LocalFiles>,
    digest: Digest,
    wanted: Forms,
    own: impl FnOnce() -> PathBuf,
) -> Result<Fetched, Error> {
    let mut fetched = Fetched::default();
    if let Some(links) = links {
        if wanted.executable {
            fetched.executable = pin(links, digest, true).await?;
        }
        if wanted.plain {
            fetched.plain = pin(links, digest, false).await?;
        }
    }
    let pinned = [&fetched.executable, &fetched.plain];
    fetched.was_brought = pinned.into_iter().flatten().any(|file| file.was_brought());
    let unlinked = (wanted.executable && fetched.executable.is_none())
        || (wanted.plain && fetched.plain.is_none());
    if wanted.content || unlinked {
        fetch_content(stores, digest, own, &mut fetched).await?;
    }
    Ok(fetched)
}

/// A file to link to; none where it must be copied, since no local store has it or has room for it.
async fn pin(
    links: &dyn LocalFiles,
    digest: Digest,
    executable: bool,
) -> Result<Option<Arc<dyn LocalFile>>, Error> {
    match links.pin(digest, executable).await {
        Ok(file) => Ok(Some(file)),
        Err(Storage::Missing(_) | Storage::Full { .. }) => Ok(None),
        Err(error) => Err(Error::storage(format!("fetch the input {digest}"), error)),
    }
}

async fn fetch_content(
    stores: &Stores,
    digest: Digest,
    own: impl FnOnce() -> PathBuf,
    fetched: &mut Fetched,
) -> Result<(), Error> {
    if digest.is_empty() {
        fetched.content = Some(Bytes::new());
        return Ok(());
    }
    let unreadable = |error| Error::storage(format!("fetch the input {digest}"), error);
    let blob = stores.cas.get(digest, Wanted::ALL).await.map_err(unreadable)?;
    // What lies here comes as a file or as bytes of memory.
    fetched.was_brought |= matches!(blob.content, Content::Stream(_));
    match (blob.encoding, blob.content) {
        (Encoding::Identity, Content::Bytes(bytes)) => fetched.content = Some(bytes),
        (Encoding::Identity, Content::File(file)) => {
            fetched.file = Some((file.path.to_path_buf(), Some(file)));
        }
        (encoding, content) => {
            let blob = Blob { size_bytes: blob.size_bytes, encoding, content };
            let path = own();
            let fault = |error| Error::fault(format!("write {}", path.display()), error);
            if let Some(folder) = path.parent() {
                tokio::fs::create_dir_all(folder).await.map_err(fault)?;
            }
            let mut file = tokio::fs::File::create_new(&path).await.map_err(fault)?;
            let mut stream = blob.into_stream();
            let mut written = 0;
            while let Some(bytes) = stream.try_next().await.map_err(unreadable)? {
                file.write_all(&bytes).await.map_err(fault)?;
                written += bytes.len() as u64;
            }
            file.flush().await.map_err(fault)?;
            // Closed here, not some time later, so that no action finds it open for writing.
            drop(file.into_std().await);
            if written != digest.size_bytes() {
                let what = format!("fetched {written} bytes for the input {digest}");
                return Err(Error::Unable(what));
            }
            fetched.file = Some((path, None));
        }
    }
    Ok(())
}
