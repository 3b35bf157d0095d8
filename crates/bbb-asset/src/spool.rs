//! Bytes on their way into the store whose digest nobody knows before the last of them came.
//!
//! They lie in the store's folder of scratch files, where room is taken for them as they come: not ahead, so that a length that
//! somebody only claims costs nothing.

use std::{
    fs::{File, OpenOptions},
    io::{self, Seek as _, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bbb_digest::{Function, Hasher};
use bbb_storage::{Disk, Error, HashedFile, Reservation};
use bytes::Bytes;
use tokio::task;

use crate::Integrity;

/// How many bytes are gathered before they are written and hashed.
const BATCH_BYTES: usize = 1 << 20;

/// In what steps room is taken.
const ROOM_STEP_BYTES: u64 = 8 << 20;

/// A file that grows, and is gone when this is.
pub(crate) struct Spool {
    writer: Option<Writer>,
    batch: Vec<Bytes>,
    batch_bytes: usize,
    written_bytes: u64,
    room: Reservation,
    function: Function,
    integrity: Option<Integrity>,
}

/// What moves to a thread that may wait, and back.
struct Writer {
    path: Temporary,
    file: File,
    hashing: Hashing,
}

struct Hashing {
    digest: Hasher,
    /// Where the checksum is by another function.
    check: Option<Hasher>,
}

/// The path of a file that goes with it.
#[derive(Debug)]
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // The store may have taken it over.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A file whose bytes are all there and right; gone when this is, unless a store has taken it over.
pub(crate) struct Spooled {
    path: Temporary,
    hashed: HashedFile,
    _room: Reservation,
}

/// Why bytes are not what was wanted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpoolError {
    /// They are not those of the checksum.
    #[error("the checksum is {0}, which is not the one that was asked for")]
    Checksum(String),
    /// There is no room, or the disk fails.
    #[error(transparent)]
    Storage(#[from] Error),
}

impl Spool {
    /// An empty file in the scratch folder of `disk`.
    pub(crate) async fn new(
        disk: &Arc<Disk>,
        function: Function,
        integrity: Option<Integrity>,
    ) -> Result<Self, Error> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = disk.scratch().join(format!("asset-{number}"));
        let room = disk.reserve(0).await?;
        let hashing = Hashing::new(function, integrity.as_ref());
        let writer = blocking("making a scratch file", move || {
            let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
            Ok(Writer { path: Temporary(path), file, hashing })
        });
        Ok(Self {
            writer: Some(writer.await?),
            batch: Vec::new(),
            batch_bytes: 0,
            written_bytes: 0,
            room,
            function,
            integrity,
        })
    }

    /// How many bytes came.
    pub(crate) fn len(&self) -> u64 {
        self.written_bytes + self.batch_bytes as u64
    }

    /// Appends some.
    pub(crate) async fn write(&mut self, piece: Bytes) -> Result<(), Error> {
        if piece.is_empty() {
            return Ok(());
        }
        self.batch_bytes += piece.len();
        self.batch.push(piece);
        if self.batch_bytes >= BATCH_BYTES { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<(), Error> {
        let after = self.len();
        while self.room.bytes() < after {
            self.room.grow(ROOM_STEP_BYTES).await?;
        }
        let batch = std::mem::take(&mut self.batch);
        self.work("writing a scratch file", move |writer| {
            for piece in &batch {
                writer.file.write_all(piece)?;
                writer.hashing.update(piece);
            }
            Ok(())
        })
        .await?;
        self.written_bytes = after;
        self.batch_bytes = 0;
        Ok(())
    }

    /// Forgets all that came.
    pub(crate) async fn reset(&mut self) -> Result<(), Error> {
        let had_bytes = self.written_bytes > 0;
        (self.batch, self.batch_bytes, self.written_bytes) = (Vec::new(), 0, 0);
        if !had_bytes {
            return Ok(());
        }
        let hashing = Hashing::new(self.function, self.integrity.as_ref());
        self.work("emptying a scratch file", move |writer| {
            writer.file.set_len(0)?;
            writer.file.rewind()?;
            writer.hashing = hashing;
            Ok(())
        })
        .await
    }

    /// All came: checks them.
    pub(crate) async fn finish(mut self) -> Result<Spooled, SpoolError> {
        self.flush().await?;
        let Some(Writer { path, file, hashing }) = self.writer.take() else {
            return Err(lost().into());
        };
        drop(file);
        let digest = hashing.digest.finish();
        if let Some(integrity) = &self.integrity {
            let checked = hashing.check.map_or(digest, Hasher::finish);
            integrity.check(&checked).map_err(SpoolError::Checksum)?;
        }
        let hashed = match self.function {
            // It hashes the length first, which was not known.
            Function::GitSha1 => {
                let path = path.0.clone();
                blocking("hashing a scratch file", move || {
                    HashedFile::hash(Function::GitSha1, &path)
                })
                .await?
            }
            _ => HashedFile::written(digest, &path.0),
        };
        Ok(Spooled { path, hashed, _room: self.room })
    }

    /// Works on the file off the reactor. When it fails, the file is lost.
    async fn work(
        &mut self,
        what: &'static str,
        work: impl FnOnce(&mut Writer) -> io::Result<()> + Send + 'static,
    ) -> Result<(), Error> {
        let mut writer = self.writer.take().ok_or_else(lost)?;
        let worked = blocking(what, move || work(&mut writer).map(|()| writer));
        self.writer = Some(worked.await?);
        Ok(())
    }
}

impl Spooled {
    /// The file, for a store to take over.
    pub(crate) fn hashed(&self) -> &HashedFile {
        &self.hashed
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path.0
    }
}

impl Hashing {
    fn new(function: Function, integrity: Option<&Integrity>) -> Self {
        let checked_by = integrity.map(Integrity::function).filter(|other| *other != function);
        let check = checked_by.map(|function| Hasher::new(function, 0));
        Self { digest: Hasher::new(function, 0), check }
    }

    fn update(&mut self, piece: &[u8]) {
        self.digest.update(piece);
        if let Some(check) = &mut self.check {
            check.update(piece);
        }
    }
}

fn lost() -> Error {
    Error::unavailable("writing a scratch file", io::Error::other("an earlier write has failed"))
}

async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Error> {
    let worked = task::spawn_blocking(work).await.map_err(io::Error::other);
    worked.and_then(|worked| worked).map_err(|error| Error::unavailable(what, error))
}
