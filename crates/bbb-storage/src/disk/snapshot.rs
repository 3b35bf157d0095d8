//! The index as a file, so that the order of use outlives the process.
//!
//! A magic line, the instances' folders, the entries from the one used least recently on, how many those are
//! and how many bytes they take, and a BLAKE3 checksum over it all; numbers are little-endian. What it says
//! is checked against the folder before anything is served. A file that is damaged or of another version is
//! ignored.
//!
//! Neither reading nor writing holds more of it in memory than a buffer.

use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Write},
    os::unix::fs::FileExt as _,
    path::Path,
    sync::Arc,
};

use bbb_digest::{Digest, Function};
use bbb_lifecycle::Stop;
use tokio::time;

use super::{
    Disk, blocking,
    index::{InstanceId, Key},
    layout::Kind,
    view::Segments,
};

const MAGIC: &[u8] = b"bbb snapshot 2\n";

const CHECKSUM_LEN: usize = 32;

/// The numbers of entries and bytes, and the checksum.
const FOOTER_LEN: usize = 2 * size_of::<u64>() + CHECKSUM_LEN;

/// What an entry with the shortest of all hashes takes: kind, function, instance, size, bytes taken, hash.
const MIN_ENTRY_LEN: u64 = 1 + 1 + 4 + 8 + 8 + 20;

/// How much of the file is read or written at a time.
const BUFFER_BYTES: usize = 256 << 10;

/// The functions by the numbers that stand for them in the file.
const FUNCTIONS: [Function; 7] = [
    Function::Sha256,
    Function::Sha1,
    Function::Sha384,
    Function::Sha512,
    Function::Sha256Tree,
    Function::Blake3,
    Function::GitSha1,
];

/// How many slots are read while the index is locked.
const SLOTS_AT_ONCE: u32 = 2048;

/// A snapshot that lies in the folder, still to be read.
#[derive(Debug)]
pub(super) struct Snapshot {
    file: File,
    /// Where the footer begins.
    body_len: u64,
    /// How many entries it has, if it is whole.
    pub(super) entries: u64,
    /// The bytes that they take, if it is whole.
    pub(super) charged_bytes: u64,
}

impl Snapshot {
    /// The snapshot at `path`, if there is one that could be whole.
    pub(super) fn find(path: &Path) -> Option<Self> {
        match Self::open(path) {
            Ok(snapshot) => Some(snapshot),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "no snapshot: looking at all files");
                None
            }
        }
    }

    fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        let body_len = len.checked_sub(FOOTER_LEN as u64).ok_or_else(damaged)?;
        let mut footer = [0; FOOTER_LEN];
        file.read_exact_at(&mut footer, body_len)?;
        let mut footer = footer.as_slice();
        let (entries, charged_bytes) = (number(&mut footer)?, number(&mut footer)?);
        let entries = u64::from_le_bytes(entries);
        let charged_bytes = u64::from_le_bytes(charged_bytes);
        // What is taken on trust until the whole is read must not cost more than the file could hold.
        if entries > body_len / MIN_ENTRY_LEN {
            return Err(damaged());
        }
        Ok(Self { file, body_len, entries, charged_bytes })
    }

    /// Sees to it that it is as it was written.
    ///
    /// # Errors
    /// If it is not, or cannot be read.
    pub(super) fn check(self) -> io::Result<Self> {
        let (mut hasher, mut offset) = (blake3::Hasher::new(), 0);
        let mut buffer = vec![0; BUFFER_BYTES];
        let hashed_len = self.body_len + (FOOTER_LEN - CHECKSUM_LEN) as u64;
        while offset < hashed_len {
            let len = buffer.len().min((hashed_len - offset) as usize);
            self.file.read_exact_at(&mut buffer[..len], offset)?;
            hasher.update(&buffer[..len]);
            offset += len as u64;
        }
        let mut checksum = [0; CHECKSUM_LEN];
        self.file.read_exact_at(&mut checksum, hashed_len)?;
        if *hasher.finalize().as_bytes() == checksum { Ok(self) } else { Err(damaged()) }
    }

    /// Its entries with the bytes that they take, the one used least recently first.
    ///
    /// # Errors
    /// If it cannot be read or is of another version.
    pub(super) fn entries(self, segments: &Segments) -> io::Result<Entries> {
        let mut body = BufReader::with_capacity(BUFFER_BYTES, self.file).take(self.body_len);
        let mut magic = [0; MAGIC.len()];
        body.read_exact(&mut magic)?;
        if magic != MAGIC {
            return Err(damaged());
        }
        let count = u32::from_le_bytes(number(&mut body)?);
        let mut instances = Vec::new();
        for _ in 0..count {
            let mut name = vec![0; usize::from(u16::from_le_bytes(number(&mut body)?))];
            body.read_exact(&mut name)?;
            let name = std::str::from_utf8(&name).map_err(|_| damaged())?;
            instances.push(segments.intern(name));
        }
        Ok(Entries { body, instances })
    }
}

/// The entries of a snapshot, read as they are asked for.
#[derive(Debug)]
pub(super) struct Entries {
    body: io::Take<BufReader<File>>,
    instances: Vec<InstanceId>,
}

impl Entries {
    /// Reads the next ones, `max` at most; none at the end.
    ///
    /// # Errors
    /// If the file cannot be read or is not as it was written.
    pub(super) fn next(&mut self, max: usize) -> io::Result<Vec<(Key, u64)>> {
        let mut entries = Vec::with_capacity(max);
        while entries.len() < max && !self.is_at_end() {
            entries.push(self.entry()?);
        }
        Ok(entries)
    }

    fn is_at_end(&self) -> bool {
        self.body.limit() == 0
    }

    fn entry(&mut self) -> io::Result<(Key, u64)> {
        let body = &mut self.body;
        let [kind, function] = number(body)?;
        let kind = *Kind::ALL.get(usize::from(kind)).ok_or_else(damaged)?;
        let function = *FUNCTIONS.get(usize::from(function)).ok_or_else(damaged)?;
        let instance = u32::from_le_bytes(number(body)?) as usize;
        let instance = *self.instances.get(instance).ok_or_else(damaged)?;
        let size_bytes = u64::from_le_bytes(number(body)?);
        let charged_bytes = u64::from_le_bytes(number(body)?);
        let mut hash = [0; 64];
        let hash = &mut hash[..function.hash_len()];
        body.read_exact(hash)?;
        let digest = Digest::from_raw(function, hash, size_bytes).map_err(|_| damaged())?;
        Ok((Key { instance, kind, digest }, charged_bytes))
    }
}

fn number<const LEN: usize>(from: &mut impl Read) -> io::Result<[u8; LEN]> {
    let mut bytes = [0; LEN];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it is damaged or of another version")
}

impl Disk {
    /// Writes the index down now and then, until it is asked to stop.
    pub(super) async fn snapshot_at_intervals(self: Arc<Self>, stop: Stop) {
        // A part of the index would take the place of all that the last session knew.
        if self.loaded().await.is_err() {
            return;
        }
        let mut written_at = self.index().now();
        loop {
            tokio::select! {
                () = stop.requested() => return,
                () = time::sleep(self.settings.snapshot_interval) => {}
            }
            let now = self.index().now();
            if now == written_at {
                continue;
            }
            let disk = Arc::clone(&self);
            let written = blocking("writing the snapshot", move || {
                disk.write_snapshot()
                    .map_err(|error| crate::Error::unavailable("writing the snapshot", error))
            });
            match written.await {
                Ok(()) => written_at = now,
                Err(error) => {
                    tracing::warn!(%error, "the order of use would not outlive a crash now");
                }
            }
        }
    }

    /// Writes the index down; blocks.
    pub(super) fn write_snapshot(&self) -> io::Result<()> {
        let path = self.layout.snapshot();
        let new = path.with_extension("new");
        let mut file = Checksummed {
            file: BufWriter::with_capacity(BUFFER_BYTES, File::create(&new)?),
            hash: blake3::Hasher::new(),
        };
        let order = self.order_of_use();
        file.write_all(MAGIC)?;
        // Taken after the order: every entry in it belongs to one of these.
        let segments = self.segments.all();
        file.write_all(&(segments.len() as u32).to_le_bytes())?;
        for segment in &segments {
            file.write_all(&(segment.len() as u16).to_le_bytes())?;
            file.write_all(segment.as_bytes())?;
        }
        let (mut count, mut charged_bytes) = (0_u64, 0_u64);
        for slots in order.chunks(SLOTS_AT_ONCE as usize) {
            let entries: Vec<(Key, u64)> = {
                let index = self.index();
                let entry =
                    |(_, slot): &(u64, u32)| index.at(*slot).map(|(key, _, bytes, _)| (key, bytes));
                slots.iter().filter_map(entry).collect()
            };
            for (key, bytes) in entries {
                if (key.instance.0 as usize) < segments.len() {
                    write_entry(&mut file, &key, bytes)?;
                    count += 1;
                    charged_bytes = charged_bytes.saturating_add(bytes);
                }
            }
        }
        file.write_all(&count.to_le_bytes())?;
        file.write_all(&charged_bytes.to_le_bytes())?;
        let checksum = *file.hash.finalize().as_bytes();
        file.file.write_all(&checksum)?;
        file.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        fs::rename(&new, &path)
    }

    /// The slots of all entries, the one used least recently first.
    fn order_of_use(&self) -> Vec<(u64, u32)> {
        let slots = self.index().slots();
        let mut order = Vec::with_capacity(slots as usize);
        for first in (0..slots).step_by(SLOTS_AT_ONCE as usize) {
            let index = self.index();
            order.extend(
                (first..first + SLOTS_AT_ONCE).filter_map(|slot| Some((index.stamp(slot)?, slot))),
            );
        }
        order.sort_unstable();
        order
    }
}

fn write_entry(file: &mut impl Write, key: &Key, charged_bytes: u64) -> io::Result<()> {
    let function = FUNCTIONS.iter().position(|function| *function == key.digest.function());
    file.write_all(&[key.kind as u8, function.unwrap_or(usize::MAX) as u8])?;
    file.write_all(&key.instance.0.to_le_bytes())?;
    file.write_all(&key.digest.size_bytes().to_le_bytes())?;
    file.write_all(&charged_bytes.to_le_bytes())?;
    file.write_all(key.digest.hash())
}

struct Checksummed {
    file: BufWriter<File>,
    hash: blake3::Hasher,
}

impl Write for Checksummed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hash.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
