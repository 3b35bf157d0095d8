use std::{fmt, sync::Arc};

use async_trait::async_trait;
use bbb_digest::Digest;

pub use bbb_reapi::proto::reapi::ActionResult;

use crate::Result;

/// The action cache: results by the digests of their actions.
///
/// It never promises what the CAS cannot give: the layer [`Complete`](crate::Complete) sees to that.
#[async_trait]
pub trait ActionCache: Send + Sync + fmt::Debug + fmt::Display + 'static {
    /// The result of an action, if one is known. Counts as a use of it.
    ///
    /// # Errors
    /// [`Error::Unavailable`](crate::Error::Unavailable) on any fault.
    async fn get(&self, action: Digest) -> Result<Option<Arc<ActionResult>>>;

    /// Stores the result of an action, in place of an older one. When this returns, it is durable.
    ///
    /// # Errors
    /// [`Error::Incomplete`](crate::Error::Incomplete) if blobs that it needs are not stored,
    /// [`Error::Full`](crate::Error::Full) if there is no room,
    /// [`Error::Unavailable`](crate::Error::Unavailable) on any other fault.
    async fn put(&self, action: Digest, result: ActionResult) -> Result<()>;
}
