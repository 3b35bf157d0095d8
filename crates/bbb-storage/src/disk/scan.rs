//! The walk through the folder after the store was opened and its snapshot read: it finds what no snapshot
//! knows, glances at what one does, and forgets what is gone. The store serves meanwhile.

use std::{fs, io, path::Path, path::PathBuf, sync::Arc};

use bbb_digest::Function;
use bbb_lifecycle::Stop;

use crate::{Error, Result};

use super::{
    Disk, blocking,
    index::Key,
    layout::{ENTRY_FOLDERS, parse_name},
    load::LastSession,
    state,
    view::is_absent,
};

/// How many slots are looked through while the index is locked.
const SLOTS_AT_ONCE: u32 = 2048;

impl Disk {
    /// Reads the snapshot, walks through the folder, then keeps looking for damage until it is asked to stop.
    pub(super) async fn look_around(self: Arc<Self>, last: LastSession, stop: Stop) {
        let LastSession { snapshot, was_clean, opened_at } = last;
        if !self.load(snapshot, was_clean, &stop).await {
            return;
        }
        let disk = Arc::clone(&self);
        let emptied = blocking("emptying the trash", move || {
            state::empty_trash(&disk.layout)
                .map_err(|error| Error::unavailable("emptying the trash", error))
        });
        if let Err(error) = emptied.await {
            tracing::warn!(%error, "leftovers of the last session stay");
        }
        match self.scan(opened_at, &stop).await {
            Ok(true) => {
                let stats = self.stats();
                tracing::info!(
                    blobs = stats.blobs,
                    results = stats.results,
                    taken_bytes = stats.taken_bytes,
                    "walked through the disk store"
                );
            }
            Ok(false) => return,
            Err(error) => {
                tracing::error!(%error, "cannot walk through the disk store: every miss is looked up there");
            }
        }
        self.scrub(&stop).await;
    }

    /// Walks through the folder. False if it was asked to stop before the end. What cannot be looked at keeps it from nothing
    /// else: only what is known counts.
    async fn scan(self: &Arc<Self>, opened_at: u64, stop: &Stop) -> Result<bool> {
        let mut failed = None;
        for folder in ENTRY_FOLDERS {
            let top = self.dir().join(folder);
            for instance in self.list(&top).await? {
                for function in self.list(&top.join(&instance)).await? {
                    let path = top.join(&instance).join(&function);
                    let Some(function) = Function::from_name(&function) else { continue };
                    for fan in self.list(&path).await? {
                        if stop.is_requested() {
                            return Ok(false);
                        }
                        let (disk, path) = (Arc::clone(self), path.join(fan));
                        let place =
                            Place { folder, instance: instance.clone(), function, opened_at };
                        let scanned = blocking("walking", move || {
                            disk.scan_folder(&place, &path).map_err(|error| {
                                Error::unavailable(format!("listing {}", path.display()), error)
                            })
                        });
                        failed = scanned.await.err().or(failed);
                        self.wake_eviction();
                    }
                }
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        self.forget_unseen();
        self.complete.store(true, std::sync::atomic::Ordering::Release);
        Ok(true)
    }

    /// The names of the folders in a folder.
    async fn list(self: &Arc<Self>, folder: &Path) -> Result<Vec<String>> {
        let folder: PathBuf = folder.to_owned();
        blocking("listing a folder", move || {
            let entries = match fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(error) if is_absent(&error) => return Ok(Vec::new()),
                Err(error) => {
                    return Err(Error::unavailable(format!("listing {}", folder.display()), error));
                }
            };
            let names: io::Result<Vec<_>> = entries.map(|entry| Ok(entry?.file_name())).collect();
            let names = names.map_err(|error| {
                Error::unavailable(format!("listing {}", folder.display()), error)
            })?;
            if names.is_empty() {
                // Whoever writes there now makes it anew.
                let _ = fs::remove_dir(&folder);
            }
            Ok(names.into_iter().filter_map(|name| name.into_string().ok()).collect())
        })
        .await
    }

    /// Takes in the files of one folder at the lowest level.
    fn scan_folder(&self, place: &Place, path: &Path) -> io::Result<()> {
        let instance = self.segments.intern(&place.instance);
        let entries = match fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) if is_absent(&error) => {
                tracing::warn!(path = %path.display(), "not a folder of the store");
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let (mut is_empty, mut failed) = (true, None);
        for entry in entries {
            let entry = entry?;
            is_empty = false;
            let name = entry.file_name();
            let parsed =
                name.to_str().and_then(|name| parse_name(place.folder, place.function, name));
            match parsed.filter(|(kind, digest)| {
                self.layout.entry(&place.instance, *kind, *digest) == entry.path()
            }) {
                Some((kind, digest)) => {
                    let key = Key { instance, kind, digest };
                    let is_known = self.index().find(&key).is_some_and(|known| known.checked);
                    if !is_known {
                        let scanned = self.scan_file(&key, &entry, place.opened_at);
                        failed = scanned.err().or(failed);
                    }
                }
                None => tracing::warn!(path = %entry.path().display(), "not a file of the store"),
            }
        }
        if is_empty {
            // Whoever writes there now makes it anew.
            let _ = fs::remove_dir(path);
        }
        failed.map_or(Ok(()), Err)
    }

    fn scan_file(&self, key: &Key, entry: &fs::DirEntry, opened_at: u64) -> io::Result<()> {
        let _gate = self.gate(key.digest);
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            // Evicted since its name was read.
            Err(error) if is_absent(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        let is_good = self.is_expected(key, &metadata);
        let mut index = self.index();
        match index.find(key) {
            Some(known) if known.checked => {}
            Some(known) => index.set_checked(known.slot, is_good),
            None => {
                index.adopt(key, metadata.len(), is_good, opened_at);
            }
        }
        Ok(())
    }

    /// Forgets what the snapshot knew and the walk has not met.
    fn forget_unseen(&self) {
        let slots = self.index().slots();
        for first in (0..slots).step_by(SLOTS_AT_ONCE as usize) {
            let mut index = self.index();
            for slot in first..first + SLOTS_AT_ONCE {
                if let Some((key, .., known)) = index.at(slot)
                    && !index.is_seen(known.slot)
                {
                    index.remove(&key);
                }
            }
        }
    }
}

/// Where a folder at the lowest level belongs.
struct Place {
    folder: &'static str,
    instance: String,
    function: Function,
    /// The index's clock when the store was opened.
    opened_at: u64,
}
