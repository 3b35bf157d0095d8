//! The view of one instance's blobs.

use std::{
    fmt,
    hash::{BuildHasher as _, RandomState},
    io,
    sync::{Arc, atomic::Ordering},
};

use async_trait::async_trait;
use bbb_digest::Digest;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use hashbrown::HashTable;

use crate::{
    Blob, Cas, Content, Encoding, Error, PinnedFile, Result, Source, SourceContent, Wanted,
};

use super::{SMALL_BLOB_BYTES, blocking, layout::Kind, read::Opened, verify::Look, view::View};

/// How often a read is tried while files change under it.
const ATTEMPTS: usize = 4;

/// How many digests are looked up while the index is locked.
const LOOKUPS_AT_ONCE: usize = 512;

/// How many files of one call are checked at once.
const CONCURRENT_CHECKS: usize = 8;

#[derive(Debug)]
pub(super) struct Blobs(pub(super) View);

#[async_trait]
impl Cas for Blobs {
    async fn get(&self, digest: Digest, range: Wanted) -> Result<Blob> {
        let size_bytes = digest.size_bytes();
        let range = range.within(size_bytes);
        let blob = |content| Blob { size_bytes, encoding: Encoding::Identity, content };
        if digest.is_empty() {
            return Ok(blob(Content::Bytes(Bytes::new())));
        }
        let disk = &self.0.disk;
        let slice = |bytes: Bytes| {
            disk.counters.hits.fetch_add(1, Ordering::Relaxed);
            blob(Content::Bytes(bytes.slice(range.start as usize..range.end as usize)))
        };
        for _ in 0..ATTEMPTS {
            let Some(key) = self.0.find(Kind::Blob, digest).await? else {
                disk.counters.misses.fetch_add(1, Ordering::Relaxed);
                return Err(Error::Missing(digest));
            };
            if size_bytes <= SMALL_BLOB_BYTES
                && let Some(bytes) = disk.small.get(&(key.instance, digest))
            {
                return Ok(slice(bytes));
            }
            let Some(pin) = disk.pin(&key) else { continue };
            match disk.open_entry(key).await? {
                Opened::Bytes(bytes) => {
                    disk.small.insert((key.instance, digest), bytes.clone());
                    return Ok(slice(bytes));
                }
                Opened::File(file) => {
                    disk.counters.hits.fetch_add(1, Ordering::Relaxed);
                    let (file, path) = (Arc::new(file), Arc::new(disk.path(&key)));
                    let pin = Arc::new(pin);
                    return Ok(blob(Content::File(PinnedFile { file, path, range, pin })));
                }
                Opened::Changed => disk.doubt(&key),
            }
        }
        let error = io::Error::other("its file keeps changing");
        Err(Error::unavailable(format!("reading {digest}"), error))
    }

    async fn put(&self, digest: Digest, source: Source) -> Result<()> {
        self.0.disk.refuse_when_closed()?;
        if digest.is_empty() {
            return match source.content {
                SourceContent::Bytes(bytes)
                    if source.encoding == Encoding::Identity && !bytes.is_empty() =>
                {
                    Err(Error::Mismatch {
                        expected: digest,
                        found: format!("{} bytes", bytes.len()),
                    })
                }
                _ => Ok(()),
            };
        }
        if self.0.find(Kind::Blob, digest).await?.is_some() {
            return Ok(());
        }
        self.0.disk.store(self.0.key_to_write(Kind::Blob, digest), source).await
    }

    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>> {
        let (mut missing, unsure) = self.look_up(digests);
        if !unsure.is_empty() {
            let unsure = self.look_at(unsure, &mut missing).await?;
            let checked: Vec<Option<Digest>> = stream::iter(unsure)
                .map(|digest| async move {
                    let found = self.0.find(Kind::Blob, digest).await?;
                    Ok::<_, Error>(found.is_none().then_some(digest))
                })
                .buffer_unordered(CONCURRENT_CHECKS)
                .try_collect()
                .await?;
            missing.extend(checked.into_iter().flatten());
        }
        drop_repeated(&mut missing);
        Ok(missing)
    }
}

impl Blobs {
    /// What the index knows to be missing, and what has to be looked up in the folder.
    fn look_up(&self, digests: &[Digest]) -> (Vec<Digest>, Vec<Digest>) {
        let disk = &self.0.disk;
        let is_complete = disk.is_complete();
        let (mut missing, mut unsure) = (Vec::new(), Vec::new());
        for digests in digests.chunks(LOOKUPS_AT_ONCE) {
            let mut index = disk.index();
            for digest in digests {
                if digest.is_empty() {
                    continue;
                }
                let key = self.0.key(Kind::Blob, *digest);
                match key.and_then(|key| index.use_entry(&key)) {
                    Some(known) if known.checked => {}
                    None if is_complete => missing.push(*digest),
                    Some(_) | None => unsure.push(*digest),
                }
            }
        }
        (missing, unsure)
    }

    /// Looks at the files of many entries in one trip. Returns those that have to be hashed.
    async fn look_at(&self, unsure: Vec<Digest>, missing: &mut Vec<Digest>) -> Result<Vec<Digest>> {
        let disk = Arc::clone(&self.0.disk);
        let segment = self.0.segment().to_owned();
        let (absent, doubtful) = blocking("looking for files", move || {
            let (mut absent, mut doubtful) = (Vec::new(), Vec::new());
            for digest in unsure {
                match disk.look(&segment, Kind::Blob, digest) {
                    Ok(Look::Good) => {}
                    Ok(Look::Doubtful) => doubtful.push(digest),
                    Ok(Look::Absent) => absent.push(digest),
                    Err(error) => {
                        return Err(Error::unavailable(format!("looking for {digest}"), error));
                    }
                }
            }
            Ok((absent, doubtful))
        })
        .await?;
        missing.extend(absent);
        Ok(doubtful)
    }
}

/// Leaves the first of those that are equal. The table holds numbers, since digests are large.
fn drop_repeated(digests: &mut Vec<Digest>) {
    let hasher = RandomState::new();
    let mut firsts = HashTable::<u32>::with_capacity(digests.len());
    let mut kept = 0;
    for at in 0..digests.len() {
        let digest = digests[at];
        let hash = hasher.hash_one(digest);
        if firsts.find(hash, |first| digests[*first as usize] == digest).is_some() {
            continue;
        }
        digests[kept] = digest;
        firsts.insert_unique(hash, kept as u32, |first| hasher.hash_one(digests[*first as usize]));
        kept += 1;
    }
    digests.truncate(kept);
}

impl fmt::Display for Blobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
