//! The logs that grow on this node.

use std::{
    collections::{HashMap, VecDeque},
    fmt, fs, io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bbb_digest::{Digest, InstanceName};
use bbb_lifecycle::{Stop, TaskGroup};
use bbb_reapi::{Channel, LogHost, LogId, LogResource, LogWriteResource};
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::time::{self, Instant};

use super::{
    JournalStore, LogBytes, LogError, LogPiece, Logs, Written,
    growing::{Growing, Growth},
    journal::{Journal, YOUNG},
    pages::{Pages, PagesOf},
    tail,
    written::{Totals, Writer},
};
use crate::{Instances, Lodging, Wanted};

/// How many logs that have ended are remembered.
const MAX_ENDED: usize = 16 << 10;

/// How long a log may take to be found again when its file has been taken into the store.
const STORED_WITHIN: Duration = Duration::from_secs(30);

/// How often what has ended is written down.
const FLUSH_EVERY: Duration = Duration::from_secs(1);

/// How old the journal may get: what a node's death loses of a log.
const JOURNAL_WITHIN: Duration = Duration::from_secs(1);

/// How often there may be an entry, however slow its store is.
const MIN_JOURNAL_PERIOD: Duration = Duration::from_millis(500);

/// Where the logs of a node are when they grow no more, or their node is gone.
pub struct LogStores {
    /// Gives where an instance's pages lie.
    pub pages: PagesOf,
    /// Where journals lie.
    pub journals: Arc<dyn JournalStore>,
    /// Gives room to what clients write.
    pub lodging: Arc<dyn Lodging>,
}

/// The logs of this node.
pub struct LocalLogs {
    pub(super) host: LogHost,
    pub(super) folder: PathBuf,
    pub(super) instances: Arc<Instances>,
    pub(super) pages: Pages,
    pub(super) lodging: Arc<dyn Lodging>,
    pub(super) written: Arc<Totals>,
    journal: Arc<Journal>,
    leaving: Stop,
    table: Mutex<Table>,
}

#[derive(Default)]
pub(super) struct Table {
    pub(super) growing: HashMap<LogResource, Arc<Growing>>,
    pub(super) ended: HashMap<LogResource, Digest>,
    /// Those that have ended, the one that ended first in front.
    order: VecDeque<LogResource>,
}

impl LocalLogs {
    /// Logs of the node that is called `node`, of `instances`. What clients write lies in `folder`, which belongs to this alone
    /// and is emptied. Tasks of `tasks` write down what has ended, and keep the journal. When `leaving` is requested, nobody
    /// waits any more for what clients write.
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub fn start(
        node: &str,
        folder: PathBuf,
        instances: Arc<Instances>,
        stores: LogStores,
        tasks: &TaskGroup,
        leaving: Stop,
    ) -> io::Result<Arc<Self>> {
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => fs::create_dir_all(&folder)?,
        }
        let host = LogHost::of_node(node);
        let LogStores { pages, journals, lodging } = stores;
        let pages = Pages::new(pages);
        let journal = Arc::new(Journal::new(host, journals));
        let (written, table) = (Arc::default(), Mutex::default());
        let logs =
            Self { host, folder, instances, pages, lodging, written, journal, leaving, table };
        let logs = Arc::new(logs);
        tasks.spawn("logs", Arc::clone(&logs).write_down(tasks.stop()));
        tasks.spawn("journal", Arc::clone(&logs).keep_journal(tasks.stop()));
        Ok(logs)
    }

    /// What stands for this node in the names of its logs.
    pub const fn host(&self) -> LogHost {
        self.host
    }

    /// Requested when this node takes its leave: who reads what may go on for long is to go on through another one.
    pub fn leaving(&self) -> Stop {
        self.leaving.clone()
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
            let growing = Growing::new(path, None);
            self.table().growing.insert(log.clone(), Arc::clone(&growing));
            (log, growing)
        };
        let both = [begin(Channel::Stdout, stdout), begin(Channel::Stderr, stderr)];
        ActionLogs { logs: Arc::clone(self), open: Some(both) }
    }

    /// Reads a log that does not grow here, wherever it grew: one that has ended, or else what a journal has of it, after which
    /// it is [cut](LogError::Cut).
    ///
    /// # Errors
    /// As [`Logs::read`].
    pub async fn read_left(&self, log: &LogResource, offset: u64) -> Result<LogBytes, LogError> {
        let known = self.table().ended.get(log).copied();
        let found = match known {
            Some(digest) => Some(digest),
            None => self.pages.find(log).await?,
        };
        let Some(digest) = found else { return self.journal.read(log, offset).await };
        let len = digest.size_bytes();
        if offset > len {
            return Err(LogError::OutOfRange { offset, len });
        }
        let cas = self.instances.get(&log.instance).cas;
        let blob = cas.get(digest, Wanted::part(offset, None)).await?;
        Ok(blob.into_stream().map_err(LogError::from).boxed())
    }

    /// A log has become a blob, which a page is to name or not.
    pub(super) fn ended(
        &self,
        log: &LogResource,
        growing: &Growing,
        digest: Digest,
        is_named: bool,
    ) {
        // Who waited for the end, and reads when he is told of it, finds the blob.
        self.table().remember(log, digest);
        // Before its page: from now on no entry of the journal counts on it.
        growing.growth.send_replace(Growth::Ended(digest.size_bytes()));
        if !(is_named && self.pages.note(log, digest)) {
            self.journal.forget([log]);
        }
        self.table().growing.remove(log);
    }

    pub(super) fn cut(&self, log: &LogResource, growing: &Growing) {
        let len = fs::symlink_metadata(&growing.path).map_or(0, |metadata| metadata.len());
        growing.growth.send_replace(Growth::Cut(len));
        self.table().growing.remove(log);
        // As of an action whose output was never stored, nothing is left of it.
        self.journal.forget([log]);
    }

    /// Writes down what has ended, and ends what nobody writes any more, until the word to stop comes; then once more.
    async fn write_down(self: Arc<Self>, stop: Stop) {
        let mut ticks = time::interval(FLUSH_EVERY);
        ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        // What is being written down is never interrupted.
        while stop.until_requested(ticks.tick()).await.is_some() {
            for (log, growing) in self.left() {
                if let Err(error) = self.finish(&log, &growing).await {
                    tracing::warn!(%log, %error, "cannot store a log that nobody writes any more");
                }
            }
            self.flush().await;
        }
        self.flush().await;
    }

    async fn flush(&self) {
        self.journal.forget(&self.pages.flush().await);
        self.journal.sweep().await;
    }

    /// Keeps the journal until the word to stop comes; then once more, for what clients write: it stays there, cut.
    async fn keep_journal(self: Arc<Self>, stop: Stop) {
        let (mut pause, mut is_failing) = (MIN_JOURNAL_PERIOD, false);
        while stop.until_requested(time::sleep(pause)).await.is_some() {
            let begun = Instant::now();
            let growing = self.table().growing.clone();
            let kept = self.journal.keep(growing.into_iter().collect()).await;
            let took = begun.elapsed();
            pause = match kept {
                Ok(true) => Duration::ZERO,
                _ => JOURNAL_WITHIN.saturating_sub(YOUNG + took + took).max(MIN_JOURNAL_PERIOD),
            };
            if let Err(error) = &kept
                && !is_failing
            {
                tracing::warn!(%error, "cannot keep a journal of what actions print: it dies with this node");
            }
            is_failing = kept.is_err();
        }
        while let Ok(true) = self.journal.keep(self.open()).await {}
    }

    /// What clients write.
    fn open(&self) -> Vec<(LogResource, Arc<Growing>)> {
        self.written_if(|_| true)
    }

    pub(super) fn left(&self) -> Vec<(LogResource, Arc<Growing>)> {
        self.written_if(Writer::is_left)
    }

    fn written_if(&self, condition: impl Fn(&Writer) -> bool) -> Vec<(LogResource, Arc<Growing>)> {
        let table = self.table();
        let wanted = |growing: &Growing| growing.writer.as_ref().is_some_and(&condition);
        let wanted = table.growing.iter().filter(|(_, growing)| wanted(growing));
        wanted.map(|(log, growing)| (log.clone(), Arc::clone(growing))).collect()
    }

    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// A log has become a blob. The oldest of those that are remembered makes room for it.
    fn remember(&mut self, log: &LogResource, digest: Digest) {
        if self.order.len() >= MAX_ENDED
            && let Some(oldest) = self.order.pop_front()
        {
            self.ended.remove(&oldest);
        }
        self.order.push_back(log.clone());
        self.ended.insert(log.clone(), digest);
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
                Ok(file) if is_growing => {
                    // An action ends by itself, or is ended.
                    let stop = growing.writer.is_some().then(|| self.leaving.clone());
                    return Ok(tail::follow(file, offset, growth, stop));
                }
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
        self.read_left(log, offset).await
    }

    async fn create(&self, instance: &InstanceName) -> Result<LogWriteResource, LogError> {
        self.create_written(instance).await
    }

    async fn append(&self, log: &LogWriteResource, piece: LogPiece) -> Result<Written, LogError> {
        self.append_written(log, piece).await
    }

    async fn written(&self, log: &LogWriteResource) -> Result<Written, LogError> {
        self.how_far(log)
    }
}

/// The logs of an action that runs. Dropped before its end, they were cut.
pub struct ActionLogs {
    logs: Arc<LocalLogs>,
    open: Option<[(LogResource, Arc<Growing>); 2]>,
}

impl ActionLogs {
    /// The action has ended and its output is stored, or about to be: blobs of this size.
    pub fn end(mut self, stdout: Digest, stderr: Digest) {
        // Nobody looks for long for what is empty, but where there is a page anyway it costs nothing.
        let is_named = !(stdout.is_empty() && stderr.is_empty());
        let open = self.open.take().into_iter().flatten();
        for ((log, growing), digest) in open.zip([stdout, stderr]) {
            self.logs.ended(&log, &growing, digest, is_named);
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
