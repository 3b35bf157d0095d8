//! Removal of a folder, or of all in it, whatever an action left there: directories that nobody may read, and
//! such that are nested deeper than paths or recursion reach.
//!
//! Nothing outside of the folder is touched: every step goes from an open directory to a name in it, and
//! symlinks are removed, never followed. A [`Budget`] says how much may be removed at once, for those who must not be held up.

use std::{
    ffi::{CStr, CString},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, IFlags, Mode, OFlags},
    io::Errno,
};

/// How many nested directories are open at a time. What lies deeper is first moved up.
const MAX_DEPTH: usize = 64;

/// How many names may still be taken away.
#[derive(Debug)]
pub struct Budget(u64);

/// Why something is still there.
#[derive(Debug, thiserror::Error)]
pub enum Left {
    /// There is more than the budget allows; the rest is left.
    #[error("there is more than was to be removed at once")]
    Over,
    /// Something cannot be removed; the rest is left too.
    #[error(transparent)]
    Stuck(#[from] io::Error),
}

impl Budget {
    /// As many as there are.
    #[must_use]
    pub const fn unlimited() -> Self {
        Self(u64::MAX)
    }

    /// This many.
    #[must_use]
    pub const fn of(names: u64) -> Self {
        Self(names)
    }

    fn spend(&mut self) -> Result<(), Left> {
        self.0 = self.0.checked_sub(1).ok_or(Left::Over)?;
        Ok(())
    }
}

impl From<Errno> for Left {
    fn from(error: Errno) -> Self {
        Self::Stuck(error.into())
    }
}

impl From<Left> for io::Error {
    fn from(left: Left) -> Self {
        match left {
            Left::Over => io::Error::other(left),
            Left::Stuck(error) => error,
        }
    }
}

/// Removes `path` and all below it, also what an action or an overlay made unreadable or nested without end. It is
/// no error if it is not there. Blocks on the file system.
///
/// # Errors
/// If something cannot be removed; the rest is then left too.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    Ok(remove_tree_within(path, &mut Budget::unlimited())?)
}

/// As [`remove_tree`], as far as a budget goes.
///
/// # Errors
/// If something is left.
pub fn remove_tree_within(path: &Path, budget: &mut Budget) -> Result<(), Left> {
    let name = CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from)?;
    match rustix::fs::unlinkat(CWD, &name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    remove_directory(CWD, &name, budget)
}

/// Removes a directory and all below it; blocks.
///
/// # Errors
/// If something is left.
pub fn remove_directory(at: BorrowedFd<'_>, name: &CStr, budget: &mut Budget) -> Result<(), Left> {
    let top = open_directory(at, name)?;
    clear(&top, budget)?;
    drop(top);
    Ok(unlink(at, name, AtFlags::REMOVEDIR)?)
}

/// Removes all below an open directory; blocks.
///
/// # Errors
/// If something is left.
pub fn clear(top: &OwnedFd, budget: &mut Budget) -> Result<(), Left> {
    let mut moved = 0;
    // Each pass empties all but what it moved up, which the next one finds at the top.
    loop {
        let before = moved;
        empty(top, &mut moved, budget)?;
        if moved == before {
            return Ok(());
        }
    }
}

/// Lets a file or directory be moved away, though it may be marked as not to be changed (`chattr +i`). Actions can do that where the node
/// is root and there are no walls; elsewhere this does nothing. Blocks.
pub fn let_go(path: &Path) {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return };
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    if let (Ok(parent), Ok(name)) =
        (rustix::fs::open(parent, flags, Mode::empty()), CString::new(name.as_bytes()))
    {
        thaw(parent.as_fd(), &name);
    }
}

/// A directory that is being emptied.
struct Level {
    directory: OwnedFd,
    /// Its name in the level above.
    name: CString,
    /// Directories in it that are still there.
    below: Vec<CString>,
}

/// Removes all below `top` that is not too deep, and moves that to `top` under new names.
fn empty(top: &OwnedFd, moved: &mut u64, budget: &mut Budget) -> Result<(), Left> {
    let mut levels: Vec<Level> = Vec::new();
    let mut below = empty_of_files(top.as_fd(), budget)?;
    loop {
        let depth = levels.len();
        let (directory, below) = match levels.last_mut() {
            None => (top.as_fd(), &mut below),
            Some(level) => (level.directory.as_fd(), &mut level.below),
        };
        match below.pop() {
            // Most are empty, which the kernel tells at once; any other reason comes up again below.
            Some(name) if rustix::fs::unlinkat(directory, &name, AtFlags::REMOVEDIR).is_ok() => {}
            Some(name) if depth >= MAX_DEPTH => move_up(directory, top, &name, moved)?,
            Some(name) => {
                let directory = open_directory(directory, &name)?;
                let below = empty_of_files(directory.as_fd(), budget)?;
                levels.push(Level { directory, name, below });
            }
            None => {
                let Some(done) = levels.pop() else { return Ok(()) };
                let above = levels.last().map_or(top.as_fd(), |level| level.directory.as_fd());
                match unlink(above, &done.name, AtFlags::REMOVEDIR) {
                    // Something was moved into `top` meanwhile, or is left for the next pass.
                    Ok(()) | Err(Errno::NOTEMPTY) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
}

/// Moves the directory `name` up to `top`.
fn move_up(
    directory: BorrowedFd<'_>,
    top: &OwnedFd,
    name: &CStr,
    moved: &mut u64,
) -> io::Result<()> {
    loop {
        let to = format!(".removed-{moved}");
        *moved += 1;
        let no_replace = rustix::fs::RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(directory, name, top, to.as_str(), no_replace) {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST) => {}
            Err(Errno::PERM) if thaw(directory, name) => {}
            // To move a directory its parent entry is rewritten, for which it must be writable.
            Err(Errno::ACCESS) => {
                rustix::fs::chmodat(directory, name, Mode::RWXU, AtFlags::empty())?;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Removes one entry, also one that must not be removed (`chattr +i`): an action that is root and has no walls can say so of its files.
fn unlink(directory: BorrowedFd<'_>, name: &CStr, flags: AtFlags) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(directory, name, flags) {
        Err(Errno::PERM) if thaw(directory, name) => rustix::fs::unlinkat(directory, name, flags),
        outcome => outcome,
    }
}

/// Lets an entry be removed, and others of its directory; whether something stood against it.
fn thaw(directory: BorrowedFd<'_>, name: &CStr) -> bool {
    let mut has_thawed = thaw_open(directory);
    let kind = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
        .map(|found| FileType::from_raw_mode(found.st_mode));
    // What else there is has no such flags, and to open a device is to use it.
    if matches!(kind, Ok(FileType::RegularFile | FileType::Directory)) {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        if let Ok(entry) = rustix::fs::openat(directory, name, flags, Mode::empty()) {
            has_thawed |= thaw_open(entry.as_fd());
        }
    }
    has_thawed
}

fn thaw_open(file: BorrowedFd<'_>) -> bool {
    let against = IFlags::IMMUTABLE | IFlags::APPEND;
    rustix::fs::ioctl_getflags(file).is_ok_and(|flags| {
        flags.intersects(against) && rustix::fs::ioctl_setflags(file, flags - against).is_ok()
    })
}

/// Removes all of a directory but the directories in it, whose names it returns.
fn empty_of_files(directory: BorrowedFd<'_>, budget: &mut Budget) -> Result<Vec<CString>, Left> {
    let mut below = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        budget.spend()?;
        if entry.file_type() == FileType::Directory {
            below.push(name.to_owned());
            continue;
        }
        match unlink(directory, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            // The type was not told by the file system.
            Err(Errno::ISDIR) => below.push(name.to_owned()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(below)
}

/// Opens a directory, giving its owner all rights to it where needed.
///
/// # Errors
/// If it is none, or cannot be opened.
pub fn open_directory(at: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // Without the right to write to or search a directory its entries cannot be removed either.
    let lacks_rights = |directory: &OwnedFd| {
        rustix::fs::fstat(directory).map(|stat| stat.st_mode & 0o700 != 0o700)
    };
    match rustix::fs::openat(at, name, flags, Mode::empty()) {
        Ok(directory) => {
            if lacks_rights(&directory)? {
                match rustix::fs::fchmod(&directory, Mode::RWXU) {
                    Err(Errno::PERM) if thaw_open(directory.as_fd()) => {
                        rustix::fs::fchmod(&directory, Mode::RWXU)?;
                    }
                    outcome => outcome?,
                }
            }
            Ok(directory)
        }
        // It is a directory (or the next open fails), so no symlink is followed by this.
        Err(Errno::ACCESS) => {
            rustix::fs::chmodat(at, name, Mode::RWXU, AtFlags::empty())?;
            Ok(rustix::fs::openat(at, name, flags, Mode::empty())?)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn removes_what_is_nested_too_deep_for_a_path() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().join("top");
        fs::create_dir(&top).unwrap();
        let name = "a-name-of-some-length";
        let mut at = open_directory(CWD, &CString::new(top.to_str().unwrap()).unwrap()).unwrap();
        for _ in 0..1000 {
            rustix::fs::mkdirat(&at, name, Mode::RWXU).unwrap();
            at = open_directory(at.as_fd(), &CString::new(name).unwrap()).unwrap();
        }
        remove_tree(&top).unwrap();
        assert!(!top.exists());
    }

    #[test]
    fn stops_where_its_budget_ends_and_goes_on_later() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().join("top");
        for at in ["a/b", "c", "d"] {
            fs::create_dir_all(top.join(at)).unwrap();
            for file in 0..10 {
                fs::write(top.join(at).join(file.to_string()), "").unwrap();
            }
        }
        let files =
            || ["a/b", "c", "d"].map(|at| fs::read_dir(top.join(at)).map_or(0, Iterator::count));
        let name = CString::new(top.to_str().unwrap()).unwrap();
        let open = open_directory(CWD, &name).unwrap();
        assert!(matches!(clear(&open, &mut Budget::of(12)), Err(Left::Over)));
        let left: usize = files().into_iter().sum();
        assert!(left > 15 && left < 30, "{left}");
        // Thirty files and four directories.
        assert!(matches!(remove_directory(CWD, &name, &mut Budget::of(3)), Err(Left::Over)));
        remove_directory(CWD, &name, &mut Budget::of(34)).unwrap();
        assert!(!top.exists());
    }

    #[test]
    fn removes_what_nobody_may_read_and_follows_no_symlink() {
        let folder = tempfile::tempdir().unwrap();
        let (top, outside) = (folder.path().join("top"), folder.path().join("outside"));
        fs::create_dir_all(top.join("a/b")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("file"), "x").unwrap();
        fs::write(top.join("a/b/file"), "x").unwrap();
        std::os::unix::fs::symlink(&outside, top.join("a/link")).unwrap();
        for path in ["a/b", "a"] {
            fs::set_permissions(top.join(path), fs::Permissions::from_mode(0o000)).unwrap();
        }
        remove_tree(&top).unwrap();
        assert!(!top.exists());
        assert!(outside.join("file").exists());
        remove_tree(&top).unwrap();
    }
}
