//! Zip archives (PKWARE, APPNOTE.TXT), zip64 too, whose files are stored or deflated.
//!
//! What is in an archive is what its central directory says. Before a byte is unpacked, all of it is read and held against what
//! stands before each file: no two overlap (as in traps whose files are all the same bytes), names are the same in both places,
//! and nothing is encrypted, in pieces, or packed by a method that is not known.

mod directory;

use std::io::{self, BufReader, Read, Seek as _};

use flate2::{Crc, bufread::DeflateDecoder};

use super::{
    Archive, UnpackError,
    layout::{Layout, MAX_TARGET_BYTES, evil},
    meter::{Bounded, Meter, Source},
};
use directory::{Entry, Kind, Method};

/// How many bytes are read from an archive at a time.
const READ_BYTES: usize = 64 << 10;

/// Lays out what is in an archive.
pub(super) fn unpack(
    archive: impl Archive,
    archive_bytes: u64,
    meter: &Meter,
    layout: &mut Layout<'_>,
) -> Result<(), UnpackError> {
    let mut archive = BufReader::with_capacity(READ_BYTES, archive);
    let directory = directory::read(&mut archive, archive_bytes, layout)?;
    for entry in directory {
        entry_of(&mut archive, &entry, meter, layout)?;
    }
    Ok(())
}

fn entry_of<A: Archive>(
    archive: &mut BufReader<A>,
    entry: &Entry,
    meter: &Meter,
    layout: &mut Layout<'_>,
) -> Result<(), UnpackError> {
    let name = &entry.name;
    seek(archive, entry.data_at)?;
    let packed = Source(archive).take(entry.packed_bytes);
    let content: &mut dyn Read = match entry.method {
        Method::Stored => &mut { packed },
        Method::Deflated => &mut DeflateDecoder::new(BufReader::with_capacity(READ_BYTES, packed)),
    };
    let mut content = Checked {
        content: meter.bound(content),
        left_bytes: entry.size_bytes,
        sum: Crc::new(),
        expected: entry.sum,
    };
    let laid = match entry.kind {
        Kind::Directory => layout.directory(name),
        Kind::File { executable } => layout.file(name, executable, &mut content),
        Kind::Symlink => {
            let mut target = Vec::new();
            let read = (&mut content).take(MAX_TARGET_BYTES as u64 + 1).read_to_end(&mut target);
            read.map_err(UnpackError::of_reader).and_then(|_| layout.symlink(name, &target))
        }
    };
    laid.map_err(|error| match error {
        UnpackError::Damaged(what) => evil(name, format!("is damaged: {what}")),
        error => error,
    })
}

/// Content that is as long, and has the sum, that was told; no byte more is given.
struct Checked<R> {
    content: Bounded<R>,
    left_bytes: u64,
    sum: Crc,
    expected: u32,
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let count = self.content.read(buffer)?;
        let left_bytes = self.left_bytes.checked_sub(count as u64);
        let damaged = |what: &str| Err(UnpackError::damaged(what).into_io());
        let Some(left_bytes) = left_bytes else { return damaged("it is longer than it says") };
        self.left_bytes = left_bytes;
        self.sum.update(&buffer[..count]);
        if count == 0 && left_bytes > 0 {
            return damaged("it is shorter than it says");
        }
        if count == 0 && self.sum.sum() != self.expected {
            return damaged("its checksum is wrong");
        }
        Ok(count)
    }
}

/// Goes to a place within the archive, and keeps what is in the buffer of it.
fn seek<A: Archive>(archive: &mut BufReader<A>, at: u64) -> Result<(), UnpackError> {
    let sought = archive.stream_position().and_then(|here| {
        // Both are within a file, so that neither is over `i64::MAX`.
        archive.seek_relative(at.cast_signed().saturating_sub(here.cast_signed()))
    });
    sought.map_err(UnpackError::Unreadable)
}
