//! Why an asset could not be had, by what the client is told.

use bbb_storage::Error;

/// What a client is told of a fetch that failed, after the comment of `FetchBlobResponse.status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failed {
    /// There is no such asset. The least telling, of several.
    NotFound,
    /// The origin does not let us, or we are not to ask there.
    Denied,
    /// It did not come about: a broken connection, a wrong checksum.
    Aborted,
    /// It took too long.
    TooLate,
    /// There is too much of it, or the origin has had enough.
    Exhausted,
}

/// Why an asset could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// What is outside of this cluster's control.
    #[error("{what}")]
    Outside {
        /// What the client is told.
        failed: Failed,
        /// The story.
        what: String,
    },
    /// A fault of the store.
    #[error(transparent)]
    Storage(#[from] Error),
}

impl Failure {
    pub(crate) fn new(failed: Failed, what: impl Into<String>) -> Self {
        Self::Outside { failed, what: what.into() }
    }

    /// The same, and what came before.
    #[must_use]
    pub(crate) fn after(self, before: &str) -> Self {
        match self {
            Self::Outside { failed, what } => {
                Self::Outside { failed, what: format!("{before}: {what}") }
            }
            Self::Storage(error) => Self::Storage(error),
        }
    }
}

/// An error with all its causes.
pub(crate) fn story(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
