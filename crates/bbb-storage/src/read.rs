//! Reading of blobs: from whatever form they are in to a stream of decoded bytes.

use std::{io, ops::Range, os::unix::fs::FileExt as _};

use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, stream, stream::BoxStream};
use tokio::task;

use crate::{Blob, Content, Encoding, Error, PinnedFile, Result, zstd};

/// How many bytes of a file are read at a time: enough that a thread's wake-up does not count, little
/// enough that a thousand streams fit into memory.
pub const READ_CHUNK_BYTES: u64 = 512 << 10;

impl Blob {
    /// The decoded bytes of the range that was asked for, in pieces of at most about a megabyte.
    pub fn into_stream(self) -> BoxStream<'static, Result<Bytes>> {
        let stream = match self.content {
            Content::Bytes(bytes) => stream::once(async { Ok(bytes) }).boxed(),
            Content::File(file) => file_stream(file),
            Content::Stream(stream) => stream,
        };
        match self.encoding {
            Encoding::Identity => stream,
            Encoding::Zstd => {
                zstd::decode(stream, |error| Error::unavailable("decoding a stored blob", error))
            }
        }
    }
}

/// The bytes of a file's range, read off the reactor.
fn file_stream(file: PinnedFile) -> BoxStream<'static, Result<Bytes>> {
    stream::try_unfold(file, |mut file| async move {
        if file.range.is_empty() {
            return Ok(None);
        }
        let end = file.range.end.min(file.range.start + READ_CHUNK_BYTES);
        let part = file.range.start..end;
        file.range.start = end;
        let bytes = file.read(part).await?;
        Ok(Some((bytes, file)))
    })
    .boxed()
}

impl PinnedFile {
    /// Reads a part of the file, given in bytes from its beginning, off the reactor.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if it cannot be read or is shorter.
    pub async fn read(&self, part: Range<u64>) -> Result<Bytes> {
        let file = self.clone();
        let read = task::spawn_blocking(move || file.read_blocking(part));
        read.await.map_err(|error| Error::unavailable("reading a blob", io::Error::other(error)))?
    }

    /// Reads a part of the file; blocks.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if it cannot be read or is shorter.
    pub fn read_blocking(&self, part: Range<u64>) -> Result<Bytes> {
        let mut bytes = BytesMut::zeroed((part.end - part.start) as usize);
        self.file.read_exact_at(&mut bytes, part.start).map_err(|error| {
            Error::unavailable(format!("reading {}", self.path.display()), error)
        })?;
        Ok(bytes.freeze())
    }
}
