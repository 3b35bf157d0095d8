//! Uploads that are under way, and those that broke off and may go on.

use std::{
    collections::HashMap,
    fmt, io, mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bbb_reapi::{Compressor, Invalid, UploadResource};
use bbb_storage::{Cas, Encoding, Source, SourceContent};
use bytes::Bytes;
use futures::{
    FutureExt as _, StreamExt as _, channel::mpsc, future, future::BoxFuture, task::AtomicWaker,
};
use tokio::{sync::Notify, time::Instant};
use tonic::Status;

use crate::{
    Budget, Reservation,
    limits::too_many_wait,
    port::STREAM_WINDOW_BYTES,
    status::{IntoStatus as _, aborted},
    wire::Requests,
};

/// How long a broken-off upload is kept: clients that go on with one do so within seconds, and meanwhile it holds memory and
/// room of the store.
const KEPT_FOR: Duration = Duration::from_secs(30);

/// How many broken-off uploads are kept; past that the oldest goes.
const MAX_KEPT: usize = 1_000;

/// How many bytes all broken-off uploads may have received.
const MAX_KEPT_BYTES: u64 = 4 << 30;

/// What a store gathers of an upload in memory before it writes, in bytes.
const GATHERED_BYTES: u64 = 1 << 20;

/// The window that most zstd encoders use at the most, in bytes.
const WINDOW_BYTES: u64 = 8 << 20;

/// The uploads that are known by name.
///
/// An upload is a `put` of the store that waits for its next bytes. When its call breaks off, the `put`
/// stays with what it has received until a call goes on with it or its time is over. Meanwhile it is
/// polled by [`Uploads::drive`]: it may wait for more than bytes, and what a store hands to a `put` that
/// nobody polls, such as a turn to write, is kept from all others. So none is kept where nobody drives.
/// Compressed uploads cannot go on: their offsets count the bytes before compression, which nobody but
/// the client knows. Of them but the name is kept, and that they begin at 0.
pub struct Uploads {
    table: Mutex<Table>,
    /// Wakes whoever drives those that broke off.
    broke_off: AtomicWaker,
    /// What bounds the memory that uploads hold between their messages, those that broke off included.
    room: Budget,
}

#[derive(Default)]
struct Table {
    entries: HashMap<UploadResource, Entry>,
    generation: u64,
    /// Whether somebody polls what broke off.
    is_driven: bool,
}

struct Entry {
    /// Tells the calls that took this upload over from those that they took it from.
    generation: u64,
    received: u64,
    touched: Instant,
    /// The upload, where no call has it.
    kept: Option<Upload>,
    active: bool,
    /// Tells the call that has it that another one wants it.
    wanted: Arc<Notify>,
}

/// A `put` that waits for its bytes.
pub(super) struct Upload {
    put: BoxFuture<'static, bbb_storage::Result<()>>,
    pieces: mpsc::Sender<io::Result<Bytes>>,
    received: u64,
    _room: Reservation,
}

/// What came of feeding an upload.
pub(super) enum Fed {
    /// It wants more.
    Wants,
    /// It is over; the store may have had the blob before it had all bytes.
    Over(bbb_storage::Result<()>),
}

impl Upload {
    fn new(cas: Arc<dyn Cas>, resource: &UploadResource, room: Reservation) -> Self {
        let (pieces, stream) = mpsc::channel(0);
        let encoding = match resource.blob.compressor {
            Compressor::Identity => Encoding::Identity,
            Compressor::Zstd => Encoding::Zstd,
        };
        let digest = resource.blob.digest;
        let source = Source { encoding, content: SourceContent::Stream(stream.boxed()) };
        let put = Box::pin(async move { cas.put(digest, source).await });
        Self { put, pieces, received: 0, _room: room }
    }

    /// The bytes received so far, as they came.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// Hands on the next bytes.
    pub(super) async fn feed(&mut self, piece: Bytes) -> Fed {
        let ready = future::poll_fn(|context| self.pieces.poll_ready(context));
        if let future::Either::Left((over, _)) = future::select(&mut self.put, ready).await {
            return Fed::Over(over);
        }
        // From being ready to being counted nothing waits, so that a call that breaks off leaves no piece
        // in the channel that is not counted.
        let len = piece.len() as u64;
        match self.pieces.start_send(Ok(piece)) {
            Ok(()) => {
                self.received += len;
                Fed::Wants
            }
            // A store that hangs up says why in its answer.
            Err(_) => Fed::Over((&mut self.put).await),
        }
    }

    /// Says that all bytes have come, and waits for the store.
    pub(super) async fn finish(&mut self) -> bbb_storage::Result<()> {
        self.pieces.close_channel();
        (&mut self.put).await
    }

    /// Waits for the store while nothing comes; resolves where it is over early.
    pub(super) async fn over(&mut self) -> bbb_storage::Result<()> {
        (&mut self.put).await
    }
}

impl Uploads {
    /// Knows no upload yet. What they hold in memory comes out of `room`.
    pub fn new(room: Budget) -> Self {
        Self { table: Mutex::default(), broke_off: AtomicWaker::new(), room }
    }

    /// Polls the uploads that broke off, for ever; dropped, it drops them. One at a time may run.
    pub(crate) async fn drive(&self) {
        let _driven = Driven::begin(self);
        future::poll_fn(|context| {
            self.broke_off.register(context.waker());
            self.table().poll_kept(context);
            Poll::<()>::Pending
        })
        .await;
    }

    /// Takes the memory that an upload holds while it is under way. Uploads that broke off make room, the
    /// oldest first. While it waits, what comes of the upload lies in the window of its connection.
    pub(super) async fn reserve(
        &self,
        resource: &UploadResource,
        requests: &mut Requests,
    ) -> Result<Reservation, Status> {
        let held = match resource.blob.compressor {
            Compressor::Identity => GATHERED_BYTES,
            Compressor::Zstd => GATHERED_BYTES + WINDOW_BYTES,
        };
        let size_bytes = resource.blob.digest.size_bytes();
        let held = held.min(size_bytes);
        loop {
            if let Some(reservation) = self.room.try_reserve(held) {
                return Ok(reservation);
            }
            let oldest = self.table().take_oldest();
            if oldest.is_none() {
                let place = requests.place_to_wait(size_bytes.min(STREAM_WINDOW_BYTES.into()));
                let reservation = self.room.reserve(held).await?;
                return place.map(|_| reservation).ok_or_else(too_many_wait);
            }
        }
    }

    /// How many bytes of an unfinished upload were received; none if it is not known.
    pub(super) fn committed(&self, resource: &UploadResource) -> Option<u64> {
        let mut table = self.table();
        table.sweep();
        table.entries.get(resource).map(|entry| entry.received)
    }

    /// Begins an upload at offset 0, or goes on with one where it broke off.
    ///
    /// The connection of a call that has the upload may be dead without anyone having noticed. So one that
    /// begins anew takes the name from it, and one that goes on where it is makes it let go: who tries that
    /// is refused once, with ABORTED, and finds it broken off when it tries again.
    pub(super) fn begin(
        self: &Arc<Self>,
        resource: &UploadResource,
        offset: u64,
        cas: &Arc<dyn Cas>,
        room: Reservation,
    ) -> Result<Active, Status> {
        let mut table = self.table();
        table.sweep();
        table.generation += 1;
        let generation = table.generation;
        let upload = match table.entries.get_mut(resource) {
            _ if offset == 0 => Upload::new(Arc::clone(cas), resource, room),
            Some(entry) if entry.active => {
                if entry.received == offset {
                    entry.wanted.notify_one();
                }
                return Err(aborted("another call writes this upload now: try again"));
            }
            Some(entry) if entry.received == offset => match entry.kept.take() {
                Some(upload) => upload,
                None => return Err(wrong_offset(offset, 0)),
            },
            Some(entry) => return Err(wrong_offset(offset, entry.received)),
            None => return Err(wrong_offset(offset, 0)),
        };
        let wanted = Arc::new(Notify::new());
        let entry = Entry {
            generation,
            received: upload.received,
            touched: Instant::now(),
            kept: None,
            active: true,
            wanted: Arc::clone(&wanted),
        };
        table.entries.insert(resource.clone(), entry);
        drop(table);
        let (uploads, resource) = (Arc::clone(self), resource.clone());
        Ok(Active { uploads, resource, generation, wanted, upload: Some(upload) })
    }

    /// Lets go of uploads whose time is over.
    pub fn sweep(&self) {
        self.table().sweep();
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wrong_offset(offset: u64, committed: u64) -> Status {
    let what = format!("is {offset}, but {committed} bytes of this upload were received");
    Invalid::new("write_offset", what).into_status()
}

/// Somebody polls the uploads that broke off, until this is dropped.
struct Driven<'a>(&'a Uploads);

impl<'a> Driven<'a> {
    fn begin(uploads: &'a Uploads) -> Self {
        uploads.table().is_driven = true;
        Self(uploads)
    }
}

impl Drop for Driven<'_> {
    fn drop(&mut self) {
        let mut table = self.0.table();
        table.is_driven = false;
        table.entries.retain(|_, entry| entry.kept.is_none());
    }
}

impl Table {
    /// Lets those that broke off go on with what needs no more bytes. One that is over is forgotten.
    fn poll_kept(&mut self, context: &mut Context<'_>) {
        self.entries.retain(|_, entry| match &mut entry.kept {
            Some(upload) => upload.put.poll_unpin(context).is_pending(),
            None => true,
        });
    }

    fn sweep(&mut self) {
        let now = Instant::now();
        self.entries.retain(|_, entry| entry.active || now - entry.touched < KEPT_FOR);
        let kept = |table: &Self| {
            let kept = table.entries.values().filter(|entry| !entry.active);
            kept.fold((0, 0), |(count, bytes), entry| (count + 1, bytes + entry.received))
        };
        loop {
            let (count, bytes) = kept(self);
            if count <= MAX_KEPT && bytes <= MAX_KEPT_BYTES {
                break;
            }
            if self.take_oldest().is_none() {
                break;
            }
        }
    }

    /// Forgets the upload that broke off first, and gives what was kept of it.
    fn take_oldest(&mut self) -> Option<Entry> {
        let oldest = self.entries.iter().filter(|(_, entry)| !entry.active);
        let oldest = oldest.min_by_key(|(_, entry)| entry.touched).map(|(name, _)| name.clone());
        self.entries.remove(&oldest?)
    }
}

/// An upload that a call has. Dropped before its end, it is kept for the next call.
pub(super) struct Active {
    uploads: Arc<Uploads>,
    resource: UploadResource,
    generation: u64,
    wanted: Arc<Notify>,
    upload: Option<Upload>,
}

impl Active {
    /// Resolves once another call wants to go on with the upload.
    pub(super) fn wanted(&self) -> impl Future<Output = ()> + use<> {
        Arc::clone(&self.wanted).notified_owned()
    }

    /// The upload; none once it is over.
    pub(super) fn upload(&mut self) -> Option<&mut Upload> {
        self.upload.as_mut()
    }

    /// Tells others how far it is.
    pub(super) fn note(&mut self) {
        let received = self.upload.as_ref().map_or(0, Upload::received);
        let mut table = self.uploads.table();
        let entry = table.entries.get_mut(&self.resource);
        if let Some(entry) = entry.filter(|entry| entry.generation == self.generation)
            && self.resource.blob.compressor == Compressor::Identity
        {
            entry.received = received;
        }
    }

    /// It is over, well or badly: nothing is kept.
    pub(super) fn over(mut self) {
        self.upload = None;
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        let upload = mem::take(&mut self.upload);
        let mut table = self.uploads.table();
        let is_driven = table.is_driven;
        let entry = table.entries.get_mut(&self.resource);
        let Some(entry) = entry.filter(|entry| entry.generation == self.generation) else { return };
        let is_identity = self.resource.blob.compressor == Compressor::Identity;
        match upload.filter(|_| is_driven || !is_identity) {
            Some(upload) => {
                entry.active = false;
                entry.touched = Instant::now();
                if is_identity {
                    entry.received = upload.received;
                    entry.kept = Some(upload);
                }
            }
            None => {
                table.entries.remove(&self.resource);
            }
        }
        table.sweep();
        drop(table);
        self.uploads.broke_off.wake();
    }
}

impl fmt::Debug for Uploads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uploads").field("known", &self.table().entries.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use bbb_digest::{Digest, Function};
    use bbb_reapi::Resource;
    use bbb_storage::{Blob, Result, Wanted};
    use tokio::{sync::Semaphore, time::timeout};

    use super::*;

    /// A store where one blob at a time is written, once all of it has come, and takes its time.
    #[derive(Debug)]
    struct OneTurn {
        turn: Semaphore,
        disk: Semaphore,
    }

    #[async_trait]
    impl Cas for OneTurn {
        async fn get(&self, digest: Digest, _: Wanted) -> Result<Blob> {
            Err(bbb_storage::Error::Missing(digest))
        }

        async fn put(&self, _: Digest, source: Source) -> Result<()> {
            if let SourceContent::Stream(stream) = source.content {
                stream.for_each(|_| future::ready(())).await;
            }
            let _turn = self.turn.acquire().await.unwrap();
            self.disk.acquire().await.unwrap().forget();
            Ok(())
        }

        async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>> {
            Ok(digests.to_vec())
        }
    }

    impl fmt::Display for OneTurn {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("one turn")
        }
    }

    fn resource(data: &[u8]) -> UploadResource {
        let digest = Digest::of(Function::Sha256, data);
        match Resource::parse(&format!("uploads/u/blobs/{digest}")) {
            Ok(Resource::Upload(upload)) => upload,
            other => panic!("{other:?}"),
        }
    }

    /// All of a blob comes, and its call breaks off while the store is at it.
    fn broken_off(uploads: &Arc<Uploads>, cas: &Arc<dyn Cas>, data: &'static [u8]) {
        let mut active = uploads.begin(&resource(data), 0, cas, Reservation::none()).ok().unwrap();
        let upload = active.upload().unwrap();
        assert!(matches!(upload.feed(data.into()).now_or_never(), Some(Fed::Wants)));
        assert!(upload.finish().now_or_never().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn what_broke_off_gives_others_their_turn() {
        let store = Arc::new(OneTurn { turn: Semaphore::new(1), disk: Semaphore::new(0) });
        let cas = Arc::clone(&store) as Arc<dyn Cas>;
        let uploads = Arc::new(Uploads::new(Budget::new(1 << 20)));
        let calls = async {
            // One has the turn, the other is the next in the queue.
            broken_off(&uploads, &cas, b"first");
            broken_off(&uploads, &cas, b"second");
            assert_eq!(uploads.committed(&resource(b"second")), Some(6));
            store.disk.add_permits(3);
            let other =
                cas.put(Digest::of(Function::Sha256, b"x"), Bytes::from_static(b"x").into());
            timeout(KEPT_FOR / 2, other).await.expect("its turn comes").unwrap();
        };
        future::select(Box::pin(uploads.drive()), Box::pin(calls)).await;
        assert_eq!(uploads.committed(&resource(b"first")), None, "it is stored");
    }

    #[tokio::test]
    async fn nothing_is_kept_that_nobody_drives() {
        let store = Arc::new(OneTurn { turn: Semaphore::new(1), disk: Semaphore::new(0) });
        let cas = Arc::clone(&store) as Arc<dyn Cas>;
        let uploads = Arc::new(Uploads::new(Budget::new(1 << 20)));
        broken_off(&uploads, &cas, b"first");
        assert_eq!(uploads.committed(&resource(b"first")), None);
        assert_eq!(store.turn.available_permits(), 1);
        {
            let mut driving = Box::pin(uploads.drive());
            assert!((&mut driving).now_or_never().is_none());
            broken_off(&uploads, &cas, b"second");
            assert_eq!(store.turn.available_permits(), 0);
        }
        assert_eq!(store.turn.available_permits(), 1);
    }
}
