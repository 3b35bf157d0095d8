//! What has to be made so that a tree is seen above what is there already: the whole tree above nothing, and the
//! difference above another tree. Pure: no file is touched here.
//!
//! Promises: an overlay of the layer above the other tree shows exactly the tree; nothing below directories of
//! equal digest is looked at; what a layer costs to make is known before it is made, and never more than its limit.

use std::{
    cmp::Ordering,
    collections::{HashMap, hash_map},
    iter,
    sync::Arc,
};

use bbb_digest::Digest;
use bbb_reapi::{Directory, FileName, FileNode, NodeProperties, SymlinkNode};
use bbb_storage::Subtree;

/// A layer of an exec root, laid out: each directory that has something to be made in it, and each blob with all of
/// its places.
#[derive(Debug, Default)]
pub(crate) struct Layer {
    /// Parents before children, the root first; empty where nothing is to be made.
    pub(crate) directories: Vec<LayerDirectory>,
    /// Each blob once, those of one directory next to each other.
    pub(crate) blobs: Vec<LayerBlob>,
    entries: u64,
}

/// A directory of a layer.
#[derive(Debug)]
pub(crate) struct LayerDirectory {
    /// Relative to the input root; empty for the root.
    pub(crate) path: String,
    /// As the tree has it.
    pub(crate) directory: Arc<Directory>,
    /// Which of its symlinks are to be made.
    symlinks: Vec<usize>,
    /// Names of what is below that must not be seen.
    pub(crate) whiteouts: Vec<FileName>,
}

/// A blob and all of its places.
#[derive(Debug)]
pub(crate) struct LayerBlob {
    pub(crate) digest: Digest,
    /// The index of a directory of the layer, and that of a file within it.
    pub(crate) places: Vec<(usize, usize)>,
}

/// A directory that is still to be laid out, and what is below it.
struct Waiting<'a> {
    path: String,
    tree: &'a Arc<Subtree>,
    base: Option<&'a Arc<Subtree>>,
}

impl Layer {
    /// The layer that shows `tree` above nothing.
    pub(crate) fn whole(tree: &Arc<Subtree>) -> Self {
        let everything = Waiting { path: String::new(), tree, base: None };
        // What is above nothing has no limit.
        Self::lay_out(everything, u64::MAX).unwrap_or_default()
    }

    /// The layer that shows `tree` above `base`; none if more than `limit` entries would have to be made.
    pub(crate) fn above(base: &Arc<Subtree>, tree: &Arc<Subtree>, limit: u64) -> Option<Self> {
        match base.digest() == tree.digest() {
            true => Some(Self::default()),
            false => Self::lay_out(Waiting { path: String::new(), tree, base: Some(base) }, limit),
        }
    }

    fn lay_out(root: Waiting<'_>, limit: u64) -> Option<Self> {
        let mut layer = Self::default();
        let mut blob_index = HashMap::new();
        let mut waiting = vec![root];
        while let Some(Waiting { path, tree, base }) = waiting.pop() {
            let changes = match base {
                Some(base) => Changes::between(base, tree),
                None => Changes::all_of(tree),
            };
            // What is below a directory that is all new was counted with the uppermost such directory.
            if base.is_some() || layer.directories.is_empty() {
                layer.entries = layer.entries.saturating_add(changes.entries());
                if layer.entries > limit {
                    return None;
                }
            }
            let index = layer.directories.len();
            for position in changes.files {
                let place = (index, position);
                layer.add_place(&mut blob_index, tree.directory().files[position].digest, place);
            }
            for (name, tree, base) in changes.directories.into_iter().rev() {
                let separator = if path.is_empty() { "" } else { "/" };
                let path = format!("{path}{separator}{}", name.as_str());
                waiting.push(Waiting { path, tree, base });
            }
            layer.directories.push(LayerDirectory {
                path,
                directory: Arc::clone(tree.directory()),
                symlinks: changes.symlinks,
                whiteouts: changes.gone,
            });
        }
        Some(layer)
    }

    fn add_place(
        &mut self,
        index: &mut HashMap<Digest, usize>,
        digest: Digest,
        place: (usize, usize),
    ) {
        let blob = match index.entry(digest) {
            hash_map::Entry::Occupied(entry) => *entry.get(),
            hash_map::Entry::Vacant(entry) => {
                self.blobs.push(LayerBlob { digest, places: Vec::new() });
                *entry.insert(self.blobs.len() - 1)
            }
        };
        self.blobs[blob].places.push(place);
    }

    /// How many files, directories, symlinks and whiteouts are to be made.
    pub(crate) fn entries(&self) -> u64 {
        self.entries
    }

    /// Whether nothing is to be made.
    pub(crate) fn is_empty(&self) -> bool {
        self.directories.is_empty()
    }

    /// Whether anything of what is below is to be hidden.
    pub(crate) fn has_whiteouts(&self) -> bool {
        self.directories.iter().any(|planned| !planned.whiteouts.is_empty())
    }

    /// The directory and the file of a place.
    pub(crate) fn at(&self, (directory, file): (usize, usize)) -> (&LayerDirectory, &FileNode) {
        let directory = &self.directories[directory];
        (directory, &directory.directory.files[file])
    }

    /// Whether a directory has properties of its own.
    pub(crate) fn has_properties(&self) -> bool {
        let default = NodeProperties::default();
        self.directories.iter().any(|planned| planned.directory.properties != default)
    }
}

impl LayerDirectory {
    /// The symlinks that are to be made in it.
    pub(crate) fn symlinks(&self) -> impl Iterator<Item = &SymlinkNode> {
        self.symlinks.iter().map(|index| &self.directory.symlinks[*index])
    }
}

/// What of one directory is to be made.
struct Changes<'a> {
    files: Vec<usize>,
    symlinks: Vec<usize>,
    directories: Vec<Below<'a>>,
    gone: Vec<FileName>,
}

/// A directory in another, and the one of the same name in the base where that shows through.
type Below<'a> = (&'a FileName, &'a Arc<Subtree>, Option<&'a Arc<Subtree>>);

/// What stands under a name.
#[derive(Clone, Copy)]
enum Node<'a> {
    File(usize, &'a FileNode),
    Symlink(usize, &'a SymlinkNode),
    Directory(&'a Arc<Subtree>),
}

impl<'a> Changes<'a> {
    fn all_of(tree: &'a Subtree) -> Self {
        Self {
            files: (0..tree.directory().files.len()).collect(),
            symlinks: (0..tree.directory().symlinks.len()).collect(),
            directories: tree.below().map(|(node, below)| (&node.name, below, None)).collect(),
            gone: Vec::new(),
        }
    }

    fn between(base: &'a Subtree, tree: &'a Subtree) -> Self {
        let none = Vec::new;
        let mut changes =
            Self { files: none(), symlinks: none(), directories: Vec::new(), gone: Vec::new() };
        let (mut old, mut new) = (nodes(base).into_iter(), nodes(tree).into_iter());
        let (mut last, mut next) = (old.next(), new.next());
        loop {
            let order = match (last, next) {
                (Some((last, _)), Some((next, _))) => last.cmp(next),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => return changes,
            };
            match (last, next) {
                (Some((name, _)), _) if order.is_lt() => changes.gone.push(name.clone()),
                (_, Some((name, node))) if order.is_gt() => changes.add(name, node, None),
                (Some((_, before)), Some((name, node))) if !before.shows(node) => {
                    changes.add(name, node, Some(before));
                }
                _ => {}
            }
            if order.is_le() {
                last = old.next();
            }
            if order.is_ge() {
                next = new.next();
            }
        }
    }

    /// A new node, above another of the same name or none. What is no directory hides all that is below it, and so does
    /// a directory above anything else.
    fn add(&mut self, name: &'a FileName, node: Node<'a>, before: Option<Node<'a>>) {
        match (node, before) {
            (Node::File(index, _), _) => self.files.push(index),
            (Node::Symlink(index, _), _) => self.symlinks.push(index),
            (Node::Directory(tree), Some(Node::Directory(base))) => {
                self.directories.push((name, tree, Some(base)));
            }
            (Node::Directory(tree), _) => self.directories.push((name, tree, None)),
        }
    }

    fn entries(&self) -> u64 {
        let own = (self.files.len() + self.symlinks.len() + self.gone.len()) as u64;
        let below = self.directories.iter().map(|(_, tree, base)| match base {
            Some(_) => 1,
            None => tree.totals().nodes.saturating_add(1),
        });
        below.fold(own, u64::saturating_add)
    }
}

impl Node<'_> {
    /// Whether `other` is seen where this is.
    fn shows(self, other: Self) -> bool {
        match (self, other) {
            (Self::File(_, one), Self::File(_, other)) => one == other,
            (Self::Symlink(_, one), Self::Symlink(_, other)) => one == other,
            (Self::Directory(one), Self::Directory(other)) => one.digest() == other.digest(),
            _ => false,
        }
    }
}

/// All nodes of a directory by name. Clients are asked to sort each kind, so there are usually but three runs to merge.
fn nodes(tree: &Subtree) -> Vec<(&FileName, Node<'_>)> {
    let directory = tree.directory();
    let files = iter::zip(0.., &directory.files);
    let symlinks = iter::zip(0.., &directory.symlinks);
    let mut nodes: Vec<_> = files
        .map(|(index, file)| (&file.name, Node::File(index, file)))
        .chain(tree.below().map(|(node, below)| (&node.name, Node::Directory(below))))
        .chain(symlinks.map(|(index, link)| (&link.name, Node::Symlink(index, link))))
        .collect();
    nodes.sort_by_key(|(name, _)| *name);
    nodes
}

#[cfg(test)]
mod tests;
