//! The logs that clients write, on this node.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use bbb_digest::{Digest, Function, InstanceName};
use bbb_reapi::{Channel, LogId, LogResource, LogWriteResource};
use futures::TryStreamExt as _;
use tokio::time::Instant;

use super::{LocalLogs, LogError, LogPiece, Written, growing::Growing};
use crate::{
    Cas, Encoding, Error, HashedFile, Kept, Result, Source, SourceContent, Wanted,
    blocking::blocking,
};

/// How many logs clients may write at a time.
const MAX_WRITTEN: usize = 1024;

/// The most that such a log may have, in bytes; and all of them together.
const MAX_LOG_BYTES: u64 = 1 << 30;
const MAX_WRITTEN_BYTES: u64 = 4 << 30;

/// How much room is taken for such a log at a time.
const ROOM_BYTES: u64 = 256 << 10;

/// How long nobody may write to a log before it is ended.
const IDLE_AFTER: Duration = Duration::from_secs(3600);

/// What clients write at a time, in all logs.
#[derive(Debug, Default)]
pub(super) struct Totals(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    logs: usize,
    bytes: u64,
}

/// A part of the totals, until it is dropped.
struct Share {
    totals: Arc<Totals>,
    logs: usize,
    bytes: u64,
}

/// The end of a log where a client appends.
pub(super) struct Writer {
    token: u128,
    state: Mutex<State>,
    /// Held by who makes a blob of it.
    finishing: tokio::sync::Mutex<()>,
}

struct State {
    file: LogFile,
    len: u64,
    /// What is taken for it in the store, of [`ROOM_BYTES`] each.
    room: Vec<Kept>,
    /// What it counts for among all logs.
    share: Share,
    touched: Instant,
    has_ended: bool,
    /// What it came to.
    hashed: Option<HashedFile>,
}

impl Writer {
    fn new(file: LogFile, share: Share) -> Self {
        let (touched, room) = (Instant::now(), Vec::new());
        let state = State { file, len: 0, room, share, touched, has_ended: false, hashed: None };
        let token = uuid::Uuid::new_v4().as_u128();
        Self { token, state: Mutex::new(state), finishing: tokio::sync::Mutex::default() }
    }

    /// Whether it has ended and nobody makes a blob of it. It has if nobody appends to it for long.
    pub(super) fn is_left(&self) -> bool {
        // Whoever has these is at it.
        let (Ok(_turn), Ok(mut state)) = (self.finishing.try_lock(), self.state.try_lock()) else {
            return false;
        };
        state.has_ended |= state.touched.elapsed() > IDLE_AFTER;
        state.has_ended
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Totals {
    fn take_log(self: &Arc<Self>) -> Result<Share, LogError> {
        let mut counts = self.counts();
        if counts.logs >= MAX_WRITTEN {
            return Err(LogError::Full(format!("{MAX_WRITTEN} logs are written already")));
        }
        counts.logs += 1;
        Ok(Share { totals: Arc::clone(self), logs: 1, bytes: 0 })
    }

    fn take_bytes(self: &Arc<Self>, bytes: u64) -> Result<Share, LogError> {
        let mut counts = self.counts();
        if counts.bytes + bytes > MAX_WRITTEN_BYTES {
            return Err(LogError::Full(format!("all logs have {MAX_WRITTEN_BYTES} bytes by now")));
        }
        counts.bytes += bytes;
        Ok(Share { totals: Arc::clone(self), logs: 0, bytes })
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many logs there are, and how many bytes they have.
    #[cfg(test)]
    pub(super) fn taken(&self) -> (usize, u64) {
        let counts = self.counts();
        (counts.logs, counts.bytes)
    }
}

impl Share {
    fn absorb(&mut self, mut other: Self) {
        self.logs += std::mem::take(&mut other.logs);
        self.bytes += std::mem::take(&mut other.bytes);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut counts = self.totals.counts();
        counts.logs -= self.logs;
        counts.bytes -= self.bytes;
    }
}

/// The file that a client's log is in until a store takes it over; what is left of it goes with this.
struct LogFile {
    file: File,
    path: PathBuf,
}

impl LogFile {
    fn make(path: PathBuf) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        Ok(Self { file, path })
    }
}

impl Drop for LogFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl LocalLogs {
    pub(super) async fn create_written(
        &self,
        instance: &InstanceName,
    ) -> Result<LogWriteResource, LogError> {
        let random = uuid::Uuid::new_v4().as_u128() & ((1 << 96) - 1);
        let began = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
        let number = u128::from(began as u32) << 96 | random;
        let id = LogId { host: self.host, number, channel: Channel::Written };
        let log = LogResource { instance: instance.clone(), id };
        let path = self.folder.join(id.to_string());
        let share = self.written.take_log()?;
        let place = path.clone();
        let make =
            move || LogFile::make(place).map_err(|error| Error::unavailable("making a log", error));
        let writer = Writer::new(blocking("making a log", make).await?, share);
        let token = writer.token;
        self.table().growing.insert(log.clone(), Growing::new(path, Some(writer)));
        Ok(LogWriteResource { log, token })
    }

    pub(super) async fn append_written(
        &self,
        log: &LogWriteResource,
        piece: LogPiece,
    ) -> Result<Written, LogError> {
        let growing = match self.writing(log) {
            Ok(growing) => growing,
            Err(error) => {
                // Nobody remembers its token; but that it has ended is known to all who may read it.
                let has_ended = self.table().ended.contains_key(&log.log);
                return Err(if has_ended { LogError::Ended } else { error });
            }
        };
        let share = self.take_room(&growing, &piece).await?;
        let is_last = piece.is_last;
        let writing = Arc::clone(&growing);
        let append = move || Ok(write(&writing, &piece, share));
        let committed = blocking("appending to a log", append).await??;
        growing.growth.send_modify(|_| {});
        if is_last {
            self.finish(&log.log, &growing).await?;
        }
        Ok(Written { committed, has_ended: is_last })
    }

    pub(super) fn how_far(&self, log: &LogWriteResource) -> Result<Written, LogError> {
        match self.writing(log) {
            Ok(growing) => {
                let state = growing.writer.as_ref().map(Writer::state).ok_or(LogError::Unknown)?;
                Ok(Written { committed: state.len, has_ended: state.has_ended })
            }
            Err(error) => match self.table().ended.get(&log.log) {
                Some(digest) => Ok(Written { committed: digest.size_bytes(), has_ended: true }),
                None => Err(error),
            },
        }
    }

    /// Makes a blob of a log that is written no more. May be given up and tried again; of two who try, one waits.
    pub(super) async fn finish(
        &self,
        log: &LogResource,
        growing: &Arc<Growing>,
    ) -> Result<(), LogError> {
        let Some(writer) = &growing.writer else { return Err(LogError::Unknown) };
        let _turn = writer.finishing.lock().await;
        if !growing.is_growing() {
            return Ok(());
        }
        let hashed = hashed(growing).await?;
        let digest = hashed.digest();
        let cas = self.instances.get(&log.instance).cas;
        let stored = match cas.put(digest, hashed.into()).await {
            Err(_) if is_gone(&growing.path) => store_again(&*cas, digest).await,
            stored => stored,
        };
        match stored {
            Ok(()) => {
                self.ended(log, growing, digest, true);
                Ok(())
            }
            Err(Error::Missing(_)) => {
                self.cut(log, growing);
                Err(LogError::Cut)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The log that is written, if the token is right.
    fn writing(&self, log: &LogWriteResource) -> Result<Arc<Growing>, LogError> {
        let growing = self.table().growing.get(&log.log).cloned().ok_or(LogError::Unknown)?;
        match &growing.writer {
            Some(writer) if writer.token == log.token => Ok(growing),
            _ => Err(LogError::Unknown),
        }
    }

    /// Takes room for a piece, among the logs that are written and in the store.
    async fn take_room(&self, growing: &Growing, piece: &LogPiece) -> Result<Share, LogError> {
        let bytes = piece.data.len() as u64;
        let Some(writer) = &growing.writer else { return Err(LogError::Unknown) };
        let (len, taken) = {
            let state = writer.state();
            (state.len + bytes, state.room.len() as u64 * ROOM_BYTES)
        };
        if len > MAX_LOG_BYTES {
            return Err(LogError::Full(format!("a log has {MAX_LOG_BYTES} bytes at the most")));
        }
        let mut room = Vec::new();
        while taken + room.len() as u64 * ROOM_BYTES < len {
            // Kept at once: it does not leave while somebody writes.
            let lodger = self.lodging.take(ROOM_BYTES, Box::new(|| {})).await?;
            let full = || LogError::Full("all that is stored here is in use".into());
            room.push(lodger.keep().ok_or_else(full)?);
        }
        let share = self.written.take_bytes(bytes)?;
        writer.state().room.append(&mut room);
        Ok(share)
    }
}

/// What a log came to; hashed once, since the file is not there any more when a store has made it its own.
async fn hashed(growing: &Arc<Growing>) -> Result<HashedFile, LogError> {
    let growing = Arc::clone(growing);
    let hash = move || {
        let Some(writer) = &growing.writer else { return Ok(Err(LogError::Unknown)) };
        if let Some(hashed) = writer.state().hashed.clone() {
            return Ok(Ok(hashed));
        }
        let hashed = HashedFile::hash(Function::Sha256, &growing.path)
            .map_err(|error| Error::unavailable("hashing a log", error))?;
        writer.state().hashed = Some(hashed.clone());
        Ok(Ok(hashed))
    };
    blocking("hashing a log", hash).await?
}

fn is_gone(path: &Path) -> bool {
    path.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// Stores what one tier of a store has made its own before another one failed.
async fn store_again(cas: &dyn Cas, digest: Digest) -> Result<()> {
    let blob = cas.get(digest, Wanted::ALL).await?;
    let content = SourceContent::Stream(Box::pin(blob.into_stream().map_err(io::Error::other)));
    cas.put(digest, Source { encoding: Encoding::Identity, content }).await
}

/// Appends to a file, which counts for so much more then; blocks.
fn write(growing: &Growing, piece: &LogPiece, share: Share) -> Result<u64, LogError> {
    let mut state = growing.writer.as_ref().ok_or(LogError::Unknown)?.state();
    if state.has_ended {
        return Err(LogError::Ended);
    }
    if piece.offset != state.len {
        return Err(LogError::WrongOffset { committed: state.len });
    }
    if let Err(error) = state.file.file.write_all_at(&piece.data, state.len) {
        // The log has nothing of what the client may never send again.
        let _ = state.file.file.set_len(state.len);
        return Err(Error::unavailable("appending to a log", error).into());
    }
    state.len += piece.data.len() as u64;
    state.share.absorb(share);
    state.touched = Instant::now();
    state.has_ended = piece.is_last;
    Ok(state.len)
}
