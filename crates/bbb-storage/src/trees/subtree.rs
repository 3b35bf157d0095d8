//! A directory and all that is below it, as a value that is shared: equal directories are one, wherever they stand.

use std::{collections::HashMap, sync::Arc};

use bbb_digest::Digest;
use bbb_reapi::{Directory, DirectoryNode, Invalid, NodeProperties};

use super::{TreeError, Trees, Walk};
use crate::Error;

/// The deepest that directories may stand in each other: each takes two bytes of a path at the least, and no system
/// call takes a path of more than 4,096 (`PATH_MAX`).
const MAX_DEPTH: u32 = 2048;

/// A directory whose every directory below is known.
#[derive(Debug)]
pub struct Subtree {
    digest: Digest,
    directory: Arc<Directory>,
    /// In the order of the directory's own nodes.
    below: Box<[Arc<Subtree>]>,
    totals: Totals,
}

/// What a subtree comes to, what stands at several places counted at each. Numbers that no machine holds stay at the
/// largest there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Files.
    pub files: u64,
    /// Files, symlinks and directories, itself not counted.
    pub nodes: u64,
    /// The sizes of all files, in bytes.
    pub bytes: u64,
    /// How many directories stand in each other at the most, itself counted.
    pub depth: u32,
    /// The longest path in it in bytes, from itself.
    pub path_len: usize,
    /// Whether any directory has properties of its own.
    pub has_directory_properties: bool,
}

impl Subtree {
    /// Puts a directory together with what is below it, in the order of its nodes.
    fn new(digest: Digest, directory: Arc<Directory>, below: Box<[Arc<Self>]>) -> Self {
        let totals = Totals::of(&directory, &below);
        Self { digest, directory, below, totals }
    }

    /// What names it.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Its own nodes.
    pub fn directory(&self) -> &Arc<Directory> {
        &self.directory
    }

    /// The directories in it, in the order of its nodes.
    pub fn below(&self) -> impl Iterator<Item = (&DirectoryNode, &Arc<Self>)> {
        self.directory.directories.iter().zip(&self.below)
    }

    /// The directory of this name in it.
    pub fn child(&self, name: &str) -> Option<&Arc<Self>> {
        self.below().find_map(|(node, below)| (node.name.as_str() == name).then_some(below))
    }

    /// What it comes to.
    pub fn totals(&self) -> Totals {
        self.totals
    }
}

impl Totals {
    fn of(directory: &Directory, below: &[Arc<Subtree>]) -> Self {
        let longest = directory.names().map(|name| name.as_str().len()).max().unwrap_or_default();
        let own = Self {
            files: directory.files.len() as u64,
            nodes: directory.names().count() as u64,
            bytes: directory
                .files
                .iter()
                .map(|file| file.digest.size_bytes())
                .fold(0, u64::saturating_add),
            depth: 1,
            path_len: longest,
            has_directory_properties: directory.properties != NodeProperties::default(),
        };
        directory.directories.iter().zip(below).fold(own, |sum, (node, below)| Self {
            files: sum.files.saturating_add(below.totals.files),
            nodes: sum.nodes.saturating_add(below.totals.nodes),
            bytes: sum.bytes.saturating_add(below.totals.bytes),
            depth: sum.depth.max(below.totals.depth + 1),
            path_len: sum.path_len.max(node.name.as_str().len() + 1 + below.totals.path_len),
            has_directory_properties: sum.has_directory_properties
                || below.totals.has_directory_properties,
        })
    }
}

impl Trees {
    /// The whole tree at `root`.
    ///
    /// # Errors
    /// [`Error::Missing`] names one directory that is not stored; [`Self::missing`] tells all that is missing. Or a
    /// directory is invalid, the tree too large or too deep, or the store fails.
    pub async fn subtree(&self, root: Digest) -> Result<Arc<Subtree>, TreeError> {
        let walk = self.walk(root).await?;
        match walk.missing.first() {
            Some(missing) => Err(Error::Missing(*missing).into()),
            None => assemble(root, &walk),
        }
    }
}

/// Puts a tree together that was found whole.
fn assemble(root: Digest, walk: &Walk) -> Result<Arc<Subtree>, TreeError> {
    let directories: HashMap<_, _> =
        walk.directories.iter().map(|(digest, directory)| (*digest, directory)).collect();
    let mut whole: HashMap<Digest, Arc<Subtree>> = HashMap::new();
    // A directory stands in it until all that is below it is whole. No digest stands below itself.
    let mut waiting = vec![root];
    while let Some(digest) = waiting.last().copied() {
        let Some(directory) = directories.get(&digest) else {
            return Err(Error::Missing(digest).into());
        };
        let missing = directory
            .directories
            .iter()
            .map(|node| node.digest)
            .find(|digest| !whole.contains_key(digest));
        if let Some(missing) = missing {
            waiting.push(missing);
            continue;
        }
        waiting.pop();
        let below: Box<[_]> = directory
            .directories
            .iter()
            .filter_map(|node| whole.get(&node.digest).cloned())
            .collect();
        if below.iter().any(|below| below.totals.depth >= MAX_DEPTH) {
            let what = format!("has directories in each other more than {MAX_DEPTH} deep");
            return Err(TreeError::invalid(root, Invalid::new("input_root_digest", what)));
        }
        whole.insert(digest, Arc::new(Subtree::new(digest, Arc::clone(directory), below)));
    }
    whole.remove(&root).ok_or_else(|| Error::Missing(root).into())
}
