//! The parts of an input tree that are worth being near to, out of the walk that has been over it.

use std::{
    collections::{BinaryHeap, HashMap, HashSet},
    sync::Arc,
};

use bbb_digest::{Digest, InstanceName};
use bbb_reapi::Directory;
use bbb_scheduler::{InputPart, MAX_INPUT_PARTS};
use bbb_storage::Walk;

/// A part of fewer bytes is fetched in no time. So trees that small actions have are not looked at further.
const MIN_PART_BYTES: u64 = 64 << 10;

/// The weightiest parts of the tree at `root`, which was walked.
///
/// The whole tree changes with each action, and what is large in it seldom does. So the weightiest part is divided into
/// the directories in it, and then the weightiest of all, until there are as many as can be named. What a divided part
/// holds besides is a part as well.
pub(super) fn parts(instance: &InstanceName, root: Digest, walk: &Walk) -> Arc<[InputPart]> {
    let all = walk.directories.iter().map(|(_, directory)| own_bytes(directory));
    if all.fold(0, u64::saturating_add) < MIN_PART_BYTES {
        return Arc::default();
    }
    let weights = Weights::of(root, walk);
    let mut undivided = BinaryHeap::from_iter([(weights.of_tree(root), root)]);
    let mut seen = HashSet::from([root]);
    let mut parts = Vec::new();
    while parts.len() + undivided.len() < MAX_INPUT_PARTS
        && let Some((bytes, digest)) = undivided.pop()
    {
        let directory = weights.directories.get(&digest).copied();
        let below: Vec<_> = directory
            .into_iter()
            .flat_map(|directory| &directory.directories)
            .map(|node| (weights.of_tree(node.digest), node.digest))
            .filter(|(bytes, digest)| *bytes >= MIN_PART_BYTES && seen.insert(*digest))
            .collect();
        // What is not worth naming by itself stays with its parent.
        let named = below.iter().map(|(bytes, _)| *bytes).fold(0, u64::saturating_add);
        parts.push((bytes.saturating_sub(named), digest));
        undivided.extend(below);
        parts.retain(|(bytes, _)| *bytes >= MIN_PART_BYTES);
    }
    parts.extend(undivided);
    parts.sort_by(|a, b| b.cmp(a));
    parts.truncate(MAX_INPUT_PARTS);
    let part = |(bytes, digest)| InputPart { key: key(instance, digest), bytes };
    parts.into_iter().map(part).collect()
}

/// What directories weigh, with all below them. What stands at several places of a tree counts at each.
struct Weights<'a> {
    directories: HashMap<Digest, &'a Directory>,
    bytes: HashMap<Digest, u64>,
}

impl<'a> Weights<'a> {
    fn of(root: Digest, walk: &'a Walk) -> Self {
        let directories =
            walk.directories.iter().map(|(digest, directory)| (*digest, &**directory));
        let mut weights = Self { directories: directories.collect(), bytes: HashMap::new() };
        // A directory stands in it twice: before those in it, and behind them. No digest stands below itself.
        let mut waiting = vec![(root, false)];
        while let Some((digest, is_behind)) = waiting.pop() {
            let Some(directory) = weights.directories.get(&digest).copied() else { continue };
            if is_behind {
                let below = directory.directories.iter().map(|node| weights.of_tree(node.digest));
                let bytes = below.fold(own_bytes(directory), u64::saturating_add);
                weights.bytes.insert(digest, bytes);
            } else if !weights.bytes.contains_key(&digest) {
                waiting.push((digest, true));
                let below = directory.directories.iter().map(|node| node.digest);
                waiting.extend(
                    below.filter(|digest| !weights.bytes.contains_key(digest)).map(|d| (d, false)),
                );
            }
        }
        weights
    }

    fn of_tree(&self, digest: Digest) -> u64 {
        self.bytes.get(&digest).copied().unwrap_or_default()
    }
}

/// The bytes of the files in a directory itself.
fn own_bytes(directory: &Directory) -> u64 {
    directory.files.iter().map(|file| file.digest.size_bytes()).fold(0, u64::saturating_add)
}

/// Stands for a directory of an instance, the same on every node: FNV-1a of the name over the digest's own bits.
fn key(instance: &InstanceName, digest: Digest) -> u64 {
    let bytes = instance.as_str().bytes().chain(digest.hash().iter().copied());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use bbb_digest::Function;
    use bbb_reapi::{DirectoryNode, FileName, FileNode, NodeProperties};

    use super::*;

    const MIB: u64 = 1 << 20;

    /// Trees whose directories are named by what they are called instead of what they hold.
    #[derive(Default)]
    struct Trees(Vec<(Digest, Arc<Directory>)>);

    fn digest(name: &str) -> Digest {
        Digest::of(Function::Sha256, name.as_bytes())
    }

    impl Trees {
        fn add(&mut self, name: &str, files_bytes: &[u64], below: &[&str]) {
            let file = |(index, bytes): (usize, &u64)| FileNode {
                name: FileName::new(&format!("f{index}")).unwrap(),
                digest: Digest::from_raw(Function::Sha256, digest(name).hash(), *bytes).unwrap(),
                is_executable: false,
                properties: NodeProperties::default(),
            };
            let node = |below: &&str| DirectoryNode {
                name: FileName::new(below).unwrap(),
                digest: digest(below),
            };
            let directory = Directory {
                files: files_bytes.iter().enumerate().map(file).collect(),
                directories: below.iter().map(node).collect(),
                ..Directory::default()
            };
            self.0.push((digest(name), Arc::new(directory)));
        }

        /// Names and bytes of the parts.
        fn parts(self, root: &str) -> Vec<(String, u64)> {
            let instance = InstanceName::default();
            let names: HashMap<_, _> = (self.0.iter())
                .flat_map(|(_, directory)| &directory.directories)
                .map(|node| node.name.as_str().to_owned())
                .chain([root.to_owned()])
                .map(|name| (key(&instance, digest(&name)), name))
                .collect();
            let mut walk = Walk::default();
            walk.directories = self.0;
            let parts = parts(&instance, digest(root), &walk);
            parts.iter().map(|part| (names[&part.key].clone(), part.bytes)).collect()
        }
    }

    fn named(parts: &[(&str, u64)]) -> Vec<(String, u64)> {
        parts.iter().map(|(name, bytes)| ((*name).to_owned(), *bytes)).collect()
    }

    #[test]
    fn small_trees_have_no_parts() {
        let mut trees = Trees::default();
        trees.add("root", &[1000, 2000], &["a"]);
        trees.add("a", &[3000], &[]);
        assert_eq!(trees.parts("root"), []);
    }

    #[test]
    fn large_directories_are_named_apart_from_what_holds_them() {
        let mut trees = Trees::default();
        trees.add("root", &[10], &["toolchain", "src", "tiny"]);
        trees.add("toolchain", &[MIB], &["bin", "lib"]);
        trees.add("bin", &[2 * MIB, MIB], &[]);
        trees.add("lib", &[5 * MIB], &[]);
        trees.add("src", &[MIB / 2], &[]);
        trees.add("tiny", &[1], &[]);
        let expected = [("lib", 5 * MIB), ("bin", 3 * MIB), ("toolchain", MIB), ("src", MIB / 2)];
        assert_eq!(trees.parts("root"), named(&expected));
    }

    #[test]
    fn no_more_parts_are_named_than_there_may_be_and_none_twice() {
        let mut trees = Trees::default();
        let names: Vec<_> = (0..20).map(|n| format!("d{n:02}")).collect();
        let mut below: Vec<_> = names.iter().map(String::as_str).collect();
        below.extend(["twice", "d00"]);
        trees.add("root", &[MIB], &below);
        for (n, name) in names.iter().enumerate() {
            trees.add(name, &[MIB * (n as u64 + 1)], &["shared"]);
        }
        trees.add("twice", &[], &["shared"]);
        trees.add("shared", &[MIB], &[]);
        let parts = trees.parts("root");
        assert_eq!(parts.len(), MAX_INPUT_PARTS);
        assert!(parts.is_sorted_by(|a, b| a.1 >= b.1), "{parts:?}");
        assert_eq!(parts.iter().map(|(name, _)| name).collect::<HashSet<_>>().len(), parts.len());
    }

    #[test]
    fn a_graph_that_claims_more_than_there_can_be_is_weighed_at_once() {
        let mut trees = Trees::default();
        trees.add("n0", &[1 << 40], &[]);
        for n in 1..500 {
            let below = format!("n{}", n - 1);
            trees.add(&format!("n{n}"), &[], &[&below, &below]);
        }
        assert!(!trees.parts("n499").is_empty());
    }
}
