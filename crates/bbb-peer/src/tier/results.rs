//! Results that other nodes own: each is kept fresh by its owner alone, and everybody asks there.
//!
//! So what one node was told, every node answers. Only while an owner is not reached do others go to the bucket by
//! themselves; what the owner remembers may then be as old as a result is taken to be fresh.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use bbb_cluster::MemberId;
use bbb_digest::Digest;
use bbb_reapi::{
    ToProto as _, function_code,
    proto::reapi::{GetActionResultRequest, UpdateActionResultRequest},
};
use bbb_storage::{ActionCache, ActionResult, Result};
use tonic::Code;

use crate::{CallError, call::WaitsFor, stats::add};

use super::{Bucketed, Owner};

/// The paths of the calls.
const GET: &str = "/build.bazel.remote.execution.v2.ActionCache/GetActionResult";
const UPDATE: &str = "/build.bazel.remote.execution.v2.ActionCache/UpdateActionResult";

#[derive(Debug)]
pub(super) struct Results {
    pub(super) far: Bucketed,
    /// What this node answers others from.
    pub(super) own: Arc<dyn ActionCache>,
    pub(super) bucket: Arc<dyn ActionCache>,
}

impl Results {
    async fn ask(
        &self,
        owner: &MemberId,
        action: Digest,
    ) -> Result<Option<ActionResult>, CallError> {
        let request = GetActionResultRequest {
            instance_name: self.far.instance.to_string(),
            action_digest: Some(action.to_proto()),
            digest_function: function_code(action.function()) as i32,
            ..GetActionResultRequest::default()
        };
        let peer = self.far.tier.peer(owner);
        match peer.call(peer.enter(WaitsFor::Bucket)?, GET, request, self.far.bounds().result).await
        {
            Err(CallError::Refused(status)) if status.code() == Code::NotFound => Ok(None),
            answer => answer.map(Some),
        }
    }

    async fn give(
        &self,
        owner: &MemberId,
        action: Digest,
        result: ActionResult,
    ) -> Result<ActionResult, CallError> {
        let request = UpdateActionResultRequest {
            instance_name: self.far.instance.to_string(),
            action_digest: Some(action.to_proto()),
            action_result: Some(result),
            digest_function: function_code(action.function()) as i32,
            ..UpdateActionResultRequest::default()
        };
        let peer = self.far.tier.peer(owner);
        peer.call(peer.enter(WaitsFor::Bucket)?, UPDATE, request, self.far.bounds().result).await
    }

    fn fall_back(&self, owner: &MemberId, action: Digest, error: &CallError) {
        let counters = &self.far.tier.counters;
        if matches!(error, CallError::SteppedOver) {
            add(&counters.stepped_over, 1);
        }
        add(&counters.fallbacks, 1);
        tracing::debug!(%owner, %action, %error, "an owner does not serve a result");
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ActionCache for Results {
    async fn get(&self, action: Digest) -> Result<Option<Arc<ActionResult>>> {
        let tier = &self.far.tier;
        let Some(owner) = tier.owners(action).next().and_then(Owner::other) else {
            return self.own.get(action).await;
        };
        add(&tier.counters.results, 1);
        match self.ask(&owner, action).await {
            Ok(result) => Ok(result.map(Arc::new)),
            Err(error) => {
                self.fall_back(&owner, action, &error);
                self.bucket.get(action).await
            }
        }
    }

    async fn put(&self, action: Digest, result: ActionResult) -> Result<()> {
        let tier = &self.far.tier;
        let Some(owner) = tier.owners(action).next().and_then(Owner::other) else {
            return self.own.put(action, result).await;
        };
        add(&tier.counters.results, 1);
        match self.give(&owner, action, result.clone()).await {
            Ok(_) => Ok(()),
            // It may have come about. To write the same once more does no harm.
            Err(error) => {
                self.fall_back(&owner, action, &error);
                self.bucket.put(action, result).await
            }
        }
    }
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "owners({})", self.bucket)
    }
}
