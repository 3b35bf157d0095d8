//! Trees on their way into the store: files as they are unpacked, then the `Directory` messages, in the canonical form that the API
//! asks for, so that one tree has one digest.
//!
//! Unpacking runs on a thread that may wait; what it finds goes to the store over a queue, so that neither waits for the other
//! for long, and neither holds more than the bounds below however many files there are and however large they are.

use std::{
    collections::{BTreeMap, HashSet},
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    sync::{Arc, Weak},
};

use bbb_digest::{Digest, Function};
use bbb_reapi::{Directory, DirectoryNode, FileName, FileNode, SymlinkNode, ToProto as _};
use bbb_storage::{Cas, Disk, Error, Source};
use bytes::Bytes;
use futures::{TryStreamExt as _, stream};
use prost::Message as _;
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, mpsc},
    task,
};

use crate::{
    EntryPath, Qualifiers, Sink, UnpackError, UnpackLimits,
    failure::{Failed, Failure},
    spool::{Spool, SpoolError, Spooled},
    unpack::unpack,
};

/// The largest file that goes through memory, in bytes; larger ones go through the disk.
const SMALL_FILE_BYTES: usize = 512 << 10;

/// In what pieces a large file is read, in bytes.
const PIECE_BYTES: usize = 512 << 10;

/// How many files wait to be stored, and how many are being stored, at a time.
const MAX_QUEUED: usize = 16;
const STORED_AT_ONCE: usize = 16;

/// Where trees are stored, and by which digests.
#[derive(Clone)]
pub(crate) struct Trees {
    /// Large files pass through its scratch folder.
    pub(crate) disk: Arc<Disk>,
    pub(crate) cas: Arc<dyn Cas>,
    pub(crate) function: Function,
}

/// What `directory` asks for: which part of a tree is the asset.
///
/// # Errors
/// If it is no plain path.
pub(crate) fn part(qualifiers: &Qualifiers, limits: &UnpackLimits) -> Result<EntryPath, Failure> {
    let path = qualifiers.get("directory").unwrap_or_default();
    EntryPath::parse(path.as_bytes(), limits.path_bytes, limits.depth)
        .map_err(|what| Failure::new(Failed::NotFound, format!("the directory {path:?} {what}")))
}

impl Trees {
    /// Stores what is in an archive. The thread that unpacks it keeps `turn`, whoever waits for it; it ends soon when nobody does.
    pub(crate) async fn store_archive(
        &self,
        archive: Spooled,
        part: EntryPath,
        limits: UnpackLimits,
        turn: OwnedSemaphorePermit,
    ) -> Result<Digest, Failure> {
        let waits = Arc::new(());
        let wanted = Arc::downgrade(&waits);
        let stored = self.store(part, move |sink| {
            // The turn is given back last.
            let (_turn, archive) = (turn, archive);
            let file = File::open(archive.path()).map_err(UnpackError::Unreadable)?;
            unpack(WhileWanted { file, wanted }, &limits, sink)
        });
        let stored = stored.await;
        drop(waits);
        stored
    }

    /// Stores the tree that `fill`, which may wait, tells of, and gives the digest of the directory `part` of it.
    ///
    /// All that is in the tree is stored, also what is not in that part: links may lead there. Nobody keeps it alive.
    pub(crate) async fn store(
        &self,
        part: EntryPath,
        fill: impl FnOnce(&mut dyn Sink) -> Result<(), UnpackError> + Send + 'static,
    ) -> Result<Digest, Failure> {
        let (blobs, queue) = mpsc::channel(MAX_QUEUED);
        let mut sink = TreeSink {
            runtime: Handle::current(),
            disk: Arc::clone(&self.disk),
            function: self.function,
            blobs,
            known: HashSet::new(),
            root: Folder::default(),
        };
        let filled = task::spawn_blocking(move || {
            fill(&mut sink)?;
            sink.finish(&part)
        });
        // When it fails, the queue closes, which ends the filling.
        let (filled, stored) = futures::join!(filled, self.store_all(queue));
        stored.map_err(Failure::Storage)?;
        match filled.map_err(io::Error::other) {
            Ok(Ok(Some(root))) => Ok(root),
            Ok(Ok(None)) => Err(Failure::new(Failed::NotFound, "there is no such directory in it")),
            Ok(Err(error)) => Err(error.into()),
            Err(error) => Err(Failure::Storage(Error::unavailable("unpacking", error))),
        }
    }

    async fn store_all(&self, mut queue: mpsc::Receiver<Queued>) -> Result<(), Error> {
        stream::poll_fn(|cx| queue.poll_recv(cx))
            .try_for_each_concurrent(STORED_AT_ONCE, async |blob| {
                self.cas.put(blob.digest, blob.source).await
            })
            .await
    }
}

impl From<UnpackError> for Failure {
    fn from(error: UnpackError) -> Self {
        match error {
            UnpackError::Format(_) | UnpackError::Damaged(_) | UnpackError::Entry { .. } => {
                Self::new(Failed::Aborted, error.to_string())
            }
            UnpackError::TooMuch(_) => Self::new(Failed::Exhausted, error.to_string()),
            UnpackError::Unreadable(error) => {
                Self::Storage(Error::unavailable("reading an archive", error))
            }
            UnpackError::Sink(error) => {
                Self::Storage(Error::unavailable("storing what was unpacked", error))
            }
        }
    }
}

/// A file that can be read for as long as somebody waits for what is in it.
struct WhileWanted<R> {
    file: R,
    wanted: Weak<()>,
}

impl<R: Read> Read for WhileWanted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.wanted.strong_count() == 0 {
            return Err(stopped());
        }
        self.file.read(buffer)
    }
}

impl<R: Seek> Seek for WhileWanted<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

/// A blob to be stored, or why there is none.
type Queued = Result<Blob, Error>;

struct Blob {
    digest: Digest,
    source: Source,
    /// Where its bytes lie until then, if they do not lie in memory.
    _spooled: Option<Spooled>,
}

/// A tree that comes to be. What fails is told over the queue.
struct TreeSink {
    runtime: Handle,
    disk: Arc<Disk>,
    function: Function,
    blobs: mpsc::Sender<Queued>,
    /// What was queued.
    known: HashSet<Digest>,
    root: Folder,
}

#[derive(Default)]
struct Folder {
    files: BTreeMap<FileName, (Digest, bool)>,
    folders: BTreeMap<FileName, Folder>,
    symlinks: BTreeMap<FileName, String>,
}

impl Sink for TreeSink {
    fn directory(&mut self, path: &EntryPath) -> io::Result<()> {
        let (folder, name) = self.root.place(path)?;
        folder.folders.entry(name).or_default();
        Ok(())
    }

    fn file(
        &mut self,
        path: &EntryPath,
        executable: bool,
        content: &mut dyn Read,
    ) -> io::Result<()> {
        let mut start = Vec::new();
        content.take(SMALL_FILE_BYTES as u64 + 1).read_to_end(&mut start)?;
        let digest = match start.len() <= SMALL_FILE_BYTES {
            true => self.queue_bytes(start)?,
            false => self.queue_large(start, content)?,
        };
        let (folder, name) = self.root.place(path)?;
        folder.files.insert(name, (digest, executable));
        Ok(())
    }

    fn link(&mut self, path: &EntryPath, to: &EntryPath) -> io::Result<()> {
        let (folder, name) = self.root.place(to)?;
        let file = *folder.files.get(&name).ok_or_else(no_tree)?;
        let (folder, name) = self.root.place(path)?;
        folder.files.insert(name, file);
        Ok(())
    }

    fn symlink(&mut self, path: &EntryPath, target: &str) -> io::Result<()> {
        let (folder, name) = self.root.place(path)?;
        folder.symlinks.insert(name, target.to_owned());
        Ok(())
    }
}

impl TreeSink {
    /// Stores the directories of a part of the tree, and gives its digest; none if it is not there.
    fn finish(mut self, part: &EntryPath) -> Result<Option<Digest>, UnpackError> {
        let mut folder = std::mem::take(&mut self.root);
        for name in part.names() {
            match folder.folders.remove(name) {
                Some(below) => folder = below,
                None => return Ok(None),
            }
        }
        self.queue_folder(folder).map(Some).map_err(UnpackError::Sink)
    }

    /// It is no deeper than what is unpacked.
    fn queue_folder(&mut self, folder: Folder) -> io::Result<Digest> {
        let properties = bbb_reapi::NodeProperties::default();
        let mut directory = Directory::default();
        for (name, below) in folder.folders {
            directory.directories.push(DirectoryNode { name, digest: self.queue_folder(below)? });
        }
        let files = folder.files.into_iter().map(|(name, (digest, is_executable))| FileNode {
            name,
            digest,
            is_executable,
            properties,
        });
        directory.files = files.collect();
        let symlinks = folder.symlinks.into_iter();
        let symlinks = symlinks.map(|(name, target)| SymlinkNode { name, target, properties });
        directory.symlinks = symlinks.collect();
        self.queue_bytes(directory.to_proto().encode_to_vec())
    }

    fn queue_bytes(&mut self, bytes: Vec<u8>) -> io::Result<Digest> {
        let digest = Digest::of(self.function, &bytes);
        self.queue(Blob { digest, source: bytes.into(), _spooled: None })?;
        Ok(digest)
    }

    fn queue_large(&mut self, start: Vec<u8>, rest: &mut dyn Read) -> io::Result<Digest> {
        let mut spool = self.wait(Spool::new(&self.disk, self.function, None))?;
        let mut piece = start;
        while !piece.is_empty() {
            if self.blobs.is_closed() {
                return Err(stopped());
            }
            self.wait(spool.write(Bytes::from(piece)))?;
            piece = Vec::with_capacity(PIECE_BYTES);
            rest.take(PIECE_BYTES as u64).read_to_end(&mut piece)?;
        }
        let spooled = self.wait(async {
            spool.finish().await.map_err(|error| match error {
                SpoolError::Storage(error) => error,
                // There is none.
                SpoolError::Checksum(_) => {
                    Error::unavailable("writing a scratch file", io::Error::other(error))
                }
            })
        })?;
        let (digest, source) = (spooled.hashed().digest(), spooled.hashed().clone().into());
        self.queue(Blob { digest, source, _spooled: Some(spooled) })?;
        Ok(digest)
    }

    /// Waits for room in the queue, too.
    fn queue(&mut self, blob: Blob) -> io::Result<()> {
        // Also if it is nothing new: an archive may have much that is not.
        if self.blobs.is_closed() {
            return Err(stopped());
        }
        if blob.digest.is_empty() || !self.known.insert(blob.digest) {
            return Ok(());
        }
        self.blobs.blocking_send(Ok(blob)).map_err(|_| stopped())
    }

    /// Waits for what the store does.
    fn wait<T>(&self, work: impl Future<Output = Result<T, Error>>) -> io::Result<T> {
        self.runtime.block_on(work).map_err(|error| {
            // Whoever is behind the queue fails by it, unless he has already.
            let _ = self.blobs.blocking_send(Err(error));
            stopped()
        })
    }
}

impl Folder {
    /// Where an entry goes, and by what name.
    fn place(&mut self, path: &EntryPath) -> io::Result<(&mut Self, FileName)> {
        let (name, parents) = path.names().split_last().ok_or_else(no_tree)?;
        let mut folder = self;
        for parent in parents {
            folder = folder.folders.get_mut(parent).ok_or_else(no_tree)?;
        }
        Ok((folder, name.clone()))
    }
}

/// A sink is told of nothing else.
fn no_tree() -> io::Error {
    io::Error::other("what is told is no tree")
}

fn stopped() -> io::Error {
    io::Error::other("nobody stores it any more")
}

#[cfg(test)]
mod tests {
    use std::{
        fmt,
        sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    };

    use async_trait::async_trait;
    use bbb_lifecycle::TaskGroup;
    use bbb_storage::{Blob, DiskSettings, Wanted};

    use super::*;

    /// Takes some, and then no more.
    #[derive(Debug)]
    struct Failing(AtomicUsize);

    impl fmt::Display for Failing {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("failing")
        }
    }

    #[async_trait]
    impl Cas for Failing {
        async fn get(&self, digest: Digest, _: Wanted) -> Result<Blob, Error> {
            Err(Error::Missing(digest))
        }

        async fn put(&self, _: Digest, _: Source) -> Result<(), Error> {
            let broken = || Error::unavailable("putting", io::Error::other("it is broken"));
            let left =
                self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
            left.map(drop).map_err(|_| broken())
        }

        async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, Error> {
            Ok(digests.to_vec())
        }
    }

    fn trees(limit_bytes: u64, cas: Failing) -> (tempfile::TempDir, Trees) {
        let folder = tempfile::tempdir().unwrap();
        let settings = DiskSettings::new(folder.path().join("store"), limit_bytes);
        let disk = Disk::open(settings, &TaskGroup::new("test")).unwrap();
        (folder, Trees { disk, cas: Arc::new(cas), function: Function::Sha256 })
    }

    fn root() -> EntryPath {
        EntryPath::parse(b"", 1, 1).unwrap()
    }

    /// Tells of files until it is stopped, or there are very many; only so many of them differ. Says whether it was stopped.
    fn many(
        file_bytes: u64,
        differ: u64,
        is_stopped: &Arc<AtomicBool>,
    ) -> impl FnOnce(&mut dyn Sink) -> Result<(), UnpackError> + use<> {
        let is_stopped = Arc::clone(is_stopped);
        move |sink| {
            for number in 0..300_000_u64 {
                let path = EntryPath::parse(number.to_string().as_bytes(), 10, 1).unwrap();
                let start = number.min(differ).to_le_bytes();
                let mut content = start.chain(io::repeat(1).take(file_bytes));
                sink.file(&path, false, &mut content).map_err(|error| {
                    is_stopped.store(true, Ordering::Relaxed);
                    UnpackError::Sink(error)
                })?;
            }
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_store_that_fails_ends_the_unpacking() {
        for (file_bytes, differ) in
            [(0, u64::MAX), (2 * SMALL_FILE_BYTES as u64, u64::MAX), (0, 30)]
        {
            let (_folder, trees) = trees(1 << 30, Failing(AtomicUsize::new(20)));
            let is_stopped = Arc::default();
            let files = many(file_bytes, differ, &is_stopped);
            let failure = trees.store(root(), files).await.unwrap_err();
            assert!(is_stopped.load(Ordering::Relaxed), "nobody has stopped it");
            assert!(matches!(&failure, Failure::Storage(_)), "{failure:?}");
            assert!(failure.to_string().contains("putting"), "{failure}");
            assert_eq!(std::fs::read_dir(trees.disk.scratch()).unwrap().count(), 0);
        }
    }

    #[tokio::test]
    async fn a_full_disk_ends_the_unpacking() {
        let (_folder, trees) = trees(32 << 20, Failing(AtomicUsize::new(usize::MAX)));
        let files = many(1 << 40, u64::MAX, &Arc::default());
        let failure = trees.store(root(), files).await.unwrap_err();
        assert!(matches!(failure, Failure::Storage(Error::Full { .. })), "{failure:?}");
    }

    #[tokio::test]
    async fn an_archive_is_read_while_somebody_waits_and_its_turn_is_taken_until_it_is_not() {
        let (_folder, trees) = trees(1 << 30, Failing(AtomicUsize::new(usize::MAX)));
        // The end of a tar archive, and then much of nothing.
        let mut spool = Spool::new(&trees.disk, Function::Sha256, None).await.unwrap();
        spool.write(vec![0; 1 << 20].into()).await.unwrap();
        let archive = spool.finish().await.map_err(|error| error.to_string()).unwrap();
        let sparse = std::fs::OpenOptions::new().write(true).open(archive.path()).unwrap();
        sparse.set_len(1 << 40).unwrap();
        let turns = Arc::new(tokio::sync::Semaphore::new(1));
        let turn = Arc::clone(&turns).try_acquire_owned().unwrap();
        let limits = UnpackLimits::of_bytes(u64::MAX);
        let stored = Box::pin(trees.store_archive(archive, root(), limits, turn));
        // It would take minutes.
        assert!(futures::poll!(stored).is_pending());
        let ended = tokio::time::timeout(std::time::Duration::from_secs(20), turns.acquire()).await;
        assert!(ended.is_ok(), "it goes on for nobody");
        assert_eq!(std::fs::read_dir(trees.disk.scratch()).unwrap().count(), 0);
    }
}
