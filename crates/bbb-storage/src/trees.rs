//! File trees as the CAS stores them: directories by digest, and what a tree or a result needs.
//!
//! A tree is read as [`Subtree`]s, which are shared by all who hold them: of a tree like another one only what differs is
//! read, held and asked for. Trees take memory within one bound: those that are kept until others need it, those that are
//! in use, and those that are being read. A tree that does not fit into it alone is refused.

mod alive;
mod memory;
mod presence;
mod reading;
mod subtree;
#[cfg(test)]
mod tests;
mod walk;

use std::{collections::HashSet, sync::Arc};

use bbb_digest::{Digest, InstanceName};
use bbb_reapi::{Invalid, Tree, digest, proto::reapi::ActionResult};
use bytes::Bytes;
use quick_cache::{Weighter, sync::Cache};

use crate::{Cas, CasExt as _, Error, Result, blocking::blocking};
use alive::Alive;
use memory::{Taken, TreeMemory, Turn};
pub use presence::Found;
use presence::Sightings;
use reading::SHORT_BYTES;
pub use subtree::{Subtree, Totals};
pub use walk::Walk;

/// The largest message of the CAS that is read into memory, in bytes: a `Directory` of some 500,000
/// files, or a `Tree` of as many.
pub const MAX_MESSAGE_BYTES: u64 = 64 << 20;

/// How much larger a `Tree` is when it is parsed than as a message.
const PARSED_FACTOR: u64 = 3;

/// The trees of one instance's CAS.
#[derive(Debug)]
pub struct Trees {
    instance: InstanceName,
    cas: Arc<dyn Cas>,
    cache: Arc<TreeCache>,
}

/// Trees and closures kept parsed, for all instances within one bound, and the memory of trees that are in use.
///
/// What is kept is what digests say for all time; whether blobs are there is remembered for seconds.
/// The instance is part of the key, so that nothing is seen through the wall between two.
#[derive(Debug)]
pub struct TreeCache {
    alive: Arc<Alive>,
    memory: TreeMemory,
    sightings: Sightings,
    tree_files: Cache<Key, Arc<[Digest]>, ListWeight>,
}

type Key = (InstanceName, Digest);

/// What reading a tree can end in.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// A directory or tree message breaks a rule.
    #[error("{digest} in the tree: {invalid}")]
    Invalid {
        /// The message.
        digest: Digest,
        /// The rule.
        invalid: Box<Invalid>,
    },
    /// The store's fault, or a message that is not there.
    #[error(transparent)]
    Storage(#[from] Error),
}

impl TreeError {
    fn invalid(digest: Digest, invalid: Invalid) -> Self {
        Self::Invalid { digest, invalid: Box::new(invalid) }
    }
}

#[derive(Clone, Debug)]
struct ListWeight;

impl Weighter<Key, Arc<[Digest]>> for ListWeight {
    fn weight(&self, _: &Key, list: &Arc<[Digest]>) -> u64 {
        (128 + size_of_val::<[Digest]>(list)) as u64
    }
}

impl TreeCache {
    /// Takes about `memory_bytes` of memory: a quarter for the files of `Tree`s, the rest for trees, of which one that is
    /// being read may take two thirds.
    pub fn new(memory_bytes: u64) -> Self {
        let quarter = memory_bytes / 4;
        Self {
            alive: Arc::default(),
            memory: TreeMemory::new(3 * quarter, 2 * quarter),
            sightings: Sightings::new(),
            tree_files: Cache::with_weighter(1_000, quarter, ListWeight),
        }
    }
}

impl Trees {
    /// The trees of `cas`, which is that of `instance`.
    pub fn new(instance: InstanceName, cas: Arc<dyn Cas>, cache: Arc<TreeCache>) -> Self {
        Self { instance, cas, cache }
    }

    /// The whole tree at `root`. What somebody holds of it is not read, whether it is still stored or not; equal directories
    /// are one value.
    ///
    /// # Errors
    /// [`Error::Missing`] names one directory that is not stored; [`Self::missing`] tells all that is missing. Or a
    /// directory is invalid, the tree too large or too deep, or the store fails. [`Error::Full`] if the tree takes more
    /// memory than trees may, or others take it for long.
    pub async fn subtree(&self, root: Digest) -> Result<Arc<Subtree>, TreeError> {
        if let Some(subtree) = self.cache.alive.ask(&self.instance, root) {
            return Ok(subtree);
        }
        let reading =
            self.in_turn(|turn| async move { self.read(root, turn.as_ref()).await }).await?;
        match reading.missing.first() {
            Some(missing) => Err(Error::Missing(*missing).into()),
            None => self.assemble(root, reading).await,
        }
    }

    /// Every blob that a result needs: its files, its streams, its trees and all that stands in them.
    ///
    /// The directories of a `Tree` are not asked for as blobs of their own: clients that write results
    /// upload the one message alone.
    ///
    /// # Errors
    /// [`Error::Missing`] if a tree or directory is not stored; or one of the messages is invalid.
    pub async fn closure(
        &self,
        action: Digest,
        result: &ActionResult,
    ) -> Result<Vec<Digest>, TreeError> {
        let function = action.function();
        let parse =
            |wire| digest(function, wire).map_err(|invalid| TreeError::invalid(action, invalid));
        let files = result.output_files.iter().filter_map(|file| file.digest.as_ref());
        let streams = [&result.stdout_digest, &result.stderr_digest].into_iter().flatten();
        let mut closure = files.chain(streams).map(parse).collect::<Result<Vec<_>, _>>()?;
        for directory in &result.output_directories {
            if let Some(tree) = &directory.tree_digest {
                let tree = parse(tree)?;
                closure.push(tree);
                closure.extend_from_slice(&self.files_of_tree(tree).await?);
            }
            if let Some(root) = &directory.root_directory_digest {
                let root = parse(root)?;
                let walk = self.walk(root).await?;
                closure.extend(walk.digests());
                closure.extend(walk.missing);
            }
        }
        // An empty blob is always there, but a size of 0 alone makes none.
        let empty = Digest::empty(function);
        closure.retain(|digest| *digest != empty);
        Ok(closure)
    }

    async fn files_of_tree(&self, digest: Digest) -> Result<Arc<[Digest]>, TreeError> {
        let key = (self.instance.clone(), digest);
        if let Some(files) = self.cache.tree_files.get(&key) {
            return Ok(files);
        }
        // One that is larger than a tree may be takes what there is for one.
        let bytes = digest.size_bytes().saturating_mul(PARSED_FACTOR);
        let bytes = bytes.min(self.cache.memory.most_bytes());
        let grow = |turn: Option<Turn>| async move {
            let mut taken = Taken::default();
            let is_taken = self.grow(&mut taken, bytes, turn.as_ref()).await?;
            Ok(is_taken.then_some(taken))
        };
        let taken = self.in_turn(grow).await?;
        let bytes = self.message(digest).await?;
        let list = move || {
            let tree = Tree::decode(digest.function(), &bytes)?;
            let files: HashSet<Digest> = tree.files().collect();
            Ok(files.into_iter().collect::<Arc<[Digest]>>())
        };
        let files = match digest.size_bytes() <= SHORT_BYTES {
            true => list(),
            false => blocking("parsing a tree", move || Ok(list())).await?,
        };
        let files = files.map_err(|invalid| TreeError::invalid(digest, invalid))?;
        self.cache.tree_files.insert(key, Arc::clone(&files));
        drop(taken);
        Ok(files)
    }

    async fn message(&self, digest: Digest) -> Result<Bytes> {
        match digest.is_empty() {
            true => Ok(Bytes::new()),
            false => self.cas.get_bytes(digest, MAX_MESSAGE_BYTES).await,
        }
    }
}
