//! A directory and all that is below it, as a value that is shared: equal directories are one, wherever they stand.

use std::{
    mem,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use bbb_digest::{Digest, InstanceName};
use bbb_reapi::{Directory, DirectoryNode, NodeProperties};

use super::{
    alive::{Alive, SEAT_BYTES},
    memory::Taken,
};

/// A directory whose every directory below is known.
///
/// While somebody holds it, it has its share of the memory of trees, and so has all that is below it: what is to be
/// held for long is to be held by few.
#[derive(Debug)]
pub struct Subtree {
    digest: Digest,
    directory: Arc<Directory>,
    /// In the order of the directory's own nodes.
    below: Box<[Arc<Subtree>]>,
    totals: Totals,
    seen: AtomicU64,
    place: Place,
    _memory: Taken,
}

/// Where a subtree is found by others as long as it is alive.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) instance: InstanceName,
    pub(super) alive: Weak<Alive>,
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
    /// What it takes in memory while it is held, in bytes.
    pub memory_bytes: u64,
}

impl Subtree {
    /// Puts a directory together with what is below it, in the order of its nodes. `memory` is what [`memory_bytes`] says.
    pub(super) fn new(
        digest: Digest,
        directory: Arc<Directory>,
        below: Box<[Arc<Self>]>,
        place: Place,
        memory: Taken,
    ) -> Self {
        let totals = Totals::of(&directory, &below);
        Self { digest, directory, below, totals, seen: AtomicU64::new(0), place, _memory: memory }
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

    pub(super) fn instance(&self) -> &InstanceName {
        &self.place.instance
    }

    /// When all of it was last seen in the store, by the clock of who asked; 0 if never.
    pub(super) fn seen(&self) -> u64 {
        self.seen.load(Ordering::Relaxed)
    }

    /// All of it was seen in the store. Of two who say so at once, either is right.
    pub(super) fn set_seen(&self, at: u64) {
        self.seen.store(at, Ordering::Relaxed);
    }
}

impl Drop for Subtree {
    fn drop(&mut self) {
        // One after the other, since they may stand in each other deeper than the stack is.
        let mut dropped = Vec::from(mem::take(&mut self.below));
        while let Some(below) = dropped.pop() {
            if let Some(mut last) = Arc::into_inner(below) {
                dropped.extend(mem::take(&mut last.below));
            }
        }
        if let Some(alive) = self.place.alive.upgrade() {
            alive.leave(&self.place.instance, self.digest);
        }
    }
}

/// What a subtree takes in memory without those below it, in bytes.
pub(super) fn memory_bytes(directory: &Directory) -> u64 {
    /// What the allocator adds to a string.
    const ALLOCATED: usize = 16;
    let names: usize = directory.names().map(|name| name.as_str().len() + ALLOCATED).sum();
    let targets: usize =
        directory.symlinks.iter().map(|link| link.target.capacity() + ALLOCATED).sum();
    let nodes = vec_bytes(&directory.files)
        + vec_bytes(&directory.directories)
        + vec_bytes(&directory.symlinks);
    let below = directory.directories.len() * size_of::<Arc<Subtree>>();
    let own = size_of::<Subtree>() + size_of::<Directory>();
    SEAT_BYTES + (own + nodes + names + targets + below) as u64
}

fn vec_bytes<T>(nodes: &Vec<T>) -> usize {
    nodes.capacity() * size_of::<T>()
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
            memory_bytes: memory_bytes(directory),
        };
        directory.directories.iter().zip(below).fold(own, |sum, (node, below)| Self {
            files: sum.files.saturating_add(below.totals.files),
            nodes: sum.nodes.saturating_add(below.totals.nodes),
            bytes: sum.bytes.saturating_add(below.totals.bytes),
            depth: sum.depth.max(below.totals.depth + 1),
            path_len: sum.path_len.max(node.name.as_str().len() + 1 + below.totals.path_len),
            has_directory_properties: sum.has_directory_properties
                || below.totals.has_directory_properties,
            memory_bytes: sum.memory_bytes.saturating_add(below.totals.memory_bytes),
        })
    }
}
