//! What a tier above needs of the disk: blobs that can be read while they still come in, bytes that were
//! checked already, and uses of blobs that were read elsewhere.

use std::sync::Arc;

use bbb_digest::{Digest, InstanceName};
use bytes::Bytes;

use crate::{PinnedFile, Result, checked::Checked, segment::segment};

use super::{
    Disk, blocking, file,
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
    /// [`Error::Full`](crate::Error::Full) if there is none,
    /// [`Error::Unavailable`](crate::Error::Unavailable) on any fault.
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
            file::open(&opened).map_err(|error| {
                crate::Error::unavailable(format!("opening {}", opened.display()), error)
            })
        });
        let (file, range) = (Arc::new(file.await?), 0..digest.size_bytes());
        let reader = PinnedFile { file, path, range, pin: Arc::new(()) };
        let key = self.blob_key(instance, digest);
        Ok(Growing { disk: Arc::clone(self), key, upload, reader })
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
    /// [`Error::Full`](crate::Error::Full) or [`Error::Unavailable`](crate::Error::Unavailable) if that
    /// cannot be; what was there before can still be read.
    pub(crate) async fn append(self, pieces: Vec<Bytes>) -> Result<Self> {
        let Self { disk, key, upload, reader } = self;
        let upload = disk.append(key, Some(upload), pieces).await?;
        Ok(Self { disk, key, upload, reader })
    }

    /// Checks the hash and makes it a blob of the store: its file, pinned.
    ///
    /// # Errors
    /// [`Error::Mismatch`](crate::Error::Mismatch) if it is another blob,
    /// [`Error::Unavailable`](crate::Error::Unavailable) on any fault.
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
