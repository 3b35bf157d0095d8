use std::{fmt, path::Path, sync::Arc};

use async_trait::async_trait;
use bbb_digest::Digest;

use crate::{Result, disk::Lodger};

/// A store whose blobs lie as files on this machine, from where they can be hard-linked.
///
/// `Display` names what it is, for logs.
#[async_trait]
pub trait LocalFiles: Send + Sync + fmt::Debug + fmt::Display + 'static {
    /// Keeps a blob in place as a file to link from, one that may be executed if so asked. Counts as a
    /// use of the blob.
    ///
    /// # Errors
    /// [`Error::Missing`](crate::Error::Missing) if it is not on this machine,
    /// [`Error::Full`](crate::Error::Full) if there is no room for a copy that may be executed,
    /// [`Error::Unavailable`](crate::Error::Unavailable) on any fault.
    async fn pin(&self, digest: Digest, executable: bool) -> Result<Arc<dyn LocalFile>>;
}

/// A local file that stays where it is as long as this value lives.
pub trait LocalFile: Send + Sync + fmt::Debug + 'static {
    /// Makes `to` a hard link to the file; blocks. `to` is not there yet and lies on the same file
    /// system. The file behind it must never be written to, nor its mode and
    /// times changed; whom it belongs to does not matter to the store.
    ///
    /// # Errors
    /// [`Error::Missing`](crate::Error::Missing) if someone has taken the blob away or damaged it,
    /// [`Error::Unavailable`](crate::Error::Unavailable) if it cannot be linked.
    fn link(&self, to: &Path) -> Result<()>;

    /// Whether it was not on this machine, and had to be brought here to be pinned.
    fn was_brought(&self) -> bool {
        false
    }
}

/// A store in whose folder others may keep things of their own, besides blobs: they count against its limit, and
/// go when they were used least recently, in one order with its blobs.
#[async_trait]
pub trait Lodging: Send + Sync + fmt::Debug + 'static {
    /// Takes room for something of so many bytes, counted in whole blocks and as used now; what is used least
    /// goes for it.
    ///
    /// `leave` removes it when its turn has come, and blocks; it runs once at the most, off the reactor and without a
    /// lock, and may be dropped without being run. Its bytes are free when it returns, so it must not leave the
    /// removal to anyone else; nor wait for room, for whoever wants some waits for it. What it pins it gives back.
    ///
    /// # Errors
    /// [`Error::Full`](crate::Error::Full) if there is no room and all that is stored is in use.
    async fn take(&self, bytes: u64, leave: Box<dyn FnOnce() + Send>) -> Result<Lodger>;
}
