//! Reading a file while it grows.

use std::{fs::File, io, os::unix::fs::FileExt as _, path::Path, sync::Arc, time::Duration};

use bbb_lifecycle::Stop;
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use tokio::{sync::watch, time};

use super::{LogBytes, LogError, growing::Growth};
use crate::{Error, blocking::blocking};

/// How many bytes are read at a time: all that a reader has in memory.
const PIECE_BYTES: usize = 256 << 10;

/// How often a file is looked at that somebody reads and that others append to.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A reader that follows a file.
struct Tail {
    file: Arc<File>,
    offset: u64,
    growth: watch::Receiver<Growth>,
    /// When to give up, if nobody will append to it then.
    stop: Option<Stop>,
}

/// Opens the file of a log that grows, never through a symbolic link.
pub(super) async fn open(path: &Path) -> Result<Arc<File>, LogError> {
    let path = path.to_owned();
    let opened = blocking("opening a log", move || {
        let opened = open_blocking(&path).map(Arc::new);
        opened.map_err(|error| Error::unavailable("opening a log", error))
    });
    Ok(opened.await?)
}

/// The same, for who may block.
pub(super) fn open_blocking(path: &Path) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// The bytes of a file from an offset on, until it has ended; or until `stop`, if there is one.
pub(super) fn follow(
    file: Arc<File>,
    offset: u64,
    growth: watch::Receiver<Growth>,
    stop: Option<Stop>,
) -> LogBytes {
    let tail = Tail { file, offset, growth, stop };
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
                Growth::Ended(len) if self.offset == len => return Ok(None),
                Growth::Ended(len) if self.offset > len => {
                    return Err(LogError::OutOfRange { offset: self.offset, len });
                }
                Growth::Ended(_) | Growth::Cut(_) => return Err(LogError::Cut),
                Growth::Growing if self.stop.as_ref().is_some_and(Stop::is_requested) => {
                    return Err(LogError::Leaving);
                }
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
