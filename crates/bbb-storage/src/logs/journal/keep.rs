//! Keeping the journal of this node.

use std::{
    collections::HashMap,
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use bbb_reapi::{LogHost, LogResource};
use bytes::Bytes;

use super::{
    EntryName, Filter, JournalStore,
    entry::{self, Part},
    read::Reading,
};
use crate::{
    Result,
    blocking::blocking,
    logs::{LogBytes, LogError, growing::Growing, tail},
};

/// How many bytes of logs an entry has. What is more comes in the next one, which is made at once.
const MAX_ENTRY_LOG_BYTES: usize = 4 << 20;

/// How much of them one log may take, so that a loud one does not hold up the others.
const MAX_PART_BYTES: usize = 1 << 20;

/// How many logs an entry names.
const MAX_PARTS: usize = 1024;

/// How much is kept of a log. What comes behind is lost with the node.
const MAX_KEPT_BYTES: u64 = 1 << 30;

/// How many entries of this process there may be. While there are so many nothing more is kept.
const MAX_ENTRIES: usize = 64 << 10;

/// How many entries are removed at a time.
const MAX_REMOVED: usize = 1000;

/// Logs younger than this are not looked at: most quick actions end within it, and are never in a journal.
pub(in crate::logs) const YOUNG: Duration = Duration::from_millis(100);

/// The journal of this node, and the way to those of others.
#[derive(Debug)]
pub(in crate::logs) struct Journal {
    host: LogHost,
    life: u32,
    store: Arc<dyn JournalStore>,
    reading: Arc<Reading>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last_at_ms: u64,
    last_number: u32,
    entries: HashMap<u32, Entry>,
    logs: HashMap<LogResource, Kept>,
    /// What nobody needs any more.
    gone: Vec<EntryName>,
}

/// An entry that is there, or on its way.
#[derive(Debug)]
struct Entry {
    name: EntryName,
    /// How many of its logs cannot be read elsewhere yet.
    logs: usize,
    /// Whether it is still being written.
    is_written: bool,
}

/// What is kept of a log.
#[derive(Debug, Default)]
struct Kept {
    len: u64,
    /// The entries that have a part of it, the last one at the end.
    entries: Vec<u32>,
}

/// What an entry has of a log: up to where.
struct Noted {
    log: LogResource,
    growing: Arc<Growing>,
    end: u64,
}

/// A log that is looked at.
struct Looked {
    log: LogResource,
    growing: Arc<Growing>,
    /// How much of it is kept.
    kept: u64,
    /// The last entry that has a part of it.
    last: u32,
}

impl Journal {
    pub(in crate::logs) fn new(host: LogHost, store: Arc<dyn JournalStore>) -> Self {
        let life = uuid::Uuid::new_v4().as_u128() as u32;
        let reading = Arc::new(Reading::new(Arc::clone(&store)));
        Self { host, life, store, reading, state: Mutex::default() }
    }

    /// What there is of a log that no node has any more, from an offset on; then it ends as one that was cut.
    ///
    /// # Errors
    /// [`LogError::Unknown`] if no journal has it, [`LogError::Storage`] on any fault.
    pub(in crate::logs) async fn read(
        &self,
        log: &LogResource,
        offset: u64,
    ) -> Result<LogBytes, LogError> {
        self.reading.read(log, offset).await
    }

    /// Makes an entry of what these logs got since the last one; called by one at a time. Tells whether they got more than
    /// fits.
    ///
    /// # Errors
    /// As [`JournalStore::write`]; the next entry has what this one was to have.
    pub(in crate::logs) async fn keep(
        self: &Arc<Self>,
        growing: Vec<(LogResource, Arc<Growing>)>,
    ) -> Result<bool> {
        let Some(looked) = self.look(growing) else { return Ok(false) };
        let journal = Arc::clone(self);
        let made = blocking("looking at logs", move || {
            let (parts, has_more) = gather(looked);
            if parts.is_empty() {
                return Ok(None);
            }
            let (parts, growing): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
            let name = journal.name(&parts);
            let bytes = entry::encode(&name, &parts)?;
            let noted = parts.into_iter().zip(growing).map(|(part, growing)| Noted {
                end: part.end(),
                log: part.log,
                growing,
            });
            Ok(Some((name, bytes, noted.collect::<Vec<_>>(), has_more)))
        });
        let Some((name, bytes, noted, has_more)) = made.await? else { return Ok(false) };
        let number = self.state().begin(name, &noted);
        let wrote = self.store.write(&name, bytes).await;
        self.state().end(number, if wrote.is_ok() { &noted } else { &[] });
        wrote.map(|()| has_more)
    }

    /// These can be read elsewhere, or never again.
    pub(in crate::logs) fn forget<'a>(&self, logs: impl IntoIterator<Item = &'a LogResource>) {
        let mut state = self.state();
        logs.into_iter().for_each(|log| state.forget(log));
    }

    /// Removes the entries that nobody needs any more.
    pub(in crate::logs) async fn sweep(&self) {
        loop {
            let gone: Vec<_> = {
                let mut state = self.state();
                let left = state.gone.len().saturating_sub(MAX_REMOVED);
                state.gone.split_off(left)
            };
            if gone.is_empty() {
                return;
            }
            if let Err(error) = self.store.remove(&gone).await {
                tracing::debug!(%error, "cannot remove entries of the journal of logs");
                self.state().gone.extend(gone);
                return;
            }
        }
    }

    /// Those of the logs of which more may be kept, with the one in front that waits for it the longest. None while there
    /// are too many entries.
    fn look(&self, growing: Vec<(LogResource, Arc<Growing>)>) -> Option<Vec<Looked>> {
        let state = self.state();
        if state.entries.len() + state.gone.len() >= MAX_ENTRIES {
            return None;
        }
        let old = growing.into_iter().filter(|(_, growing)| growing.began.elapsed() >= YOUNG);
        let looked = old.map(|(log, growing)| {
            let kept = state.logs.get(&log);
            let last = kept.and_then(|kept| kept.entries.last().copied()).unwrap_or(0);
            Looked { kept: kept.map_or(0, |kept| kept.len), last, log, growing }
        });
        let mut looked: Vec<_> = looked.filter(|looked| looked.kept < MAX_KEPT_BYTES).collect();
        drop(state);
        looked.sort_by_key(|looked| looked.last);
        Some(looked)
    }

    fn name(&self, parts: &[Part]) -> EntryName {
        let mut filter = Filter::default();
        parts.iter().for_each(|part| filter.add(part.log.id));
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_millis();
        let mut state = self.state();
        // Whatever the clock does, they stay in order.
        state.last_at_ms = u64::try_from(now).unwrap_or(0).max(state.last_at_ms + 1);
        EntryName { host: self.host, at_ms: state.last_at_ms, life: self.life, filter }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// An entry is about to be written: from now on it is there, whatever the store says.
    fn begin(&mut self, name: EntryName, noted: &[Noted]) -> u32 {
        self.last_number = self.last_number.wrapping_add(1);
        let number = self.last_number;
        // One that has ended may be forgotten by now, and is forgotten once.
        let growing = noted.iter().filter(|noted| noted.growing.is_growing());
        let logs = growing
            .map(|noted| self.logs.entry(noted.log.clone()).or_default().entries.push(number))
            .count();
        let entry = Entry { name, logs, is_written: false };
        self.entries.insert(number, entry);
        number
    }

    /// An entry was written, with the logs up to these ends, or may have been.
    fn end(&mut self, number: u32, noted: &[Noted]) {
        for Noted { log, end, .. } in noted {
            if let Some(kept) = self.logs.get_mut(log) {
                kept.len = *end;
            }
        }
        if let Some(entry) = self.entries.get_mut(&number) {
            entry.is_written = true;
        }
        self.drop_unneeded(number);
    }

    fn forget(&mut self, log: &LogResource) {
        let Some(kept) = self.logs.remove(log) else { return };
        for number in kept.entries {
            if let Some(entry) = self.entries.get_mut(&number) {
                entry.logs -= 1;
            }
            self.drop_unneeded(number);
        }
    }

    fn drop_unneeded(&mut self, number: u32) {
        let is_needed = |entry: &Entry| entry.logs > 0 || !entry.is_written;
        if self.entries.get(&number).is_some_and(|entry| !is_needed(entry))
            && let Some(entry) = self.entries.remove(&number)
        {
            self.gone.push(entry.name);
        }
    }
}

/// What logs got, as far as it fits in an entry, and whether that is not all; blocks.
fn gather(looked: Vec<Looked>) -> (Vec<(Part, Arc<Growing>)>, bool) {
    let (mut parts, mut room, mut has_more) = (Vec::new(), MAX_ENTRY_LOG_BYTES, false);
    for Looked { log, growing, kept, .. } in looked {
        if room == 0 || parts.len() == MAX_PARTS {
            return (parts, true);
        }
        match part(&growing, kept, room.min(MAX_PART_BYTES)) {
            Ok(Some((bytes, has_rest))) => {
                room -= bytes.len();
                has_more |= has_rest;
                parts.push((Part { log, offset: kept, bytes }, growing));
            }
            // On its way into the store, or never anything else than empty.
            Ok(None) => {}
            Err(error) => tracing::debug!(%log, %error, "cannot look at a log that grows"),
        }
    }
    (parts, has_more)
}

/// What a log got behind an offset, and whether that is not all.
fn part(growing: &Growing, offset: u64, limit: usize) -> io::Result<Option<(Bytes, bool)>> {
    let len = match growing.path.symlink_metadata() {
        Ok(metadata) => metadata.len().min(MAX_KEPT_BYTES),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let Some(new) = len.checked_sub(offset).filter(|new| *new > 0) else { return Ok(None) };
    let wanted = usize::try_from(new).unwrap_or(usize::MAX).min(limit);
    let mut bytes = vec![0; wanted];
    let file: File = tail::open_blocking(&growing.path)?;
    file.read_exact_at(&mut bytes, offset)?;
    // Looked at last: the file of a log that has ended may be another one's by now.
    match growing.is_growing() {
        true => Ok(Some((bytes.into(), new > wanted as u64))),
        false => Ok(None),
    }
}
