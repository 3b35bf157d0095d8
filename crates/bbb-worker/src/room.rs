//! What the file system under the actions still has room for.
//!
//! A command that finds no room fails as if it were at fault, and its client would be told so. It is given back instead, before it
//! begins or after it failed: another worker may have room. What takes the room this refuses to know.

use std::path::Path;

use crate::error::Error;

/// Less than this is no room: what is kept free for the node and for actions that write little.
pub(crate) const ROOM_BYTES: u64 = 16 << 20;

/// Fewer files than this that can still be made is no room, where the file system counts them.
pub(crate) const ROOM_FILES: u64 = 1024;

/// It is full when less is free than [`ROOM_BYTES`], or than this share of it if that is less: what a command wants to write at a time is
/// not there then.
const FULL_BELOW_SHARE: u64 = 64;

/// So many files more are always there, on a file system that has a bound for them.
const FULL_BELOW_FILES: u64 = 64;

/// A file system at a moment: one system call that waits for no disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// All that it has, in bytes.
    pub(crate) all_bytes: u64,
    /// What we may still write.
    pub(crate) free_bytes: u64,
    /// What is taken, in bytes.
    pub(crate) used_bytes: u64,
    /// How many files there may be at all; none where they are made as long as there are bytes.
    pub(crate) all_files: Option<u64>,
    /// How many files may still be made.
    pub(crate) free_files: u64,
}

impl Seen {
    /// The file system of `folder` as it is now.
    ///
    /// # Errors
    /// If it cannot be asked.
    pub(crate) fn of(folder: &Path) -> Result<Self, Error> {
        let seen = rustix::fs::statvfs(folder);
        let seen =
            seen.map_err(|error| Error::fault("look for room in the worker's folder", error))?;
        let bytes = |blocks: u64| blocks.saturating_mul(seen.f_frsize);
        Ok(Self {
            all_bytes: bytes(seen.f_blocks),
            free_bytes: bytes(seen.f_bavail),
            used_bytes: bytes(seen.f_blocks.saturating_sub(seen.f_bfree)),
            all_files: (seen.f_files > 0).then_some(seen.f_files),
            free_files: seen.f_favail,
        })
    }

    /// What is missing to the room that is to be kept free, when `more_bytes` are about to be written.
    pub(crate) fn lacks(&self, more_bytes: u64) -> Lack {
        let files = match self.all_files {
            Some(_) => ROOM_FILES.saturating_sub(self.free_files),
            None => 0,
        };
        let bytes = ROOM_BYTES.saturating_add(more_bytes).saturating_sub(self.free_bytes);
        Lack { bytes, files }
    }

    /// Whether commands that write fail.
    pub(crate) fn is_full(&self) -> bool {
        let lacks_bytes = self.free_bytes < ROOM_BYTES.min(self.all_bytes / FULL_BELOW_SHARE);
        lacks_bytes || self.all_files.is_some() && self.free_files < FULL_BELOW_FILES
    }
}

/// What a file system lacks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lack {
    pub(crate) bytes: u64,
    pub(crate) files: u64,
}

impl Lack {
    /// Whether it lacks nothing.
    pub(crate) const fn is_nothing(self) -> bool {
        self.bytes == 0 && self.files == 0
    }
}

/// Fails if the file system of `folder` is as good as full.
pub(crate) fn check(folder: &Path) -> Result<(), Error> {
    match Seen::of(folder)?.lacks(0).is_nothing() {
        true => Ok(()),
        false => Err(Error::Unable("the worker's disk is full".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(free_bytes: u64, files: Option<u64>) -> Seen {
        let free_files = files.unwrap_or(0);
        let all_bytes = 100 << 30;
        let used_bytes = all_bytes - free_bytes;
        Seen { all_bytes, free_bytes, used_bytes, all_files: files.map(|_| 1 << 20), free_files }
    }

    #[test]
    fn room_is_bytes_and_files() {
        assert!(seen(ROOM_BYTES, Some(ROOM_FILES)).lacks(0).is_nothing());
        assert_eq!(seen(ROOM_BYTES - 1, Some(ROOM_FILES)).lacks(0), Lack { bytes: 1, files: 0 });
        assert_eq!(seen(ROOM_BYTES, Some(0)).lacks(5), Lack { bytes: 5, files: ROOM_FILES });
        // Some file systems make files as long as there are bytes, and count none.
        assert!(seen(ROOM_BYTES, None).lacks(0).is_nothing());
    }

    #[test]
    fn a_file_system_is_full_before_nothing_is_left() {
        assert!(!seen(ROOM_BYTES, Some(FULL_BELOW_FILES)).is_full());
        assert!(seen(ROOM_BYTES - 1, None).is_full());
        assert!(seen(1 << 30, Some(FULL_BELOW_FILES - 1)).is_full());
        let small = Seen { all_bytes: 64 << 20, ..seen(1 << 20, None) };
        assert!(!small.is_full(), "a small one keeps less free");
    }

    #[test]
    fn a_folder_that_is_not_there_is_no_full_disk() {
        let error = check(Path::new("/nowhere/at/all")).unwrap_err();
        assert!(matches!(error, Error::Fault { .. }), "{error}");
    }
}
