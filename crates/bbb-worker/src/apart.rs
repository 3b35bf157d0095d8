//! Folders that lie far from each other on the disk.

use std::{fs::File, io, path::Path};

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

/// Has ext4 put the folders that are made in `parent` from now on, and with them what is made in these, far from each other: what
/// `chattr +T` does, in place of one group of inodes for all of them. Without a journal ext4 leaves inodes alone for minutes after their
/// removal, and looks at each of them in a group before it finds one for a new file.
///
/// Other file systems know no such thing, and all is well without it. It is not for files that stay: these are cheaper to make near
/// each other, where one group after the other is filled (docs/performance.md).
pub(crate) fn put_folders_apart(parent: &Path) {
    let put_apart = || -> io::Result<()> {
        let folder = File::open(parent)?;
        let flags = ioctl_getflags(&folder)?;
        Ok(ioctl_setflags(&folder, flags | IFlags::TOPDIR)?)
    };
    if let Err(error) = put_apart() {
        tracing::debug!(path = %parent.display(), %error, "folders lie where the file system likes");
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn ext4_is_asked_and_others_do_not_mind() {
        const EXT4: u64 = 0xef53;
        let folder = TempDir::new().unwrap();
        put_folders_apart(folder.path());
        let flags = ioctl_getflags(File::open(folder.path()).unwrap());
        let is_apart = flags.is_ok_and(|flags| flags.contains(IFlags::TOPDIR));
        let is_ext4 = rustix::fs::statfs(folder.path()).unwrap().f_type as u64 == EXT4;
        assert_eq!(is_apart, is_ext4);
        put_folders_apart(&folder.path().join("absent"));
    }
}
