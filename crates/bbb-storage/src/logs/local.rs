//! The logs that grow on this node.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt as _,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bbb_digest::{Digest, Function, InstanceName};
use bbb_lifecycle::TaskGroup;
use bbb_reapi::{Channel, LogHost, LogId, LogResource, LogWriteResource};
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::{
    sync::watch,
    time::{self, Instant},
};

use super::{
    LogBytes, LogError, LogPiece, Logs, Written,
    pages::Pages,
    tail::{self, Growth},
};
use crate::{ActionCache, Error, HashedFile, Instances, Wanted, blocking::blocking};

/// How many logs that have ended are remembered.
const MAX_ENDED: usize = 16 << 10;

/// How many logs clients may write at a time.
const MAX_WRITTEN: usize = 1024;

/// The most that such a log may have, in bytes; and all of them together.
const MAX_LOG_BYTES: u64 = 1 << 30;
const MAX_WRITTEN_BYTES: u64 = 4 << 30;

/// How long nobody may write to a log before it is ended.
const IDLE_AFTER: Duration = Duration::from_secs(3600);

/// How long a log may take to be found again when its file has been taken into the store.
const STORED_WITHIN: Duration = Duration::from_secs(30);

/// How often what has ended is written down: what a node's death loses at most.
const FLUSH_EVERY: Duration = Duration::from_secs(1);

/// The logs of this node.
pub struct LocalLogs {
    host: LogHost,
    folder: PathBuf,
    instances: Arc<Instances>,
    pages: Pages,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    growing: HashMap<LogResource, Arc<Growing>>,
    /// How many of these clients write, and their bytes.
    written: usize,
    written_bytes: u64,
    ended: HashMap<LogResource, Digest>,
    /// Those that have ended, the one that ended first in front.
    order: VecDeque<LogResource>,
}

/// A log that grows.
struct Growing {
    path: PathBuf,
    growth: watch::Sender<Growth>,
    /// None if it is an action that writes it.
    writer: Option<Writer>,
}

struct Writer {
    token: u128,
    state: Mutex<WriterState>,
}

struct WriterState {
    file: File,
    len: u64,
    touched: Instant,
    has_ended: bool,
}

impl LocalLogs {
    /// Logs of the node that is called `node`, of `instances`; `pages` gives where an instance's pages lie. What clients write
    /// lies in `folder`, which belongs to this alone and is emptied. A task of `tasks` writes down what has ended.
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub fn start(
        node: &str,
        folder: PathBuf,
        instances: Arc<Instances>,
        pages: impl Fn(&InstanceName) -> Arc<dyn ActionCache> + Send + Sync + 'static,
        tasks: &TaskGroup,
    ) -> io::Result<Arc<Self>> {
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => fs::create_dir_all(&folder)?,
        }
        let pages = Pages::new(Box::new(pages));
        let host = LogHost::of_node(node);
        let logs = Arc::new(Self { host, folder, instances, pages, table: Mutex::default() });
        let (keeper, stop) = (Arc::clone(&logs), tasks.stop());
        tasks.spawn("logs", async move {
            stop.until_requested(keeper.keep()).await;
            keeper.pages.flush().await;
        });
        Ok(logs)
    }

    /// What stands for this node in the names of its logs.
    pub const fn host(&self) -> LogHost {
        self.host
    }

    /// An action begins to append to two files. `number` names the attempt: its first 32 bits are the second in which it
    /// was granted.
    pub fn begin(
        self: &Arc<Self>,
        instance: &InstanceName,
        number: u128,
        stdout: PathBuf,
        stderr: PathBuf,
    ) -> ActionLogs {
        let begin = |channel, path| {
            let id = LogId { host: self.host, number, channel };
            let log = LogResource { instance: instance.clone(), id };
            let (growth, _) = watch::channel(Growth::Growing);
            let growing = Arc::new(Growing { path, growth, writer: None });
            self.table().growing.insert(log.clone(), Arc::clone(&growing));
            (log, growing)
        };
        let both = [begin(Channel::Stdout, stdout), begin(Channel::Stderr, stderr)];
        ActionLogs { logs: Arc::clone(self), open: Some(both) }
    }

    /// Reads a log that has ended, wherever it grew.
    ///
    /// # Errors
    /// As [`Logs::read`].
    pub async fn read_ended(&self, log: &LogResource, offset: u64) -> Result<LogBytes, LogError> {
        let known = self.table().ended.get(log).copied();
        let digest = match known {
            Some(digest) => digest,
            None => self.pages.find(log).await?.ok_or(LogError::Unknown)?,
        };
        let len = digest.size_bytes();
        if offset > len {
            return Err(LogError::OutOfRange { offset, len });
        }
        let cas = self.instances.get(&log.instance).cas;
        let blob = cas.get(digest, Wanted::part(offset, None)).await?;
        Ok(blob.into_stream().map_err(LogError::from).boxed())
    }

    /// A log has become a blob.
    fn ended(&self, log: &LogResource, growing: &Growing, digest: Digest) {
        growing.growth.send_replace(Growth::Ended(digest.size_bytes()));
        // Nobody looks for long for what is empty.
        if !digest.is_empty() {
            self.pages.note(log, digest);
        }
        let mut table = self.table();
        table.forget(log, growing);
        if table.order.len() >= MAX_ENDED
            && let Some(oldest) = table.order.pop_front()
        {
            table.ended.remove(&oldest);
        }
        table.order.push_back(log.clone());
        table.ended.insert(log.clone(), digest);
    }

    fn cut(&self, log: &LogResource, growing: &Growing) {
        let len = fs::symlink_metadata(&growing.path).map_or(0, |metadata| metadata.len());
        growing.growth.send_replace(Growth::Cut(len));
        self.table().forget(log, growing);
    }

    /// Writes down what has ended, and ends what nobody writes any more, as long as it is polled.
    async fn keep(&self) {
        let mut ticks = time::interval(FLUSH_EVERY);
        ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            for (log, growing) in self.idle() {
                if let Err(error) = self.finish(&log, &growing).await {
                    tracing::warn!(%log, %error, "cannot store a log that nobody writes any more");
                }
            }
            self.pages.flush().await;
        }
    }

    fn idle(&self) -> Vec<(LogResource, Arc<Growing>)> {
        let is_idle = |growing: &Growing| {
            growing.writer.as_ref().is_some_and(|writer| {
                let state = writer.state();
                state.has_ended || state.touched.elapsed() > IDLE_AFTER
            })
        };
        let table = self.table();
        let idle = table.growing.iter().filter(|(_, growing)| is_idle(growing));
        idle.map(|(log, growing)| (log.clone(), Arc::clone(growing))).collect()
    }

    /// The log that is written, if the token is right.
    fn writing(&self, log: &LogWriteResource) -> Result<Arc<Growing>, LogError> {
        let growing = self.table().growing.get(&log.log).cloned().ok_or(LogError::Unknown)?;
        match &growing.writer {
            Some(writer) if writer.token == log.token => Ok(growing),
            _ => Err(LogError::Unknown),
        }
    }

    /// Makes a blob of a log that is written no more.
    async fn finish(&self, log: &LogResource, growing: &Arc<Growing>) -> Result<(), LogError> {
        let cas = self.instances.get(&log.instance).cas;
        let path = growing.path.clone();
        let hashed = blocking("hashing a log", move || {
            HashedFile::hash(Function::Sha256, &path)
                .map_err(|error| Error::unavailable("hashing a log", error))
        })
        .await?;
        let (digest, path) = (hashed.digest(), growing.path.clone());
        cas.put(digest, hashed.into()).await?;
        self.ended(log, growing, digest);
        // It may have been moved into the store.
        let _ = fs::remove_file(path);
        Ok(())
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// A log grows no more.
    fn forget(&mut self, log: &LogResource, growing: &Growing) {
        if self.growing.remove(log).is_some()
            && let Some(writer) = &growing.writer
        {
            self.written -= 1;
            self.written_bytes -= writer.state().len;
        }
    }
}

impl Writer {
    fn state(&self) -> MutexGuard<'_, WriterState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Logs for LocalLogs {
    async fn read(&self, log: &LogResource, offset: u64) -> Result<LogBytes, LogError> {
        let growing = self.table().growing.get(log).cloned();
        if let Some(growing) = growing {
            let mut growth = growing.growth.subscribe();
            let opened = tail::open(&growing.path).await;
            let is_growing = *growth.borrow_and_update() == Growth::Growing;
            match opened {
                Ok(file) if is_growing => return Ok(tail::follow(file, offset, growth)),
                // It is on its way into the store.
                Err(error) if is_growing => {
                    match time::timeout(STORED_WITHIN, growth.changed()).await {
                        Ok(_) => {}
                        Err(_) => return Err(error),
                    }
                }
                // The file may be another log's by now.
                _ => {}
            }
        }
        self.read_ended(log, offset).await
    }

    async fn create(&self, instance: &InstanceName) -> Result<LogWriteResource, LogError> {
        let random = uuid::Uuid::new_v4().as_u128() & ((1 << 96) - 1);
        let began = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
        let number = u128::from(began as u32) << 96 | random;
        let id = LogId { host: self.host, number, channel: Channel::Written };
        let log = LogResource { instance: instance.clone(), id };
        let path = self.folder.join(id.to_string());
        let file = {
            let path = path.clone();
            let make = move || OpenOptions::new().write(true).create_new(true).open(&path);
            let made = move || make().map_err(|error| Error::unavailable("making a log", error));
            blocking("making a log", made).await?
        };
        let state = WriterState { file, len: 0, touched: Instant::now(), has_ended: false };
        let token = uuid::Uuid::new_v4().as_u128();
        let writer = Some(Writer { token, state: Mutex::new(state) });
        let (growth, _) = watch::channel(Growth::Growing);
        let mut table = self.table();
        if table.written >= MAX_WRITTEN {
            let _ = fs::remove_file(&path);
            return Err(LogError::Full(format!("{MAX_WRITTEN} logs are written already")));
        }
        table.written += 1;
        table.growing.insert(log.clone(), Arc::new(Growing { path, growth, writer }));
        Ok(LogWriteResource { log, token })
    }

    async fn append(&self, log: &LogWriteResource, piece: LogPiece) -> Result<Written, LogError> {
        let growing = match self.writing(log) {
            Ok(growing) => growing,
            Err(error) => {
                // Who writes it shows so by knowing its token, which nobody remembers any more; what has ended can be said.
                let has_ended = self.table().ended.contains_key(&log.log);
                return Err(if has_ended { LogError::Ended } else { error });
            }
        };
        self.take_room(&growing, &piece)?;
        let (taken, is_last) = (piece.data.len() as u64, piece.is_last);
        let writing = Arc::clone(&growing);
        let wrote = blocking("appending to a log", move || Ok(write(&writing, &piece))).await?;
        let committed = match wrote {
            Ok(committed) => committed,
            Err(error) => {
                self.table().written_bytes -= taken;
                return Err(error);
            }
        };
        growing.growth.send_modify(|_| {});
        if is_last {
            self.finish(&log.log, &growing).await?;
        }
        Ok(Written { committed, has_ended: is_last })
    }

    async fn written(&self, log: &LogWriteResource) -> Result<Written, LogError> {
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
}

impl LocalLogs {
    fn take_room(&self, growing: &Growing, piece: &LogPiece) -> Result<(), LogError> {
        let bytes = piece.data.len() as u64;
        let len = growing.writer.as_ref().map_or(0, |writer| writer.state().len);
        if len + bytes > MAX_LOG_BYTES {
            return Err(LogError::Full(format!("a log has {MAX_LOG_BYTES} bytes at the most")));
        }
        let mut table = self.table();
        if table.written_bytes + bytes > MAX_WRITTEN_BYTES {
            return Err(LogError::Full(format!("all logs have {MAX_WRITTEN_BYTES} bytes by now")));
        }
        table.written_bytes += bytes;
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

/// The logs of an action that runs. Dropped before its end, they were cut.
pub struct ActionLogs {
    logs: Arc<LocalLogs>,
    open: Option<[(LogResource, Arc<Growing>); 2]>,
}

impl ActionLogs {
    /// The action has ended and its output is stored, or about to be: blobs of this size.
    pub fn end(mut self, stdout: Digest, stderr: Digest) {
        let open = self.open.take().into_iter().flatten();
        for ((log, growing), digest) in open.zip([stdout, stderr]) {
            self.logs.ended(&log, &growing, digest);
        }
    }
}

impl Drop for ActionLogs {
    fn drop(&mut self) {
        for (log, growing) in self.open.take().into_iter().flatten() {
            self.logs.cut(&log, &growing);
        }
    }
}

impl fmt::Debug for LocalLogs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalLogs").field("host", &self.host).finish_non_exhaustive()
    }
}

impl fmt::Debug for ActionLogs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActionLogs").finish_non_exhaustive()
    }
}
