//! Blobs as files to be hard-linked into other folders of the same file system.
//!
//! A file system allows so many links to a file and no more (65,000 on ext4). When a file has as many, its
//! place is given to a copy of it; the links that there are keep the old one.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::Arc,
};

use async_trait::async_trait;
use bbb_digest::Digest;

use crate::{Error, LocalFile, LocalFiles, Result};

use super::{
    Disk, Reservation, blocking,
    file::{self, Temporary},
    gate_of,
    index::Key,
    layout::Kind,
    read::Pin,
    view::View,
};

/// How often a link is tried while files change.
const ATTEMPTS: usize = 4;

/// A file with fewer links was put in the place of a full one by someone else meanwhile.
const FEW_LINKS: u64 = 1000;

#[derive(Debug)]
pub(super) struct Links(pub(super) View);

#[async_trait]
impl LocalFiles for Links {
    async fn pin(&self, digest: Digest, executable: bool) -> Result<Arc<dyn LocalFile>> {
        let disk = &self.0.disk;
        let kind = if executable { Kind::Executable } else { Kind::Blob };
        if digest.is_empty() {
            return Ok(Arc::new(EmptyFile { kind, mtime: disk.mtime }));
        }
        for _ in 0..ATTEMPTS {
            let Some(blob) = self.0.find(Kind::Blob, digest).await? else { break };
            let key = Key { kind, ..blob };
            if executable {
                let Some(_source) = disk.pin(&blob) else { continue };
                self.see_to_copy(blob, key).await?;
            }
            if let Some(pin) = disk.pin(&key) {
                return Ok(Arc::new(Linkable(pin)));
            }
        }
        Err(Error::Missing(digest))
    }
}

impl Links {
    /// Sees to it that there is a copy of a blob that may be executed, unless the blob is found changed.
    async fn see_to_copy(&self, blob: Key, key: Key) -> Result<()> {
        if self.0.find(Kind::Executable, key.digest).await?.is_some() {
            return Ok(());
        }
        let disk = &self.0.disk;
        let _turn = disk.turns[gate_of(key.digest)].lock().await;
        if disk.index().use_entry(&key).is_some_and(|known| known.checked) {
            return Ok(());
        }
        let is_copied = disk.with_room(key.digest, || {
            let disk = Arc::clone(disk);
            async move {
                let reservation = disk.reserve_file(key.digest.size_bytes()).await?;
                let copy = move || Ok(disk.copy_blocking(&blob, &key, reservation));
                blocking("copying a blob", copy).await
            }
        });
        if !is_copied.await? {
            disk.doubt(&blob);
        }
        Ok(())
    }
}

impl Disk {
    /// False if the blob's file is gone or not as it was stored.
    fn copy_blocking(&self, from: &Key, to: &Key, reservation: Reservation) -> io::Result<bool> {
        let Some((blob, _)) = self.open_expected(from, &self.path(from))? else {
            return Ok(false);
        };
        let temporary = self.copy_of(blob, to)?;
        self.commit(to, to.digest.size_bytes(), &temporary, reservation, || {})?;
        Ok(true)
    }

    /// A sealed temporary copy of a file.
    fn copy_of(&self, mut from: File, key: &Key) -> io::Result<Temporary> {
        let (mut to, temporary) = Temporary::create(self)?;
        // Within a file system that can, the copy shares its blocks with the original.
        if rustix::fs::ioctl_ficlone(&to, &from).is_err() {
            io::copy(&mut from, &mut to)?;
        }
        file::seal(&to, key.kind, self.mtime)?;
        Ok(temporary)
    }

    /// Puts a copy in the place of a file that has all the links it may have. The old one takes no room
    /// of its own in the books: so many links make it a very small part of each.
    fn renew(&self, key: &Key) -> io::Result<()> {
        let path = self.path(key);
        // One that was changed meanwhile is checked by who wants the link.
        let Some((full, _)) = self.open_expected(key, &path)? else { return Ok(()) };
        let copy = self.copy_of(full, key)?;
        let _gate = self.gate(key.digest);
        match fs::metadata(&path)?.nlink() > FEW_LINKS {
            true => copy.put_in_place(&path),
            false => Ok(()),
        }
    }
}

/// A pinned file of the store. Whoever stages a large tree holds one of each of its files, so it is but the pin.
struct Linkable(Pin);

#[cfg(test)]
pub(super) const LINKABLE_BYTES: usize = size_of::<Linkable>();

impl LocalFile for Linkable {
    fn link(&self, to: &Path) -> Result<()> {
        let disk = self.0.disk();
        let key = &self.0.key()?;
        let path = disk.path(key);
        let failed = |error| {
            let what = format!("linking {} to {}", path.display(), to.display());
            Error::unavailable(what, error)
        };
        let mut last = io::Error::from(io::ErrorKind::TooManyLinks);
        let mut was_replaced = false;
        for _ in 0..ATTEMPTS {
            match fs::symlink_metadata(&path) {
                Ok(metadata) if disk.is_expected(key, &metadata) => {}
                Ok(_) | Err(_) => {
                    let is_good = disk.check_blocking(key).map_err(failed)?;
                    if !is_good {
                        return Err(Error::Missing(key.digest));
                    }
                }
            }
            let linked = {
                let _gate = was_replaced.then(|| disk.gate(key.digest));
                fs::hard_link(&path, to)
            };
            match linked {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::TooManyLinks => {
                    disk.renew(key).map_err(failed)?;
                }
                // Another put of the same has replaced the file while the kernel was at it: once more
                // while none can.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    (last, was_replaced) = (error, true);
                }
                Err(error) => return Err(failed(error)),
            }
        }
        Err(failed(last))
    }
}

impl fmt::Debug for Linkable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Linkable").field(&self.0).finish()
    }
}

/// The empty blob, which lies nowhere.
#[derive(Debug)]
struct EmptyFile {
    kind: Kind,
    mtime: i64,
}

impl LocalFile for EmptyFile {
    fn link(&self, to: &Path) -> Result<()> {
        let file: io::Result<File> = OpenOptions::new().write(true).create_new(true).open(to);
        file.and_then(|file| file::seal(&file, self.kind, self.mtime))
            .map_err(|error| Error::unavailable(format!("making {}", to.display()), error))
    }
}

impl fmt::Display for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
