//! The folder of an action, part by part, and how a used one is made fit for another action: emptied, and kept
//! as far as it cannot be told from a new one.
//!
//! Files and folders are the dearest things that an action costs a file system, and most actions leave nearly
//! all of theirs as they were.
//!
//! What an action could reach is never trusted: a part stays only if it is empty and has the owner, mode, flags
//! and size that a new one has, and no attributes. Its times are set anew. What is not kept is removed.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
};

use bbb_sandbox::removal::{Budget, Left, clear, open_directory, remove_directory};
use rustix::{
    fs::{
        AtFlags, CWD, Dir, FileType, IFlags, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_NOW,
    },
    io::Errno,
};

/// What the folder of an action is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Part {
    /// The input root where it is no overlay.
    Root,
    /// The staged inputs below an overlay.
    Lower,
    /// What an action changes of an overlay.
    Upper,
    /// For the kernel's own use of an overlay.
    Work,
    /// What the action sees as `/tmp`.
    Temporary,
    /// The action's standard output.
    Stdout,
    /// The action's standard error.
    Stderr,
}

/// Some parts of a folder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Parts(u8);

impl Part {
    const ALL: [Self; 7] = [
        Self::Root,
        Self::Lower,
        Self::Upper,
        Self::Work,
        Self::Temporary,
        Self::Stdout,
        Self::Stderr,
    ];

    /// Its name in the folder.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Lower => "lower",
            Self::Upper => "upper",
            Self::Work => "work",
            Self::Temporary => "tmp",
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }

    /// Whether it is a file, not a folder.
    pub(crate) const fn is_file(self) -> bool {
        matches!(self, Self::Stdout | Self::Stderr)
    }
}

impl Parts {
    /// Whether `part` is among them.
    pub(crate) const fn has(self, part: Part) -> bool {
        self.0 & 1 << part as u8 != 0
    }

    fn add(&mut self, part: Part) {
        self.0 |= 1 << part as u8;
    }
}

/// Makes a used folder fit for another action; blocks. Returns which of its parts there are.
///
/// Only for folders that are themselves out of the reach of their actions.
///
/// # Errors
/// If something cannot be looked at or removed, or there is more of it than the budget allows.
pub(crate) fn renew(folder: &Path, budget: &mut Budget) -> Result<Parts, Left> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = rustix::fs::openat(CWD, folder, flags, Mode::empty())?;
    let new = Traits::of(&folder)?;
    let mut parts = Parts::default();
    for entry in Dir::read_from(&folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        match Part::ALL.into_iter().find(|part| part.name().as_bytes() == name.to_bytes()) {
            Some(part) if is_as_new(folder.as_fd(), part, name, &new, budget)? => parts.add(part),
            _ => remove_at(folder.as_fd(), name, budget)?,
        }
    }
    Ok(parts)
}

/// Empties a part, unless it is never kept; whether it is then as one that was just made.
fn is_as_new(
    folder: BorrowedFd<'_>,
    part: Part,
    name: &CStr,
    new: &Traits,
    budget: &mut Budget,
) -> Result<bool, Left> {
    // The kernel may still be giving the overlay up when its action is over.
    if matches!(part, Part::Upper | Part::Work) {
        return Ok(false);
    }
    if part.is_file() {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        return match rustix::fs::openat(folder, name, flags, Mode::empty()) {
            Ok(file) => Ok(Traits::of(&file)?.are_of_a_new_file(new)),
            // What cannot be opened is not as it was.
            Err(_) => Ok(false),
        };
    }
    let directory = match open_directory(folder, name) {
        Ok(directory) => directory,
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    clear(&directory, budget)?;
    if !Traits::of(&directory)?.are_of_a_new_folder(new) {
        return Ok(false);
    }
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    rustix::fs::futimens(&directory, &Timestamps { last_access: now, last_modification: now })?;
    Ok(true)
}

fn remove_at(folder: BorrowedFd<'_>, name: &CStr, budget: &mut Budget) -> Result<(), Left> {
    match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => remove_directory(folder, name, budget),
        Err(error) => Err(error.into()),
    }
}

/// What may tell a used file or folder from a new one.
struct Traits {
    stat: Stat,
    /// Flags that the file system keeps, such as "append only"; none where it keeps none.
    flags: Option<IFlags>,
    has_attributes: bool,
}

impl Traits {
    fn of(file: &OwnedFd) -> io::Result<Self> {
        let has_attributes = match rustix::fs::flistxattr_query(file) {
            Ok(len) => len > 0,
            Err(Errno::NOTSUP) => false,
            Err(error) => return Err(error.into()),
        };
        let flags = rustix::fs::ioctl_getflags(file).ok();
        Ok(Self { stat: rustix::fs::fstat(file)?, flags, has_attributes })
    }

    /// `new` is a folder that was made by the same node and not changed since.
    fn are_of_a_new_folder(&self, new: &Self) -> bool {
        self.has_owner_and_flags(new)
            && self.stat.st_mode == new.stat.st_mode
            && self.stat.st_size == new.stat.st_size
    }

    fn are_of_a_new_file(&self, new: &Self) -> bool {
        let mode = FileType::RegularFile.as_raw_mode() | new.stat.st_mode & 0o666;
        self.has_owner_and_flags(new)
            && self.stat.st_mode == mode
            && (self.stat.st_size, self.stat.st_blocks, self.stat.st_nlink) == (0, 0, 1)
    }

    fn has_owner_and_flags(&self, new: &Self) -> bool {
        !self.has_attributes
            && (self.stat.st_uid, self.stat.st_gid) == (new.stat.st_uid, new.stat.st_gid)
            && self.flags == new.flags
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File, Permissions},
        os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    };

    use super::*;

    /// A folder with all of its parts.
    fn made() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        // As the node makes them, not as this library does.
        fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
        for part in Part::ALL {
            match part.is_file() {
                true => drop(File::create_new(path.join(part.name())).unwrap()),
                false => fs::create_dir(path.join(part.name())).unwrap(),
            }
        }
        folder
    }

    fn renewed(folder: &tempfile::TempDir) -> Vec<Part> {
        let parts = renew(folder.path(), &mut Budget::unlimited()).unwrap();
        let all = Part::ALL.into_iter();
        let (there, gone): (Vec<_>, Vec<_>) = all.partition(|part| parts.has(*part));
        for part in &there {
            let path = folder.path().join(part.name());
            let found = fs::symlink_metadata(&path).unwrap();
            assert_eq!(found.is_file(), part.is_file(), "{part:?}");
            match part.is_file() {
                true => assert_eq!(found.len(), 0, "{part:?}"),
                false => assert_eq!(fs::read_dir(&path).unwrap().count(), 0, "{part:?}"),
            }
        }
        for part in &gone {
            assert!(fs::symlink_metadata(folder.path().join(part.name())).is_err(), "{part:?}");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), there.len());
        there
    }

    /// What is kept of a folder but these.
    fn without(gone: &[Part]) -> Vec<Part> {
        let never = [Part::Upper, Part::Work];
        Part::ALL.into_iter().filter(|part| !never.contains(part) && !gone.contains(part)).collect()
    }

    #[test]
    fn what_nobody_used_stays() {
        let folder = made();
        let before = fs::metadata(folder.path().join("root")).unwrap().ino();
        assert_eq!(renewed(&folder), without(&[]));
        assert_eq!(fs::metadata(folder.path().join("root")).unwrap().ino(), before);
    }

    #[test]
    fn folders_are_emptied_and_written_files_go() {
        let folder = made();
        fs::create_dir_all(folder.path().join("root/a/b")).unwrap();
        fs::write(folder.path().join("root/a/b/c"), "x").unwrap();
        fs::write(folder.path().join("tmp/x"), "x").unwrap();
        fs::create_dir_all(folder.path().join("blobs/x")).unwrap();
        fs::write(folder.path().join("other"), "x").unwrap();
        fs::write(folder.path().join("stdout"), "x").unwrap();
        assert_eq!(renewed(&folder), without(&[Part::Stdout]));
    }

    #[test]
    fn what_an_action_changed_is_not_given_to_another() {
        let folder = made();
        let path = |part: Part| folder.path().join(part.name());
        fs::set_permissions(path(Part::Root), Permissions::from_mode(0o500)).unwrap();
        fs::set_permissions(path(Part::Temporary), Permissions::from_mode(0o1755)).unwrap();
        fs::set_permissions(path(Part::Stdout), Permissions::from_mode(0o666)).unwrap();
        // A second name, through which someone could write later.
        fs::hard_link(path(Part::Stderr), folder.path().join("lower/x")).unwrap();
        let linked = folder.path().with_extension("linked");
        fs::rename(folder.path().join("lower/x"), &linked).unwrap();
        let gone = [Part::Root, Part::Temporary, Part::Stdout, Part::Stderr];
        assert_eq!(renewed(&folder), without(&gone));
        fs::remove_file(linked).unwrap();
    }

    #[test]
    fn attributes_and_reserved_blocks_are_seen() {
        let folder = made();
        let path = |part: Part| folder.path().join(part.name());
        let empty = rustix::fs::XattrFlags::empty();
        if rustix::fs::lsetxattr(path(Part::Root), "user.x", b"x", empty).is_err() {
            // This file system keeps no attributes.
            return;
        }
        let stdout = File::options().write(true).open(path(Part::Stdout)).unwrap();
        let keep_size = rustix::fs::FallocateFlags::KEEP_SIZE;
        let reserved = rustix::fs::fallocate(&stdout, keep_size, 0, 1 << 20).is_ok();
        let gone = if reserved { &[Part::Root, Part::Stdout][..] } else { &[Part::Root] };
        assert_eq!(renewed(&folder), without(gone));
    }

    #[test]
    fn no_link_is_followed() {
        let folder = made();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("file"), "").unwrap();
        fs::remove_dir(folder.path().join("root")).unwrap();
        symlink(outside.path(), folder.path().join("root")).unwrap();
        fs::remove_file(folder.path().join("stdout")).unwrap();
        symlink(outside.path().join("file"), folder.path().join("stdout")).unwrap();
        assert_eq!(renewed(&folder), without(&[Part::Root, Part::Stdout]));
        assert!(outside.path().join("file").exists());
    }
}
