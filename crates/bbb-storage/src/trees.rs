//! File trees as the CAS stores them: directories by digest, and what a tree or a result needs.
//!
//! Trees take memory within one bound, those that are kept and those that are being read; a tree that does
//! not fit into it alone is refused.

mod memory;
mod subtree;

use std::{collections::HashSet, io, sync::Arc};

use bbb_digest::{Digest, InstanceName};
use bbb_reapi::{Directory, Invalid, Tree, digest, proto::reapi::ActionResult};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use quick_cache::{Weighter, sync::Cache};

use crate::{Cas, CasExt as _, Error, Result};
use memory::{Taken, TreeMemory, Turn};
pub use subtree::{Subtree, Totals};

/// The largest message of the CAS that is read into memory, in bytes: a `Directory` of some 500,000
/// files, or a `Tree` of as many.
pub const MAX_MESSAGE_BYTES: u64 = 64 << 20;

/// How many directories of one tree are read at once.
const CONCURRENT_READS: usize = 32;

/// How many directories one tree may have. A tree is a graph by digest, so a few messages can claim
/// more directories than any machine holds; this is where the claim ends.
const MAX_DIRECTORIES: usize = 1 << 20;

/// What a directory costs a walk that is to be read or missing, in bytes: its digest in several lists.
const ENTRY_BYTES: u64 = 256;

/// How much larger a `Tree` is when it is parsed than as a message.
const PARSED_FACTOR: u64 = 3;

/// The trees of one instance's CAS.
#[derive(Debug)]
pub struct Trees {
    instance: InstanceName,
    cas: Arc<dyn Cas>,
    cache: Arc<TreeCache>,
}

/// Directories and closures kept parsed, for all instances within one bound, and the memory that trees which
/// are being read take.
///
/// What is kept is only what digests say for all time; whether blobs are there is asked anew each time.
/// The instance is part of the key, so that nothing is seen through the wall between two.
#[derive(Debug)]
pub struct TreeCache {
    directories: Cache<Key, Arc<Directory>, DirectoryWeight>,
    tree_files: Cache<Key, Arc<[Digest]>, ListWeight>,
    memory: TreeMemory,
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
struct DirectoryWeight;

impl Weighter<Key, Arc<Directory>> for DirectoryWeight {
    fn weight(&self, _: &Key, directory: &Arc<Directory>) -> u64 {
        weight(directory)
    }
}

/// What a parsed directory takes in memory, in bytes.
fn weight(directory: &Directory) -> u64 {
    256 + 200 * directory.names().count() as u64
}

#[derive(Clone, Debug)]
struct ListWeight;

impl Weighter<Key, Arc<[Digest]>> for ListWeight {
    fn weight(&self, _: &Key, list: &Arc<[Digest]>) -> u64 {
        (128 + size_of_val::<[Digest]>(list)) as u64
    }
}

impl TreeCache {
    /// Takes about `memory_bytes` of memory: half of it for what is kept, half for what is being read.
    pub fn new(memory_bytes: u64) -> Self {
        let quarter = memory_bytes / 4;
        Self {
            directories: Cache::with_weighter(10_000, quarter, DirectoryWeight),
            tree_files: Cache::with_weighter(1_000, quarter, ListWeight),
            memory: TreeMemory::new(2 * quarter),
        }
    }
}

impl Trees {
    /// The trees of `cas`, which is that of `instance`.
    pub fn new(instance: InstanceName, cas: Arc<dyn Cas>, cache: Arc<TreeCache>) -> Self {
        Self { instance, cas, cache }
    }

    /// One directory.
    ///
    /// # Errors
    /// [`Error::Missing`] if it is not stored; or it is no valid directory.
    pub async fn directory(&self, digest: Digest) -> Result<Arc<Directory>, TreeError> {
        let key = (self.instance.clone(), digest);
        if let Some(directory) = self.cache.directories.get(&key) {
            return Ok(directory);
        }
        let bytes = self.message(digest).await?;
        let directory = Directory::decode(digest.function(), &bytes)
            .map_err(|invalid| TreeError::invalid(digest, invalid))?;
        let directory = Arc::new(directory);
        self.cache.directories.insert(key, Arc::clone(&directory));
        Ok(directory)
    }

    /// Every distinct directory below and with `root`, and which of them are not stored.
    ///
    /// # Errors
    /// If a directory is invalid, the tree has too many, or the store fails. [`Error::Full`] if the tree
    /// takes more memory than trees may, or others take it for long.
    pub async fn walk(&self, root: Digest) -> Result<Walk, TreeError> {
        if let Some(walk) = self.walk_with(root, None).await? {
            return Ok(walk);
        }
        let turn = self.cache.memory.turn().await?;
        let walk = self.walk_with(root, Some(turn)).await?;
        walk.ok_or_else(|| Error::unavailable("walking", io::Error::other("no memory")).into())
    }

    /// None if others have the memory that is needed. With a turn it waits for them instead.
    async fn walk_with(
        &self,
        root: Digest,
        turn: Option<Turn<'_>>,
    ) -> Result<Option<Walk>, TreeError> {
        let (memory, turn) = (&self.cache.memory, turn.as_ref());
        let mut walk = Walk::default();
        let mut seen = HashSet::from([root]);
        let mut level = vec![root];
        while !level.is_empty() {
            if seen.len() > MAX_DIRECTORIES {
                let what = format!("has more than {MAX_DIRECTORIES} directories");
                let invalid = Invalid::new("input_root_digest", what);
                return Err(TreeError::invalid(root, invalid));
            }
            let costs = level.iter().map(|digest| ENTRY_BYTES.saturating_add(digest.size_bytes()));
            let messages_bytes = costs.fold(0, u64::saturating_add);
            if !walk.taken.grow(memory, messages_bytes, turn).await? {
                return Ok(None);
            }
            let mut read = stream::iter(level)
                .map(|digest| async move { (digest, self.directory(digest).await) })
                .buffered(CONCURRENT_READS);
            let mut next = Vec::new();
            while let Some((digest, directory)) = read.next().await {
                match directory {
                    Ok(directory) => {
                        if !walk.taken.grow(memory, weight(&directory), turn).await? {
                            return Ok(None);
                        }
                        let below = directory.directories.iter().map(|node| node.digest);
                        next.extend(below.filter(|digest| seen.insert(*digest)));
                        walk.directories.push((digest, directory));
                    }
                    Err(TreeError::Storage(Error::Missing(digest))) => walk.missing.push(digest),
                    Err(error) => return Err(error),
                }
            }
            level = next;
        }
        Ok(Some(walk))
    }

    /// Everything that is missing of the tree at `root`: directories and files. Counts as a use of all
    /// that is there.
    ///
    /// # Errors
    /// If a directory is invalid, the tree has too many, or the store fails.
    pub async fn missing(&self, root: Digest) -> Result<Vec<Digest>, TreeError> {
        let walk = self.walk(root).await?;
        Ok(self.missing_of(&walk).await?)
    }

    /// Everything that is missing of a tree that was walked. Counts as a use of all that is there.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn missing_of(&self, walk: &Walk) -> Result<Vec<Digest>> {
        let needed: HashSet<Digest> = walk.digests().collect();
        let needed: Vec<Digest> = needed.into_iter().collect();
        let mut missing = self.cas.find_missing(&needed).await?;
        missing.extend_from_slice(&walk.missing);
        Ok(missing)
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
        // It holds nothing else, so it may wait without a turn. One that is larger than all there is has it all.
        let memory = &self.cache.memory;
        let bytes = digest.size_bytes().saturating_mul(PARSED_FACTOR).min(memory.total_bytes());
        let taken = memory.take(bytes).await?;
        let bytes = self.message(digest).await?;
        let tree = Tree::decode(digest.function(), &bytes)
            .map_err(|invalid| TreeError::invalid(digest, invalid))?;
        let files: HashSet<Digest> = tree.files().collect();
        let files: Arc<[Digest]> = files.into_iter().collect();
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

/// A tree as it was found. It holds its memory until it is dropped.
#[derive(Debug, Default)]
pub struct Walk {
    /// Every distinct directory that is stored, parents before children, the root first.
    pub directories: Vec<(Digest, Arc<Directory>)>,
    /// Directories that are not stored.
    pub missing: Vec<Digest>,
    taken: Taken,
}

impl Walk {
    /// The digest of every directory and file that was found; may hold duplicates.
    pub fn digests(&self) -> impl Iterator<Item = Digest> {
        self.directories.iter().flat_map(|(digest, directory)| {
            std::iter::once(*digest).chain(directory.files.iter().map(|file| file.digest))
        })
    }
}
