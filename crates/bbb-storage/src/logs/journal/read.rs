//! Reading a log out of the journal of a node that does not have it any more.

use std::sync::Arc;

use bbb_reapi::LogResource;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::Semaphore;

use super::{EntryName, JournalStore, entry};
use crate::{
    Error,
    blocking::blocking,
    logs::{LogBytes, LogError},
};

/// By how much the clocks of nodes may differ, in seconds: a log is named by the clock of another one than makes the
/// entries. S3 answers nobody whose clock differs by more.
const MAX_CLOCK_DIFFERENCE: u32 = 15 * 60;

/// How many entries are read at a time, by all readers together.
const MAX_READING: usize = 8;

/// Reads journals, of whatever node.
#[derive(Debug)]
pub(super) struct Reading {
    store: Arc<dyn JournalStore>,
    turns: Semaphore,
}

/// What a log got, by an entry: where it begins, and the bytes.
type Found = Option<(u64, Bytes)>;

impl Reading {
    pub(super) fn new(store: Arc<dyn JournalStore>) -> Self {
        Self { store, turns: Semaphore::new(MAX_READING) }
    }

    /// What there is of a log from an offset on; then the log ends as one that was cut.
    ///
    /// # Errors
    /// [`LogError::Unknown`] if no entry has it, [`LogError::Storage`] on any fault.
    pub(super) async fn read(
        self: &Arc<Self>,
        log: &LogResource,
        offset: u64,
    ) -> Result<LogBytes, LogError> {
        let since = log.id.began().saturating_sub(MAX_CLOCK_DIFFERENCE);
        let mut names = self.store.list(log.id.host, u64::from(since) * 1000).await?;
        names.retain(|name| name.filter.may_have(log.id));
        let (reading, log) = (Arc::clone(self), log.clone());
        let fetch = move |name| Arc::clone(&reading).fetch(name, log.clone());
        // One after the other: what is read ahead would keep its turn for as long as this reader reads nothing.
        let mut found = stream::iter(names).then(fetch).boxed();
        let first = loop {
            match found.try_next().await? {
                Some(Some(first)) => break first,
                Some(None) => {}
                None => return Err(LogError::Unknown),
            }
        };
        let found = stream::once(async { Ok(Some(first)) }).chain(found).boxed();
        let bytes = stream::try_unfold((found, offset), |(mut found, offset)| async move {
            while let Some(next) = found.try_next().await? {
                let Some((begin, mut bytes)) = next else { continue };
                if begin > offset {
                    // An entry is gone, or could not be written.
                    break;
                }
                let known = usize::try_from(offset - begin).unwrap_or(usize::MAX);
                if known < bytes.len() {
                    let end = begin + bytes.len() as u64;
                    return Ok(Some((bytes.split_off(known), (found, end))));
                }
            }
            Err(LogError::Cut)
        });
        Ok(bytes.boxed())
    }

    /// What an entry has of a log.
    async fn fetch(self: Arc<Self>, name: EntryName, log: LogResource) -> Result<Found, Error> {
        // It is never closed.
        let _turn = self.turns.acquire().await;
        let Some(bytes) = self.store.read(&name).await? else { return Ok(None) };
        let decoded = blocking("reading a journal", move || Ok(entry::decode(&name, &bytes)));
        match decoded.await? {
            Ok(parts) => {
                let part = parts.into_iter().find(|part| part.log == log);
                Ok(part.map(|part| (part.offset, part.bytes)))
            }
            Err(error) => {
                tracing::warn!(entry = %name, %error, "an entry of a journal is damaged");
                Ok(None)
            }
        }
    }
}
