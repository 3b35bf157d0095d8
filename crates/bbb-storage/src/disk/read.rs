//! Reading: at once where the kernel has it in memory, else on a thread that may wait.

use std::{
    fmt,
    fs::{self, File},
    io::{self, IoSliceMut},
    os::unix::fs::FileExt as _,
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags},
    io::ReadWriteFlags,
};

use crate::{Error, Result};

use super::{
    Disk, SMALL_BLOB_BYTES, blocking, file,
    index::{Key, Slot},
    layout::Kind,
    view::is_absent,
};

/// What opening a stored file gave.
pub(super) enum Opened {
    /// All bytes, since there are few.
    Bytes(Bytes),
    /// The file.
    File(File),
    /// It is gone or not as it was stored: to be checked.
    Changed,
}

/// Keeps an entry from eviction until dropped.
pub(super) struct Pin {
    disk: Arc<Disk>,
    slot: Slot,
}

impl Pin {
    /// The store of the entry.
    pub(super) fn disk(&self) -> &Disk {
        &self.disk
    }

    /// The entry's key.
    pub(super) fn key(&self) -> Result<Key> {
        let key = self.disk.index().pinned_key(self.slot);
        key.ok_or_else(|| {
            Error::unavailable("naming a pinned file", io::ErrorKind::NotFound.into())
        })
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.disk.index().unpin(self.slot);
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pin").field(&self.slot).finish()
    }
}

impl Disk {
    /// Pins an entry, if it is still there.
    pub(super) fn pin(self: &Arc<Self>, key: &Key) -> Option<Pin> {
        let mut index = self.index();
        let slot = index.find(key).filter(|known| known.checked)?.slot;
        index.pin(slot);
        drop(index);
        Some(Pin { disk: Arc::clone(self), slot })
    }

    /// Opens an entry's file and reads it if it is small.
    pub(super) async fn open_entry(self: &Arc<Self>, key: Key) -> Result<Opened> {
        let path = self.path(&key);
        if let Some(opened) = self.open_now(&key, &path) {
            return Ok(opened);
        }
        let disk = Arc::clone(self);
        blocking("reading a file", move || {
            disk.open_blocking(&key, &path)
                .map_err(|error| Error::unavailable(format!("reading {}", path.display()), error))
        })
        .await
    }

    /// Opens and reads without waiting for the disk; nothing if that cannot be.
    fn open_now(&self, key: &Key, path: &Path) -> Option<Opened> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let resolve = ResolveFlags::CACHED;
        let file = File::from(rustix::fs::openat2(CWD, path, flags, Mode::empty(), resolve).ok()?);
        let metadata = file.metadata().ok()?;
        if !self.is_expected(key, &metadata) {
            return Some(Opened::Changed);
        }
        if metadata.len() > SMALL_BLOB_BYTES {
            return (key.kind == Kind::Blob).then_some(Opened::File(file));
        }
        let mut bytes = vec![0; metadata.len() as usize];
        let buffers = &mut [IoSliceMut::new(&mut bytes)];
        let count = rustix::io::preadv2(&file, buffers, 0, ReadWriteFlags::NOWAIT).ok()?;
        (count == bytes.len()).then(|| Opened::Bytes(bytes.into()))
    }

    /// Opens an entry's file; none if it is gone or not as it was stored.
    pub(super) fn open_expected(
        &self,
        key: &Key,
        path: &Path,
    ) -> io::Result<Option<(File, fs::Metadata)>> {
        let file = match file::open(path) {
            Ok(file) => file,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let metadata = file.metadata()?;
        Ok(self.is_expected(key, &metadata).then_some((file, metadata)))
    }

    fn open_blocking(&self, key: &Key, path: &Path) -> io::Result<Opened> {
        let Some((file, metadata)) = self.open_expected(key, path)? else {
            return Ok(Opened::Changed);
        };
        if key.kind == Kind::Blob && metadata.len() > SMALL_BLOB_BYTES {
            return Ok(Opened::File(file));
        }
        let mut bytes = vec![0; metadata.len() as usize];
        match file.read_exact_at(&mut bytes, 0) {
            Ok(()) => Ok(Opened::Bytes(bytes.into())),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Opened::Changed),
            Err(error) => Err(error),
        }
    }

    /// Whether a file is as it was stored, as far as its metadata tells. Results carry a checksum.
    pub(super) fn is_expected(&self, key: &Key, metadata: &fs::Metadata) -> bool {
        match key.kind {
            Kind::Result => metadata.is_file(),
            Kind::Blob | Kind::Executable => {
                file::is_sealed(metadata, key.digest.size_bytes(), self.mtime)
            }
        }
    }
}
