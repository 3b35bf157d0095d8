//! One layer of a [`super::View`]: single names in open folders, never paths.

use std::collections::{BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::Kind;

/// Modes as the action left them, of what was made readable since, by device and inode.
pub(super) type Repairs = Mutex<HashMap<(u64, u64), u32>>;

/// What `stat(2)` says of a name.
pub(super) struct Seen {
    pub(super) kind: Kind,
    pub(super) mode: u32,
    pub(super) size_bytes: u64,
    pub(super) modified: SystemTime,
    pub(super) links: u64,
    /// A character device 0/0, which stands for a removed name in upper layers.
    is_null_device: bool,
}

/// Looks at `name` in `folder`, at the folder itself if it is empty.
pub(super) fn see(folder: &OwnedFd, name: &OsStr, repairs: &Repairs) -> io::Result<Option<Seen>> {
    let stat =
        match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH) {
            Err(Errno::NOENT | Errno::NAMETOOLONG | Errno::INVAL) => return Ok(None),
            stat => stat?,
        };
    let file_type = FileType::from_raw_mode(stat.st_mode);
    let kind = match file_type {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Folder,
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(folder, name, Vec::new())?;
            Kind::Link(OsString::from_vec(target.into_bytes()))
        }
        _ => Kind::Special,
    };
    let repairs = repairs.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(Some(Seen {
        kind,
        mode: repairs.get(&key(&stat)).copied().unwrap_or(stat.st_mode & 0o7777),
        size_bytes: u64::try_from(stat.st_size).unwrap_or(0),
        modified: time(&stat),
        links: stat.st_nlink as u64,
        is_null_device: file_type == FileType::CharacterDevice && stat.st_rdev == 0,
    }))
}

/// Whether `name`, seen on some layer, says that there is nothing of this name.
pub(super) fn is_whiteout(folder: &OwnedFd, name: &OsStr, seen: &Seen) -> io::Result<bool> {
    if seen.is_null_device {
        return Ok(true);
    }
    if seen.kind != Kind::File || seen.size_bytes > 0 {
        return Ok(false);
    }
    // The other form: an empty file with an attribute (it can be made without privileges).
    let file = match rustix::fs::openat(
        folder,
        name,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    ) {
        Err(Errno::NOENT) => return Ok(false),
        file => file?,
    };
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    has_attribute(
        |attribute, value| rustix::fs::getxattr(&path, attribute, value),
        "whiteout",
        None,
    )
}

/// Whether a folder hides those of the same name below it.
pub(super) fn is_opaque(folder: &OwnedFd) -> io::Result<bool> {
    has_attribute(
        |attribute, value| rustix::fs::fgetxattr(folder, attribute, value),
        "opaque",
        Some(b'y'),
    )
}

fn has_attribute(
    get: impl Fn(&str, &mut [u8]) -> rustix::io::Result<usize>,
    name: &str,
    wanted: Option<u8>,
) -> io::Result<bool> {
    for space in ["user", "trusted"] {
        let mut value = [0; 8];
        match get(&format!("{space}.overlay.{name}"), &mut value) {
            Ok(length) if wanted.is_none_or(|wanted| length == 1 && value[0] == wanted) => {
                return Ok(true);
            }
            Ok(_) | Err(Errno::NODATA | Errno::NOTSUP | Errno::PERM | Errno::RANGE) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(false)
}

/// Opens the top of a layer, which the caller made, and which an action without namespaces may have replaced.
pub(super) fn open_root(path: &Path, repairs: &Repairs) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let here = rustix::fs::open(path, flags, Mode::empty())?;
    open_folder(&here, OsStr::new("."), repairs)
}

/// Whether opening the top of a layer failed because there is nothing, or something else than a folder.
pub(super) fn is_no_folder(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Opens the folder `name`, after giving its owner the right to if that lacks.
pub(super) fn open_folder(
    parent: &OwnedFd,
    name: &OsStr,
    repairs: &Repairs,
) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = || rustix::fs::openat(parent, name, flags, Mode::empty());
    // A folder that may be read but not searched opens, and then gives nothing: so look at the mode as well.
    let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if stat.st_mode & 0o500 != 0o500 && !rustix::process::geteuid().is_root() {
        repair(parent, name, 0o700, repairs)?;
    }
    Ok(open()?)
}

/// Opens the regular file `name` for reading; `None` if it is anything else.
pub(super) fn open_file(
    parent: &OwnedFd,
    name: &OsStr,
    repairs: &Repairs,
) -> io::Result<Option<File>> {
    // Not blocking: what was a file when it was looked at may be a FIFO now, if another hand is at work.
    let flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let open = || rustix::fs::openat(parent, name, flags, Mode::empty());
    let file = match open() {
        Err(Errno::ACCESS) => {
            repair(parent, name, 0o400, repairs)?;
            open()?
        }
        Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(None),
        file => file?,
    };
    let is_file =
        FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) == FileType::RegularFile;
    Ok(is_file.then(|| File::from(file)))
}

/// Adds `bits` to the mode of `name`, and remembers what it was.
fn repair(parent: &OwnedFd, name: &OsStr, bits: u32, repairs: &Repairs) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&file)?;
    let mode = stat.st_mode & 0o7777;
    // By way of /proc, since a descriptor without rights cannot be changed itself.
    rustix::fs::chmod(
        format!("/proc/self/fd/{}", file.as_fd().as_raw_fd()),
        Mode::from_raw_mode(mode | bits),
    )?;
    repairs.lock().unwrap_or_else(PoisonError::into_inner).entry(key(&stat)).or_insert(mode);
    Ok(())
}

/// All names in any of the folders, sorted.
pub(super) fn names(parts: &[(usize, OwnedFd)]) -> io::Result<BTreeSet<OsString>> {
    let mut names = BTreeSet::new();
    for (_, folder) in parts {
        // A descriptor of its own: reading moves its position.
        for entry in Dir::read_from(folder)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.insert(OsStr::from_bytes(name).to_owned());
            }
        }
    }
    Ok(names)
}

fn key(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

fn time(stat: &Stat) -> SystemTime {
    let nanoseconds = Duration::from_nanos(stat.st_mtime_nsec);
    match u64::try_from(stat.st_mtime) {
        Ok(seconds) => SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) + nanoseconds,
        Err(_) => {
            SystemTime::UNIX_EPOCH - Duration::from_secs(stat.st_mtime.unsigned_abs()) + nanoseconds
        }
    }
}
