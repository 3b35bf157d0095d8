use std::{fmt, path::Path, sync::Arc};

use async_trait::async_trait;
use bbb_digest::Digest;

use crate::Result;

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
    /// system. The file behind it must never be written to, nor its metadata changed.
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
