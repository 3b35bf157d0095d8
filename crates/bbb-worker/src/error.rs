use std::{error, io, time::Duration};

use bbb_digest::Digest;
use bbb_reapi::{Invalid, proto::rpc, status};
use bbb_scheduler::Outcome;
use bbb_storage::TreeError;

/// What keeps an action from being run to a result, by what follows for whoever asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The action can never be run as it is: its client must change it.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// Blobs that it needs are not stored: its client must upload them.
    #[error("{} blobs that are needed are not stored", .0.len())]
    Missing(Vec<Digest>),
    /// This worker could not do it: another try may.
    #[error("cannot {what}")]
    Fault {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: Box<dyn error::Error + Send + Sync>,
    },
    /// This worker cannot do it, though another may.
    #[error("{0}")]
    Unable(String),
    /// A phase passed its deadline here: another try may not.
    #[error("{phase} took longer than {limit:?}")]
    Late {
        /// The phase.
        phase: &'static str,
        /// Its deadline.
        limit: Duration,
    },
}

impl Error {
    /// The fault `source` met while trying `what`.
    pub(crate) fn fault(
        what: impl Into<String>,
        source: impl Into<Box<dyn error::Error + Send + Sync>>,
    ) -> Self {
        Self::Fault { what: what.into(), source: source.into() }
    }

    /// What a store said while this worker tried `what`.
    pub(crate) fn storage(what: impl Into<String>, error: bbb_storage::Error) -> Self {
        match error {
            bbb_storage::Error::Missing(digest) => Self::Missing(vec![digest]),
            error => Self::fault(what, error),
        }
    }

    /// What reading the tree at `field` ended in.
    pub(crate) fn tree(field: &str, error: TreeError) -> Self {
        match error {
            TreeError::Storage(error) => Self::storage(format!("read {field}"), error),
            TreeError::Invalid { digest, invalid } => {
                let what = format!("{}, in the directory {digest}", invalid.what);
                Self::Invalid(Invalid::new(format!("{field}.{}", invalid.field), what))
            }
        }
    }

    /// What the task comes to: decided where no other worker would change it, failed otherwise.
    pub(crate) fn into_outcome(self, decide: impl FnOnce(rpc::Status) -> Outcome) -> Outcome {
        match &self {
            Self::Invalid(invalid) => decide(status::invalid(invalid)),
            Self::Missing(digests) => decide(status::missing(digests)),
            Self::Fault { .. } | Self::Unable(_) | Self::Late { .. } => {
                Outcome::Failed(chain(&self))
            }
        }
    }
}

/// An error with all its causes, in one line.
pub(crate) fn chain(error: &dyn error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Runs what blocks for more than half a millisecond off the reactor.
///
/// Dropping the future does not stop it, so `work` must own what keeps its folder alive.
pub(crate) async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::fault(what, io::Error::other(error))),
    }
}
