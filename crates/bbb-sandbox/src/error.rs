//! What can go wrong, by what the caller can do about it.

use std::io;

/// A run that gave no [`crate::Exit`]. Never the action's own failure.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request can never be run as it is; nothing happened.
    #[error("request cannot be run: {0}")]
    Invalid(String),
    /// The sandbox could not be set up; the command did not run.
    #[error("cannot {what}")]
    Setup {
        /// The step that failed.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// The launcher could not be started (again); the command did not run.
    #[error("launcher does not start")]
    Start(#[from] StartError),
    /// The launcher or the action's init died; the command may have run, and is dead now.
    #[error("sandbox was lost while the command ran")]
    Lost,
}

impl Error {
    /// Whether the command can have run; if not, it is safe to try again anywhere.
    #[must_use]
    pub fn may_have_happened(&self) -> bool {
        matches!(self, Error::Lost)
    }
}

/// The sandbox cannot be had on this machine as it is configured.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No folder was configured, or one is not absolute.
    #[error("configuration of the sandbox: {0}")]
    Config(String),
    /// The launcher process could not be made.
    #[error("cannot execute the launcher")]
    Execute(#[source] io::Error),
    /// The launcher could not set up what all actions share.
    #[error("cannot {what}")]
    Setup {
        /// The step that failed.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// The launcher ended without saying why.
    #[error("launcher ended at start")]
    Ended,
    /// A trial command did not run as it must.
    #[error("trial command did not run: {0}")]
    Trial(String),
}
