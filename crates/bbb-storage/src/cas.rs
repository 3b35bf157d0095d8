use std::fmt;

use async_trait::async_trait;
use bbb_digest::Digest;
use bytes::{Bytes, BytesMut};
use futures::TryStreamExt as _;

use crate::{Blob, Content, Error, Result, Source, Wanted};

/// Content-addressed storage: blobs by their digests.
///
/// Implementers are tiers, which hold blobs, and layers, which wrap another `Cas` and add one policy.
/// `Display` names what it is, for logs. The empty blob is always there.
#[async_trait]
pub trait Cas: Send + Sync + fmt::Debug + fmt::Display + 'static {
    /// Reads a blob or a part of it. Counts as a use of the blob.
    ///
    /// A whole blob may come zstd-encoded where it is stored so; a part never does.
    ///
    /// # Errors
    /// [`Error::Missing`] if it is not here, [`Error::Unavailable`] on any fault.
    async fn get(&self, digest: Digest, wanted: Wanted) -> Result<Blob>;

    /// Stores a blob. When this returns, the blob is durable and readable.
    ///
    /// A store that already has the blob may return before it has read all of `source`.
    ///
    /// # Errors
    /// [`Error::Mismatch`], [`Error::Unreadable`] or [`Error::BrokenOff`] if the source is bad,
    /// [`Error::Full`] if there is no room, [`Error::Unavailable`] on any other fault. Nothing is kept then.
    async fn put(&self, digest: Digest, source: Source) -> Result<()>;

    /// Tells which of the blobs are not here, each once. Counts as a use of those that are: they stay
    /// readable for the time that the store promises.
    ///
    /// # Errors
    /// [`Error::Unavailable`] on any fault.
    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>>;
}

/// What every [`Cas`] can do by means of its few methods.
#[async_trait]
pub trait CasExt: Cas {
    /// Reads a whole blob of at most `limit_bytes` into memory.
    ///
    /// # Errors
    /// As [`Cas::get`]; [`Error::Full`] if the blob is larger than the limit.
    async fn get_bytes(&self, digest: Digest, limit_bytes: u64) -> Result<Bytes> {
        let size_bytes = digest.size_bytes();
        if size_bytes > limit_bytes {
            let what = format!("blob {digest} is larger than {limit_bytes} bytes");
            return Err(Error::Full { size_bytes, what });
        }
        let blob = self.get(digest, Wanted::ALL).await?;
        if let Content::Bytes(bytes) = blob.content {
            return Ok(bytes);
        }
        let mut stream = blob.into_stream();
        let mut bytes = BytesMut::with_capacity(size_bytes as usize);
        while let Some(chunk) = stream.try_next().await? {
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.freeze())
    }
}

impl<C: Cas + ?Sized> CasExt for C {}
