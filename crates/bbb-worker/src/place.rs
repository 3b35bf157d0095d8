//! Puts nodes of an input tree into a folder: directories, symlinks, and files as links or copies.
//!
//! Every step goes from an open directory to one name in it, and directories are opened without following a
//! symlink, so that nothing outside of the folder is touched. A file is closed before its place is told to
//! anyone, so that none is executed while it is open for writing.
//!
//! The room knows nothing of trees or stores; all of it blocks.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    time::SystemTime,
};

use bbb_reapi::NodeProperties;
use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_OMIT},
    io::Errno,
    process::Uid,
};

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// An input file that may be executed, and one that may not: like those of the store, nobody may write to
/// them before changing that.
const FILE_MODES: [u32; 2] = [0o444, 0o555];

/// A folder that is being filled.
#[derive(Debug)]
pub(crate) struct Place {
    root: OwnedFd,
    path: PathBuf,
    /// The directory that was used last: nodes come directory by directory.
    last: Option<(String, OwnedFd)>,
}

impl Place {
    /// Opens an empty folder of this worker.
    pub(crate) fn open(path: PathBuf) -> io::Result<Self> {
        let root = rustix::fs::openat(CWD, &path, DIRECTORY, Mode::empty())?;
        Ok(Self { root, path, last: None })
    }

    /// The host path of a name in a directory. The way there was seen to hold no symlink, and none can
    /// come in, for nobody else has the folder yet.
    pub(crate) fn name(&mut self, directory: &str, name: &str) -> io::Result<PathBuf> {
        self.directory(directory)?;
        Ok(self.path.join(directory).join(name))
    }

    /// The open directory at a path; empty for the root.
    pub(crate) fn directory(&mut self, path: &str) -> io::Result<BorrowedFd<'_>> {
        if path.is_empty() {
            return Ok(self.root.as_fd());
        }
        if self.last.as_ref().is_none_or(|(last, _)| last != path) {
            let flags = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            let opened = rustix::fs::openat2(&self.root, path, DIRECTORY, Mode::empty(), flags)?;
            self.last = Some((path.to_owned(), opened));
        }
        Ok(self.last.as_ref().map_or(self.root.as_fd(), |(_, directory)| directory.as_fd()))
    }

    /// Makes a directory; whether it was not there.
    pub(crate) fn make_directory(&mut self, path: &str) -> io::Result<bool> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        match rustix::fs::mkdirat(self.directory(parent)?, name, Mode::from_raw_mode(0o755)) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes a symlink.
    pub(crate) fn make_symlink(
        &mut self,
        directory: &str,
        name: &str,
        target: &str,
        properties: NodeProperties,
    ) -> io::Result<()> {
        let directory = self.directory(directory)?;
        rustix::fs::symlinkat(target, directory, name)?;
        match properties.mtime {
            Some(mtime) => set_mtime(directory, name, mtime),
            None => Ok(()),
        }
    }

    /// Makes a whiteout: above another layer of an overlay it says that there is nothing of this name. A link to one that
    /// is there costs a file system far less than a new one.
    pub(crate) fn make_whiteout(
        &mut self,
        directory: &str,
        name: &str,
        like: Option<&Path>,
    ) -> io::Result<()> {
        let directory = self.directory(directory)?;
        let link = |from| rustix::fs::linkat(CWD, from, directory, name, AtFlags::empty());
        match like.map(link) {
            Some(Ok(())) => Ok(()),
            // It may have all the links that it may have.
            Some(Err(_)) | None => {
                // The device 0:0, which anybody may make (Linux 5.8).
                let (kind, mode) = (FileType::CharacterDevice, Mode::empty());
                Ok(rustix::fs::mknodat(directory, name, kind, mode, 0)?)
            }
        }
    }

    /// Makes a file that holds `content`.
    pub(crate) fn write(
        &mut self,
        directory: &str,
        name: &str,
        is_executable: bool,
        properties: NodeProperties,
        content: &[u8],
    ) -> io::Result<()> {
        self.create(directory, name, is_executable, properties, |file| {
            io::Write::write_all(file, content)
        })
    }

    /// Sees to it that a file that was just linked belongs to `owner`; whether it does. If not, it is gone again.
    pub(crate) fn give(&mut self, directory: &str, name: &str, owner: u32) -> io::Result<bool> {
        let directory = self.directory(directory)?;
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        if rustix::fs::statat(directory, name, flags)?.st_uid == owner {
            return Ok(true);
        }
        let owner = Some(Uid::from_raw(owner));
        let is_given = rustix::fs::chownat(directory, name, owner, None, flags).is_ok();
        if !is_given {
            rustix::fs::unlinkat(directory, name, AtFlags::empty())?;
        }
        Ok(is_given)
    }

    /// Makes a file that is a copy of `from`; they share their blocks if that is wanted and can be.
    pub(crate) fn copy(
        &mut self,
        directory: &str,
        name: &str,
        is_executable: bool,
        properties: NodeProperties,
        from: &Path,
        shares_blocks: bool,
    ) -> io::Result<()> {
        self.create(directory, name, is_executable, properties, |file| {
            copy_into(file, from, shares_blocks)
        })
    }

    fn create(
        &mut self,
        directory: &str,
        name: &str,
        is_executable: bool,
        properties: NodeProperties,
        fill: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> io::Result<()> {
        let directory = self.directory(directory)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let created = rustix::fs::openat(directory, name, flags, Mode::RUSR | Mode::WUSR)?;
        let mut file = File::from(created);
        fill(&mut file)?;
        let mode = properties.unix_mode.unwrap_or(FILE_MODES[usize::from(is_executable)]);
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
        match properties.mtime {
            Some(mtime) => file.set_modified(mtime),
            None => Ok(()),
        }
    }

    /// Gives a directory its properties. They may forbid to open it, so those below come first.
    pub(crate) fn set_properties(
        &mut self,
        path: &str,
        properties: NodeProperties,
    ) -> io::Result<()> {
        let directory = self.directory(path)?;
        if let Some(mtime) = properties.mtime {
            rustix::fs::futimens(directory, &timestamps(mtime))?;
        }
        if let Some(mode) = properties.unix_mode {
            rustix::fs::fchmod(directory, Mode::from_raw_mode(mode))?;
        }
        Ok(())
    }
}

fn copy_into(file: &mut File, from: &Path, shares_blocks: bool) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut from = File::from(rustix::fs::openat(CWD, from, flags, Mode::empty())?);
    // It may lie on another file system.
    let is_shared = shares_blocks && rustix::fs::ioctl_ficlone(&*file, &from).is_ok();
    match is_shared {
        true => Ok(()),
        false => io::copy(&mut from, file).map(drop),
    }
}

fn set_mtime(directory: BorrowedFd<'_>, name: &str, mtime: SystemTime) -> io::Result<()> {
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    Ok(rustix::fs::utimensat(directory, name, &timestamps(mtime), flags)?)
}

/// The time of last change alone; that of last access stays.
fn timestamps(mtime: SystemTime) -> Timestamps {
    let since_epoch = mtime.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec {
            tv_sec: i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: since_epoch.subsec_nanos().into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn nothing_is_placed_behind_a_symlink_or_over_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let (root, outside) = (folder.path().join("root"), folder.path().join("outside"));
        fs::create_dir_all(root.join("a")).unwrap();
        fs::create_dir(&outside).unwrap();
        let mut place = Place::open(root.clone()).unwrap();
        let none = NodeProperties::default();
        place.make_symlink("a", "link", outside.to_str().unwrap(), none).unwrap();
        assert!(place.make_directory("a/link/x").is_err());
        assert!(place.write("a/link", "x", false, none, b"x").is_err());
        assert!(place.write("a", "link", false, none, b"x").is_err());
        assert!(place.name("a/link", "x").is_err());
        assert!(place.directory("..").is_err());
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        place.write("a", "file", true, none, b"x").unwrap();
        assert!(place.write("a", "file", true, none, b"y").is_err());
        assert_eq!(fs::read(root.join("a/file")).unwrap(), b"x");
        // What cannot be opened as the root is no place either.
        assert!(Place::open(root.join("a/link")).is_err());
    }
}
