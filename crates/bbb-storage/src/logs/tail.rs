//! Reading a file while it grows.

use std::{fs::File, io, os::unix::fs::FileExt as _, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use tokio::{sync::watch, time};

use super::{LogBytes, LogError};
use crate::{Error, blocking::blocking};

/// How many bytes are read at a time: all that a reader has in memory.
const PIECE_BYTES: usize = 256 << 10;

/// How often a file is looked at that somebody reads and that others append to.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Where the file of a log stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Growth {
    /// More may come.
    Growing,
    /// It has ended, with so many bytes in all.
    Ended(u64),
    /// Nothing will come after so many bytes, though more was written.
    Cut(u64),
}

impl Growth {
    const fn end(self) -> Option<u64> {
        match self {
            Self::Growing => None,
            Self::Ended(len) | Self::Cut(len) => Some(len),
        }
    }
}

/// A reader that follows a file.
struct Tail {
    file: Arc<File>,
    offset: u64,
    growth: watch::Receiver<Growth>,
}

/// Opens the file of a log that grows, never through a symbolic link.
pub(super) async fn open(path: &Path) -> Result<Arc<File>, LogError> {
    use rustix::fs::{Mode, OFlags};
    let path = path.to_owned();
    let opened = blocking("opening a log", move || {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = rustix::fs::open(&path, flags, Mode::empty()).map(File::from);
        let fault = |error: io::Error| Error::unavailable("opening a log", error);
        let file = opened.map_err(|error| fault(error.into()))?;
        match file.metadata().map_err(fault)?.is_file() {
            true => Ok(Arc::new(file)),
            false => Err(fault(io::ErrorKind::InvalidData.into())),
        }
    });
    Ok(opened.await?)
}

/// The bytes of a file from an offset on, until it has ended.
pub(super) fn follow(file: Arc<File>, offset: u64, growth: watch::Receiver<Growth>) -> LogBytes {
    let tail = Tail { file, offset, growth };
    stream::try_unfold(
        tail,
        |mut tail| async move { Ok(tail.next().await?.map(|piece| (piece, tail))) },
    )
    .boxed()
}

impl Tail {
    async fn next(&mut self) -> Result<Option<Bytes>, LogError> {
        loop {
            let mut piece = read(&self.file, self.offset).await?;
            // After reading: the file of a log that has ended may belong to another one by now.
            let growth = *self.growth.borrow_and_update();
            let end = growth.end();
            if let Some(end) = end {
                let left = usize::try_from(end.saturating_sub(self.offset)).unwrap_or(usize::MAX);
                piece.truncate(left);
            }
            if !piece.is_empty() {
                self.offset += piece.len() as u64;
                return Ok(Some(piece));
            }
            match growth {
                Growth::Ended(len) if self.offset >= len => return Ok(None),
                Growth::Ended(_) | Growth::Cut(_) => return Err(LogError::Cut),
                Growth::Growing => {
                    // Who ends the log says so; who appends to it may not. If whoever has the log is gone, it was cut.
                    if let Ok(Err(_)) = time::timeout(LOOK_EVERY, self.growth.changed()).await {
                        return Err(LogError::Cut);
                    }
                }
            }
        }
    }
}

async fn read(file: &Arc<File>, offset: u64) -> Result<Bytes, LogError> {
    let file = Arc::clone(file);
    let read = blocking("reading a log", move || {
        let mut piece = vec![0; PIECE_BYTES];
        let count = file.read_at(&mut piece, offset);
        let count = count.map_err(|error| Error::unavailable("reading a log", error))?;
        piece.truncate(count);
        piece.shrink_to_fit();
        Ok(Bytes::from(piece))
    });
    Ok(read.await?)
}
