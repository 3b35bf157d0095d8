//! How many bytes an archive is unpacked.

use std::{
    cell::Cell,
    io::{self, Read},
    rc::Rc,
};

use super::{UnpackError, UnpackLimits};

/// Counts what comes out of an archive, over all its parts.
pub(super) struct Meter {
    out_bytes: Rc<Cell<u64>>,
    max_bytes: u64,
    /// Why it is that many.
    story: &'static str,
}

impl Meter {
    /// For an archive of `archive_bytes`, where that is known.
    pub(super) fn new(limits: &UnpackLimits, archive_bytes: Option<u64>) -> Self {
        let by_ratio = archive_bytes.map_or(u64::MAX, |archive_bytes| {
            archive_bytes.saturating_mul(limits.ratio).max(limits.free_bytes)
        });
        let story = match by_ratio < limits.bytes {
            true => "bytes when it is unpacked, which for one of its size is a trap",
            false => "bytes when it is unpacked",
        };
        Self { out_bytes: Rc::default(), max_bytes: by_ratio.min(limits.bytes), story }
    }

    /// A reader of what comes out.
    pub(super) fn bound<R>(&self, reader: R) -> Bounded<R> {
        let Self { out_bytes, max_bytes, story } = self;
        Bounded { reader, out_bytes: Rc::clone(out_bytes), max_bytes: *max_bytes, story }
    }
}

/// A reader whose errors are all those of [`UnpackError::of_reader`].
pub(super) struct Bounded<R> {
    reader: R,
    out_bytes: Rc<Cell<u64>>,
    max_bytes: u64,
    story: &'static str,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted => error,
            _ => UnpackError::of_reader(error).into_io(),
        })?;
        let out_bytes = self.out_bytes.get().saturating_add(count as u64);
        self.out_bytes.set(out_bytes);
        if out_bytes > self.max_bytes {
            let what = format!("{} {}", self.max_bytes, self.story);
            return Err(UnpackError::TooMuch(what).into_io());
        }
        Ok(count)
    }
}

/// What an archive is read from. Its faults are not the archive's.
pub(super) struct Source<R>(pub(super) R);

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted => error,
            _ => UnpackError::Unreadable(error).into_io(),
        })
    }
}
