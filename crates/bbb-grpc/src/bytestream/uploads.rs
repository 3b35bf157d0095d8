//! Uploads that are under way, and those that broke off and may go on.

use std::{
    collections::HashMap,
    fmt, io, mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bbb_reapi::{Compressor, Invalid, UploadResource};
use bbb_storage::{Cas, Encoding, Source, SourceContent};
use bytes::Bytes;
use futures::{StreamExt as _, channel::mpsc, future, future::BoxFuture};
use tokio::time::Instant;
use tonic::Status;

use crate::{
    Budget, Reservation,
    status::{IntoStatus as _, aborted},
};

/// How long a broken-off upload is kept.
const KEPT_FOR: Duration = Duration::from_secs(120);

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
/// stays as it is, unpolled, with what it has received, until a call goes on with it or its time is over.
/// Compressed uploads cannot go on: their offsets count the bytes before compression, which nobody but
/// the client knows. Of them but the name is kept, and that they begin at 0.
pub struct Uploads {
    table: Mutex<Table>,
    /// What bounds the memory that uploads hold between their messages, those that broke off included.
    room: Budget,
}

#[derive(Default)]
struct Table {
    entries: HashMap<UploadResource, Entry>,
    generation: u64,
}

struct Entry {
    /// Tells the calls that took this upload over from those that they took it from.
    generation: u64,
    received: u64,
    touched: Instant,
    /// The upload, where no call has it.
    kept: Option<Upload>,
    active: bool,
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
        Self { table: Mutex::default(), room }
    }

    /// Takes the memory that an upload holds while it is under way. Uploads that broke off make room, the
    /// oldest first.
    pub(super) async fn reserve(&self, resource: &UploadResource) -> Result<Reservation, Status> {
        let held = match resource.blob.compressor {
            Compressor::Identity => GATHERED_BYTES,
            Compressor::Zstd => GATHERED_BYTES + WINDOW_BYTES,
        };
        let held = held.min(resource.blob.digest.size_bytes());
        loop {
            if let Some(reservation) = self.room.try_reserve(held) {
                return Ok(reservation);
            }
            let oldest = self.table().take_oldest();
            if oldest.is_none() {
                return self.room.reserve(held).await;
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
    /// An upload that begins anew takes the name from whichever call has it: that call's connection may be
    /// dead without anyone having noticed.
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
                return Err(aborted("another call writes this upload now"));
            }
            Some(entry) if entry.received == offset => match entry.kept.take() {
                Some(upload) => upload,
                None => return Err(wrong_offset(offset, 0)),
            },
            Some(entry) => return Err(wrong_offset(offset, entry.received)),
            None => return Err(wrong_offset(offset, 0)),
        };
        let received = upload.received;
        let entry =
            Entry { generation, received, touched: Instant::now(), kept: None, active: true };
        table.entries.insert(resource.clone(), entry);
        drop(table);
        let uploads = Arc::clone(self);
        Ok(Active { uploads, resource: resource.clone(), generation, upload: Some(upload) })
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

impl Table {
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
    upload: Option<Upload>,
}

impl Active {
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
        let entry = table.entries.get_mut(&self.resource);
        let Some(entry) = entry.filter(|entry| entry.generation == self.generation) else { return };
        match upload {
            Some(upload) => {
                entry.active = false;
                entry.touched = Instant::now();
                if self.resource.blob.compressor == Compressor::Identity {
                    entry.received = upload.received;
                    entry.kept = Some(upload);
                }
            }
            None => {
                table.entries.remove(&self.resource);
            }
        }
        table.sweep();
    }
}

impl fmt::Debug for Uploads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uploads").field("known", &self.table().entries.len()).finish()
    }
}
