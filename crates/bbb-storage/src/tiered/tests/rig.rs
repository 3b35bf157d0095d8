//! A near tier, a far tier that does what the test says, and both of them as one store.

use std::{
    collections::HashMap,
    io,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use bbb_digest::{Digest, Function};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tempfile::TempDir;
use tokio::sync::Semaphore;

use crate::{
    ActionResult, Blob, Content, DiskSettings, Encoding, Error, Result, Source, SourceContent,
    Wanted, conformance, zstd,
};

use super::super::*;

/// In pieces of how many bytes the far tier streams.
pub(super) const PIECE_BYTES: usize = 256 << 10;

/// A far tier in memory, of one instance.
#[derive(Debug)]
pub(super) struct Remote {
    blobs: Mutex<HashMap<Digest, Bytes>>,
    results: Mutex<HashMap<Digest, Arc<ActionResult>>>,
    pub(super) gets: AtomicUsize,
    pub(super) puts: AtomicUsize,
    /// Streams that are open now.
    pub(super) open: Arc<AtomicUsize>,
    /// Puts that go on now.
    pub(super) storing: Arc<AtomicUsize>,
    /// Whether the next put is told that its source broke off.
    pub(super) breaks_off: AtomicBool,
    /// Whether it fails.
    pub(super) is_out: AtomicBool,
    /// Whether it gives bytes that are not right.
    pub(super) is_wrong: AtomicBool,
    /// Whether it gives blobs as zstd frames to those who prefer them.
    pub(super) has_frames: AtomicBool,
    /// One permit for each piece that it streams; unlimited unless the test takes them.
    pub(super) pieces: Arc<Semaphore>,
    /// One permit for each call.
    pub(super) calls: Semaphore,
}

/// More permits than any test needs.
const UNLIMITED: usize = 1 << 20;

impl Remote {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            blobs: Mutex::default(),
            results: Mutex::default(),
            gets: AtomicUsize::new(0),
            puts: AtomicUsize::new(0),
            open: Arc::default(),
            storing: Arc::default(),
            breaks_off: AtomicBool::new(false),
            is_out: AtomicBool::new(false),
            is_wrong: AtomicBool::new(false),
            has_frames: AtomicBool::new(false),
            pieces: Arc::new(Semaphore::new(UNLIMITED)),
            calls: Semaphore::new(UNLIMITED),
        })
    }

    /// Lets no piece through before the test says so.
    pub(super) fn hold_pieces(&self) {
        self.pieces.forget_permits(usize::MAX >> 8);
    }

    /// Lets so many pieces through.
    pub(super) fn let_pieces(&self, count: usize) {
        self.pieces.add_permits(count);
    }

    /// Lets no call through before [`Self::let_calls`].
    pub(super) fn hold_calls(&self) {
        self.calls.forget_permits(usize::MAX >> 8);
    }

    pub(super) fn let_calls(&self) {
        self.calls.add_permits(UNLIMITED);
    }

    /// Has a blob that never came through the near tier.
    pub(super) fn have(&self, len: usize) -> (Digest, Bytes) {
        let bytes = Bytes::from(conformance::data(len));
        let digest = Digest::of(Function::Sha256, &bytes);
        self.blobs.lock().unwrap().insert(digest, bytes.clone());
        (digest, bytes)
    }

    pub(super) fn has(&self, digest: Digest) -> bool {
        self.blobs.lock().unwrap().contains_key(&digest)
    }

    pub(super) fn lose(&self, digest: Digest) {
        self.blobs.lock().unwrap().remove(&digest);
    }

    pub(super) fn result(&self, action: Digest) -> Option<Arc<ActionResult>> {
        self.results.lock().unwrap().get(&action).cloned()
    }

    pub(super) fn set_result(&self, action: Digest, result: ActionResult) {
        self.results.lock().unwrap().insert(action, Arc::new(result));
    }

    pub(super) fn gets(&self) -> usize {
        self.gets.load(Ordering::SeqCst)
    }

    async fn call(&self) -> Result<()> {
        self.calls.acquire().await.unwrap().forget();
        match self.is_out.load(Ordering::SeqCst) {
            true => Err(Error::unavailable("asking", io::Error::other("on purpose"))),
            false => Ok(()),
        }
    }

    fn stream(&self, bytes: &Bytes) -> stream::BoxStream<'static, Result<Bytes>> {
        let pieces: Vec<Bytes> = bytes.chunks(PIECE_BYTES).map(|p| bytes.slice_ref(p)).collect();
        let (permits, open) = (Arc::clone(&self.pieces), Opened::new(&self.open));
        stream::iter(pieces)
            .then(move |piece| {
                let (permits, _open) = (Arc::clone(&permits), &open);
                async move {
                    permits.acquire().await.unwrap().forget();
                    Ok(piece)
                }
            })
            .boxed()
    }
}

/// Counts a stream as open, or a put as going on, until dropped.
struct Opened(Arc<AtomicUsize>);

impl Opened {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(count))
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Cas for Remote {
    async fn get(&self, digest: Digest, wanted: Wanted) -> Result<Blob> {
        self.gets.fetch_add(1, Ordering::SeqCst);
        self.call().await?;
        let found = self.blobs.lock().unwrap().get(&digest).cloned();
        let mut bytes = match found {
            Some(bytes) => bytes,
            None if digest == Digest::empty(digest.function()) => Bytes::new(),
            None => return Err(Error::Missing(digest)),
        };
        let size_bytes = bytes.len() as u64;
        if self.is_wrong.load(Ordering::SeqCst) {
            let mut wrong = bytes.to_vec();
            wrong[size_bytes as usize / 2] ^= 1;
            bytes = wrong.into();
        }
        let range = wanted.within(size_bytes);
        let part = bytes.slice(range.start as usize..range.end as usize);
        let is_small = size_bytes <= 4 << 20;
        let has_frames = self.has_frames.load(Ordering::SeqCst);
        let (encoding, part) =
            match wanted.prefer == Encoding::Zstd && wanted.is_all() && has_frames {
                true => (Encoding::Zstd, zstd::encode_bytes(&part).unwrap()),
                false => (Encoding::Identity, part),
            };
        let content = match is_small {
            true => Content::Bytes(part),
            false => Content::Stream(self.stream(&part)),
        };
        Ok(Blob { size_bytes, encoding, content })
    }

    async fn put(&self, digest: Digest, source: Source) -> Result<()> {
        let _storing = Opened::new(&self.storing);
        self.puts.fetch_add(1, Ordering::SeqCst);
        self.call().await?;
        if self.breaks_off.swap(false, Ordering::SeqCst) {
            let source = io::Error::other("on purpose");
            return Err(Error::BrokenOff { digest, source });
        }
        if self.has(digest) {
            return Ok(());
        }
        let stream = match source.content {
            SourceContent::Bytes(bytes) => stream::once(async { Ok(bytes) }).boxed(),
            SourceContent::Stream(stream) => stream,
            SourceContent::File(_) => panic!("far gets bytes or a stream"),
        };
        let stream = stream.map_err(move |source| Error::BrokenOff { digest, source }).boxed();
        let unreadable = |error: io::Error| Error::Unreadable {
            digest: Digest::empty(Function::Sha256),
            what: error.to_string(),
        };
        let mut stream = match source.encoding {
            Encoding::Identity => stream,
            Encoding::Zstd => zstd::decode(stream, unreadable),
        };
        let mut bytes = Vec::new();
        while let Some(piece) = stream.try_next().await? {
            bytes.extend_from_slice(&piece);
            if bytes.len() as u64 > digest.size_bytes() {
                break;
            }
        }
        let found = Digest::of(digest.function(), &bytes);
        if found != digest {
            return Err(Error::Mismatch { expected: digest, found: found.to_string() });
        }
        self.blobs.lock().unwrap().insert(digest, bytes.into());
        Ok(())
    }

    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>> {
        self.call().await?;
        let mut missing = digests.to_vec();
        missing.retain(|digest| !self.has(*digest) && *digest != Digest::empty(digest.function()));
        let mut seen = std::collections::HashSet::new();
        missing.retain(|digest| seen.insert(*digest));
        Ok(missing)
    }
}

/// The results of a far tier.
#[derive(Debug)]
pub(super) struct RemoteResults(pub(super) Arc<Remote>);

#[async_trait]
impl ActionCache for RemoteResults {
    async fn get(&self, action: Digest) -> Result<Option<Arc<ActionResult>>> {
        self.0.call().await?;
        Ok(self.0.result(action))
    }

    async fn put(&self, action: Digest, result: ActionResult) -> Result<()> {
        self.0.call().await?;
        self.0.set_result(action, result);
        Ok(())
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("remote")
    }
}

impl fmt::Display for RemoteResults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("remote")
    }
}

/// Both tiers in a folder that goes with them.
pub(super) struct Rig {
    pub(super) dir: TempDir,
    pub(super) near: Arc<Disk>,
    pub(super) remote: Arc<Remote>,
    pub(super) tiered: Tiered,
    pub(super) cas: Arc<dyn Cas>,
    pub(super) results: Arc<dyn ActionCache>,
    pub(super) group: TaskGroup,
}

impl Rig {
    /// With a near tier of so many bytes.
    pub(super) fn new(limit_bytes: u64) -> Self {
        let (dir, remote, group) = (dir(), Remote::new(), TaskGroup::new("tiers"));
        let near = disk(dir.path(), limit_bytes, &group);
        let tiered = Tiered::new(&TieredSettings::default(), &near, far_of(&remote), &group);
        Self::over(dir, near, remote, tiered, group)
    }

    /// The same, acknowledging near.
    pub(super) async fn write_back(
        dir: TempDir,
        remote: Arc<Remote>,
        limit_bytes: u64,
        settings: WriteBackSettings,
    ) -> Self {
        let group = TaskGroup::new("tiers");
        let near = disk(dir.path(), limit_bytes, &group);
        let tiered = Tiered::new(&TieredSettings::default(), &near, far_of(&remote), &group);
        let tiered = tiered.with_write_back(settings, &group).await.unwrap();
        Self::over(dir, near, remote, tiered, group)
    }

    fn over(
        dir: TempDir,
        near: Arc<Disk>,
        remote: Arc<Remote>,
        tiered: Tiered,
        group: TaskGroup,
    ) -> Self {
        let instance = InstanceName::default();
        let (cas, results) = (tiered.cas(&instance), tiered.action_cache(&instance));
        Self { dir, near, remote, tiered, cas, results, group }
    }

    /// Ends without a clean stop; what is left.
    pub(super) async fn end(self) -> (TempDir, Arc<Remote>) {
        assert_eq!(self.group.shut_down(Duration::from_secs(60)).await, 0);
        (self.dir, self.remote)
    }

    /// Stores a blob of so many bytes.
    pub(super) async fn put(&self, len: usize) -> Digest {
        let bytes = conformance::data(len);
        let digest = Digest::of(Function::Sha256, &bytes);
        self.cas.put(digest, bytes.into()).await.unwrap();
        digest
    }

    /// Whether the near tier has a blob.
    pub(super) async fn is_near(&self, digest: Digest) -> bool {
        let near = self.near.cas(&InstanceName::default());
        near.find_missing(&[digest]).await.unwrap().is_empty()
    }

    /// Waits until no fetch runs.
    pub(super) async fn until_quiet(&self) {
        until(|| self.tiered.own.fetches.len() == 0).await;
    }

    /// Files on their way into the near tier.
    pub(super) fn temporary_files(&self) -> usize {
        let folders = std::fs::read_dir(self.dir.path().join("near/tmp")).unwrap();
        folders.map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap().count()).sum()
    }
}

pub(super) fn dir() -> TempDir {
    TempDir::new().unwrap()
}

pub(super) fn far_of(
    remote: &Arc<Remote>,
) -> impl Fn(&InstanceName) -> Far + Send + Sync + 'static {
    let remote = Arc::clone(remote);
    move |_| Far {
        cas: Arc::clone(&remote) as _,
        results: Arc::new(RemoteResults(Arc::clone(&remote))),
    }
}

/// A disk tier in a folder of that folder.
pub(super) fn disk(dir: &Path, limit_bytes: u64, group: &TaskGroup) -> Arc<Disk> {
    let settings = DiskSettings::new(dir.join("near"), limit_bytes);
    Disk::open(DiskSettings { scrub_bytes_per_second: 0, ..settings }, group).unwrap()
}

/// Waits for what comes about elsewhere.
pub(super) async fn until(mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let limit = Duration::from_secs(60);
    tokio::time::timeout(limit, waiting).await.expect("what is waited for comes");
}
