//! Whether all of a tree is stored, asked only for what was not seen there a moment ago.
//!
//! A store that says that a blob is there counts it as used and keeps it for a while: the bucket for half of
//! `--expire_after` from the answer, the disk as long as others were used less recently. So for some seconds nobody has to
//! ask again, and of a tree like the last one only what differs is asked for.
//!
//! That something was seen is never used to tell what is missing: as soon as anything is, all is asked for afresh, and
//! nothing that was seen before counts any more.

use std::{
    collections::HashSet,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bbb_digest::Digest;
use tokio::{task, time::Instant};

use super::{Subtree, TreeError, Trees, Walk, reading::children_first};
use crate::{
    Error, Result,
    bucket::{CLOCK_ERROR, MIN_EXPIRE_AFTER},
};

/// How long a blob counts as stored after the store said so. Long enough that trees of which many actions have a part are
/// asked for seldom; short enough that blobs in use hardly grow older in the disk's order than those that are not.
const SEEN_FOR: Duration = Duration::from_secs(5);

// The bucket's promise leaves a quarter of the time to expiry for two clocks' error and the answer's way, of which this
// is a part.
const _: () = assert!(
    SEEN_FOR.as_secs() + 2 * CLOCK_ERROR.as_secs() < MIN_EXPIRE_AFTER.as_secs() / 4,
    "the bucket's promise covers what is not asked again"
);

/// How many blobs are asked for at once.
const ASKED_AT_ONCE: usize = 8192;

/// How often a tree is looked at that comes and goes meanwhile.
const ATTEMPTS: usize = 3;

/// A tree with all its files, or all that is missing.
#[derive(Debug)]
pub enum Found {
    /// All of it is stored, and stays for the time that the store promises.
    Whole(Arc<Subtree>),
    /// What is not stored: directories and files, each once, at least one.
    Missing(Vec<Digest>),
}

type Blobs<'a> = Box<dyn Iterator<Item = Digest> + Send + 'a>;

/// The clock by which subtrees were seen whole.
#[derive(Debug)]
pub(super) struct Sightings {
    epoch: Instant,
    /// What was seen until then counts no more.
    void: AtomicU64,
}

impl Sightings {
    pub(super) fn new() -> Self {
        Self { epoch: Instant::now(), void: AtomicU64::new(0) }
    }

    /// Nanoseconds since a moment before all others, so that 0 is never.
    fn now(&self) -> u64 {
        1 + u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX - 1)
    }

    /// Nothing that was seen so far counts any more.
    fn forget(&self) {
        self.void.fetch_max(self.now(), Ordering::Relaxed);
    }

    fn counts(&self, subtree: &Subtree, now: u64) -> bool {
        let seen = subtree.seen();
        seen > self.void.load(Ordering::Relaxed)
            && now.saturating_sub(seen) < SEEN_FOR.as_nanos() as u64
    }
}

impl Trees {
    /// The tree at `root` if all of it is stored, its files too. Costs as much as it differs from what was found whole
    /// in the last seconds. Counts as a use of all of it, within those seconds.
    ///
    /// # Errors
    /// As [`Self::subtree`], but for what is missing.
    pub async fn find(&self, root: Digest) -> Result<Found, TreeError> {
        for _ in 0..ATTEMPTS {
            match self.subtree(root).await {
                Ok(subtree) if self.is_whole(&subtree).await? => return Ok(Found::Whole(subtree)),
                Ok(_) | Err(TreeError::Storage(Error::Missing(_))) => {}
                Err(error) => return Err(error),
            }
            let missing = self.missing(root).await?;
            if !missing.is_empty() {
                return Ok(Found::Missing(missing));
            }
            // It came meanwhile.
        }
        let error = io::Error::other("it comes and goes");
        Err(Error::unavailable(format!("reading the tree {root}"), error).into())
    }

    /// Whether all of it is stored that was not seen lately.
    async fn is_whole(&self, subtree: &Arc<Subtree>) -> Result<bool> {
        let sightings = &self.cache.sightings;
        let now = sightings.now();
        let unseen = |subtree: &&Arc<Subtree>| !sightings.counts(subtree, now);
        if !unseen(&subtree) {
            return Ok(true);
        }
        let asked = children_first(
            subtree,
            |subtree| subtree.digest(),
            |subtree| subtree.below().map(|(_, below)| below).filter(unseen),
        );
        let blobs = asked.iter().flat_map(|subtree| {
            let files = subtree.directory().files.iter().map(|file| file.digest);
            std::iter::once(subtree.digest()).chain(files)
        });
        if !self.absent(Box::new(blobs)).await?.is_empty() {
            return Ok(false);
        }
        for subtree in asked {
            // What is below and was seen before is what it is known by.
            let below = subtree.below().map(|(_, below)| below.seen());
            subtree.set_seen(below.fold(now, u64::min));
        }
        Ok(true)
    }

    /// Everything that is missing of the tree at `root`: directories and files, each once. All is asked for, and counts as
    /// used where it is there.
    ///
    /// # Errors
    /// If a directory is invalid, the tree too large or too deep, or the store fails.
    pub async fn missing(&self, root: Digest) -> Result<Vec<Digest>, TreeError> {
        let Walk { directories, missing, .. } = &self.walk(root).await?;
        let blobs = directories.iter().flat_map(|(digest, directory)| {
            std::iter::once(*digest).chain(directory.files.iter().map(|file| file.digest))
        });
        let mut absent = self.absent(Box::new(blobs)).await?;
        absent.extend(missing);
        if !absent.is_empty() {
            self.cache.sightings.forget();
        }
        Ok(absent.into_iter().collect())
    }

    /// Those of the blobs that are not stored. Of very many some are asked for at a time, so that no list of all is made.
    async fn absent(&self, blobs: Blobs<'_>) -> Result<HashSet<Digest>> {
        let mut absent = HashSet::new();
        let mut blobs = blobs.peekable();
        while blobs.peek().is_some() {
            let some: Vec<Digest> = blobs.by_ref().take(ASKED_AT_ONCE).collect();
            absent.extend(self.cas.find_missing(&some).await?);
            if some.len() == ASKED_AT_ONCE {
                task::yield_now().await;
            }
        }
        Ok(absent)
    }
}
