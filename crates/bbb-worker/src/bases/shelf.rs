//! Which bases there are, how long they stay, and which of them are worth comparing with a tree. Pure.
//!
//! Promises: bases and their entries stay within bounds, those used least recently go first; an instance sees none
//! but its own.

use std::{
    cmp::Reverse,
    collections::HashMap,
    sync::{Arc, Weak},
};

use bbb_digest::{Digest, InstanceName};
use bbb_storage::Subtree;

use super::landmarks::Landmarks;

/// How many bases are kept: they are all looked at for each tree that is none of them.
pub(super) const MAX_BASES: usize = 256;

/// What a node of a base takes of memory at the most: the pin of a blob that had to be brought.
const NODE_BYTES: u64 = 80;

/// How many bases are compared with a tree, those first that seem to be most like it.
const MAX_COMPARED: usize = 4;

/// A layer of fewer entries than this part of its tree is cheap.
const CHEAP_SHARE: u64 = 32;

/// Bases by what they are of. `B` is a base that is there or being made; all clones of one are one.
#[derive(Debug)]
pub(super) struct Shelf<B> {
    bases: HashMap<Key, Entry<B>>,
    nodes: u64,
    max_nodes: u64,
    clock: u64,
}

/// An instance and the root of a tree of it.
pub(super) type Key = (InstanceName, Digest);

#[derive(Debug)]
struct Entry<B> {
    base: B,
    /// Trees take memory that others want: it is theirs when they do. Without it, a base is good for equal trees only.
    tree: Weak<Subtree>,
    nodes: u64,
    landmarks: Landmarks,
    used: u64,
    /// What layers above it took in entries, unless they were cheap, since the last one that was not made.
    spent: u64,
}

impl<B: Clone> Shelf<B> {
    /// One for bases that take so many bytes of memory together.
    pub(super) fn new(memory_bytes: u64) -> Self {
        let max_nodes = memory_bytes / NODE_BYTES;
        Self { bases: HashMap::new(), nodes: 0, max_nodes, clock: 0 }
    }

    /// How many nodes all bases may have together.
    pub(super) fn max_nodes(&self) -> u64 {
        self.max_nodes
    }

    /// The base of exactly this tree. Counts as a use.
    pub(super) fn of(&mut self, instance: &InstanceName, tree: &Arc<Subtree>) -> Option<B> {
        let key = (instance.clone(), tree.digest());
        self.clock += 1;
        let entry = self.bases.get_mut(&key)?;
        entry.used = self.clock;
        entry.tree = Arc::downgrade(tree);
        Some(entry.base.clone())
    }

    /// Bases that seem to be like a tree, the most alike first.
    pub(super) fn like(
        &self,
        instance: &InstanceName,
        landmarks: &Landmarks,
    ) -> Vec<(Arc<Subtree>, B)> {
        let mut alike: Vec<_> = (self.bases.iter())
            .filter(|((of, _), _)| of == instance)
            .map(|(_, entry)| ((entry.landmarks.likeness(landmarks), entry.used), entry))
            .collect();
        alike.sort_unstable_by_key(|(likeness, _)| Reverse(*likeness));
        alike
            .into_iter()
            .filter_map(|(_, entry)| Some((entry.tree.upgrade()?, entry.base.clone())))
            .take(MAX_COMPARED)
            .collect()
    }

    /// Whether `tree` is better staged as a layer of so many entries above the base `of` another tree than as a base itself; counts as
    /// a use. The first trees that differ more than a little are: nobody knows yet whether others will be like them. When their layers
    /// have taken what a base takes, the next one becomes a base. So neither trees that move away from a base nor trees that
    /// are like nothing else cost twice what they had to.
    pub(super) fn stands_above(
        &mut self,
        instance: &InstanceName,
        of: &Subtree,
        tree: &Subtree,
        entries: u64,
    ) -> bool {
        self.clock += 1;
        let Some(entry) = self.bases.get_mut(&(instance.clone(), of.digest())) else { return true };
        entry.used = self.clock;
        let nodes = tree.totals().nodes;
        if entries <= nodes / CHEAP_SHARE {
            return true;
        }
        entry.spent = entry.spent.saturating_add(entries);
        let stands_above = entry.spent <= nodes;
        if !stands_above {
            entry.spent = 0;
        }
        stands_above
    }

    /// Adds a base, unless there is one of this tree: then that is it. Gives those that had to go for it, too.
    pub(super) fn add(
        &mut self,
        instance: &InstanceName,
        tree: &Arc<Subtree>,
        landmarks: Landmarks,
        base: B,
    ) -> (B, Vec<B>) {
        if let Some(there) = self.of(instance, tree) {
            return (there, Vec::new());
        }
        let nodes = tree.totals().nodes;
        let mut gone = Vec::new();
        while self.bases.len() >= MAX_BASES
            || (self.nodes.saturating_add(nodes) > self.max_nodes && !self.bases.is_empty())
        {
            let oldest = self.bases.iter().min_by_key(|(_, entry)| entry.used);
            let oldest = oldest.map(|(key, _)| key.clone());
            gone.extend(oldest.and_then(|key| self.remove(&key, |_| true)));
        }
        self.nodes += nodes;
        let tree_of = Arc::downgrade(tree);
        let used = self.clock;
        let entry = Entry { base: base.clone(), tree: tree_of, nodes, landmarks, used, spent: 0 };
        self.bases.insert((instance.clone(), tree.digest()), entry);
        (base, gone)
    }

    /// Removes the base of a tree, if that is as it should be.
    pub(super) fn remove(&mut self, key: &Key, should: impl FnOnce(&B) -> bool) -> Option<B> {
        if !should(&self.bases.get(key)?.base) {
            return None;
        }
        let entry = self.bases.remove(key)?;
        self.nodes -= entry.nodes;
        Some(entry.base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seeds::Seed;

    /// A tree of so many files and one of its own.
    async fn tree(own: &str, files: usize) -> Arc<Subtree> {
        let names: Vec<_> = (0..files).map(|file| format!("f{file}")).collect();
        let files = names.iter().map(|name| (name.as_str(), Seed::file("x")));
        Seed::directory(files.chain([("own", Seed::file(own))])).grow().await
    }

    fn add(shelf: &mut Shelf<u32>, tree: &Arc<Subtree>, base: u32) -> Vec<u32> {
        let (there, gone) = shelf.add(&InstanceName::default(), tree, Landmarks::of(tree), base);
        assert_eq!(there, base);
        gone
    }

    #[tokio::test]
    async fn the_least_used_goes_first() {
        let (mut shelf, instance) = (Shelf::new(1 << 20), InstanceName::default());
        let mut trees = Vec::new();
        for number in 0..MAX_BASES as u32 {
            trees.push(tree(&number.to_string(), 1).await);
            assert!(add(&mut shelf, &trees[number as usize], number).is_empty());
        }
        assert_eq!(shelf.of(&instance, &trees[0]), Some(0));
        assert!(shelf.stands_above(&instance, &trees[1], &trees[0], 1));
        assert_eq!(add(&mut shelf, &tree("new", 1).await, 1000), [2]);
        assert_eq!(add(&mut shelf, &tree("newer", 1).await, 1001), [3]);
        let (there, gone) = shelf.add(&instance, &trees[0], Landmarks::of(&trees[0]), 7);
        assert_eq!((there, gone), (0, Vec::new()), "it is there");
    }

    #[tokio::test]
    async fn what_layers_took_buys_a_base() {
        let (mut shelf, instance) = (Shelf::new(1 << 20), InstanceName::default());
        let (base, tree) = (tree("base", 99).await, tree("tree", 99).await);
        add(&mut shelf, &base, 1);
        let mut stands_above = |entries| shelf.stands_above(&instance, &base, &tree, entries);
        assert!((0..1000).all(|_| stands_above(3)), "they are cheap");
        for _ in 0..3 {
            assert!(stands_above(40) && stands_above(60) && !stands_above(4));
        }
    }

    #[tokio::test]
    async fn nodes_are_bounded_and_given_back() {
        let (mut shelf, instance) = (Shelf::new(1 << 20), InstanceName::default());
        let (one, other) = (tree("one", 10).await, tree("other", 10).await);
        add(&mut shelf, &one, 1);
        // As if there were many more.
        shelf.nodes = shelf.max_nodes() - 5;
        assert_eq!(add(&mut shelf, &other, 2), [1]);
        let key = (instance, other.digest());
        assert_eq!(shelf.remove(&key, |_| false), None);
        assert_eq!(shelf.remove(&key, |base| *base == 2), Some(2));
        assert_eq!(shelf.nodes, shelf.max_nodes() - 5 - 11);
    }

    #[tokio::test]
    async fn only_trees_of_the_same_instance_that_are_known_are_compared() {
        let (mut shelf, instance) = (Shelf::new(1 << 20), InstanceName::default());
        let mut trees = Vec::new();
        for number in 0..10 {
            trees.push(tree(&number.to_string(), number * 10).await);
            add(&mut shelf, &trees[number], number as u32);
        }
        let landmarks = Landmarks::of(&trees[9]);
        let like = |shelf: &Shelf<u32>, instance: &InstanceName| {
            let like = shelf.like(instance, &landmarks);
            like.into_iter().map(|(_, base)| base).collect::<Vec<_>>()
        };
        assert_eq!(like(&shelf, &instance), [9, 8, 7, 6]);
        assert!(like(&shelf, &"other".parse::<InstanceName>().unwrap()).is_empty());
        trees.remove(8);
        assert_eq!(like(&shelf, &instance), [9, 7, 6, 5]);
    }
}
