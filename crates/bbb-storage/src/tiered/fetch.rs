//! Fetches: one for each blob that is wanted and not near, however many want it.
//!
//! A fetch is a task that says how far it is in a watch; its readers are the watch's receivers, and who
//! wants a blob that is being fetched becomes one more of them. It goes on as long as there is one
//! reader, whoever that is. Readers come in under the lock of the table alone, and a fetch that finds
//! itself without any looks again under that lock before it takes itself out: so none comes too late.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bbb_digest::{Digest, InstanceName};
use bbb_lifecycle::TaskGroup;
use bytes::{Bytes, BytesMut};
use futures::{
    FutureExt as _, StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use tokio::{
    sync::{Semaphore, SemaphorePermit, watch},
    task,
};

use crate::{
    Blob, Cas, Content, Disk, Encoding, Error, PinnedFile, Result, Wanted, checked::Checked,
    disk::Spool, zstd,
};

/// The largest blob that is fetched whole into memory, and given only then.
pub(super) const SMALL_BYTES: u64 = 4 << 20;

/// How much of a larger blob is gathered, of what is there already, before it is written to the disk.
const APPEND_BYTES: usize = 1 << 20;

/// What a fetch of a larger blob has in memory at the most: what is being written and what comes meanwhile.
const LARGE_IN_MEMORY_BYTES: u64 = 2 * APPEND_BYTES as u64;

/// The end of a larger blob that nobody gets before the whole of it was found to be right.
pub(super) const HELD_BACK_BYTES: u64 = 64 << 10;

/// What a permit of the buffers stands for.
const PERMIT_BYTES: u64 = 1 << 10;

/// How far a fetch is.
#[derive(Clone, Debug)]
pub(super) enum Progress {
    /// Far has not answered yet.
    Asked,
    /// So many bytes can be read in the file; and the frames that they come in in another, if they do and
    /// somebody wanted them so.
    Growing { file: PinnedFile, readable_bytes: u64, frames: Option<PinnedFile> },
    /// All of it is there and right, in memory or in a file.
    Here(Landed),
    /// There is no room near: whoever wants it reads it from far.
    NoRoom,
    /// It failed, or far does not have it.
    Failed(Arc<Error>),
}

/// A blob that was fetched.
#[derive(Clone, Debug)]
pub(super) enum Landed {
    /// In memory; as the zstd frames it came in, too, if it came so; and whether it is near by now.
    Memory { bytes: Bytes, frames: Option<Bytes>, is_kept: bool },
    /// In a file of the near tier; and the frames that it came in in another.
    File { file: PinnedFile, frames: Option<PinnedFile> },
}

type Id = (InstanceName, Digest);

/// All fetches that run.
pub(super) struct Fetches {
    near: Arc<Disk>,
    group: TaskGroup,
    running: Mutex<HashMap<Id, Arc<watch::Sender<Progress>>>>,
    /// How many have put a blob near.
    landed: AtomicU64,
    buffers: Semaphore,
    buffer_permits: u32,
}

impl Fetches {
    /// None yet. All that run at once hold `buffer_bytes` in memory.
    pub(super) fn new(near: &Arc<Disk>, buffer_bytes: u64, group: &TaskGroup) -> Self {
        let permits = (buffer_bytes / PERMIT_BYTES).clamp(1, u64::from(u32::MAX >> 4)) as u32;
        Self {
            near: Arc::clone(near),
            group: group.clone(),
            running: Mutex::default(),
            landed: AtomicU64::new(0),
            buffers: Semaphore::new(permits as usize),
            buffer_permits: permits,
        }
    }

    /// How many fetches have put a blob near: read before looking there.
    pub(super) fn landed(&self) -> u64 {
        self.landed.load(Ordering::Acquire)
    }

    /// Becomes a reader of the fetch of a blob that runs.
    pub(super) fn join(&self, instance: &InstanceName, digest: Digest) -> Option<Seat> {
        let running = self.running();
        let fetch = running.get(&(instance.clone(), digest))?;
        Some(Seat { progress: fetch.subscribe(), is_late: true })
    }

    /// Becomes a reader of the fetch of a blob, which begins if none runs. Nothing if blobs have landed
    /// since there were `landed`, if that is said: then this one may be near by now.
    pub(super) fn join_or_begin(
        self: &Arc<Self>,
        instance: &InstanceName,
        digest: Digest,
        request: Request,
        landed: Option<u64>,
    ) -> Option<Seat> {
        let id = (instance.clone(), digest);
        let mut running = self.running();
        if let Some(fetch) = running.get(&id) {
            return Some(Seat { progress: fetch.subscribe(), is_late: true });
        }
        if landed.is_some_and(|landed| landed != self.landed()) {
            return None;
        }
        let (progress, reader) = watch::channel(Progress::Asked);
        let progress = Arc::new(progress);
        running.insert(id.clone(), Arc::clone(&progress));
        drop(running);
        let fetch = Fetch { fetches: Arc::clone(self), id, progress };
        self.group.spawn("fetch", fetch.run(request));
        Some(Seat { progress: reader, is_late: false })
    }

    /// How many run.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.running().len()
    }

    fn running(&self) -> MutexGuard<'_, HashMap<Id, Arc<watch::Sender<Progress>>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn buffer(&self, bytes: u64) -> Result<SemaphorePermit<'_>> {
        let permits = bytes.div_ceil(PERMIT_BYTES).min(u64::from(self.buffer_permits)) as u32;
        let acquired = self.buffers.acquire_many(permits).await;
        acquired.map_err(|error| Error::unavailable("fetching", io::Error::other(error)))
    }
}

/// A place among the readers of a fetch.
pub(super) struct Seat {
    pub(super) progress: watch::Receiver<Progress>,
    /// Whether the fetch had begun before. What it does not find may have been written since.
    pub(super) is_late: bool,
}

/// Whom a fetch asks, and for which form.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) far: Arc<dyn Cas>,
    pub(super) prefer: Encoding,
}

/// One fetch. It stands in the table until dropped.
struct Fetch {
    fetches: Arc<Fetches>,
    id: Id,
    progress: Arc<watch::Sender<Progress>>,
}

/// What a fetch ends with.
enum End<'a> {
    /// In memory, to be kept near; the frames that it came in, if it did; and the memory that it takes.
    Memory(Checked, Option<Bytes>, SemaphorePermit<'a>),
    /// In a file of the near tier, and maybe the frames that it came in in another.
    File(PinnedFile, Option<PinnedFile>),
    NoRoom,
}

impl Fetch {
    /// Fetches until the blob is here, it fails, nobody reads it any more, or the group stops.
    async fn run(self, request: Request) {
        let stop = self.fetches.group.stop();
        let ended = {
            let bring = self.bring(request);
            tokio::pin!(bring);
            loop {
                tokio::select! {
                    biased;
                    ended = &mut bring => break ended,
                    () = self.progress.closed() => if self.leave_if_unread() { return },
                    () = stop.requested() => {
                        let error = io::Error::other("the node stops");
                        break Err(Error::unavailable(format!("fetching {}", self.id.1), error));
                    }
                }
            }
        };
        match ended {
            Ok(End::Memory(checked, frames, _buffer)) => {
                let bytes = checked.bytes().clone();
                let landed = |is_kept| Landed::Memory {
                    bytes: bytes.clone(),
                    frames: frames.clone(),
                    is_kept,
                };
                self.say(Progress::Here(landed(false)));
                // Whoever comes meanwhile still gets it from here.
                let is_kept = self.keep(&checked).await;
                self.leave();
                self.say(Progress::Here(landed(is_kept)));
            }
            Ok(End::File(file, frames)) => {
                self.leave();
                self.say(Progress::Here(Landed::File { file, frames }));
            }
            Ok(End::NoRoom) => {
                self.leave();
                self.say(Progress::NoRoom);
            }
            Err(error) => {
                self.leave();
                self.say(Progress::Failed(Arc::new(error)));
            }
        }
    }

    async fn bring(&self, request: Request) -> Result<End<'_>> {
        let (_, digest) = self.id;
        let size_bytes = digest.size_bytes();
        let brought = match size_bytes <= SMALL_BYTES {
            true => self.bring_small(&request).await,
            false => self.bring_large(&request).await,
        };
        brought.map_err(|error| match error {
            Error::Mismatch { found, .. } => {
                tracing::warn!(%digest, found, far = %request.far, "the far tier gives other bytes");
                let source = io::Error::new(io::ErrorKind::InvalidData, format!("found {found}"));
                Error::unavailable(format!("fetching {digest}: it is damaged"), source)
            }
            error => error,
        })
    }

    /// Fetches a blob into memory.
    async fn bring_small(&self, request: &Request) -> Result<End<'_>> {
        let (_, digest) = self.id;
        let size_bytes = digest.size_bytes();
        let buffer = self.fetches.buffer(size_bytes).await?;
        let wanted = Wanted { prefer: request.prefer, ..Wanted::ALL };
        let blob = request.far.get(digest, wanted).await?;
        let (bytes, frames) = match (blob.encoding, blob.content) {
            (Encoding::Identity, Content::Bytes(bytes)) => (bytes, None),
            (Encoding::Zstd, Content::Bytes(frames)) => {
                (decode(digest, frames.clone()).await?, Some(frames))
            }
            (_, content) => (gather(digest, Blob { content, ..blob }).await?, None),
        };
        Ok(End::Memory(Checked::new(digest, bytes).await?, frames, buffer))
    }

    /// Fetches a blob into a file of the near tier that readers follow.
    async fn bring_large(&self, request: &Request) -> Result<End<'_>> {
        let (instance, digest) = &self.id;
        let (digest, near) = (*digest, &self.fetches.near);
        if digest.size_bytes() > near.stats().limit_bytes {
            return Ok(End::NoRoom);
        }
        let _buffer = self.fetches.buffer(LARGE_IN_MEMORY_BYTES).await?;
        // Far first: what is not there shall evict nothing here.
        let wanted = Wanted { prefer: request.prefer, ..Wanted::ALL };
        let blob = request.far.get(digest, wanted).await?;
        let mut growing = match near.grow(instance, digest).await {
            Ok(growing) => growing,
            Err(error) => return Ok(self.no_room(&error)),
        };
        let (mut stream, spooled) = match blob.encoding {
            Encoding::Identity => (blob.into_stream(), None),
            Encoding::Zstd => match near.spool().await {
                Ok(spool) => spooling(blob, spool),
                Err(error) => return Ok(self.no_room(&error)),
            },
        };
        let frames = || spooled.as_ref().and_then(|spooled| spooled.borrow().clone());
        let file = growing.reader().clone();
        let grown = |readable_bytes| {
            let (file, frames) = (file.clone(), frames());
            Progress::Growing { file, readable_bytes, frames }
        };
        self.say(grown(0));
        let mut came_bytes = 0;
        while let Some(pieces) = next_pieces(&mut stream).await? {
            came_bytes += pieces.iter().map(|piece| piece.len() as u64).sum::<u64>();
            if came_bytes > digest.size_bytes() {
                let found = format!("more than {} bytes", digest.size_bytes());
                return Err(Error::Mismatch { expected: digest, found });
            }
            growing = match growing.append(pieces).await {
                Ok(growing) => growing,
                Err(error) => return Ok(self.no_room(&error)),
            };
            self.say(grown(came_bytes.min(digest.size_bytes() - HELD_BACK_BYTES)));
        }
        match growing.finish().await {
            Ok(file) => {
                self.fetches.landed.fetch_add(1, Ordering::Release);
                Ok(End::File(file, frames()))
            }
            Err(error @ Error::Mismatch { .. }) => Err(error),
            Err(error) => Ok(self.no_room(&error)),
        }
    }

    /// Keeps a blob near that was given already; false if there is no room for it.
    async fn keep(&self, checked: &Checked) -> bool {
        let (instance, _) = &self.id;
        match self.fetches.near.keep(instance, checked).await {
            Ok(()) => {
                self.fetches.landed.fetch_add(1, Ordering::Release);
                true
            }
            Err(error) => {
                self.no_room(&error);
                false
            }
        }
    }

    fn no_room(&self, error: &Error) -> End<'_> {
        let (_, digest) = self.id;
        match error {
            Error::Full { .. } => tracing::debug!(%digest, %error, "not kept near"),
            error => tracing::warn!(%digest, %error, "cannot keep a blob near"),
        }
        End::NoRoom
    }

    fn say(&self, progress: Progress) {
        self.progress.send_replace(progress);
    }

    /// Takes the fetch out of the table, so that who comes next begins anew.
    fn leave(&self) {
        let mut running = self.fetches.running();
        if running.get(&self.id).is_some_and(|ours| Arc::ptr_eq(ours, &self.progress)) {
            running.remove(&self.id);
        }
    }

    /// The same if nobody reads it; false if somebody does by now.
    fn leave_if_unread(&self) -> bool {
        let mut running = self.fetches.running();
        let is_unread = self.progress.receiver_count() == 0;
        if is_unread {
            running.remove(&self.id);
        }
        is_unread
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        // Also when the task was ended from outside: nobody shall wait for it.
        self.leave();
    }
}

/// Where frames lie as far as they came; nothing once there was no room for more of them.
type Spooled = watch::Receiver<Option<PinnedFile>>;

/// Writes the frames of a blob to a file on their way to being decoded.
fn spooling(blob: Blob, spool: Spool) -> (BoxStream<'static, Result<Bytes>>, Option<Spooled>) {
    let (told, spooled) = watch::channel(Some(spool.reader().clone()));
    let frames = Blob { encoding: Encoding::Identity, ..blob }.into_stream();
    let frames = stream::try_unfold((frames, spool), move |(mut frames, mut spool)| {
        let told = told.clone();
        async move {
            let Some(piece) = frames.try_next().await? else { return Ok(None) };
            if told.borrow().is_some() {
                let appended = spool.append(piece.clone()).await;
                told.send_replace(appended.is_ok().then(|| spool.reader().clone()));
            }
            Ok(Some((piece, (frames, spool))))
        }
    });
    let unreadable = |error| Error::unavailable("decoding a blob", error);
    (zstd::decode(frames.boxed(), unreadable), Some(spooled))
}

/// What comes next and what is there behind it already, up to a bound.
async fn next_pieces(stream: &mut BoxStream<'static, Result<Bytes>>) -> Result<Option<Vec<Bytes>>> {
    let Some(first) = stream.try_next().await? else { return Ok(None) };
    let (mut gathered, mut pieces) = (first.len(), vec![first]);
    while gathered < APPEND_BYTES
        && let Some(Some(piece)) = stream.next().now_or_never()
    {
        let piece = piece?;
        gathered += piece.len();
        pieces.push(piece);
    }
    Ok(Some(pieces))
}

/// Decodes a small blob off the reactor.
async fn decode(digest: Digest, frames: Bytes) -> Result<Bytes> {
    let decoded =
        task::spawn_blocking(move || zstd::decode_bytes(&frames, digest.size_bytes() as usize));
    let decoded = decoded.await.map_err(io::Error::other).flatten();
    decoded.map_err(|error| Error::Mismatch {
        expected: digest,
        found: format!("zstd frames that cannot be read: {error}"),
    })
}

/// Gathers a small blob; no more than it is said to be.
async fn gather(digest: Digest, blob: Blob) -> Result<Bytes> {
    let size_bytes = digest.size_bytes() as usize;
    let mut stream = blob.into_stream();
    let mut bytes = BytesMut::new();
    while let Some(piece) = stream.try_next().await? {
        if bytes.len() + piece.len() > size_bytes {
            let found = format!("more than {size_bytes} bytes");
            return Err(Error::Mismatch { expected: digest, found });
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes.freeze())
}
