//! The index as a file, so that the order of use outlives the process.
//!
//! A magic line, the instances' folders, the entries from the one used least recently on, and a BLAKE3
//! checksum over it all; numbers are little-endian. What it says is checked against the folder before
//! anything is served. A file that is damaged or of another version is ignored.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::Path,
    sync::Arc,
};

use bbb_digest::{Digest, Function};
use bbb_lifecycle::Stop;
use tokio::time;

use super::{
    Disk, blocking,
    index::{Index, InstanceId, Key},
    layout::Kind,
    view::Segments,
};

const MAGIC: &[u8] = b"bbb snapshot 1\n";

const CHECKSUM_LEN: usize = 32;

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

/// Fills an index with what a snapshot knows. Returns whether it was there and whole.
pub(super) fn load(path: &Path, index: &mut Index, segments: &Segments) -> bool {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return false,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "cannot read the snapshot: looking at all files");
            return false;
        }
    };
    let is_whole = parse(&bytes, index, segments).is_some();
    if !is_whole {
        tracing::warn!(path = %path.display(), "the snapshot is damaged: looking at all files");
    }
    is_whole
}

fn parse(bytes: &[u8], index: &mut Index, segments: &Segments) -> Option<()> {
    let (body, checksum) = bytes.split_at_checked(bytes.len().checked_sub(CHECKSUM_LEN)?)?;
    let mut body = Reader(body.strip_prefix(MAGIC)?);
    if blake3::hash(&bytes[..bytes.len() - CHECKSUM_LEN]).as_bytes() != checksum {
        return None;
    }
    let instances: Vec<InstanceId> = (0..body.u32()?)
        .map(|_| {
            let len = usize::from(body.u16()?);
            Some(segments.intern(std::str::from_utf8(body.take(len)?).ok()?))
        })
        .collect::<Option<_>>()?;
    while !body.0.is_empty() {
        let kind = *Kind::ALL.get(usize::from(body.u8()?))?;
        let function = *FUNCTIONS.get(usize::from(body.u8()?))?;
        let instance = *instances.get(body.u32()? as usize)?;
        let size_bytes = body.u64()?;
        let charged_bytes = body.u64()?;
        let hash = body.take(function.hash_len())?;
        let digest = Digest::from_raw(function, hash, size_bytes).ok()?;
        index.remember(&Key { instance, kind, digest }, charged_bytes);
    }
    Some(())
}

impl Disk {
    /// Writes the index down now and then, until it is asked to stop.
    pub(super) async fn snapshot_at_intervals(self: Arc<Self>, stop: Stop) {
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
        let mut file =
            Checksummed { file: BufWriter::new(File::create(&new)?), hash: blake3::Hasher::new() };
        let order = self.order_of_use();
        file.write_all(MAGIC)?;
        // Taken after the order: every entry in it belongs to one of these.
        let segments = self.segments.all();
        file.write_all(&(segments.len() as u32).to_le_bytes())?;
        for segment in &segments {
            file.write_all(&(segment.len() as u16).to_le_bytes())?;
            file.write_all(segment.as_bytes())?;
        }
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
                }
            }
        }
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

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn number<const LEN: usize>(&mut self) -> Option<[u8; LEN]> {
        self.take(LEN)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.number().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.number().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.number().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.number().map(u64::from_le_bytes)
    }
}
