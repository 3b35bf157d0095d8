//! Why an asset could not be had, by what the client is told.

use std::sync::Arc;

use bbb_reapi::Invalid;
use bbb_storage::Error;

use crate::flight::NoOutcome;

/// The longest story of a failure, in bytes.
const MAX_STORY_BYTES: usize = 4 << 10;

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
    /// What the client asks for makes no sense.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// Repositories cannot be fetched by this node.
    #[error("this node lacks the program git")]
    NoGit,
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
            Self::Invalid(_) | Self::NoGit | Self::Storage(_) => self,
        }
    }
}

/// Why there is none.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FetchError {
    /// Nobody pushed it, and it cannot be fetched by these qualifiers.
    #[error("qualifiers are not supported: {0:?}")]
    Unsupported(Vec<Box<str>>),
    /// It could not be had from outside.
    #[error("{what}")]
    Outside {
        /// What the client is told.
        failed: Failed,
        /// The URI that this is about, by index.
        uri: usize,
        /// The story of every URI.
        what: String,
    },
    /// What is asked for makes no sense.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// It is in a repository, and this node has no git.
    #[error(
        "repositories are fetched by the program git, which is not on the PATH of this node: \
         install it (Debian, Ubuntu: apt-get install git)"
    )]
    NoGit,
    /// A fault of the store.
    #[error(transparent)]
    Storage(Arc<Error>),
    /// Too many fetches are under way.
    #[error("too many fetches are under way")]
    Busy,
    /// The node stops.
    #[error("the node stops")]
    Stopping,
}

impl From<Error> for FetchError {
    fn from(error: Error) -> Self {
        Self::Storage(Arc::new(error))
    }
}

impl From<NoOutcome> for FetchError {
    fn from(none: NoOutcome) -> Self {
        match none {
            NoOutcome::Busy => Self::Busy,
            NoOutcome::Late => {
                let what = "another fetch of the same is still under way, and the time is up";
                Self::Outside { failed: Failed::TooLate, uri: 0, what: what.to_owned() }
            }
            NoOutcome::Stopping => Self::Stopping,
        }
    }
}

/// What became of each URI.
#[derive(Default)]
pub(crate) struct Stories {
    text: String,
    /// The most telling failure, and the URI that it is about.
    worst: Option<(Failed, usize)>,
    count: usize,
}

impl Stories {
    pub(crate) fn add(&mut self, uri: usize, failed: Failed, story: String) {
        self.count += 1;
        if self.worst.is_none_or(|(worst, _)| failed > worst) {
            self.worst = Some((failed, uri));
        }
        if !self.text.is_empty() {
            self.text.push_str("; ");
        }
        self.text.push_str(&story);
        self.text.truncate(self.text.floor_char_boundary(MAX_STORY_BYTES));
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    pub(crate) fn into_error(self) -> FetchError {
        let (failed, uri) = self.worst.unwrap_or((Failed::NotFound, 0));
        FetchError::Outside { failed, uri, what: self.text }
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
