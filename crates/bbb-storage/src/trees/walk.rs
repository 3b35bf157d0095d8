//! A tree as the list of its directories, also where some are not stored.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use bbb_digest::Digest;
use bbb_reapi::Directory;

use super::{
    Subtree, TreeError, Trees,
    memory::{Taken, Turn},
    reading::{ENTRY_BYTES, Reading},
};

/// A tree as it was found. It holds its memory until it is dropped.
#[derive(Debug, Default)]
pub struct Walk {
    /// Every distinct directory that was found, parents before children, the root first.
    pub directories: Vec<(Digest, Arc<Directory>)>,
    /// Directories that are not stored.
    pub missing: Vec<Digest>,
    _known: Vec<Arc<Subtree>>,
    _taken: Taken,
}

impl Walk {
    /// The digest of every directory and file that was found; may hold duplicates.
    pub fn digests(&self) -> impl Iterator<Item = Digest> {
        self.directories.iter().flat_map(|(digest, directory)| {
            std::iter::once(*digest).chain(directory.files.iter().map(|file| file.digest))
        })
    }
}

impl Trees {
    /// Every distinct directory below and with `root`, and which of them are not stored. One that somebody holds is found,
    /// whether it is still stored or not.
    ///
    /// # Errors
    /// If a directory is invalid, the tree too large or too deep, or the store fails. [`Error::Full`](crate::Error::Full)
    /// if the tree takes more memory than trees may, or others take it for long.
    pub async fn walk(&self, root: Digest) -> Result<Walk, TreeError> {
        self.in_turn(|turn| self.walk_with(root, turn)).await
    }

    async fn walk_with(&self, root: Digest, turn: Option<Turn>) -> Result<Option<Walk>, TreeError> {
        let turn = turn.as_ref();
        let Some(mut reading) = self.read(root, turn).await? else { return Ok(None) };
        if reading.missing.is_empty() {
            // Others may ask for the same.
            let subtree = self.assemble(root, reading).await?;
            reading = Reading::default();
            reading.known.insert(root, subtree);
        }
        let directories = reading.directories(root);
        let list_bytes = ENTRY_BYTES * directories.len() as u64;
        if !self.grow(&mut reading.taken, list_bytes, turn).await? {
            return Ok(None);
        }
        let Reading { known, missing, taken, .. } = reading;
        let known = known.into_values().collect();
        Ok(Some(Walk { directories, missing, _known: known, _taken: taken }))
    }
}

/// A directory on the way down: one that is whole needs no looking up of what is below.
enum Step<'a> {
    Known(&'a Arc<Subtree>),
    Read(Digest, &'a Arc<Directory>),
}

impl Reading {
    /// All that was found: level by level, so that the order is the same whatever was known before.
    fn directories(&self, root: Digest) -> Vec<(Digest, Arc<Directory>)> {
        let mut directories = Vec::new();
        let mut seen = HashSet::from([root]);
        let mut steps = VecDeque::from_iter(self.step(root));
        while let Some(step) = steps.pop_front() {
            match step {
                Step::Known(subtree) => {
                    let below = subtree.below().map(|(_, below)| below);
                    let below = below.filter(|below| seen.insert(below.digest()));
                    steps.extend(below.map(Step::Known));
                    directories.push((subtree.digest(), Arc::clone(subtree.directory())));
                }
                Step::Read(digest, directory) => {
                    let below = directory.directories.iter().map(|node| node.digest);
                    let below = below.filter(|digest| seen.insert(*digest));
                    steps.extend(below.filter_map(|digest| self.step(digest)));
                    directories.push((digest, Arc::clone(directory)));
                }
            }
        }
        directories
    }

    fn step(&self, digest: Digest) -> Option<Step<'_>> {
        let read = self.read.get(&digest).map(|directory| Step::Read(digest, directory));
        read.or_else(|| self.known.get(&digest).map(Step::Known))
    }
}
