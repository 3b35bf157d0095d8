//! The journal: a folder in which each file is one thing that waits. This is the only place that makes
//! and reads its names.
//!
//! ```text
//! <number>-<instance>-<function>-<hash>-<size>.blob     a hard link to the blob
//! <number>-<instance>-<function>-<hash>-<size>.result   the result of the action with that digest
//! <instance>.instance                                   the instance's name
//! ```
//!
//! Numbers are hexadecimal and say in which order things came; `<instance>` is a hash of the instance's
//! name. A file comes about in one step, a link or a rename, and goes in one: whenever the process is
//! killed, a thing waits or does not.

use std::{
    collections::{HashMap, HashSet},
    fs,
    io::{self, Write as _},
    path::PathBuf,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bbb_digest::{Digest, Function, InstanceName};

use crate::{
    ActionResult, Error, LocalFile, Result,
    disk::{decode_result, encode_result, write_durably},
};

/// What the name of a file begins with that is not whole yet.
const NEW: &str = "new-";

const INSTANCE_SUFFIX: &str = ".instance";

/// What [`write_durably`] writes before there is a file with [`INSTANCE_SUFFIX`].
const NEW_INSTANCE_SUFFIX: &str = ".new";

/// What waits under a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Blob,
    Result,
}

impl Kind {
    const fn suffix(self) -> &'static str {
        match self {
            Self::Blob => ".blob",
            Self::Result => ".result",
        }
    }
}

/// One thing that waits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Entry {
    /// Its place in the order of all.
    pub(super) number: u64,
    pub(super) instance: InstanceName,
    pub(super) kind: Kind,
    pub(super) digest: Digest,
}

/// The folder.
#[derive(Debug)]
pub(super) struct Journal {
    dir: PathBuf,
    next: AtomicU64,
    /// Instances whose names are written down.
    named: Mutex<HashSet<InstanceName>>,
}

impl Journal {
    /// Opens or makes the folder, and tells what waits there, in order.
    ///
    /// # Errors
    /// If it cannot be read or written.
    pub(super) fn open(dir: PathBuf) -> io::Result<(Self, Vec<Entry>)> {
        fs::create_dir_all(&dir)?;
        let (mut names, mut instances) = (Vec::new(), HashMap::new());
        for file in fs::read_dir(&dir)? {
            let file = file?;
            let Ok(name) = file.file_name().into_string() else { continue };
            if name.starts_with(NEW) || name.ends_with(NEW_INSTANCE_SUFFIX) {
                fs::remove_file(file.path())?;
            } else if let Some(id) = name.strip_suffix(INSTANCE_SUFFIX) {
                match fs::read_to_string(file.path())?.parse::<InstanceName>() {
                    Ok(instance) if id_of(&instance) == id => {
                        instances.insert(id.to_owned(), instance);
                    }
                    _ => tracing::error!(name, "the name of an instance is damaged"),
                }
            } else {
                names.push(name);
            }
        }
        let mut entries = Vec::with_capacity(names.len());
        for name in names {
            match parse(&name, &instances) {
                Some(entry) => entries.push(entry),
                None => tracing::error!(name, "not a file of the queue: left where it is"),
            }
        }
        entries.sort_unstable_by_key(|entry| entry.number);
        let next = entries.last().map_or(0, |last| last.number + 1);
        let named = Mutex::new(instances.into_values().collect());
        Ok((Self { dir, next: AtomicU64::new(next), named }, entries))
    }

    /// An entry behind all others.
    pub(super) fn entry(&self, instance: &InstanceName, kind: Kind, digest: Digest) -> Entry {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        Entry { number, instance: instance.clone(), kind, digest }
    }

    /// Where an entry lies.
    pub(super) fn path(&self, entry: &Entry) -> PathBuf {
        let Entry { number, instance, kind, digest } = entry;
        let (function, hex, size) = (digest.function(), digest.hex(), digest.size_bytes());
        let (id, suffix) = (id_of(instance), kind.suffix());
        self.dir.join(format!("{number:016x}-{id}-{function}-{}-{size}{suffix}", hex.as_str()))
    }

    /// How many bytes an entry's file has, as far as that can be told.
    pub(super) fn len(&self, entry: &Entry) -> u64 {
        fs::metadata(self.path(entry)).map_or(0, |metadata| metadata.len())
    }

    /// Puts a blob into the journal; blocks.
    pub(super) fn add_blob(&self, entry: &Entry, blob: &dyn LocalFile) -> Result<()> {
        self.name(&entry.instance)?;
        blob.link(&self.path(entry))
    }

    /// Puts a result into the journal; blocks.
    pub(super) fn add_result(&self, entry: &Entry, bytes: &[u8]) -> Result<()> {
        self.name(&entry.instance)?;
        let new = self.dir.join(format!("{NEW}{:016x}", entry.number));
        let written = fs::File::create(&new)
            .and_then(|mut file| file.write_all(bytes))
            .and_then(|()| fs::rename(&new, self.path(entry)));
        written.map_err(|error| {
            let _ = fs::remove_file(&new);
            Error::unavailable(format!("writing {}", new.display()), error)
        })
    }

    /// Reads a result; nothing if it is damaged. Blocks.
    pub(super) fn result(&self, entry: &Entry) -> io::Result<Option<ActionResult>> {
        let bytes = fs::read(self.path(entry))?;
        Ok(decode_result(&id_of(&entry.instance), entry.digest, &bytes))
    }

    /// Takes an entry out; blocks.
    pub(super) fn remove(&self, entry: &Entry) {
        let path = self.path(entry);
        if let Err(error) = fs::remove_file(&path) {
            tracing::error!(path = %path.display(), %error, "cannot take out of the queue");
        }
    }

    /// Writes down the name of an instance before anything of it waits.
    fn name(&self, instance: &InstanceName) -> Result<()> {
        // Held while it is written, once for each instance.
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        if named.contains(instance) {
            return Ok(());
        }
        let path = self.dir.join(format!("{}{INSTANCE_SUFFIX}", id_of(instance)));
        write_durably(&path, instance.as_str().as_bytes())
            .map_err(|error| Error::unavailable(format!("writing {}", path.display()), error))?;
        named.insert(instance.clone());
        Ok(())
    }
}

/// The file of a result in the journal.
pub(super) fn encode(instance: &InstanceName, action: Digest, result: &ActionResult) -> Vec<u8> {
    encode_result(&id_of(instance), action, result)
}

fn id_of(instance: &InstanceName) -> String {
    blake3::hash(instance.as_str().as_bytes()).to_hex()[..32].to_owned()
}

fn parse(name: &str, instances: &HashMap<String, InstanceName>) -> Option<Entry> {
    let (kind, stem) = [Kind::Blob, Kind::Result]
        .into_iter()
        .find_map(|kind| Some((kind, name.strip_suffix(kind.suffix())?)))?;
    let mut parts = stem.split('-');
    let number = u64::from_str_radix(parts.next()?, 16).ok()?;
    let instance = instances.get(parts.next()?)?.clone();
    let function = Function::from_name(parts.next()?)?;
    let (hex, size) = (parts.next()?, parts.next()?.parse().ok()?);
    let digest = Digest::parse(function, hex, size).ok()?;
    match parts.next() {
        None => Some(Entry { number, instance, kind, digest }),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn what_was_put_in_is_found_again_in_order() {
        let dir = TempDir::new().unwrap();
        let open = || Journal::open(dir.path().join("queue")).unwrap();
        let (journal, found) = open();
        assert!(found.is_empty());
        let mut entries = Vec::new();
        for name in ["", "a/b", "ä b", &"x".repeat(255)] {
            let instance: InstanceName = name.parse().unwrap();
            for function in Function::ALL {
                let action = Digest::of(function, b"action");
                let result = ActionResult { exit_code: 7, ..ActionResult::default() };
                let entry = journal.entry(&instance, Kind::Result, action);
                journal.add_result(&entry, &encode(&instance, action, &result)).unwrap();
                assert_eq!(journal.result(&entry).unwrap(), Some(result));
                entries.push(entry);
            }
        }
        fs::write(dir.path().join("queue/new-17"), "half").unwrap();
        fs::write(dir.path().join("queue/foreign"), "").unwrap();
        let (journal, found) = open();
        assert_eq!(found, entries);
        assert!(!dir.path().join("queue/new-17").exists());
        let next = journal.entry(&InstanceName::default(), Kind::Blob, entries[0].digest);
        assert!(next.number > entries.last().unwrap().number);
        journal.remove(&entries[0]);
        assert_eq!(open().1, entries[1..]);
        let bytes = fs::read(journal.path(&entries[1])).unwrap();
        fs::write(journal.path(&entries[1]), &bytes[..bytes.len() - 1]).unwrap();
        assert_eq!(journal.result(&entries[1]).unwrap(), None);
    }
}
