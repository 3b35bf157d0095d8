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

    /// What the result needs and the CAS has not.
    async fn missing(&self, action: Digest, result: &ActionResult) -> Result<Vec<Digest>> {
        match self.trees.closure(action, result).await {
            Ok(closure) if closure.is_empty() => Ok(Vec::new()),
            Ok(closure) => self.cas.find_missing(&closure).await,
            Err(TreeError::Storage(Error::Missing(digest))) => Ok(vec![digest]),
            Err(TreeError::Storage(error)) => Err(error),
            Err(TreeError::Invalid { digest, invalid }) => {
                Err(Error::Unreadable { digest, what: invalid.to_string() })
            }
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ActionCache for Complete {
    async fn get(&self, action: Digest) -> Result<Option<Arc<ActionResult>>> {
        let Some(result) = self.results.get(action).await? else { return Ok(None) };
        match self.missing(action, &result).await {
            Ok(missing) if missing.is_empty() => Ok(Some(result)),
            Ok(missing) => {
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
        let missing = self.missing(action, &result).await?;
        match missing.is_empty() {
            true => self.results.put(action, result).await,
            false => Err(Error::Incomplete(missing)),
        }
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
