//! Hints: which node holds which blob on its disk, as it has said itself. Nodes go by their names: one that starts again has
//! the disk that it had before.
//!
//! A hint is no promise. It costs a question if it is wrong, and saves a request to the bucket if it is right.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bbb_digest::{Digest, Function, Hasher, InstanceName};
use quick_cache::sync::Cache;

/// What one hint takes in memory, about: its key, its holder's number and its place in the cache.
const HINT_BYTES: u64 = 48;

/// How many holders are told apart. Past that all hints are forgotten: members come and go, and each has a number.
const MAX_HOLDERS: usize = 4096;

/// A blob of an instance, by the beginning of a hash of all that tells it apart.
type Key = [u8; 16];

/// Who holds what, as far as this node was told.
pub(crate) struct Hints {
    holders_of: Cache<Key, u32>,
    holders: Mutex<Holders>,
}

/// Nodes by their numbers, and the other way round.
#[derive(Default)]
struct Holders {
    by_number: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, u32>,
}

impl Hints {
    /// None yet; all of them take `limit_bytes`, about.
    pub(crate) fn new(limit_bytes: u64) -> Self {
        let count = usize::try_from(limit_bytes / HINT_BYTES).unwrap_or(usize::MAX);
        Self { holders_of: Cache::new(count.max(1)), holders: Mutex::default() }
    }

    /// A node holds a blob. The last one that says so is remembered.
    pub(crate) fn insert(&self, instance: &InstanceName, digest: Digest, holder: &str) {
        let number = self.number(holder);
        self.holders_of.insert(key(instance, digest), number);
    }

    /// Who holds a blob.
    pub(crate) fn get(&self, instance: &InstanceName, digest: Digest) -> Option<Arc<str>> {
        let number = self.holders_of.get(&key(instance, digest))?;
        self.holders().by_number.get(number as usize).cloned()
    }

    /// A node does not hold a blob any more.
    pub(crate) fn remove(&self, instance: &InstanceName, digest: Digest, holder: &str) {
        let number = self.holders().numbers.get(holder).copied();
        self.holders_of.remove_if(&key(instance, digest), |of| Some(*of) == number);
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.holders_of.len()
    }

    fn number(&self, holder: &str) -> u32 {
        let mut holders = self.holders();
        if let Some(number) = holders.numbers.get(holder) {
            return *number;
        }
        if holders.by_number.len() >= MAX_HOLDERS {
            *holders = Holders::default();
            self.holders_of.clear();
        }
        // At most as many as there may be holders.
        let number = holders.by_number.len() as u32;
        let holder: Arc<str> = holder.into();
        holders.by_number.push(Arc::clone(&holder));
        holders.numbers.insert(holder, number);
        number
    }

    fn holders(&self) -> MutexGuard<'_, Holders> {
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(instance: &InstanceName, digest: Digest) -> Key {
    let name = instance.as_str().as_bytes();
    let head = [digest.function() as u8];
    let size_bytes = digest.size_bytes().to_le_bytes();
    let parts = [&head[..], &size_bytes, digest.hash(), name];
    let mut hasher =
        Hasher::new(Function::Blake3, parts.iter().map(|part| part.len() as u64).sum());
    parts.iter().for_each(|part| hasher.update(part));
    let mut key = Key::default();
    key.copy_from_slice(&hasher.finish().hash()[..size_of::<Key>()]);
    key
}

impl fmt::Debug for Hints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hints").field("len", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u64) -> Arc<str> {
        format!("node-{number}").into()
    }

    #[test]
    fn the_last_holder_counts_and_instances_are_walls() {
        let hints = Hints::new(1 << 20);
        let (main, other): (InstanceName, InstanceName) =
            ("main".parse().unwrap(), "".parse().unwrap());
        let digest = Digest::of(Function::Sha256, b"x");
        hints.insert(&main, digest, &node(1));
        hints.insert(&main, digest, &node(2));
        assert_eq!(hints.get(&main, digest), Some(node(2)));
        assert_eq!(hints.get(&other, digest), None);
        assert_eq!(hints.get(&main, Digest::of(Function::Blake3, b"x")), None);
        hints.remove(&main, digest, &node(1));
        assert_eq!(hints.get(&main, digest), Some(node(2)), "another holder's hint went");
        hints.remove(&main, digest, &node(2));
        assert_eq!(hints.get(&main, digest), None);
    }

    #[test]
    fn hints_and_holders_are_bounded() {
        let hints = Hints::new(1000 * HINT_BYTES);
        let instance = InstanceName::default();
        for number in 0..20_000_u64 {
            let digest = Digest::of(Function::Sha256, &number.to_le_bytes());
            hints.insert(&instance, digest, &node(number));
            assert!(hints.len() <= 1000 && hints.holders().by_number.len() <= MAX_HOLDERS);
            if let Some(holder) = hints.get(&instance, digest) {
                assert_eq!(holder, node(number));
            }
        }
    }
}
