//! The logs that clients write, on this node.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::FileExt as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use bbb_digest::{Function, InstanceName};
use bbb_reapi::{Channel, LogId, LogResource, LogWriteResource};
use tokio::time::Instant;

use super::{LocalLogs, LogError, LogPiece, Written, growing::Growing};
use crate::{Error, HashedFile, Kept, blocking::blocking};

/// How many logs clients may write at a time.
const MAX_WRITTEN: usize = 1024;

/// The most that such a log may have, in bytes; and all of them together.
const MAX_LOG_BYTES: u64 = 1 << 30;
const MAX_WRITTEN_BYTES: u64 = 4 << 30;

/// How much room is taken for such a log at a time.
const ROOM_BYTES: u64 = 256 << 10;

/// How long nobody may write to a log before it is ended.
const IDLE_AFTER: Duration = Duration::from_secs(3600);

/// What clients write at a time.
#[derive(Debug, Default)]
pub(super) struct Totals {
    logs: usize,
    bytes: u64,
}

/// The end of a log where a client appends.
pub(super) struct Writer {
    token: u128,
    state: Mutex<State>,
}

struct State {
    file: File,
    len: u64,
    /// What is taken for it in the store, of [`ROOM_BYTES`] each.
    room: Vec<Kept>,
    touched: Instant,
    has_ended: bool,
}

impl Writer {
    /// Whether nobody appends any more.
    pub(super) fn is_idle(&self) -> bool {
        let state = self.state();
        state.has_ended || state.touched.elapsed() > IDLE_AFTER
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Totals {
    /// A log is written no more.
    pub(super) fn forget(&mut self, writer: &Writer) {
        self.logs -= 1;
        self.bytes -= writer.state().len;
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
        self.take_turn()?;
        let file = {
            let path = path.clone();
            let make = move || OpenOptions::new().write(true).create_new(true).open(&path);
            let made = move || make().map_err(|error| Error::unavailable("making a log", error));
            blocking("making a log", made).await
        };
        let file = file.inspect_err(|_| self.table().written.logs -= 1)?;
        let (touched, room) = (Instant::now(), Vec::new());
        let state = Mutex::new(State { file, len: 0, room, touched, has_ended: false });
        let token = uuid::Uuid::new_v4().as_u128();
        let growing = Growing::new(path, Some(Writer { token, state }));
        self.table().growing.insert(log.clone(), growing);
        Ok(LogWriteResource { log, token })
    }

    fn take_turn(&self) -> Result<(), LogError> {
        let mut table = self.table();
        if table.written.logs >= MAX_WRITTEN {
            return Err(LogError::Full(format!("{MAX_WRITTEN} logs are written already")));
        }
        table.written.logs += 1;
        Ok(())
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
        self.take_room(&growing, &piece).await?;
        let (taken, is_last) = (piece.data.len() as u64, piece.is_last);
        let writing = Arc::clone(&growing);
        let wrote = blocking("appending to a log", move || Ok(write(&writing, &piece))).await?;
        let committed = wrote.inspect_err(|_| self.table().written.bytes -= taken)?;
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

    /// Makes a blob of a log that is written no more.
    pub(super) async fn finish(
        &self,
        log: &LogResource,
        growing: &Arc<Growing>,
    ) -> Result<(), LogError> {
        let cas = self.instances.get(&log.instance).cas;
        let path = growing.path.clone();
        let hashed = blocking("hashing a log", move || {
            HashedFile::hash(Function::Sha256, &path)
                .map_err(|error| Error::unavailable("hashing a log", error))
        })
        .await?;
        let (digest, path) = (hashed.digest(), growing.path.clone());
        cas.put(digest, hashed.into()).await?;
        self.ended(log, growing, digest, true);
        // It may have been moved into the store.
        let _ = fs::remove_file(path);
        Ok(())
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
    async fn take_room(&self, growing: &Growing, piece: &LogPiece) -> Result<(), LogError> {
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
        let mut table = self.table();
        if table.written.bytes + bytes > MAX_WRITTEN_BYTES {
            return Err(LogError::Full(format!("all logs have {MAX_WRITTEN_BYTES} bytes by now")));
        }
        table.written.bytes += bytes;
        drop(table);
        writer.state().room.append(&mut room);
        Ok(())
    }
}

/// Appends to a file; blocks.
fn write(growing: &Growing, piece: &LogPiece) -> Result<u64, LogError> {
    let mut state = growing.writer.as_ref().ok_or(LogError::Unknown)?.state();
    if state.has_ended {
        return Err(LogError::Ended);
    }
    if piece.offset != state.len {
        return Err(LogError::WrongOffset { committed: state.len });
    }
    let wrote = state.file.write_all_at(&piece.data, state.len);
    wrote.map_err(|error| Error::unavailable("appending to a log", error))?;
    state.len += piece.data.len() as u64;
    state.touched = Instant::now();
    state.has_ended = piece.is_last;
    Ok(state.len)
}
