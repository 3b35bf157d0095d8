//! Checks of files that may have changed: by their size and time first, by their bytes where those are not
//! as expected.

use std::{fs, io, os::unix::fs::MetadataExt as _, sync::Arc, sync::atomic::Ordering};

use bbb_digest::Digest;

use crate::{Error, Result};

use super::{Disk, blocking, file, gate_of, index::Key, layout::Kind, view::is_absent};

/// What a glance at a file gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// It is as it was stored; the index knows now.
    Good,
    /// It has to be hashed.
    Doubtful,
    /// It is not there; the index knows now.
    Absent,
}

impl Disk {
    /// Glances at the file of an entry that is unchecked or unknown. Counts a good one as used.
    pub(super) fn look(&self, segment: &str, kind: Kind, digest: Digest) -> io::Result<Look> {
        let path = self.layout.entry(segment, kind, digest);
        let _gate = self.gate(digest);
        let metadata = match path.symlink_metadata() {
            Ok(metadata) => metadata,
            Err(error) if is_absent(&error) => {
                if let Some(instance) = self.segments.known(segment) {
                    self.index().remove(&Key { instance, kind, digest });
                }
                return Ok(Look::Absent);
            }
            Err(error) => return Err(error),
        };
        let key = Key { instance: self.segments.intern(segment), kind, digest };
        let is_good = self.is_expected(&key, &metadata);
        let mut index = self.index();
        match index.find(&key) {
            Some(known) if is_good => {
                index.set_checked(known.slot, true);
                index.touch(known.slot);
            }
            Some(_) => {}
            None => {
                index.insert(&key, metadata.len(), is_good);
            }
        }
        Ok(if is_good { Look::Good } else { Look::Doubtful })
    }

    /// Checks the file of an entry whose state is not known, and counts the entry as used. False if it is
    /// not there or damaged; then it is gone for good.
    pub(super) async fn check(self: &Arc<Self>, key: Key) -> Result<bool> {
        let is_good = self.look_again(key).await?;
        if is_good {
            self.index().use_entry(&key);
        }
        Ok(is_good)
    }

    /// The same, and no use of the entry.
    pub(super) async fn look_again(self: &Arc<Self>, key: Key) -> Result<bool> {
        // Hashing takes as long as the file is large: all who want this one wait here for the same check.
        let _turn = self.turns[gate_of(key.digest)].lock().await;
        if self.index().find(&key).is_some_and(|known| known.checked) {
            return Ok(true);
        }
        let disk = Arc::clone(self);
        blocking("checking a file", move || {
            disk.check_blocking(&key).map_err(|error| {
                Error::unavailable(format!("checking {}", disk.path(&key).display()), error)
            })
        })
        .await
    }

    /// Does the check; the entry need not be in the index yet.
    pub(super) fn check_blocking(&self, key: &Key) -> io::Result<bool> {
        let path = self.path(key);
        let opened = match file::open(&path) {
            Ok(opened) => opened,
            Err(error) if is_absent(&error) => {
                let _gate = self.gate(key.digest);
                // Whoever stored it anew meanwhile has put a file there.
                if !path.exists() {
                    self.index().remove(key);
                }
                return Ok(false);
            }
            // A symlink in the place of a file was never made here.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
                self.drop_damaged(key, None);
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        let metadata = opened.metadata()?;
        let is_good = match key.kind {
            // Results carry a checksum that is looked at whenever they are read.
            Kind::Result => metadata.is_file(),
            Kind::Blob | Kind::Executable => {
                let is_sealed = file::is_sealed(&metadata, key.digest.size_bytes(), self.mtime);
                if !is_sealed && file::holds(&opened, key.digest)? {
                    file::seal(&opened, key.kind, self.mtime)?;
                    true
                } else {
                    is_sealed
                }
            }
        };
        if !is_good {
            self.drop_damaged(key, Some(&metadata));
            return Ok(false);
        }
        let _gate = self.gate(key.digest);
        if !path.exists() {
            return Ok(false);
        }
        let mut index = self.index();
        match index.find(key) {
            Some(known) => index.set_checked(known.slot, true),
            None => {
                index.insert(key, metadata.len(), true);
            }
        }
        Ok(true)
    }

    /// Drops an entry whose file is damaged. With `seen`, only if it is still that file.
    pub(super) fn drop_damaged(&self, key: &Key, seen: Option<&fs::Metadata>) {
        let path = self.path(key);
        let _gate = self.gate(key.digest);
        let now = path.symlink_metadata();
        let is_same = match (&now, seen) {
            (Ok(now), Some(seen)) => now.ino() == seen.ino(),
            (Ok(_), None) => true,
            (Err(_), _) => false,
        };
        if !is_same {
            return;
        }
        self.index().remove(key);
        self.forget_in_memory(key);
        self.counters.damaged.fetch_add(1, Ordering::Relaxed);
        let removed = match now.is_ok_and(|now| now.is_dir()) {
            true => fs::remove_dir_all(&path),
            false => fs::remove_file(&path),
        };
        match removed {
            Ok(()) => tracing::warn!(path = %path.display(), "dropped a damaged file"),
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "cannot drop a damaged file");
            }
        }
    }

    /// Notes that an entry's file was found changed or gone, so that it is checked before its next use.
    pub(super) fn doubt(&self, key: &Key) {
        let mut index = self.index();
        if let Some(known) = index.find(key) {
            index.set_checked(known.slot, false);
        }
    }

    /// Drops what memory holds of an entry.
    pub(super) fn forget_in_memory(&self, key: &Key) {
        match key.kind {
            Kind::Blob => drop(self.small.remove(&(key.instance, key.digest))),
            Kind::Result => drop(self.results.remove(&(key.instance, key.digest))),
            Kind::Executable => {}
        }
    }
}
