//! The parts of an input tree that are worth being near to.

use std::{
    collections::{BinaryHeap, HashMap},
    sync::Arc,
};

use bbb_digest::{Digest, InstanceName};
use bbb_scheduler::{InputPart, MAX_INPUT_PARTS};
use bbb_storage::Subtree;

/// A part of fewer bytes is fetched in no time. So trees that small actions have are not looked at further.
const MIN_PART_BYTES: u64 = 64 << 10;

/// The weightiest parts of a tree.
///
/// The whole tree changes with each action, and what is large in it seldom does. So the weightiest part is divided into
/// the directories in it, and then the weightiest of all, until there are as many as can be named. What a divided part
/// holds besides is a part as well. What stands at several places counts at each.
pub(super) fn parts(instance: &InstanceName, tree: &Arc<Subtree>) -> Arc<[InputPart]> {
    if tree.totals().bytes < MIN_PART_BYTES {
        return Arc::default();
    }
    let mut undivided = BinaryHeap::from_iter([(tree.totals().bytes, tree.digest())]);
    let mut named = HashMap::from([(tree.digest(), tree)]);
    let mut parts = Vec::new();
    while parts.len() + undivided.len() < MAX_INPUT_PARTS
        && let Some((bytes, digest)) = undivided.pop()
    {
        let mut rest = bytes;
        for (_, below) in named[&digest].below() {
            let (bytes, digest) = (below.totals().bytes, below.digest());
            // What is not worth naming by itself stays with its parent.
            if bytes >= MIN_PART_BYTES && named.insert(digest, below).is_none() {
                rest = rest.saturating_sub(bytes);
                undivided.push((bytes, digest));
            }
        }
        if rest >= MIN_PART_BYTES {
            parts.push((rest, digest));
        }
    }
    parts.extend(undivided);
    parts.sort_by(|a, b| b.cmp(a));
    parts.truncate(MAX_INPUT_PARTS);
    let part = |(bytes, digest)| InputPart { key: key(instance, digest), bytes };
    parts.into_iter().map(part).collect()
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
    use std::collections::HashSet;

    use bbb_digest::Function;
    use bbb_reapi::{ToProto as _, proto::reapi};
    use bbb_storage::{Cas as _, TreeCache, Trees};
    use prost::Message as _;

    use super::{super::tests::Memory, *};

    const MIB: u64 = 1 << 20;

    /// Directories by what they are called: the sizes of their files, and what is below them.
    #[derive(Default)]
    struct Plan(HashMap<String, (Vec<u64>, Vec<String>)>);

    impl Plan {
        fn add(&mut self, name: &str, files_bytes: &[u64], below: &[&str]) {
            let below = below.iter().map(|below| (*below).to_owned()).collect();
            self.0.insert(name.to_owned(), (files_bytes.to_vec(), below));
        }

        /// Makes a directory, those below it first.
        fn make(&self, name: &str, made: &mut HashMap<String, reapi::Digest>, store: &Memory) {
            let (files_bytes, below) = &self.0[name];
            let mut directory = reapi::Directory::default();
            for (index, bytes) in files_bytes.iter().enumerate() {
                let hash = Digest::of(Function::Sha256, name.as_bytes());
                let digest = Digest::from_raw(Function::Sha256, hash.hash(), *bytes).unwrap();
                directory.files.push(reapi::FileNode {
                    name: format!("f{index}"),
                    digest: Some(digest.to_proto()),
                    ..reapi::FileNode::default()
                });
            }
            for (index, below) in below.iter().enumerate() {
                if !made.contains_key(below) {
                    self.make(below, made, store);
                }
                let (name, digest) = (format!("d{index}"), Some(made[below].clone()));
                directory.directories.push(reapi::DirectoryNode { name, digest });
            }
            let bytes = directory.encode_to_vec();
            let digest = Digest::of(Function::Sha256, &bytes);
            futures::executor::block_on(store.put(digest, bytes.into())).unwrap();
            made.insert(name.to_owned(), digest.to_proto());
        }

        /// Names and bytes of the parts.
        async fn parts(self, root: &str) -> Vec<(String, u64)> {
            let (store, mut made) = (Arc::new(Memory::default()), HashMap::new());
            self.make(root, &mut made, &store);
            let instance = InstanceName::default();
            let digest = |wire| bbb_reapi::digest(Function::Sha256, wire).unwrap();
            let names: HashMap<u64, &str> = (made.iter())
                .map(|(name, wire)| (key(&instance, digest(wire)), name.as_str()))
                .collect();
            let trees = Trees::new(instance.clone(), store, Arc::new(TreeCache::new(16 << 20)));
            let tree = trees.subtree(digest(&made[root])).await.unwrap();
            let parts = parts(&instance, &tree);
            parts.iter().map(|part| (names[&part.key].to_owned(), part.bytes)).collect()
        }
    }

    fn named(parts: &[(&str, u64)]) -> Vec<(String, u64)> {
        parts.iter().map(|(name, bytes)| ((*name).to_owned(), *bytes)).collect()
    }

    #[tokio::test]
    async fn small_trees_have_no_parts() {
        let mut trees = Plan::default();
        trees.add("root", &[1000, 2000], &["a"]);
        trees.add("a", &[3000], &[]);
        assert_eq!(trees.parts("root").await, []);
    }

    #[tokio::test]
    async fn large_directories_are_named_apart_from_what_holds_them() {
        let mut trees = Plan::default();
        trees.add("root", &[10], &["toolchain", "src", "tiny"]);
        trees.add("toolchain", &[MIB], &["bin", "lib"]);
        trees.add("bin", &[2 * MIB, MIB], &[]);
        trees.add("lib", &[5 * MIB], &[]);
        trees.add("src", &[MIB / 2], &[]);
        trees.add("tiny", &[1], &[]);
        let expected = [("lib", 5 * MIB), ("bin", 3 * MIB), ("toolchain", MIB), ("src", MIB / 2)];
        assert_eq!(trees.parts("root").await, named(&expected));
    }

    #[tokio::test]
    async fn no_more_parts_are_named_than_there_may_be_and_none_twice() {
        let mut trees = Plan::default();
        let names: Vec<_> = (0..20).map(|n| format!("d{n:02}")).collect();
        let mut below: Vec<_> = names.iter().map(String::as_str).collect();
        below.extend(["twice", "d00"]);
        trees.add("root", &[MIB], &below);
        for (n, name) in names.iter().enumerate() {
            trees.add(name, &[MIB * (n as u64 + 1)], &["shared"]);
        }
        trees.add("twice", &[], &["shared"]);
        trees.add("shared", &[MIB], &[]);
        let parts = trees.parts("root").await;
        assert_eq!(parts.len(), MAX_INPUT_PARTS);
        assert!(parts.is_sorted_by(|a, b| a.1 >= b.1), "{parts:?}");
        assert_eq!(parts.iter().map(|(name, _)| name).collect::<HashSet<_>>().len(), parts.len());
    }

    #[tokio::test]
    async fn a_graph_that_claims_more_than_there_can_be_is_weighed_at_once() {
        let mut trees = Plan::default();
        trees.add("n0", &[1 << 40], &[]);
        for n in 1..500 {
            let below = format!("n{}", n - 1);
            trees.add(&format!("n{n}"), &[], &[&below, &below]);
        }
        assert!(!trees.parts("n499").await.is_empty());
    }
}
