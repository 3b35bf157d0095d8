//! How much the folder of an action takes, while the action runs in it.
//!
//! Whatever goes on in there, nothing outside is looked at: every step goes from an open directory to a name in it, links are
//! not followed, mounts not entered. Nothing is opened but directories, and nothing is changed.

use std::{
    ffi::CStr,
    mem::MaybeUninit,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir},
    io::{self, Errno},
};

use crate::renewal::Part;

/// How many directories deep it looks. Each costs an open file and some 5 KiB of stack, so that this also bounds what it takes.
const MAX_DEPTH: usize = 128;

/// Entries are read so many bytes at a time; a name has 255 at the most.
const ENTRIES_BYTES: usize = 4096;

/// What a file takes at the least, as the store counts them.
pub(crate) const BLOCK_BYTES: u64 = 4096;

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    /// In blocks that are there: holes take nothing. Of a file with many names each has its part, for the others may
    /// be the store's.
    pub(crate) bytes: u64,
    /// Names of files, directories included.
    pub(crate) files: u64,
    /// Whether something could not be looked into: it is nested too deep, or its action forbids it.
    pub(crate) hides: bool,
}

/// Measures the folder of an action but for the inputs that are links; blocks.
///
/// # Errors
/// If the folder itself cannot be read. What goes away meanwhile takes nothing.
pub(crate) fn measure(folder: &Path) -> io::Result<Taken> {
    start(folder, Some(Part::Lower.name().as_bytes()), true)
}

/// Measures a folder that nobody writes to any more, as if all other names of its files were to go; blocks.
///
/// # Errors
/// If the folder itself cannot be read.
pub(crate) fn measure_alone(folder: &Path) -> io::Result<Taken> {
    start(folder, None, false)
}

fn start(folder: &Path, but: Option<&[u8]>, shares: bool) -> io::Result<Taken> {
    let folder = open(CWD, folder)?;
    let mut taken = Taken::default();
    let device = rustix::fs::fstat(&folder)?.st_dev;
    walk(&folder, &mut taken, Walk { device, depth: 0, but, shares })?;
    Ok(taken)
}

/// Where a walk is.
#[derive(Clone, Copy)]
struct Walk<'a> {
    /// The file system that it stays on.
    device: u64,
    depth: usize,
    /// What is passed over at the top.
    but: Option<&'a [u8]>,
    /// Whether of a file with many names each has its part.
    shares: bool,
}

fn walk(directory: &OwnedFd, taken: &mut Taken, at: Walk<'_>) -> io::Result<()> {
    let mut buffer = [MaybeUninit::uninit(); ENTRIES_BYTES];
    let mut entries = RawDir::new(directory, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") || Some(name.to_bytes()) == at.but {
            continue;
        }
        match one(directory.as_fd(), name, taken, at) {
            Ok(()) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            Err(Errno::ACCESS | Errno::PERM) => taken.hides = true,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Adds one name and all below it.
fn one(from: BorrowedFd<'_>, name: &CStr, taken: &mut Taken, at: Walk<'_>) -> io::Result<()> {
    let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if stat.st_dev != at.device {
        return Ok(());
    }
    let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    #[allow(clippy::useless_conversion, reason = "it is an u32 on other machines")]
    let names = if is_directory || !at.shares { 1 } else { u64::from(stat.st_nlink).max(1) };
    let blocks = u64::try_from(stat.st_blocks).unwrap_or(0);
    taken.bytes += blocks.saturating_mul(512).max(BLOCK_BYTES) / names;
    taken.files += 1;
    if !is_directory {
        return Ok(());
    }
    if at.depth >= MAX_DEPTH {
        taken.hides = true;
        return Ok(());
    }
    walk(&open(from, name)?, taken, Walk { depth: at.depth + 1, but: None, ..at })
}

fn open(at: BorrowedFd<'_>, name: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // So that an action does not see that it is looked at.
    rustix::fs::openat(at, name, flags | OFlags::NOATIME, Mode::empty())
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt as _, symlink},
    };

    use super::*;

    const KIB: u64 = 1 << 10;

    /// A folder, and what it takes beside what is put in later.
    fn folder() -> (tempfile::TempDir, Taken) {
        let folder = tempfile::tempdir().unwrap();
        for name in ["upper", "lower"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let taken = measure(folder.path()).unwrap();
        assert_eq!((taken.files, taken.hides), (1, false), "inputs are passed over");
        (folder, taken)
    }

    /// What has come since.
    fn more(folder: &tempfile::TempDir, before: Taken) -> (u64, u64) {
        let taken = measure(folder.path()).unwrap();
        (taken.bytes - before.bytes, taken.files - before.files)
    }

    #[test]
    fn files_count_in_blocks_and_holes_do_not() {
        let (folder, before) = folder();
        let upper = folder.path().join("upper");
        fs::write(upper.join("file"), vec![1; 100 << 10]).unwrap();
        assert_eq!(more(&folder, before), (100 * KIB, 1));
        fs::write(upper.join("empty"), "").unwrap();
        fs::File::create(upper.join("hole")).unwrap().set_len(1 << 40).unwrap();
        symlink("/", upper.join("link")).unwrap();
        fs::create_dir_all(upper.join("d/d")).unwrap();
        assert_eq!(more(&folder, before), (120 * KIB, 6), "each takes a block");
        fs::write(folder.path().join("lower/input"), vec![1; 100 << 10]).unwrap();
        assert_eq!(more(&folder, before), (120 * KIB, 6));
    }

    #[test]
    fn of_a_file_with_many_names_each_has_its_part() {
        let (folder, before) = folder();
        let (inside, outside) = (folder.path().join("upper"), tempfile::tempdir().unwrap());
        let file = inside.join("1");
        fs::write(&file, vec![1; 120 << 10]).unwrap();
        for name in ["2", "3"] {
            fs::hard_link(&file, inside.join(name)).unwrap();
        }
        assert_eq!(more(&folder, before), (120 * KIB, 3));
        fs::hard_link(&file, outside.path().join("blob")).unwrap();
        assert_eq!(more(&folder, before), (90 * KIB, 3));
    }

    #[test]
    fn what_is_too_deep_is_not_looked_into_but_told() {
        let (folder, before) = folder();
        let mut at = folder.path().join("upper");
        for _ in 0..MAX_DEPTH - 1 {
            at.push("d");
        }
        fs::create_dir_all(&at).unwrap();
        let depth = MAX_DEPTH as u64;
        assert!(!measure(folder.path()).unwrap().hides);
        fs::create_dir_all(at.join("d/d")).unwrap();
        fs::write(at.join("d/d/file"), "x").unwrap();
        let taken = measure(folder.path()).unwrap();
        assert_eq!((taken.files, taken.hides), (before.files + depth, true));
    }

    #[test]
    fn what_nobody_may_read_is_told_and_stays_so() {
        let (folder, before) = folder();
        let secret = folder.path().join("upper/secret");
        fs::create_dir(&secret).unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o000)).unwrap();
        let taken = measure(folder.path()).unwrap();
        assert_eq!(taken.files, before.files + 1);
        assert_eq!(taken.hides, !rustix::process::geteuid().is_root());
        assert_eq!(fs::metadata(&secret).unwrap().permissions().mode() & 0o777, 0);
    }
}
