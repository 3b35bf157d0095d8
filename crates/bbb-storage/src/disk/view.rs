//! One instance's view of the store. Nothing is made for an instance before the first write to it.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, OnceLock, PoisonError, RwLock},
};

use bbb_digest::{Digest, InstanceName};

use crate::{Error, Result, segment::segment};

use super::{
    Disk, blocking,
    index::{InstanceId, Key},
    layout::{ESCAPE, Kind},
};

/// The folders of the instances that something was written under, by number.
#[derive(Debug, Default)]
pub(super) struct Segments(RwLock<Numbered>);

#[derive(Debug, Default)]
struct Numbered {
    by_segment: HashMap<Arc<str>, InstanceId>,
    by_id: Vec<Arc<str>>,
}

impl Segments {
    /// The number of an instance that something was written under.
    pub(super) fn known(&self, segment: &str) -> Option<InstanceId> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).by_segment.get(segment).copied()
    }

    /// The number of an instance, which from now on is known.
    pub(super) fn intern(&self, segment: &str) -> InstanceId {
        if let Some(id) = self.known(segment) {
            return id;
        }
        let mut segments = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let Numbered { by_segment, by_id } = &mut *segments;
        *by_segment.entry(segment.into()).or_insert_with_key(|name| {
            by_id.push(Arc::clone(name));
            InstanceId(by_id.len() as u32 - 1)
        })
    }

    /// The folder of an instance by its number. Numbers come from here alone, so that none is unknown.
    pub(super) fn get(&self, id: InstanceId) -> Arc<str> {
        let segments = self.0.read().unwrap_or_else(PoisonError::into_inner);
        segments.by_id.get(id.0 as usize).cloned().unwrap_or_default()
    }

    /// Every folder, in the order of the numbers.
    pub(super) fn all(&self) -> Vec<Arc<str>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).by_id.clone()
    }
}

/// What all views of one instance share.
#[derive(Debug)]
pub(super) struct View {
    pub(super) disk: Arc<Disk>,
    name: InstanceName,
    segment: String,
    id: OnceLock<InstanceId>,
}

impl View {
    pub(super) fn new(disk: &Arc<Disk>, name: &InstanceName) -> Self {
        let (disk, segment) = (Arc::clone(disk), segment(name, ESCAPE));
        Self { disk, name: name.clone(), segment, id: OnceLock::new() }
    }

    /// What belongs to an instance and is out of its clients' reach: no instance has a folder of this name.
    pub(super) fn beside(disk: &Arc<Disk>, name: &InstanceName, what: &str) -> Self {
        let segment = format!("{}{ESCAPE}{what}", segment(name, ESCAPE));
        Self { segment, ..Self::new(disk, name) }
    }

    /// The folder of the instance.
    pub(super) fn segment(&self) -> &str {
        &self.segment
    }

    /// The key of an entry, if anything was ever written in the instance.
    pub(super) fn key(&self, kind: Kind, digest: Digest) -> Option<Key> {
        let id = match self.id.get() {
            Some(id) => *id,
            None => *self.id.get_or_init({
                let id = self.disk.segments.known(&self.segment)?;
                move || id
            }),
        };
        Some(Key { instance: id, kind, digest })
    }

    /// The key of an entry that is about to be written.
    pub(super) fn key_to_write(&self, kind: Kind, digest: Digest) -> Key {
        let id = *self.id.get_or_init(|| self.disk.segments.intern(&self.segment));
        Key { instance: id, kind, digest }
    }

    /// Finds an entry whose file is as expected, and counts it as used. What is not checked yet is now,
    /// and as long as not everything in the folder is known, a miss is looked up there.
    pub(super) async fn find(&self, kind: Kind, digest: Digest) -> Result<Option<Key>> {
        // Asked first: what is taken in after the look at the index would be missed.
        let is_complete = self.disk.is_complete();
        if let Some(key) = self.key(kind, digest) {
            let known = self.disk.index().use_entry(&key);
            match known {
                Some(known) if known.checked => return Ok(Some(key)),
                Some(_) => return Ok(self.disk.check(key).await?.then_some(key)),
                None => {}
            }
        }
        if is_complete {
            return Ok(None);
        }
        let path = self.disk.layout.entry(&self.segment, kind, digest);
        let found = blocking("looking for a file", move || match path.symlink_metadata() {
            Ok(_) => Ok(true),
            Err(error) if is_absent(&error) => Ok(false),
            Err(error) => Err(Error::unavailable(format!("looking for {}", path.display()), error)),
        });
        if !found.await? {
            return Ok(None);
        }
        let key = self.key_to_write(kind, digest);
        Ok(self.disk.check(key).await?.then_some(key))
    }
}

/// Whether a file is simply not there.
pub(super) fn is_absent(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.disk, self.name)
    }
}
