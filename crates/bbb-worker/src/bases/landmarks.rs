//! Where the bulk of a tree stands: enough to guess which of many trees are like it, without comparing them. Pure.

use std::{
    collections::BinaryHeap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
};

use bbb_digest::Digest;
use bbb_storage::Subtree;

/// How many directories of a tree are its landmarks.
const MAX_LANDMARKS: usize = 16;

/// A directory with fewer nodes is none, but for the root.
const MIN_NODES: u64 = 16;

/// What a directory at the same path counts of what an equal one counts. Most of two such is usually equal, but less is
/// known of them.
const UNEQUAL_SHARE: u64 = 8;

/// The heaviest directories of a tree, by the hashes of their paths.
#[derive(Debug)]
pub(crate) struct Landmarks(Box<[Landmark]>);

#[derive(Clone, Copy, Debug)]
struct Landmark {
    /// The hash of its path: a guess may be wrong.
    path: u64,
    digest: Digest,
    nodes: u64,
}

impl Landmarks {
    pub(crate) fn of(tree: &Arc<Subtree>) -> Self {
        let mut landmarks = Vec::new();
        let mut heap = BinaryHeap::from([Heavy { path: 0, tree }]);
        while landmarks.len() < MAX_LANDMARKS
            && let Some(Heavy { path, tree }) = heap.pop()
        {
            landmarks.push(Landmark { path, digest: tree.digest(), nodes: nodes(tree) });
            let heavy = tree.below().filter(|(_, below)| nodes(below) >= MIN_NODES);
            heap.extend(heavy.map(|(node, below)| {
                let mut hasher = DefaultHasher::new();
                (path, node.name.as_str()).hash(&mut hasher);
                Heavy { path: hasher.finish(), tree: below }
            }));
        }
        landmarks.sort_unstable_by_key(|landmark| landmark.path);
        Self(landmarks.into())
    }

    /// How much of two trees is likely to be equal: more is more.
    pub(crate) fn likeness(&self, other: &Self) -> u64 {
        let mut others = other.0.iter().peekable();
        let shared = self.0.iter().filter_map(|one| {
            while others.next_if(|other| other.path < one.path).is_some() {}
            let other = others.next_if(|other| other.path == one.path)?;
            Some(match one.digest == other.digest {
                true => one.nodes,
                false => one.nodes.min(other.nodes) / UNEQUAL_SHARE,
            })
        });
        shared.fold(0, u64::saturating_add)
    }
}

/// A directory by its weight.
struct Heavy<'a> {
    path: u64,
    tree: &'a Subtree,
}

/// Itself counted.
fn nodes(tree: &Subtree) -> u64 {
    tree.totals().nodes.saturating_add(1)
}

impl Ord for Heavy<'_> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (nodes(self.tree), self.path).cmp(&(nodes(other.tree), other.path))
    }
}

impl PartialOrd for Heavy<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Heavy<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Heavy<'_> {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seeds::Seed;

    /// A directory of so many files.
    fn files(of: &str, count: usize) -> Seed {
        let names: Vec<_> = (0..count).map(|file| format!("f{file}")).collect();
        Seed::directory(names.iter().map(|name| (name.as_str(), Seed::file(of))))
    }

    async fn landmarks(nodes: impl IntoIterator<Item = (&'static str, Seed)>) -> Landmarks {
        Landmarks::of(&Seed::directory(nodes).grow().await)
    }

    #[tokio::test]
    async fn what_shares_more_is_more_alike() {
        let tree = landmarks([("sdk", files("sdk", 100)), ("src", files("one", 20))]).await;
        let near = landmarks([("sdk", files("sdk", 100)), ("src", files("two", 20))]).await;
        let other_sdk = landmarks([("sdk", files("new", 100)), ("src", files("one", 20))]).await;
        let moved = landmarks([("lib", files("sdk", 100)), ("src", files("two", 20))]).await;
        let [near, other_sdk, moved] = [near, other_sdk, moved].map(|it| it.likeness(&tree));
        assert!(near > other_sdk && other_sdk > moved && moved > 0, "{near} {other_sdk} {moved}");
    }

    #[tokio::test]
    async fn there_are_but_few() {
        let names: Vec<_> = (0..100).map(|directory| format!("d{directory}")).collect();
        let nodes = names.iter().map(|name| (name.as_str(), files(name, 20)));
        let landmarks = Landmarks::of(&Seed::directory(nodes).grow().await);
        assert_eq!(landmarks.0.len(), MAX_LANDMARKS);
        assert_eq!(Landmarks::of(&files("few", 3).grow().await).0.len(), 1);
    }
}
