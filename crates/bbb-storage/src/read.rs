//! Reading of blobs: from whatever form they are in to a stream of decoded bytes.

use std::{
    fs::File,
    io::{self, IoSliceMut},
    ops::Range,
    os::unix::fs::FileExt as _,
};

use bytes::Bytes;
use futures::{StreamExt as _, stream, stream::BoxStream};
use rustix::io::ReadWriteFlags;
use tokio::task;

use crate::{Blob, Content, Encoding, Error, PinnedFile, Result, buffer::Buffer, zstd};

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

/// The bytes of a file's range.
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
    /// Reads a part of the file, given in bytes from its beginning: at once what the kernel has in memory,
    /// off the reactor what has to be waited for. A part is best no larger than [`READ_CHUNK_BYTES`].
    ///
    /// # Errors
    /// [`Error::Unavailable`] if it cannot be read or is shorter.
    pub async fn read(&self, part: Range<u64>) -> Result<Bytes> {
        let mut buffer = Buffer::take((part.end - part.start) as usize);
        let read = match buffer.len() as u64 <= READ_CHUNK_BYTES {
            true => read_now(&self.file, &mut buffer, part.start),
            false => 0,
        };
        if read == buffer.len() {
            return Ok(buffer.into_bytes());
        }
        let file = self.clone();
        let rest = task::spawn_blocking(move || file.fill(buffer, read, part.start));
        rest.await.map_err(|error| Error::unavailable("reading a blob", io::Error::other(error)))?
    }

    /// Reads a part of the file; blocks.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if it cannot be read or is shorter.
    pub fn read_blocking(&self, part: Range<u64>) -> Result<Bytes> {
        self.fill(Buffer::take((part.end - part.start) as usize), 0, part.start)
    }

    /// Reads what belongs behind the first `read` bytes of a buffer, which begins at `offset` of the file.
    fn fill(&self, mut buffer: Buffer, read: usize, offset: u64) -> Result<Bytes> {
        let filled = self.file.read_exact_at(&mut buffer[read..], offset + read as u64);
        filled.map_err(|error| {
            Error::unavailable(format!("reading {}", self.path.display()), error)
        })?;
        Ok(buffer.into_bytes())
    }
}

/// Reads from `offset` what can be read without waiting for the disk; how many bytes that were. On any
/// trouble they are none, so that whoever may wait meets it again.
fn read_now(file: &File, buffer: &mut [u8], offset: u64) -> usize {
    let buffers = &mut [IoSliceMut::new(buffer)];
    rustix::io::preadv2(file, buffers, offset, ReadWriteFlags::NOWAIT).unwrap_or(0)
}
