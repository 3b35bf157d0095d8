//! Reading a tree: only what nobody holds is read, and put together from below.

use std::{
    collections::{HashMap, HashSet},
    io, mem,
    sync::Arc,
};

use bbb_digest::Digest;
use bbb_reapi::{Directory, Invalid};
use futures::{StreamExt as _, stream};

use super::{
    Subtree, TreeError, Trees,
    memory::{Taken, Turn},
    subtree::{Place, memory_bytes},
};
use crate::{Error, Result, blocking::blocking};

/// The deepest that directories may stand in each other: each takes two bytes of a path at the least, and no system
/// call takes a path of more than 4,096 (`PATH_MAX`).
const MAX_DEPTH: u32 = 2048;

/// How many directories of one tree are read at once.
const CONCURRENT_READS: usize = 32;

/// How many directories may be read of one tree. A tree is a graph by digest, so a few messages can claim
/// more directories than any machine holds; this is where the claim ends.
const MAX_DIRECTORIES: usize = 1 << 20;

/// What a directory costs that is to be read or missing, in bytes: its digest in several lists.
pub(super) const ENTRY_BYTES: u64 = 256;

/// How many directories are put together right here, and how many nodes they may have in all. More take longer than a
/// reactor may be held: each name is looked at.
const FEW_DIRECTORIES: usize = 200;
const FEW_NODES: usize = 10_000;

/// A message of more bytes is parsed and measured elsewhere, for the same reason.
pub(super) const SHORT_BYTES: u64 = 64 << 10;

/// What was found of a tree.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// What nobody held.
    pub(super) read: HashMap<Digest, Arc<Directory>>,
    /// What somebody held: nothing below these was looked at.
    pub(super) known: HashMap<Digest, Arc<Subtree>>,
    /// What is not stored.
    pub(super) missing: Vec<Digest>,
    pub(super) taken: Taken,
}

impl Trees {
    /// Tries something that takes memory while it has some, and then once more in its turn to wait for it.
    pub(super) async fn in_turn<T, F>(
        &self,
        attempt: impl Fn(Option<Turn>) -> F,
    ) -> Result<T, TreeError>
    where
        F: Future<Output = Result<Option<T>, TreeError>>,
    {
        if let Some(done) = attempt(None).await? {
            return Ok(done);
        }
        let turn = self.cache.memory.turn().await?;
        let done = attempt(Some(turn)).await?;
        done.ok_or_else(|| Error::unavailable("reading", io::Error::other("no memory")).into())
    }

    /// Takes memory, whatever the cache holds. None of it is left if others have it: then it is waited for with a turn, else
    /// false.
    pub(super) async fn grow(
        &self,
        taken: &mut Taken,
        bytes: u64,
        turn: Option<&Turn>,
    ) -> Result<bool> {
        let memory = &self.cache.memory;
        loop {
            if taken.grow(memory, bytes)? {
                return Ok(true);
            }
            if !self.cache.alive.give_way() {
                break;
            }
        }
        if turn.is_none() {
            return Ok(false);
        }
        let _waits = self.cache.alive.wait();
        taken.wait(memory, bytes).await.map(|()| true)
    }

    /// Finds out what there is of the tree at `root`. None if others have the memory that is needed; with a turn it
    /// waits for them instead.
    pub(super) async fn read(
        &self,
        root: Digest,
        turn: Option<&Turn>,
    ) -> Result<Option<Reading>, TreeError> {
        let mut reading = Reading::default();
        let mut seen = HashSet::from([root]);
        let mut level = vec![root];
        loop {
            level.retain(|digest| match self.cache.alive.find(&self.instance, *digest) {
                Some(subtree) => reading.known.insert(*digest, subtree).is_some(),
                None => true,
            });
            if level.is_empty() {
                return Ok(Some(reading));
            }
            if reading.read.len() + level.len() > MAX_DIRECTORIES {
                let what = format!("has more than {MAX_DIRECTORIES} directories");
                return Err(refused(root, what));
            }
            let costs = level.iter().map(|digest| ENTRY_BYTES.saturating_add(digest.size_bytes()));
            let messages_bytes = costs.fold(0, u64::saturating_add);
            if !self.grow(&mut reading.taken, messages_bytes, turn).await? {
                return Ok(None);
            }
            let mut read = stream::iter(mem::take(&mut level))
                .map(|digest| async move { (digest, self.directory(digest).await) })
                .buffered(CONCURRENT_READS);
            while let Some((digest, directory)) = read.next().await {
                match directory {
                    Ok((directory, bytes)) => {
                        if !self.grow(&mut reading.taken, bytes, turn).await? {
                            return Ok(None);
                        }
                        let below = directory.directories.iter().map(|node| node.digest);
                        level.extend(below.filter(|digest| seen.insert(*digest)));
                        reading.read.insert(digest, Arc::new(directory));
                    }
                    Err(TreeError::Storage(Error::Missing(digest))) => reading.missing.push(digest),
                    Err(error) => return Err(error),
                }
            }
        }
    }

    /// One directory, and what it takes in memory.
    async fn directory(&self, digest: Digest) -> Result<(Directory, u64), TreeError> {
        let bytes = self.message(digest).await?;
        let parse = move || {
            let directory = Directory::decode(digest.function(), &bytes)?;
            let bytes = memory_bytes(&directory);
            Ok((directory, bytes))
        };
        let directory = match digest.size_bytes() <= SHORT_BYTES {
            true => parse(),
            false => blocking("parsing a directory", move || Ok(parse())).await?,
        };
        directory.map_err(|invalid| TreeError::invalid(digest, invalid))
    }

    /// Puts a tree together of which nothing is missing.
    pub(super) async fn assemble(
        &self,
        root: Digest,
        reading: Reading,
    ) -> Result<Arc<Subtree>, TreeError> {
        let place =
            Place { instance: self.instance.clone(), alive: Arc::downgrade(&self.cache.alive) };
        let subtree = match reading.is_small() {
            true => reading.assemble(root, &place)?,
            false => {
                let assemble = move || Ok(reading.assemble(root, &place));
                blocking("putting a tree together", assemble).await??
            }
        };
        self.cache.alive.keep(&subtree);
        Ok(subtree)
    }
}

impl Reading {
    /// Whether what was read is put together in no time.
    fn is_small(&self) -> bool {
        let nodes = self
            .read
            .values()
            .map(|read| read.files.len() + read.directories.len() + read.symlinks.len());
        self.read.len() <= FEW_DIRECTORIES && nodes.sum::<usize>() <= FEW_NODES
    }

    fn assemble(mut self, root: Digest, place: &Place) -> Result<Arc<Subtree>, TreeError> {
        let order = children_first(
            root,
            |digest| *digest,
            |digest| {
                let directory = self.read.get(&digest).into_iter();
                directory.flat_map(|directory| &directory.directories).map(|node| node.digest)
            },
        );
        for digest in order {
            let Some(directory) = self.read.get(&digest) else { continue };
            let below: Option<Box<[_]>> = directory
                .directories
                .iter()
                .map(|node| self.known.get(&node.digest).cloned())
                .collect();
            let below = below.ok_or(Error::Missing(digest))?;
            if below.iter().any(|below| below.totals().depth >= MAX_DEPTH) {
                let what = format!("has directories in each other more than {MAX_DEPTH} deep");
                return Err(refused(root, what));
            }
            let memory = self.taken.split(memory_bytes(directory));
            let subtree = Subtree::new(digest, Arc::clone(directory), below, place.clone(), memory);
            let Some(alive) = place.alive.upgrade() else { continue };
            self.known.insert(digest, alive.share(subtree));
        }
        self.known.remove(&root).ok_or_else(|| Error::Missing(root).into())
    }
}

fn refused(root: Digest, what: String) -> TreeError {
    TreeError::invalid(root, Invalid::new("input_root_digest", what))
}

/// Each of what is below and with `root` once, what is below before what it is below of. Nothing stands below itself, since
/// its digest says what is in it.
pub(super) fn children_first<N: Clone, I: Iterator<Item = N>>(
    root: N,
    name: impl Fn(&N) -> Digest,
    below: impl Fn(N) -> I,
) -> Vec<N> {
    let mut seen = HashSet::new();
    let mut order = Vec::new();
    // Each stands in it twice: before those in it, and behind them.
    let mut waiting = vec![(root, false)];
    while let Some((node, is_behind)) = waiting.pop() {
        if is_behind {
            order.push(node);
        } else if seen.insert(name(&node)) {
            waiting.push((node.clone(), true));
            let unseen = below(node).filter(|node| !seen.contains(&name(node)));
            waiting.extend(unseen.map(|node| (node, false)));
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use bbb_digest::Function;
    use bbb_reapi::{FileName, FileNode, NodeProperties};

    use super::*;

    fn reading(directories: usize, files: usize) -> Reading {
        let empty = Digest::of(Function::Sha256, b"");
        let file = |number: usize| FileNode {
            name: FileName::new(&format!("f{number}")).unwrap(),
            digest: empty,
            is_executable: false,
            properties: NodeProperties::default(),
        };
        let mut directory = Directory::default();
        directory.files.extend((0..files).map(file));
        let directory = Arc::new(directory);
        let name = |number: usize| Digest::of(Function::Sha256, &number.to_be_bytes());
        let read = (0..directories).map(|number| (name(number), Arc::clone(&directory)));
        Reading { read: read.collect(), ..Reading::default() }
    }

    #[test]
    fn neither_many_directories_nor_a_large_one_hold_the_reactor_up() {
        assert!(reading(FEW_DIRECTORIES, 1).is_small());
        assert!(!reading(FEW_DIRECTORIES + 1, 1).is_small());
        assert!(reading(1, FEW_NODES).is_small());
        assert!(!reading(1, FEW_NODES + 1).is_small());
        assert!(!reading(FEW_DIRECTORIES, FEW_NODES).is_small());
    }
}
