//! Writing: bytes are hashed on their way into a temporary file, which takes its place when they are right.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::unix::fs::{FileExt as _, MetadataExt as _},
    sync::Arc,
};

use bbb_digest::{Digest, Hasher};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, stream, stream::BoxStream};

use crate::{Encoding, Error, HashedFile, Result, Source, SourceContent, zstd};

use super::{
    Disk, Reservation, SMALL_BLOB_BYTES, blocking,
    file::{self, Temporary},
    index::{Key, charge},
    room::Evicted,
};

/// How much of a stream is gathered before it is written; a stream that ends before is written at once.
const FLUSH_BYTES: u64 = 1 << 20;

/// Pieces smaller than this, in bytes, are put together: each may hold far more memory than it has bytes, such as
/// the buffer that it was decoded into, and a client may send as small ones as it likes.
const SMALL_PIECE_BYTES: usize = 16 << 10;

/// How often a write is tried on a file system that is full: what was freed for one, another may take before it.
const ATTEMPTS: usize = 8;

/// What a source's stream can end in.
enum Feed {
    /// The sender stopped.
    Broken(io::Error),
    /// What came is no zstd stream.
    Bad(io::Error),
}

impl Feed {
    fn into_error(self, digest: Digest) -> Error {
        match self {
            Self::Broken(source) => Error::BrokenOff { digest, source },
            Self::Bad(error) => Error::Unreadable { digest, what: error.to_string() },
        }
    }
}

impl Disk {
    /// Stores a blob.
    pub(super) async fn store(self: &Arc<Self>, key: Key, source: Source) -> Result<()> {
        let size_bytes = key.digest.size_bytes();
        let limit_bytes = self.settings.limit_bytes;
        if charge(size_bytes) > limit_bytes {
            let what = format!("the whole store is limited to {limit_bytes} bytes");
            return Err(Error::Full { size_bytes, what });
        }
        match (source.encoding, source.content) {
            (_, SourceContent::File(file)) => self.take_over(key, file).await,
            (Encoding::Identity, SourceContent::Bytes(bytes)) => {
                self.store_bytes(key, vec![bytes]).await
            }
            (Encoding::Zstd, SourceContent::Bytes(bytes)) => {
                let bytes = stream::once(async { Ok(bytes) }).boxed();
                self.store_stream(key, zstd::decode(bytes, Feed::Bad)).await
            }
            (Encoding::Identity, SourceContent::Stream(stream)) => {
                self.store_stream(key, stream.map(|piece| piece.map_err(Feed::Broken)).boxed())
                    .await
            }
            (Encoding::Zstd, SourceContent::Stream(stream)) => {
                let stream = stream.map(|piece| piece.map_err(Feed::Broken)).boxed();
                self.store_stream(key, zstd::decode(stream, Feed::Bad)).await
            }
        }
    }

    /// Stores a blob that is in memory: one trip to a blocking thread.
    async fn store_bytes(self: &Arc<Self>, key: Key, pieces: Vec<Bytes>) -> Result<()> {
        let digest = key.digest;
        let size_bytes: usize = pieces.iter().map(Bytes::len).sum();
        if size_bytes as u64 != digest.size_bytes() {
            return Err(Error::Mismatch { expected: digest, found: format!("{size_bytes} bytes") });
        }
        self.store_pieces(key, pieces.into(), check_hash).await
    }

    /// Stores what is in memory, once `check` has said that it is right.
    pub(super) async fn store_pieces(
        self: &Arc<Self>,
        key: Key,
        pieces: Arc<[Bytes]>,
        check: fn(Digest, &[Bytes]) -> Result<()>,
    ) -> Result<()> {
        let digest = key.digest;
        // Kept until all is done: those behind would take what is freed for this one.
        let _turn = self.turn_to_write().await?;
        self.with_room(digest, || {
            let (disk, pieces) = (Arc::clone(self), Arc::clone(&pieces));
            async move {
                let reservation = disk.reserve_file(digest.size_bytes()).await?;
                blocking("writing a blob", move || {
                    check(digest, &pieces)?;
                    Ok(disk.write_pieces(&key, &pieces, reservation))
                })
                .await
            }
        })
        .await
    }

    fn write_pieces(
        &self,
        key: &Key,
        pieces: &[Bytes],
        reservation: Reservation,
    ) -> io::Result<()> {
        let (mut file, temporary) = Temporary::create(self)?;
        for piece in pieces {
            file.write_all(piece)?;
        }
        file::seal(&file, key.kind, self.mtime)?;
        drop(file);
        self.commit(key, key.digest.size_bytes(), &temporary, reservation, || {
            if key.digest.size_bytes() <= SMALL_BLOB_BYTES {
                // A copy of its own: the piece may be a part of a large message.
                self.small.insert((key.instance, key.digest), pieces.concat().into());
            }
        })
    }

    /// Puts a temporary file in its place and into the index. `then` runs before anyone else changes it.
    pub(super) fn commit(
        &self,
        key: &Key,
        size_bytes: u64,
        temporary: &Temporary,
        reservation: Reservation,
        then: impl FnOnce(),
    ) -> io::Result<()> {
        let path = self.path(key);
        let _gate = self.gate(key.digest);
        temporary.put_in_place(&path)?;
        let mut index = self.index();
        reservation.settle(&mut index);
        index.insert(key, size_bytes, true);
        drop(index);
        // That is of a file that was there before; and a reader who is about to keep such has lost his place.
        self.forget_in_memory(key);
        then();
        Ok(())
    }

    /// Tries a write until the file system has room for it, or none can be made.
    pub(super) async fn with_room<T, F>(
        self: &Arc<Self>,
        digest: Digest,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<io::Result<T>>>,
    {
        let mut attempts = 0;
        loop {
            attempts += 1;
            match attempt().await? {
                Ok(written) => return Ok(written),
                Err(error) => self.recover(error, digest, attempts).await?,
            }
        }
    }

    /// After a failed write: makes room if that is what is missing, so that it can be tried once more.
    async fn recover(
        self: &Arc<Self>,
        error: io::Error,
        digest: Digest,
        attempts: usize,
    ) -> Result<()> {
        let is_full =
            matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        if !is_full {
            return Err(Error::unavailable(format!("writing {digest}"), error));
        }
        let size_bytes = digest.size_bytes();
        if attempts >= ATTEMPTS || self.evict_for_full_disk(size_bytes).await? == Evicted::Nothing {
            let what = format!("writing to {}: {error}", self.layout.root().display());
            return Err(Error::Full { size_bytes, what });
        }
        tracing::warn!(%error, "the file system is full before the limit: evicted some more");
        Ok(())
    }

    /// Stores a blob that comes as a stream of decoded bytes. Stops as soon as there are too many.
    async fn store_stream(
        self: &Arc<Self>,
        key: Key,
        mut stream: BoxStream<'static, Result<Bytes, Feed>>,
    ) -> Result<()> {
        let digest = key.digest;
        let (mut upload, mut came) = (None, 0);
        let mut gathered = Gathered::default();
        while let Some(piece) = stream.next().await {
            let piece = piece.map_err(|feed| feed.into_error(digest))?;
            came += piece.len() as u64;
            if came > digest.size_bytes() {
                let found = format!("more than {} bytes", digest.size_bytes());
                return Err(Error::Mismatch { expected: digest, found });
            }
            gathered.push(piece);
            if gathered.len_bytes >= FLUSH_BYTES {
                upload = Some(self.append(key, upload, gathered.take()).await?);
            }
        }
        let pieces = gathered.take();
        let Some(mut upload) = upload else { return self.store_bytes(key, pieces).await };
        if !pieces.is_empty() {
            upload = self.append(key, Some(upload), pieces).await?;
        }
        self.finish(key, upload).await
    }

    /// Writes behind what an upload has; takes the room that it has not taken yet.
    pub(super) async fn append(
        self: &Arc<Self>,
        key: Key,
        upload: Option<Upload>,
        pieces: Vec<Bytes>,
    ) -> Result<Upload> {
        let mut upload = match upload {
            Some(upload) => upload,
            None => Upload::begin(self, key.digest, 0).await?,
        };
        let len_bytes: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
        let wanted = upload.hasher.size_bytes() + len_bytes;
        upload.reservation.grow(wanted.saturating_sub(upload.reservation.bytes())).await?;
        let pieces: Arc<[Bytes]> = pieces.into();
        let mut attempts = 0;
        loop {
            attempts += 1;
            let pieces = Arc::clone(&pieces);
            let appended = blocking("writing a blob", move || {
                let written = upload.append(&pieces);
                Ok((upload, written))
            });
            let written;
            (upload, written) = appended.await?;
            match written {
                Ok(()) => return Ok(upload),
                Err(error) => self.recover(error, key.digest, attempts).await?,
            }
        }
    }

    /// Puts an upload in its place if it is what it was announced to be.
    pub(super) async fn finish(self: &Arc<Self>, key: Key, upload: Upload) -> Result<()> {
        let disk = Arc::clone(self);
        let Upload { file, temporary, hasher, mut reservation, .. } = upload;
        let rest = charge(key.digest.size_bytes()).saturating_sub(reservation.bytes());
        reservation.grow(rest).await?;
        blocking("storing a blob", move || {
            let found = hasher.finish();
            if found != key.digest {
                return Err(Error::Mismatch { expected: key.digest, found: found.to_string() });
            }
            file::seal(&file, key.kind, disk.mtime)
                .and_then(|()| {
                    drop(file);
                    disk.commit(&key, found.size_bytes(), &temporary, reservation, || {})
                })
                .map_err(|error| Error::unavailable(format!("storing {found}"), error))
        })
        .await
    }

    /// Stores a file by making it the store's own where that can be done, else by copying it.
    async fn take_over(self: &Arc<Self>, key: Key, hashed: HashedFile) -> Result<()> {
        let digest = key.digest;
        if hashed.digest() != digest {
            let found = hashed.digest().to_string();
            return Err(Error::Mismatch { expected: digest, found });
        }
        let hashed = Arc::new(hashed);
        let is_same = self.with_room(digest, || {
            let (disk, hashed) = (Arc::clone(self), Arc::clone(&hashed));
            async move {
                let reservation = disk.reserve_file(digest.size_bytes()).await?;
                blocking("taking over a file", move || {
                    Ok(disk.take_over_blocking(&key, &hashed, reservation))
                })
                .await
            }
        });
        match is_same.await? {
            true => Ok(()),
            false => Err(Error::Mismatch { expected: digest, found: "other bytes".to_owned() }),
        }
    }

    /// False if the file no longer holds what was hashed.
    fn take_over_blocking(
        &self,
        key: &Key,
        hashed: &HashedFile,
        reservation: Reservation,
    ) -> io::Result<bool> {
        let mut from = file::open(hashed.path())?;
        let metadata = from.metadata()?;
        let size_bytes = key.digest.size_bytes();
        if !metadata.is_file() || metadata.len() != size_bytes {
            return Ok(false);
        }
        // Through another link someone could still write to it, and a sparse or foreign file is no good.
        let is_movable = metadata.nlink() == 1
            && metadata.uid() == rustix::process::geteuid().as_raw()
            && metadata.dev() == fs::metadata(self.layout.root())?.dev();
        if is_movable {
            file::seal(&from, key.kind, self.mtime)?;
            let temporary = Temporary::adopt(hashed.path());
            self.commit(key, size_bytes, &temporary, reservation, || {})?;
            return Ok(true);
        }
        let (mut to, temporary) = Temporary::create(self)?;
        let mut hasher = Hasher::new(key.digest.function(), size_bytes);
        let mut buffer = vec![0; (size_bytes as usize + 1).min(256 << 10)];
        while hasher.size_bytes() <= size_bytes {
            match from.read(&mut buffer)? {
                0 => break,
                count => {
                    hasher.update(&buffer[..count]);
                    to.write_all(&buffer[..count])?;
                }
            }
        }
        if hasher.finish() != key.digest {
            return Ok(false);
        }
        file::seal(&to, key.kind, self.mtime)?;
        drop(to);
        self.commit(key, size_bytes, &temporary, reservation, || {})?;
        Ok(true)
    }
}

/// What came of a stream and is not written yet.
#[derive(Default)]
struct Gathered {
    pieces: Vec<Bytes>,
    /// Small pieces that came one after the other.
    small: BytesMut,
    len_bytes: u64,
}

impl Gathered {
    fn push(&mut self, piece: Bytes) {
        self.len_bytes += piece.len() as u64;
        if piece.len() < SMALL_PIECE_BYTES {
            self.small.extend_from_slice(&piece);
        } else {
            self.put_together();
            self.pieces.push(piece);
        }
    }

    /// All that was gathered, in order; none of it is empty.
    fn take(&mut self) -> Vec<Bytes> {
        self.put_together();
        self.len_bytes = 0;
        std::mem::take(&mut self.pieces)
    }

    fn put_together(&mut self) {
        if !self.small.is_empty() {
            self.pieces.push(std::mem::take(&mut self.small).freeze());
        }
    }
}

/// A blob that is too large to be gathered in memory, on its way into a temporary file.
pub(super) struct Upload {
    file: fs::File,
    pub(super) temporary: Temporary,
    hasher: Hasher,
    reservation: Reservation,
}

impl Upload {
    /// Begins one that has `room_bytes` from the start, in the store and in the file system.
    pub(super) async fn begin(disk: &Arc<Disk>, digest: Digest, room_bytes: u64) -> Result<Self> {
        disk.with_room(digest, || {
            let disk = Arc::clone(disk);
            async move {
                let reservation = disk.reserve(room_bytes).await?;
                blocking("writing a blob", move || {
                    Ok(Temporary::create(&disk).and_then(|(file, temporary)| {
                        file::allocate(&file, room_bytes)?;
                        let hasher = Hasher::new(digest.function(), digest.size_bytes());
                        Ok(Self { file, temporary, hasher, reservation })
                    }))
                })
                .await
            }
        })
        .await
    }

    /// Writes behind what was hashed so far; may be tried again when it failed.
    fn append(&mut self, pieces: &[Bytes]) -> io::Result<()> {
        let mut offset = self.hasher.size_bytes();
        for piece in pieces {
            self.file.write_all_at(piece, offset)?;
            offset += piece.len() as u64;
        }
        for piece in pieces {
            self.hasher.update(piece);
        }
        Ok(())
    }
}

fn check_hash(digest: Digest, pieces: &[Bytes]) -> Result<()> {
    let mut hasher = Hasher::new(digest.function(), digest.size_bytes());
    for piece in pieces {
        hasher.update(piece);
    }
    let found = hasher.finish();
    match found == digest {
        true => Ok(()),
        false => Err(Error::Mismatch { expected: digest, found: found.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_stay_in_order_and_small_ones_are_few() {
        let bytes: Bytes = (0..200_000_u32).map(|number| (number % 251) as u8).collect();
        let mut gathered = Gathered::default();
        let small = (0..100_000).map(|at| bytes.slice(at..at + 1));
        let large = [bytes.slice(100_000..150_000), Bytes::new(), bytes.slice(150_000..199_999)];
        small.chain(large).chain([bytes.slice(199_999..)]).for_each(|piece| gathered.push(piece));
        assert_eq!(gathered.len_bytes, 200_000);
        let pieces = gathered.take();
        assert_eq!(pieces.iter().map(Bytes::len).collect::<Vec<_>>(), [100_000, 50_000, 49_999, 1]);
        assert_eq!(pieces.concat(), bytes);
        assert!(gathered.take().is_empty() && gathered.len_bytes == 0);
    }
}
