//! Journals in a folder, for a node without a bucket: what it has survives the process, not the machine's disk.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bbb_lifecycle::TaskGroup;
use bbb_reapi::LogHost;
use bytes::Bytes;

use super::{EntryName, JournalStore};
use crate::{Error, Lodger, Lodging, Result, blocking::blocking};

/// How many entries of an earlier life are found again.
const MAX_LISTED: usize = 64 << 10;

/// Journals in a folder. They count with the store that gives them lodging, and the oldest go when that has no room.
#[derive(Debug)]
pub struct JournalFolder {
    folder: PathBuf,
    lodging: Arc<dyn Lodging>,
    lodgers: Mutex<HashMap<EntryName, Lodger>>,
}

impl JournalFolder {
    /// Journals in this folder, which belongs to this alone. What an earlier life left in that of `host` is counted by a task
    /// of `tasks`.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn start(
        folder: PathBuf,
        host: LogHost,
        lodging: Arc<dyn Lodging>,
        tasks: &TaskGroup,
    ) -> io::Result<Arc<Self>> {
        fs::create_dir_all(&folder)?;
        let journals = Arc::new(Self { folder, lodging, lodgers: Mutex::default() });
        let (stop, left) = (tasks.stop(), Arc::clone(&journals));
        tasks.spawn("left logs", async move {
            if let Some(Err(error)) = stop.until_requested(left.take_in(host)).await {
                tracing::warn!(%error, "cannot count what an earlier life left of its logs");
            }
        });
        Ok(journals)
    }

    /// Counts what is there.
    async fn take_in(&self, host: LogHost) -> Result<()> {
        for entry in self.list(host, 0).await? {
            let path = self.path(&entry);
            let Ok(metadata) = path.symlink_metadata() else { continue };
            self.lodge(&entry, metadata.len()).await?;
        }
        Ok(())
    }

    async fn lodge(&self, entry: &EntryName, bytes: u64) -> Result<()> {
        let path = self.path(entry);
        let leave = Box::new(move || {
            let _ = fs::remove_file(path);
        });
        let lodger = self.lodging.take(bytes, leave).await?;
        self.lodgers().insert(*entry, lodger);
        Ok(())
    }

    fn path(&self, entry: &EntryName) -> PathBuf {
        self.folder.join(EntryName::folder(entry.host)).join(entry.file())
    }

    fn lodgers(&self) -> MutexGuard<'_, HashMap<EntryName, Lodger>> {
        self.lodgers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl JournalStore for JournalFolder {
    async fn write(&self, entry: &EntryName, bytes: Bytes) -> Result<()> {
        self.lodge(entry, bytes.len() as u64).await?;
        let path = self.path(entry);
        let folder = self.folder.join(EntryName::folder(entry.host));
        let write = move || {
            let wrote = fs::create_dir_all(folder).and_then(|()| fs::write(path, bytes));
            wrote.map_err(|error| Error::unavailable("writing what logs got", error))
        };
        let wrote = blocking("writing what logs got", write).await;
        if wrote.is_err() {
            self.remove(&[*entry]).await?;
        }
        wrote
    }

    async fn list(&self, host: LogHost, since_ms: u64) -> Result<Vec<EntryName>> {
        let folder = self.folder.join(EntryName::folder(host));
        let list = move || {
            let listed = list(&folder, host);
            listed.map_err(|error| Error::unavailable("listing what logs got", error))
        };
        let mut entries = blocking("listing what logs got", list).await?;
        entries.retain(|entry| entry.at_ms >= since_ms);
        entries.sort_by_key(|entry| entry.at_ms);
        Ok(entries)
    }

    async fn read(&self, entry: &EntryName) -> Result<Option<Bytes>> {
        let path = self.path(entry);
        let read = move || match fs::read(path) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::unavailable("reading what logs got", error)),
        };
        blocking("reading what logs got", read).await
    }

    async fn remove(&self, entries: &[EntryName]) -> Result<()> {
        let paths: Vec<_> = entries.iter().map(|entry| self.path(entry)).collect();
        let remove = move || {
            for path in paths {
                // Its turn to leave may have come.
                let _ = fs::remove_file(path);
            }
            Ok(())
        };
        blocking("removing what logs got", remove).await?;
        let mut lodgers = self.lodgers();
        let left: Vec<_> = entries.iter().filter_map(|entry| lodgers.remove(entry)).collect();
        drop(lodgers);
        drop(left);
        Ok(())
    }
}

fn list(folder: &Path, host: LogHost) -> io::Result<Vec<EntryName>> {
    let listing = match fs::read_dir(folder) {
        Ok(listing) => listing,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut entries = Vec::new();
    for file in listing.take(MAX_LISTED) {
        entries.extend(file?.file_name().to_str().and_then(|name| EntryName::parse(host, name)));
    }
    Ok(entries)
}
