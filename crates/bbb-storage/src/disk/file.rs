//! Files as the store makes them: written under a temporary name, sealed, then put in their place.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use bbb_digest::{Digest, Hasher};
use rustix::fs::{Mode, OFlags, Timespec, Timestamps};

use super::{Disk, layout::Kind};

/// How many bytes are read at a time to be hashed.
const HASH_CHUNK_BYTES: usize = 256 << 10;

/// How often a file is put into a folder that is made for it: more often than there are levels.
const MKDIR_ATTEMPTS: usize = 8;

/// A temporary file, removed when dropped unless it was put in its place.
#[derive(Debug)]
pub(super) struct Temporary {
    path: PathBuf,
    is_ours: bool,
    is_placed: AtomicBool,
}

impl Temporary {
    /// Makes a temporary file that is open for writing.
    pub(super) fn create(disk: &Disk) -> io::Result<(File, Self)> {
        let path = disk.layout.temporary();
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok((file, Self { path, is_ours: true, is_placed: AtomicBool::new(false) }))
    }

    /// Where the file lies until it is put in its place.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Someone else's file, which is theirs to remove unless it is put in its place.
    pub(super) fn adopt(path: &Path) -> Self {
        Self { path: path.to_owned(), is_ours: false, is_placed: AtomicBool::new(false) }
    }

    /// Puts the file in its place, in place of what is there; makes the folder if needed.
    pub(super) fn put_in_place(&self, place: &Path) -> io::Result<()> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            match fs::rename(&self.path, place) {
                // The scan takes folders away that are empty, once each, maybe just now.
                Err(error)
                    if error.kind() == io::ErrorKind::NotFound && attempts < MKDIR_ATTEMPTS =>
                {
                    match place.parent().map(fs::create_dir_all) {
                        Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => {
                            return Err(error);
                        }
                        _ => {}
                    }
                }
                Err(error) => return Err(error),
                Ok(()) => {
                    self.is_placed.store(true, Ordering::Relaxed);
                    return Ok(());
                }
            }
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if self.is_ours && !*self.is_placed.get_mut() {
            // The folder of temporary files is emptied at the next start in any case.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Kind {
    /// The mode of files of this kind.
    pub(super) fn mode(self) -> Mode {
        match self {
            Self::Result | Self::Blob => Mode::from_raw_mode(0o444),
            Self::Executable => Mode::from_raw_mode(0o555),
        }
    }
}

/// Gives a file the mode and the time of change that tell it from files that were changed since.
pub(super) fn seal(file: &File, kind: Kind, mtime: i64) -> io::Result<()> {
    let time = Timespec { tv_sec: mtime, tv_nsec: 0 };
    rustix::fs::fchmod(file, kind.mode())?;
    rustix::fs::futimens(file, &Timestamps { last_access: time, last_modification: time })?;
    Ok(())
}

/// Whether a file is as it was when it was sealed, as far as that can be told without reading it.
pub(super) fn is_sealed(metadata: &fs::Metadata, size_bytes: u64, mtime: i64) -> bool {
    metadata.is_file()
        && metadata.len() == size_bytes
        && metadata.mtime() == mtime
        && metadata.mtime_nsec() == 0
}

/// Takes the blocks that a file will need, so that it does not meet a full file system half-way. Does
/// nothing on file systems that cannot.
pub(super) fn allocate(file: &File, size_bytes: u64) -> io::Result<()> {
    use rustix::{fs::FallocateFlags, io::Errno};
    if size_bytes == 0 {
        return Ok(());
    }
    match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, size_bytes) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) | Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Opens a stored file for reading. What is no regular file does not block and is found out by its metadata.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
}

/// Hashes an open file from its beginning and says whether it is this blob.
pub(super) fn holds(file: &File, digest: Digest) -> io::Result<bool> {
    use std::os::unix::fs::FileExt as _;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() != digest.size_bytes() {
        return Ok(false);
    }
    let mut hasher = Hasher::new(digest.function(), digest.size_bytes());
    let mut buffer = vec![0; HASH_CHUNK_BYTES.min(digest.size_bytes() as usize + 1)];
    while hasher.size_bytes() <= digest.size_bytes() {
        match file.read_at(&mut buffer, hasher.size_bytes())? {
            0 => break,
            count => hasher.update(&buffer[..count]),
        }
    }
    Ok(hasher.finish() == digest)
}
