//! What a tier above needs of the disk: blobs that can be read while they still come in, the form in which
//! they came, bytes that were checked already, and uses of blobs that were read elsewhere.

use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    sync::{Arc, Mutex, PoisonError},
};

use bbb_digest::{Digest, InstanceName};
use bytes::Bytes;

use crate::{Error, PinnedFile, Result, checked::Checked, segment::segment};

use super::{
    Disk, Reservation, blocking,
    file::{self, Temporary},
    index::{Key, charge},
    layout::{ESCAPE, Kind},
    write::Upload,
};

/// How many entries are counted as used while the index is locked.
const TOUCHES_AT_ONCE: usize = 512;

/// A blob on its way into the store whose beginning can be read already. Dropped before
/// [`Self::finish`], it leaves nothing behind but the files that its readers hold open.
pub(crate) struct Growing {
    disk: Arc<Disk>,
    key: Key,
    upload: Upload,
    reader: PinnedFile,
}

impl Disk {
    /// Begins a blob; takes all the room that it will need.
    ///
    /// # Errors
    /// [`Error::Full`] if there is none,
    /// [`Error::Unavailable`] on any fault.
    pub(crate) async fn grow(
        self: &Arc<Self>,
        instance: &InstanceName,
        digest: Digest,
    ) -> Result<Growing> {
        self.refuse_when_closed()?;
        let upload = Upload::begin(self, digest, charge(digest.size_bytes())).await?;
        let path = Arc::new(upload.temporary.path().to_owned());
        let opened = Arc::clone(&path);
        let file = blocking("opening a file", move || {
            file::open(&opened)
                .map_err(|error| Error::unavailable(format!("opening {}", opened.display()), error))
        });
        let (file, range) = (Arc::new(file.await?), 0..digest.size_bytes());
        let reader = PinnedFile { file, path, range, pin: Arc::new(()) };
        let key = self.blob_key(instance, digest);
        Ok(Growing { disk: Arc::clone(self), key, upload, reader })
    }

    /// Begins a file for bytes that are no blob.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if it cannot be made.
    pub(crate) async fn spool(self: &Arc<Self>) -> Result<Spool> {
        let room = Mutex::new(self.reserve(0).await?);
        let disk = Arc::clone(self);
        blocking("making a file", move || {
            let made = Temporary::create(&disk).and_then(|(to, temporary)| {
                let path = Arc::new(temporary.path().to_owned());
                let file = Arc::new(file::open(&path)?);
                let held = Arc::new(Held { room, _temporary: temporary });
                let pin = Arc::clone(&held) as _;
                let reader = PinnedFile { file, path, range: 0..0, pin };
                Ok(Spool { disk: Arc::clone(&disk), to: Arc::new(to), held, reader })
            });
            made.map_err(|error| Error::unavailable("making a file", error))
        })
        .await
    }

    /// Stores a small blob whose hash was checked by whoever has it.
    ///
    /// # Errors
    /// As [`Cas::put`](crate::Cas::put).
    pub(crate) async fn keep(
        self: &Arc<Self>,
        instance: &InstanceName,
        checked: &Checked,
    ) -> Result<()> {
        self.refuse_when_closed()?;
        let key = self.blob_key(instance, checked.digest());
        self.store_pieces(key, [checked.bytes().clone()].into(), |_, _| Ok(())).await
    }

    /// Counts as a use of those of the blobs that are known to be here.
    pub(crate) fn touch(&self, instance: &InstanceName, digests: &[Digest]) {
        let Some(instance) = self.segments.known(&segment(instance, ESCAPE)) else { return };
        for digests in digests.chunks(TOUCHES_AT_ONCE) {
            let mut index = self.index();
            for digest in digests {
                index.use_entry(&Key { instance, kind: Kind::Blob, digest: *digest });
            }
        }
    }

    fn blob_key(&self, instance: &InstanceName, digest: Digest) -> Key {
        let instance = self.segments.intern(&segment(instance, ESCAPE));
        Key { instance, kind: Kind::Blob, digest }
    }
}

impl Growing {
    /// The file that grows: what was appended can be read there, by whoever is told how much that is.
    pub(crate) fn reader(&self) -> &PinnedFile {
        &self.reader
    }

    /// Writes behind what is there.
    ///
    /// # Errors
    /// [`Error::Full`] or [`Error::Unavailable`] if that
    /// cannot be; what was there before can still be read.
    pub(crate) async fn append(self, pieces: Vec<Bytes>) -> Result<Self> {
        let Self { disk, key, upload, reader } = self;
        let upload = disk.append(key, Some(upload), pieces).await?;
        Ok(Self { disk, key, upload, reader })
    }

    /// Checks the hash and makes it a blob of the store: its file, pinned.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if it is another blob,
    /// [`Error::Unavailable`] on any fault.
    pub(crate) async fn finish(self) -> Result<PinnedFile> {
        let Self { disk, key, upload, reader } = self;
        disk.finish(key, upload).await?;
        let path = Arc::new(disk.path(&key));
        match disk.pin(&key) {
            Some(pin) => Ok(PinnedFile { path, pin: Arc::new(pin), ..reader }),
            // Evicted at once: the open file is still whole.
            None => Ok(PinnedFile { path, ..reader }),
        }
    }
}

/// A file of bytes as they came, which can be read meanwhile and goes with its last reader.
pub(crate) struct Spool {
    disk: Arc<Disk>,
    to: Arc<File>,
    held: Arc<Held>,
    reader: PinnedFile,
}

/// What goes with the last reader of a spool: the room, and the file.
struct Held {
    room: Mutex<Reservation>,
    _temporary: Temporary,
}

impl Spool {
    /// Writes behind what is there.
    ///
    /// # Errors
    /// [`Error::Full`] or [`Error::Unavailable`] if that cannot be.
    pub(crate) async fn append(&mut self, bytes: Bytes) -> Result<()> {
        let room = self.disk.reserve(bytes.len() as u64).await?;
        self.held.room.lock().unwrap_or_else(PoisonError::into_inner).absorb(room);
        let (to, at) = (Arc::clone(&self.to), self.reader.range.end);
        self.reader.range.end += bytes.len() as u64;
        let path = Arc::clone(&self.reader.path);
        blocking("writing a file", move || {
            to.write_all_at(&bytes, at)
                .map_err(|error| Error::unavailable(format!("writing {}", path.display()), error))
        })
        .await
    }

    /// The file, as far as it was written.
    pub(crate) fn reader(&self) -> &PinnedFile {
        &self.reader
    }
}
