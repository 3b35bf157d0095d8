//! The action that does nothing: what execution itself costs, and what a cache hit costs.

use std::sync::Arc;

use async_trait::async_trait;
use bbb_reapi::proto::reapi::Directory;

use super::{Maker, execute};
use crate::digest::Digest;
use crate::drive::{Calls, Plan, Workload};
use crate::failure::Failure;
use crate::payload::Blob;
use crate::target::Target;

/// Actions that are asked for in turn when the cache answers.
const CACHED: u64 = 100;

/// New actions without inputs.
async fn upload(maker: &Maker, target: &Target, count: u64) -> Result<Vec<Digest>, Failure> {
    let command = maker.command(&["/bin/true"], &[]);
    let root = maker.blob(&Directory::default());
    let mut blobs: Vec<Blob> = (0..count).map(|_| maker.action(&command, &root.digest)).collect();
    let actions = blobs.iter().map(|action| action.digest.clone()).collect();
    blobs.extend([command, root]);
    target.upload(&blobs).await?;
    Ok(actions)
}

/// Each call executes an action of its own.
pub(super) struct Noop(pub(super) Maker);

struct NoopCalls(Vec<Digest>);

#[async_trait]
impl Workload for Noop {
    async fn prepare(&self, target: &Target, plan: &Plan) -> Result<Arc<dyn Calls>, Failure> {
        Ok(Arc::new(NoopCalls(upload(&self.0, target, plan.calls).await?)))
    }
}

#[async_trait]
impl Calls for NoopCalls {
    async fn call(&self, target: &Target, index: u64) -> Result<u64, Failure> {
        if execute(target, &self.0[index as usize]).await?.cached_result {
            return Err(Failure::wrong("a new action was answered from the cache"));
        }
        Ok(0)
    }
}

/// Each call asks for an action that was executed before.
pub(super) struct Cached(pub(super) Maker);

struct CachedCalls(Vec<Digest>);

#[async_trait]
impl Workload for Cached {
    async fn prepare(&self, target: &Target, _: &Plan) -> Result<Arc<dyn Calls>, Failure> {
        let actions = upload(&self.0, target, CACHED).await?;
        for action in &actions {
            execute(target, action).await?;
        }
        Ok(Arc::new(CachedCalls(actions)))
    }
}

#[async_trait]
impl Calls for CachedCalls {
    async fn call(&self, target: &Target, index: u64) -> Result<u64, Failure> {
        if execute(target, &self.0[index as usize % self.0.len()]).await?.cached_result {
            return Ok(0);
        }
        Err(Failure::wrong("an action that was executed before was executed again"))
    }
}
