use std::io;

use bbb_digest::Digest;

/// What can go wrong with stored things, by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The blob is not here: upload it, or say so to whoever asked. Never stands for a fault.
    #[error("blob {0} is not stored here")]
    Missing(Digest),
    /// A result or request needs blobs that are not here: upload them first.
    #[error("{} blobs that are needed are not stored here, first {:?}", .0.len(), .0.first())]
    Incomplete(Vec<Digest>),
    /// The bytes that came are not those that were announced; nothing was kept. Do not retry.
    #[error("expected blob {expected}, got {found}")]
    Mismatch {
        /// What was announced.
        expected: Digest,
        /// What came, as far as it was read.
        found: String,
    },
    /// What came cannot be read, such as a broken zstd stream; nothing was kept. Do not retry.
    #[error("unreadable data for blob {digest}: {what}")]
    Unreadable {
        /// The blob in question.
        digest: Digest,
        /// What is wrong with the data.
        what: String,
    },
    /// Whoever sent the bytes stopped before their end; nothing was kept.
    #[error("upload of {digest} broke off")]
    BrokenOff {
        /// The blob in question.
        digest: Digest,
        /// What the sender's side said.
        source: io::Error,
    },
    /// There is no room, and making some did not help: retry later or free some.
    #[error("no room for {size_bytes} bytes: {what}")]
    Full {
        /// The room that was wanted.
        size_bytes: u64,
        /// Which limit was met.
        what: String,
    },
    /// The store cannot answer now: retry.
    #[error("storage is unavailable: {what}")]
    Unavailable {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
}

/// The result of an operation on stored things.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The store failed with `source` when it tried `what`.
    pub fn unavailable(what: impl Into<String>, source: io::Error) -> Self {
        Self::Unavailable { what: what.into(), source }
    }

    /// The same error once more, for another who waits for the same thing.
    #[must_use]
    pub fn again(&self) -> Self {
        let copy = |source: &io::Error| io::Error::new(source.kind(), source.to_string());
        match self {
            Self::Missing(digest) => Self::Missing(*digest),
            Self::Incomplete(missing) => Self::Incomplete(missing.clone()),
            Self::Mismatch { expected, found } => {
                Self::Mismatch { expected: *expected, found: found.clone() }
            }
            Self::Unreadable { digest, what } => {
                Self::Unreadable { digest: *digest, what: what.clone() }
            }
            Self::BrokenOff { digest, source } => {
                Self::BrokenOff { digest: *digest, source: copy(source) }
            }
            Self::Full { size_bytes, what } => {
                Self::Full { size_bytes: *size_bytes, what: what.clone() }
            }
            Self::Unavailable { what, source } => {
                Self::Unavailable { what: what.clone(), source: copy(source) }
            }
        }
    }
}
