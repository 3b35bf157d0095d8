//! Archives, unpacked into a [`Sink`]: tar, plain or packed by gzip, zstd or xz, and zip. Told apart by what they begin with,
//! whatever they are called.
//!
//! Promises: what a sink is told is a tree, whatever the archive says. Names are plain, parents come before what is in them,
//! nothing comes twice, nothing lies under a link, and no link leads out. All of it is bounded: entries, bytes, depth, and the
//! memory that a format can ask for. An archive that was cut off anywhere is an error, and never less than the whole.
//!
//! The formats are read by code of this room, not by a library: libraries read what they can make sense of, hold what archives
//! claim in memory, and differ in what they see in one that was made to be seen in two ways. Here, what is ambiguous is refused.
//!
//! The room knows nothing of digests, stores and tasks. It blocks.

mod layout;
mod meter;
mod packed;
mod path;
mod tar;
#[cfg(test)]
mod tests;
mod zip;

use std::io::{self, Read, Seek, SeekFrom};

pub use path::EntryPath;

use layout::Layout;
use meter::Meter;

/// What is told of an archive's content, in an order in which it can be made.
pub trait Sink {
    /// A directory, before all that is in it.
    ///
    /// # Errors
    /// If it cannot be taken in; that ends the unpacking.
    fn directory(&mut self, path: &EntryPath) -> io::Result<()>;

    /// A file. What is not read of `content` is passed over.
    ///
    /// # Errors
    /// If it cannot be taken in. Errors of `content` are to be passed on as they are.
    fn file(
        &mut self,
        path: &EntryPath,
        executable: bool,
        content: &mut dyn Read,
    ) -> io::Result<()>;

    /// A file that is the same as one that came before.
    ///
    /// # Errors
    /// If it cannot be taken in.
    fn link(&mut self, path: &EntryPath, to: &EntryPath) -> io::Result<()>;

    /// A symbolic link, whose target does not lead out.
    ///
    /// # Errors
    /// If it cannot be taken in.
    fn symlink(&mut self, path: &EntryPath, target: &str) -> io::Result<()>;
}

/// How much of everything an archive may have.
#[derive(Clone, Copy, Debug)]
pub struct UnpackLimits {
    /// Files, links and directories, named or only implied.
    pub entries: usize,
    /// Bytes of everything, unpacked.
    pub bytes: u64,
    /// How many times as large as the archive it may be unpacked.
    pub ratio: u64,
    /// How large it may be unpacked whatever the ratio is.
    pub free_bytes: u64,
    /// How deep its directories may be.
    pub depth: usize,
    /// How long a path may be, in bytes.
    pub path_bytes: usize,
}

impl UnpackLimits {
    /// What every archive may have, but for the bytes, of which it may have `bytes`.
    ///
    /// Sources of large things have some 100,000 files (Linux: 90,000; LLVM: 150,000); xz packs them to a tenth.
    pub const fn of_bytes(bytes: u64) -> Self {
        Self {
            entries: 400_000,
            bytes,
            ratio: 200,
            free_bytes: 64 << 20,
            depth: 128,
            path_bytes: 4096,
        }
    }
}

/// Why an archive cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// It is none of the formats.
    #[error("is no archive that can be unpacked: {0}")]
    Format(&'static str),
    /// It is broken, cut off, or made by something that is broken.
    #[error("the archive is damaged: {0}")]
    Damaged(String),
    /// One of its entries is not taken, for what it is.
    #[error("the entry {entry:?} {what}")]
    Entry {
        /// Its name.
        entry: String,
        /// What is wrong.
        what: String,
    },
    /// There is too much in it.
    #[error("the archive has more than {0}")]
    TooMuch(String),
    /// The file cannot be read, which says nothing of the archive.
    #[error("cannot read the archive")]
    Unreadable(#[source] io::Error),
    /// The sink has failed, which says nothing of the archive.
    #[error("cannot store what is in the archive")]
    Sink(#[source] io::Error),
}

impl UnpackError {
    fn damaged(what: impl Into<String>) -> Self {
        Self::Damaged(what.into())
    }

    /// On its way through a reader.
    fn into_io(self) -> io::Error {
        io::Error::other(self)
    }

    /// Out of a reader again; whatever else it said was about the archive.
    fn of_reader(error: io::Error) -> Self {
        error.downcast().unwrap_or_else(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::damaged("it ends too early"),
            _ => Self::Damaged(error.to_string()),
        })
    }
}

/// What archives lie in.
pub trait Archive: Read + Seek {}

impl<T: Read + Seek> Archive for T {}

/// Tells `sink` what is in an archive.
///
/// # Errors
/// As [`UnpackError`] has them. What the sink was told until then is then worth nothing.
pub fn unpack(
    mut archive: impl Archive,
    limits: &UnpackLimits,
    sink: &mut dyn Sink,
) -> Result<(), UnpackError> {
    let archive_bytes = archive.seek(SeekFrom::End(0)).map_err(UnpackError::Unreadable)?;
    let mut layout = Layout::new(limits, sink);
    let meter = Meter::new(limits, Some(archive_bytes));
    match packed::Format::of(&mut archive)? {
        packed::Format::Zip => zip::unpack(archive, archive_bytes, &meter, &mut layout),
        format => tar::unpack(meter.bound(format.reader(archive)?), &mut layout),
    }
}

/// Tells `sink` what is in a tar archive that comes as a stream.
///
/// # Errors
/// As [`unpack`].
pub fn unpack_tar(
    stream: impl Read,
    limits: &UnpackLimits,
    sink: &mut dyn Sink,
) -> Result<(), UnpackError> {
    let stream = Meter::new(limits, None).bound(meter::Source(stream));
    tar::unpack(stream, &mut Layout::new(limits, sink))
}
