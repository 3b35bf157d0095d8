//! Equal actions at once: they may be executed once for all of them, and none may fail for it.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bbb_reapi::proto::reapi::Directory;

use super::{Maker, execute, stdout};
use crate::digest::Digest;
use crate::drive::{Calls, Plan, Workload};
use crate::failure::Failure;
use crate::payload::Blob;
use crate::target::Target;

/// Every execution prints something else, so executions can be told apart.
const SCRIPT: &str = "export PATH=/usr/bin:/bin; sleep 0.05; date +%s%N";

/// As many calls as there are callers ask for the same action, then for the next.
pub(super) struct Merge(pub(super) Maker);

struct MergeCalls {
    actions: Vec<Digest>,
    concurrency: u64,
    /// Digests of what was printed: one for each execution.
    printed: Mutex<HashSet<String>>,
    /// Actions that were asked for.
    asked: Mutex<HashSet<u64>>,
}

#[async_trait]
impl Workload for Merge {
    async fn prepare(&self, target: &Target, plan: &Plan) -> Result<Arc<dyn Calls>, Failure> {
        let maker = &self.0;
        let command = maker.command(&["/bin/sh", "-c", SCRIPT], &[]);
        let root = maker.blob(&Directory::default());
        let concurrency = plan.concurrency as u64;
        let mut blobs: Vec<Blob> = (0..plan.calls.div_ceil(concurrency))
            .map(|_| maker.action(&command, &root.digest))
            .collect();
        let actions = blobs.iter().map(|action| action.digest.clone()).collect();
        blobs.extend([command, root]);
        target.upload(&blobs).await?;
        let (printed, asked) = (Mutex::default(), Mutex::default());
        Ok(Arc::new(MergeCalls { actions, concurrency, printed, asked }))
    }
}

#[async_trait]
impl Calls for MergeCalls {
    async fn call(&self, target: &Target, index: u64) -> Result<u64, Failure> {
        let action = index / self.concurrency;
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).insert(action);
        let response = execute(target, &self.actions[action as usize]).await?;
        let printed = stdout(target, &response)
            .filter(|printed| printed.size_bytes > 0)
            .ok_or_else(|| Failure::wrong("the action printed nothing"))?;
        self.printed.lock().unwrap_or_else(PoisonError::into_inner).insert(printed.hash);
        Ok(0)
    }

    fn remark(&self) -> Option<String> {
        let executions = self.printed.lock().unwrap_or_else(PoisonError::into_inner).len();
        let actions = self.asked.lock().unwrap_or_else(PoisonError::into_inner).len();
        Some(format!("{executions} executions of {actions} actions"))
    }
}
