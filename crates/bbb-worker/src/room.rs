//! Whether there is room to run commands.
//!
//! A command that finds no room fails as if it were at fault, and its client would be told so. It is given back instead, before it
//! begins or after it failed: another worker may have room. What takes the room this refuses to know.

use std::path::Path;

use crate::error::Error;

/// Less than this is no room.
const ROOM_BYTES: u64 = 16 << 20;

/// Fewer files than this that can still be made is no room, where the file system counts them.
const ROOM_FILES: u64 = 1024;

/// Fails if the file system of `folder` is as good as full.
pub(crate) fn check(folder: &Path) -> Result<(), Error> {
    let seen = rustix::fs::statvfs(folder);
    let seen = seen.map_err(|error| Error::fault("look for room in the worker's folder", error))?;
    let files = (seen.f_files > 0).then_some(seen.f_favail);
    match is_full(seen.f_bavail.saturating_mul(seen.f_frsize), files) {
        true => Err(Error::Unable("the worker's disk is full".to_owned())),
        false => Ok(()),
    }
}

fn is_full(free_bytes: u64, free_files: Option<u64>) -> bool {
    free_bytes < ROOM_BYTES || free_files.is_some_and(|files| files < ROOM_FILES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_bytes_and_files() {
        assert!(!is_full(ROOM_BYTES, Some(ROOM_FILES)));
        assert!(is_full(ROOM_BYTES - 1, Some(u64::MAX)));
        assert!(is_full(u64::MAX, Some(0)));
        // Some file systems make files as long as there are bytes, and count none.
        assert!(!is_full(u64::MAX, None));
    }

    #[test]
    fn a_folder_that_is_not_there_is_no_full_disk() {
        let error = check(Path::new("/nowhere/at/all")).unwrap_err();
        assert!(matches!(error, Error::Fault { .. }), "{error}");
    }
}
