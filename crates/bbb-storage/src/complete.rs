use std::{fmt, sync::Arc};

use async_trait::async_trait;
use bbb_digest::Digest;

use crate::{ActionCache, ActionResult, Cas, Error, Result, Trees, trees::TreeError};

/// The layer that keeps the action cache's promise: a result is stored and served only while all that
/// it needs is in the CAS. To serve it counts as a use of all that.
pub struct Complete {
    results: Arc<dyn ActionCache>,
    cas: Arc<dyn Cas>,
    trees: Arc<Trees>,
}

impl Complete {
    /// Results whose blobs are in `cas`, which `trees` reads too.
    pub fn new(results: Arc<dyn ActionCache>, cas: Arc<dyn Cas>, trees: Arc<Trees>) -> Self {
        Self { results, cas, trees }
    }

    /// What the result needs, and what of it the CAS has not. Counts as a use of all that it has.
    async fn look_up(&self, action: Digest, result: &ActionResult) -> Result<Needs> {
        match self.trees.closure(action, result).await {
            Ok(needed) => {
                let missing = self.touch(&needed).await?;
                Ok(Needs { needed, missing })
            }
            Err(TreeError::Storage(Error::Missing(digest))) => {
                Ok(Needs { needed: vec![digest], missing: vec![digest] })
            }
            Err(TreeError::Storage(error)) => Err(error),
            Err(TreeError::Invalid { digest, invalid }) => {
                Err(Error::Unreadable { digest, what: invalid.to_string() })
            }
        }
    }

    /// Counts as a use of the blobs, and says which are not there.
    async fn touch(&self, blobs: &[Digest]) -> Result<Vec<Digest>> {
        match blobs.is_empty() {
            true => Ok(Vec::new()),
            false => self.cas.find_missing(blobs).await,
        }
    }
}

struct Needs {
    needed: Vec<Digest>,
    missing: Vec<Digest>,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ActionCache for Complete {
    async fn get(&self, action: Digest) -> Result<Option<Arc<ActionResult>>> {
        let Some(result) = self.results.get(action).await? else { return Ok(None) };
        match self.look_up(action, &result).await {
            Ok(Needs { missing, .. }) if missing.is_empty() => Ok(Some(result)),
            Ok(Needs { missing, .. }) => {
                tracing::debug!(%action, missing = missing.len(), "result has lost blobs: not served");
                Ok(None)
            }
            // A stored result whose messages cannot be read would never be of use to anyone.
            Err(Error::Unreadable { digest, what }) => {
                tracing::warn!(%action, %digest, what, "result cannot be read: not served");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn put(&self, action: Digest, result: ActionResult) -> Result<()> {
        let Needs { needed, missing } = self.look_up(action, &result).await?;
        if !missing.is_empty() {
            return Err(Error::Incomplete(missing));
        }
        self.results.put(action, result).await?;
        // Used once more, so that a store which lets go of what was used least recently lets the result
        // go first. What was lost meanwhile is found out when the result is asked for.
        self.touch(&needed).await?;
        Ok(())
    }
}

impl fmt::Display for Complete {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "complete({})", self.results)
    }
}

impl fmt::Debug for Complete {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
