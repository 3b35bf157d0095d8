//! Journals of logs in the bucket.
//!
//! ```text
//! <prefix>/v1/meta/journal/<node>/<moment>-<life>-<filter>     see `EntryName`
//! ```
//!
//! A node makes an entry a second at the most and removes it when nobody needs it any more. The collector drops those of
//! nodes that are gone.

use std::{io, sync::Arc};

use async_trait::async_trait;
use bbb_reapi::LogHost;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path;

use crate::{EntryName, Error, JournalStore, Result, logs::MAX_ENTRY_BYTES};

use super::{Bucket, retry::Failure, store::Part};

/// What all journals lie under.
pub(super) const JOURNAL: &str = "journal";

/// How many entries are listed: what a node that prints all the time makes in a day.
const MAX_LISTED: usize = 100_000;

#[derive(Debug)]
pub(super) struct Journals(pub(super) Arc<Bucket>);

impl Journals {
    fn key(&self, entry: &EntryName) -> Path {
        self.0.keys.meta(&format!("{JOURNAL}/{entry}"))
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl JournalStore for Journals {
    async fn write(&self, entry: &EntryName, bytes: Bytes) -> Result<()> {
        let bucket = &self.0;
        let _taken = bucket.budget.writes.take(bytes.len() as u64).await?;
        let put = bucket.store.put(&self.key(entry), bytes.into()).await;
        put.map_err(|failure| unavailable("writing what logs got", failure))
    }

    async fn list(&self, host: LogHost, since_ms: u64) -> Result<Vec<EntryName>> {
        let bucket = &self.0;
        let folder = format!("{JOURNAL}/{}", EntryName::folder(host));
        let after = bucket.keys.meta(&format!("{folder}/{}", EntryName::since(since_ms)));
        let listed = bucket.store.list_after(bucket.keys.meta(&folder), Some(after));
        let names = listed.try_filter_map(|meta| {
            let name = meta.location.filename().and_then(|file| EntryName::parse(host, file));
            std::future::ready(Ok(name))
        });
        let names: Result<Vec<_>, _> = names.take(MAX_LISTED).try_collect().await;
        let mut names = names.map_err(|failure| unavailable("listing what logs got", failure))?;
        // Folders give their files in no order.
        names.sort_by_key(|name| name.at_ms);
        Ok(names)
    }

    async fn read(&self, entry: &EntryName) -> Result<Option<Bytes>> {
        let bucket = &self.0;
        let _taken = bucket.budget.reads.take(MAX_ENTRY_BYTES).await?;
        match bucket.store.get(&self.key(entry), Part::All, MAX_ENTRY_BYTES, None).await {
            Ok(fetched) => Ok(Some(fetched.bytes)),
            Err(Failure::Missing) => bucket.believe_miss().await.map(|()| None),
            Err(failure) => Err(unavailable("reading what logs got", failure)),
        }
    }

    async fn remove(&self, entries: &[EntryName]) -> Result<()> {
        let keys = entries.iter().map(|entry| self.key(entry)).collect();
        let mut deleted = self.0.store.delete_all(keys);
        while let Some(outcome) = deleted.next().await {
            match outcome {
                Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => {
                    let source = io::Error::other(error);
                    return Err(Error::unavailable("removing what logs got", source));
                }
            }
        }
        Ok(())
    }
}

fn unavailable(what: &str, failure: Failure) -> Error {
    Error::unavailable(what, io::Error::other(failure))
}
