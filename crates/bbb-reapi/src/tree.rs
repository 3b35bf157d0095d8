use std::collections::{HashMap, HashSet};

use bbb_digest::{Digest, Function};
use prost::{
    Message as _,
    encoding::{WireType, encode_key, encode_varint},
};

use crate::{Directory, Invalid, ToProto, parts, proto::reapi};

/// A whole file tree in one message, as output directories are stored.
#[derive(Clone, Debug)]
pub struct Tree {
    /// The root.
    pub root: Directory,
    /// Every directory below, by the digest of its encoded form.
    pub children: HashMap<Digest, Directory>,
}

/// `Tree`, with children as they came: their digests are those of these bytes.
#[derive(Clone, PartialEq, prost::Message)]
struct WireTree {
    #[prost(message, optional, tag = "1")]
    root: Option<reapi::Directory>,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    children: Vec<bytes::Bytes>,
}

impl Tree {
    /// Reads an encoded tree whose digests belong to `function`.
    ///
    /// # Errors
    /// If it cannot be decoded, has no root, one of its directories breaks a rule, or one that is named
    /// somewhere is not there.
    pub fn decode(function: Function, bytes: &[u8]) -> Result<Self, Invalid> {
        parts::check_stored(parts::TREE, bytes)?;
        let tree = WireTree::decode(bytes)
            .map_err(|error| Invalid::new("tree", format!("is no Tree message: {error}")))?;
        let root = tree.root.ok_or_else(|| Invalid::new("tree.root", "is not set"))?;
        let mut children = HashMap::with_capacity(tree.children.len());
        for child in tree.children {
            children.insert(Digest::of(function, &child), Directory::decode(function, &child)?);
        }
        let tree = Self { root: Directory::parse(function, root)?, children };
        match tree.absent() {
            Some(absent) => {
                Err(Invalid::new("tree.children", format!("lack the directory {absent}")))
            }
            None => Ok(tree),
        }
    }

    /// A directory that is named in the tree but is not in it. The empty one may be left out.
    fn absent(&self) -> Option<Digest> {
        let directories = std::iter::once(&self.root).chain(self.children.values());
        let mut named = directories.flat_map(|directory| &directory.directories);
        let absent =
            named.find(|node| !node.digest.is_empty() && !self.children.contains_key(&node.digest));
        absent.map(|node| node.digest)
    }

    /// The digest of every file in the tree.
    pub fn files(&self) -> impl Iterator<Item = Digest> {
        std::iter::once(&self.root)
            .chain(self.children.values())
            .flat_map(|directory| directory.files.iter().map(|file| file.digest))
    }
}

/// Builds the canonical form of a tree from its directories: every directory once, parents before
/// children, encoded as the comment of `OutputDirectory.is_topologically_sorted` asks for.
#[derive(Debug, Default)]
pub struct TreeBuilder {
    directories: HashMap<Digest, (Directory, Vec<u8>)>,
}

impl TreeBuilder {
    /// Takes in a directory, all of whose children were taken in before, and returns its digest.
    pub fn add(&mut self, function: Function, mut directory: Directory) -> Digest {
        directory.sort();
        let encoded = directory.to_proto().encode_to_vec();
        let digest = Digest::of(function, &encoded);
        self.directories.insert(digest, (directory, encoded));
        digest
    }

    /// Every directory in its encoded form, by digest.
    pub fn directories(&self) -> impl Iterator<Item = (Digest, &[u8])> {
        self.directories.iter().map(|(digest, (_, encoded))| (*digest, encoded.as_slice()))
    }

    /// The encoded `Tree` whose root is `root`.
    pub fn encode(&self, root: Digest) -> Vec<u8> {
        let mut tree = Vec::new();
        for (index, (_, encoded)) in self.parents_first(root).into_iter().enumerate() {
            encode_key(if index == 0 { 1 } else { 2 }, WireType::LengthDelimited, &mut tree);
            encode_varint(encoded.len() as u64, &mut tree);
            tree.extend_from_slice(encoded);
        }
        tree
    }

    /// The directories below and with `root`, parents before children: a depth-first walk leaves each
    /// directory after all that it holds, so its reverse is the order wanted.
    fn parents_first(&self, root: Digest) -> Vec<&(Directory, Vec<u8>)> {
        let mut order = Vec::new();
        let mut seen = HashSet::from([root]);
        let mut path: Vec<(Digest, usize)> = vec![(root, 0)];
        while let Some((digest, next)) = path.last_mut() {
            let Some(entry) = self.directories.get(digest) else {
                path.pop();
                continue;
            };
            // Children are visited from the last to the first, so that the reverse has them in order.
            let children = &entry.0.directories;
            match children.len().checked_sub(*next + 1).and_then(|index| children.get(index)) {
                Some(child) => {
                    *next += 1;
                    if seen.insert(child.digest) {
                        path.push((child.digest, 0));
                    }
                }
                None => {
                    order.push(entry);
                    path.pop();
                }
            }
        }
        order.reverse();
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DirectoryNode, FileName, FileNode};

    const FUNCTION: Function = Function::Sha256;

    fn name(name: &str) -> FileName {
        FileName::new(name).unwrap()
    }

    fn file(file_name: &str) -> FileNode {
        FileNode {
            name: name(file_name),
            digest: Digest::of(FUNCTION, file_name.as_bytes()),
            is_executable: false,
            properties: Default::default(),
        }
    }

    #[test]
    fn is_sorted_parents_first_with_every_directory_once() {
        let mut builder = TreeBuilder::default();
        let node = |at: &str, digest| DirectoryNode { name: name(at), digest };
        let leaf =
            builder.add(FUNCTION, Directory { files: vec![file("leaf")], ..Default::default() });
        let middle = builder.add(
            FUNCTION,
            Directory { directories: vec![node("z", leaf), node("a", leaf)], ..Default::default() },
        );
        let root = builder.add(
            FUNCTION,
            Directory {
                directories: vec![node("leaf", leaf), node("middle", middle)],
                ..Default::default()
            },
        );
        let encoded = builder.encode(root);
        let wire = reapi::Tree::decode(encoded.as_slice()).unwrap();
        assert_eq!(wire.encode_to_vec(), encoded, "the form is the one that any library writes");
        let digests: Vec<_> = wire
            .children
            .iter()
            .map(|child| Digest::of(FUNCTION, &child.encode_to_vec()))
            .collect();
        assert_eq!(digests, [middle, leaf]);
        let tree = Tree::decode(FUNCTION, &encoded).unwrap();
        assert_eq!(tree.files().collect::<Vec<_>>(), [Digest::of(FUNCTION, b"leaf")]);
    }

    #[test]
    fn a_tree_needs_every_directory_that_it_names() {
        let child = reapi::Directory::default();
        let digest = Some(Digest::of(FUNCTION, b"not there").to_proto());
        let node = reapi::DirectoryNode { name: "a".into(), digest };
        let root = Some(reapi::Directory { directories: vec![node], ..Default::default() });
        let tree = reapi::Tree { root, children: vec![child] };
        let refused = Tree::decode(FUNCTION, &tree.encode_to_vec()).unwrap_err();
        assert_eq!(refused.field, "tree.children");
    }

    #[test]
    fn unknown_fields_of_a_child_are_part_of_its_digest() {
        let child =
            [&reapi::Directory::default().encode_to_vec()[..], &[0xfa, 7, 1, b'x']].concat();
        let digest = Some(Digest::of(FUNCTION, &child).to_proto());
        let node = reapi::DirectoryNode { name: "a".into(), digest };
        let root = Some(reapi::Directory { directories: vec![node], ..Default::default() });
        let mut tree = reapi::Tree { root, children: vec![] }.encode_to_vec();
        tree.extend([2 << 3 | 2, child.len() as u8]);
        tree.extend(child);
        assert!(Tree::decode(FUNCTION, &tree).is_ok());
    }

    #[test]
    fn a_tree_needs_a_root() {
        assert_eq!(Tree::decode(FUNCTION, &[]).unwrap_err().field, "tree.root");
    }
}
