//! The first stage: from a task to the action, its command and its input tree, all of them checked, and
//! the blobs of the tree one by one.

use std::path::PathBuf;

use bbb_digest::Digest;
use bbb_reapi::{Action, Command, OutputPath, Properties};
use bbb_scheduler::Task;
use bbb_storage::{ByteRange, CasExt as _, Content, Encoding, MAX_MESSAGE_BYTES, Stores};
use bytes::Bytes;
use futures::TryStreamExt as _;
use tokio::io::AsyncWriteExt as _;

use crate::{
    error::Error,
    inputs::{InputTree, Plan},
};

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
    pub(crate) plan: Plan,
    /// Directories to be made for outputs, parents first, relative to the input root.
    pub(crate) output_parents: Vec<OutputPath>,
}

impl Lease {
    /// Reads what the task names, and refuses what can never be run.
    pub(crate) async fn read(task: Task, stores: Stores) -> Result<Self, Error> {
        let digest = task.key.action;
        let bytes = stores.cas.get_bytes(digest, MAX_MESSAGE_BYTES).await;
        let bytes = bytes.map_err(|error| Error::storage("read the action", error))?;
        let action = Action::decode(digest.function(), &bytes)?;
        let (command, walk) = tokio::join!(
            stores.cas.get_bytes(action.command, MAX_MESSAGE_BYTES),
            stores.trees.walk(action.input_root),
        );
        let walk = walk.map_err(|error| Error::tree("action.input_root_digest", error))?;
        let command = match command {
            Ok(bytes) if walk.missing.is_empty() => Command::decode(&bytes)?,
            Ok(_) | Err(bbb_storage::Error::Missing(_)) => {
                return Err(all_missing(&stores, &action).await?);
            }
            Err(error) => return Err(Error::storage("read the command", error)),
        };
        let inputs = InputTree::new(action.input_root, walk)?;
        inputs.check_working_directory(&command.working_directory)?;
        let output_parents = inputs.output_parents(&command.working_directory, &command.outputs)?;
        let plan = inputs.plan()?;
        let platform = match &action.platform {
            Some(platform) if !platform.is_empty() => platform.clone(),
            _ => command.platform.clone(),
        };
        Ok(Self { task, stores, action, command, platform, inputs, plan, output_parents })
    }

    /// Everything that the action needs and that is not stored, when a part of it turned out not to be.
    pub(crate) async fn missing(&self, found: Digest) -> Result<Error, Error> {
        let Error::Missing(mut missing) = all_missing(&self.stores, &self.action).await? else {
            return Ok(Error::Missing(vec![found]));
        };
        if !missing.contains(&found) {
            missing.push(found);
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

/// The content of an input as it was fetched.
#[derive(Debug)]
pub(crate) enum Fetched {
    /// In memory.
    Bytes(Bytes),
    /// A file of a store, pinned: to be copied, or linked where it has the right mode.
    Pinned(bbb_storage::PinnedFile),
    /// A file of the action's own folder.
    Own(PathBuf),
}

/// Fetches one blob; what no local store has as a file is written to `own`.
pub(crate) async fn fetch(
    stores: &Stores,
    digest: Digest,
    own: impl FnOnce() -> PathBuf,
) -> Result<Fetched, Error> {
    if digest.is_empty() {
        return Ok(Fetched::Bytes(Bytes::new()));
    }
    let unreadable = |error| Error::storage(format!("fetch the input {digest}"), error);
    let blob = stores.cas.get(digest, ByteRange::ALL).await.map_err(unreadable)?;
    match (blob.encoding, blob.content) {
        (Encoding::Identity, Content::Bytes(bytes)) => Ok(Fetched::Bytes(bytes)),
        (Encoding::Identity, Content::File(file)) => Ok(Fetched::Pinned(file)),
        (encoding, content) => {
            let blob = bbb_storage::Blob { size_bytes: blob.size_bytes, encoding, content };
            let path = own();
            let fault = |error| Error::fault(format!("write {}", path.display()), error);
            let mut file = tokio::fs::File::create_new(&path).await.map_err(fault)?;
            let mut stream = blob.into_stream();
            let mut written = 0;
            while let Some(bytes) = stream.try_next().await.map_err(unreadable)? {
                file.write_all(&bytes).await.map_err(fault)?;
                written += bytes.len() as u64;
            }
            file.flush().await.map_err(fault)?;
            match written == digest.size_bytes() {
                true => Ok(Fetched::Own(path)),
                false => {
                    Err(Error::Unable(format!("fetched {written} bytes for the input {digest}")))
                }
            }
        }
    }
}
