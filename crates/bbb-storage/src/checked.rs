use bbb_digest::{Digest, Hasher};
use bytes::Bytes;

use crate::{Error, Result, blocking::blocking};

/// How many bytes are hashed on the reactor at the most: a fraction of a millisecond's work.
const HASH_AT_ONCE_BYTES: usize = 128 << 10;

/// A whole blob in memory whose hash was checked.
#[derive(Clone, Debug)]
pub(crate) struct Checked {
    digest: Digest,
    bytes: Bytes,
}

impl Checked {
    /// Checks whether the bytes are this blob; hashes many of them off the reactor.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if they are not.
    pub(crate) async fn new(digest: Digest, bytes: Bytes) -> Result<Self> {
        let mismatch = |found| Error::Mismatch { expected: digest, found };
        if bytes.len() as u64 != digest.size_bytes() {
            return Err(mismatch(format!("{} bytes", bytes.len())));
        }
        let hasher = Hasher::new(digest.function(), digest.size_bytes());
        match hash(hasher, bytes.clone()).await?.finish() {
            found if found == digest => Ok(Self { digest, bytes }),
            found => Err(mismatch(found.to_string())),
        }
    }

    /// Which blob it is.
    pub(crate) fn digest(&self) -> Digest {
        self.digest
    }

    /// All of its bytes.
    pub(crate) fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

/// Hashes what comes next; much of it off the reactor.
///
/// # Errors
/// [`Error::Unavailable`] if the runtime stops.
pub(crate) async fn hash(mut hasher: Hasher, piece: Bytes) -> Result<Hasher> {
    if piece.len() <= HASH_AT_ONCE_BYTES {
        hasher.update(&piece);
        return Ok(hasher);
    }
    blocking("hashing", move || {
        hasher.update(&piece);
        Ok(hasher)
    })
    .await
}
