//! The results of one instance of which some wait to be written far.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use bbb_digest::{Digest, InstanceName};

use crate::{ActionCache, ActionResult, Result};

use super::Queue;

/// The layer that looks into the queue first.
pub(in super::super) struct Queued {
    pub(in super::super) instance: InstanceName,
    pub(in super::super) far: Arc<dyn ActionCache>,
    pub(in super::super) queue: Arc<Queue>,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ActionCache for Queued {
    async fn get(&self, action: Digest) -> Result<Option<Arc<ActionResult>>> {
        match self.queue.result(&self.instance, action).await? {
            Some(result) => Ok(Some(Arc::new(result))),
            None => self.far.get(action).await,
        }
    }

    async fn put(&self, action: Digest, result: ActionResult) -> Result<()> {
        match self.queue.takes_results() {
            true => self.queue.add_result(&self.instance, action, &result).await,
            false => self.far.put(action, result).await,
        }
    }
}

impl fmt::Display for Queued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "queued({})", self.far)
    }
}

impl fmt::Debug for Queued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
