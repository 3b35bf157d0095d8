//! Reading of blobs: from whatever form they are in to a stream of decoded bytes.

use std::{
    io::{self, IoSliceMut},
    ops::Range,
    os::unix::fs::FileExt as _,
};

use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, stream, stream::BoxStream};
use rustix::io::{ReadWriteFlags, preadv2};
use tokio::task;

use crate::{Blob, Content, Encoding, Error, PinnedFile, Result, buffer::Buffer, zstd};

/// How many bytes of a file are read at a time: little enough that they are still in the processor's cache
/// when they are sent, and that a thousand streams fit into memory.
pub const READ_CHUNK_BYTES: u64 = 256 << 10;

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
    /// Reads a part of the file, given in bytes from its beginning: at once if it is short and the kernel
    /// has it in memory, else off the reactor.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if it cannot be read or is shorter.
    pub async fn read(&self, part: Range<u64>) -> Result<Bytes> {
        if let Some(bytes) = self.read_now(&part) {
            return Ok(bytes);
        }
        let file = self.clone();
        let read = task::spawn_blocking(move || file.read_blocking(part));
        read.await.map_err(|error| Error::unavailable("reading a blob", io::Error::other(error)))?
    }

    /// Reads without waiting for the disk; nothing if that cannot be.
    fn read_now(&self, part: &Range<u64>) -> Option<Bytes> {
        let mut buffer = Buffer::of(part.end - part.start)?;
        let buffers = &mut [IoSliceMut::new(buffer.as_mut())];
        let read = preadv2(&self.file, buffers, part.start, ReadWriteFlags::NOWAIT);
        (read.ok()? == buffer.as_ref().len()).then(|| buffer.freeze())
    }

    /// Reads a part of the file; blocks.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if it cannot be read or is shorter.
    pub fn read_blocking(&self, part: Range<u64>) -> Result<Bytes> {
        let read = |bytes: &mut [u8]| {
            self.file.read_exact_at(bytes, part.start).map_err(|error| {
                Error::unavailable(format!("reading {}", self.path.display()), error)
            })
        };
        let len = part.end - part.start;
        match Buffer::of(len) {
            Some(mut buffer) => read(buffer.as_mut()).map(|()| buffer.freeze()),
            None => {
                let mut bytes = BytesMut::zeroed(len as usize);
                read(&mut bytes).map(|()| bytes.freeze())
            }
        }
    }
}
