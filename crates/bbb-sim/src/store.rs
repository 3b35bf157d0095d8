//! What nodes store: a disk each, and the bucket that all share.
//!
//! Both are maps behind the seams of `bbb-storage`. They promise what the true tiers do: no byte leaves whose hash was
//! not checked, a fault is never a miss, and what was acknowledged is in the bucket. They fail as true disks and buckets
//! do: by taking long, refusing, losing answers, and giving bytes that are not those that were stored.

use std::{
    collections::BTreeMap,
    fmt, io,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use bbb_digest::{Digest, Function};
use bbb_storage::{
    ActionCache, ActionResult, Blob, Cas, Content, Encoding, Error, Result, Source, SourceContent,
    Wanted,
};
use bytes::Bytes;
use tokio::time;

use crate::world::{World, lock, note};

/// How often the bucket is asked for one thing, before that has failed.
const TRIES: u32 = 6;

/// How a disk or a bucket does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mood {
    /// Each answer takes up to so many milliseconds more.
    pub(crate) slow_ms: u64,
    /// One call in so many is refused.
    pub(crate) refuses: u32,
    /// One change in so many is made and yet reported as failed.
    pub(crate) loses: u32,
    /// One answer in so many has bytes that are wrong, or too few.
    pub(crate) lies: u32,
}

/// What all nodes share. It outlives them all.
#[derive(Debug)]
pub(crate) struct Bucket {
    world: World,
    blobs: Mutex<BTreeMap<Digest, Bytes>>,
    results: Mutex<BTreeMap<Digest, Arc<ActionResult>>>,
    pub(crate) mood: Mutex<Mood>,
}

/// The disk of one machine. It outlives the processes on it.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    blobs: Mutex<BTreeMap<Digest, Bytes>>,
    pub(crate) mood: Mutex<Mood>,
}

/// What a node stores: a disk before the bucket.
#[derive(Debug)]
pub(crate) struct Store {
    world: World,
    disk: Arc<Disk>,
    bucket: Arc<Bucket>,
}

impl Disk {
    /// Loses all that it has.
    pub(crate) fn wipe(&self) {
        lock(&self.blobs).clear();
    }
}

impl Mood {
    /// One call: how it comes out, once its time is over.
    async fn call(self, world: &World, usual_ms: u64) -> Result<()> {
        time::sleep(world.millis(0, usual_ms + 1 + self.slow_ms)).await;
        match world.one_in(self.refuses) {
            true => Err(refused("a call")),
            false => Ok(()),
        }
    }

    /// What was stored, as it is given.
    fn read(self, world: &World, bytes: &Bytes) -> Bytes {
        if bytes.is_empty() || !world.one_in(self.lies) {
            return bytes.clone();
        }
        match world.one_in(2) {
            true => bytes.slice(..bytes.len() / 2),
            false => {
                let mut damaged = bytes.to_vec();
                damaged[world.below(bytes.len())] ^= 1;
                damaged.into()
            }
        }
    }
}

impl Bucket {
    pub(crate) fn new(world: &World) -> Arc<Self> {
        Arc::new(Self {
            world: world.clone(),
            blobs: Mutex::default(),
            results: Mutex::default(),
            mood: Mutex::default(),
        })
    }

    /// Asks again what failed, with pauses, as long as that makes sense.
    async fn ask<T>(&self, work: impl Fn(Mood) -> Result<T>) -> Result<T> {
        let mut tried = 0;
        loop {
            let mood = *lock(&self.mood);
            let done = match mood.call(&self.world, 15).await {
                Ok(()) => work(mood),
                Err(error) => Err(error),
            };
            tried += 1;
            match done {
                Err(Error::Unavailable { .. }) if tried < TRIES => {
                    time::sleep(self.world.millis(50, 100) * (1 << tried)).await;
                }
                done => return done,
            }
        }
    }

    async fn get(&self, digest: Digest) -> Result<Bytes> {
        self.ask(|mood| {
            let blobs = lock(&self.blobs);
            let stored = blobs.get(&digest).ok_or(Error::Missing(digest))?;
            let bytes = mood.read(&self.world, stored);
            match Digest::of(Function::Sha256, &bytes) == digest {
                true => Ok(bytes),
                false => Err(refused("a body that is right")),
            }
        })
        .await
    }

    async fn change(&self, make: impl Fn()) -> Result<()> {
        self.ask(|mood| {
            make();
            match self.world.one_in(mood.loses) {
                true => Err(refused("an answer")),
                false => Ok(()),
            }
        })
        .await
    }
}

fn refused(what: &'static str) -> Error {
    Error::unavailable(what, io::Error::other("it was simulated to fail"))
}

impl Store {
    pub(crate) fn new(world: &World, disk: &Arc<Disk>, bucket: &Arc<Bucket>) -> Arc<Self> {
        let (disk, bucket) = (Arc::clone(disk), Arc::clone(bucket));
        Arc::new(Self { world: world.clone(), disk, bucket })
    }

    /// Whether the disk has a blob.
    pub(crate) fn has_near(&self, digest: Digest) -> bool {
        lock(&self.disk.blobs).contains_key(&digest)
    }

    /// A whole blob.
    pub(crate) async fn read(&self, digest: Digest) -> Result<Bytes> {
        let mood = *lock(&self.disk.mood);
        let near = match mood.call(&self.world, 1).await {
            Ok(()) => lock(&self.disk.blobs).get(&digest).cloned(),
            Err(_) => None,
        };
        if let Some(stored) = near {
            let bytes = mood.read(&self.world, &stored);
            if Digest::of(Function::Sha256, &bytes) == digest {
                return Ok(bytes);
            }
            note!(self.world, "a disk lied");
            lock(&self.disk.blobs).remove(&digest);
        }
        let bytes = self.bucket.get(digest).await?;
        lock(&self.disk.blobs).insert(digest, bytes.clone());
        Ok(bytes)
    }

    /// What an action brought forth, if that is known and complete.
    pub(crate) async fn result(&self, action: Digest) -> Result<Option<Vec<Digest>>> {
        let Some(result) = self.get_result(action).await? else { return Ok(None) };
        let outputs = outputs(&result);
        let missing = self.find_missing(&outputs).await?;
        Ok(missing.is_empty().then_some(outputs))
    }

    async fn get_result(&self, action: Digest) -> Result<Option<Arc<ActionResult>>> {
        self.bucket.ask(|_| Ok(lock(&self.bucket.results).get(&action).cloned())).await
    }
}

/// The outputs that a result names.
fn outputs(result: &ActionResult) -> Vec<Digest> {
    let digests = result.output_files.iter().filter_map(|file| file.digest.as_ref());
    digests
        .filter_map(|digest| Digest::parse(Function::Sha256, &digest.hash, digest.size_bytes).ok())
        .collect()
}

#[async_trait]
impl Cas for Store {
    async fn get(&self, digest: Digest, wanted: Wanted) -> Result<Blob> {
        let bytes = self.read(digest).await?;
        let size_bytes = bytes.len() as u64;
        let range = wanted.within(size_bytes);
        let content = Content::Bytes(bytes.slice(range.start as usize..range.end as usize));
        Ok(Blob { size_bytes, encoding: Encoding::Identity, content })
    }

    async fn put(&self, digest: Digest, source: Source) -> Result<()> {
        let SourceContent::Bytes(bytes) = source.content else {
            return Err(refused("a source that is not in memory"));
        };
        if Digest::of(Function::Sha256, &bytes) != digest {
            return Err(Error::Mismatch { expected: digest, found: "others".to_owned() });
        }
        let mood = *lock(&self.disk.mood);
        if mood.call(&self.world, 2).await.is_ok() {
            lock(&self.disk.blobs).insert(digest, bytes.clone());
        }
        self.bucket.change(|| drop(lock(&self.bucket.blobs).insert(digest, bytes.clone()))).await
    }

    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>> {
        let missing = |_| {
            let blobs = lock(&self.bucket.blobs);
            Ok(digests.iter().copied().filter(|digest| !blobs.contains_key(digest)).collect())
        };
        self.bucket.ask(missing).await
    }
}

#[async_trait]
impl ActionCache for Store {
    async fn get(&self, action: Digest) -> Result<Option<Arc<ActionResult>>> {
        self.get_result(action).await
    }

    async fn put(&self, action: Digest, result: ActionResult) -> Result<()> {
        let missing = self.find_missing(&outputs(&result)).await?;
        if !missing.is_empty() {
            return Err(Error::Incomplete(missing));
        }
        let result = Arc::new(result);
        let put = || drop(lock(&self.bucket.results).insert(action, Arc::clone(&result)));
        self.bucket.change(put).await
    }
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("simulated disk before a simulated bucket")
    }
}
