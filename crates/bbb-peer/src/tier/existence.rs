//! Existence, asked of owners: one call for each, however many blobs are looked for.

use std::collections::{HashMap, HashSet};

use bbb_cluster::MemberId;
use bbb_digest::{Digest, Function};
use bbb_reapi::{
    ToProto as _, digest, function_code,
    proto::reapi::{FindMissingBlobsRequest, FindMissingBlobsResponse},
};
use bbb_storage::Result;
use futures::{StreamExt as _, TryStreamExt as _, stream};

use crate::{CallError, call::WaitsFor, stats::add};

use super::Bucketed;

/// How many digests go in one message: less than 4 MiB of them, of whatever function.
const MAX_DIGESTS_PER_CALL: usize = 24_000;

/// How many calls are on their way at once for one question.
const MAX_CALLS: usize = 16;

/// The path of the call.
const FIND_MISSING: &str =
    "/build.bazel.remote.execution.v2.ContentAddressableStorage/FindMissingBlobs";

/// Blobs of one owner, and of one function, since messages name but one. No owner if this node is.
type Share = (Option<MemberId>, Function);

impl Bucketed {
    /// Those of the blobs that are not in the bucket, each once, as their owners say. What an owner does not say, the
    /// bucket is asked for.
    pub(super) async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>> {
        let mut seen = HashSet::with_capacity(digests.len());
        let unknown = self.tier.bucket.unknown(&self.instance, digests);
        let unknown = unknown.into_iter().filter(|digest| seen.insert(*digest));
        let mut shares: HashMap<Share, Vec<Digest>> = HashMap::new();
        {
            let view = self.tier.view.borrow();
            for digest in unknown {
                let owner = view.owners(digest.hash())[0].filter(|owner| *owner != view.me());
                // Most are in a share that is there already.
                let share = (owner.cloned(), digest.function());
                shares.entry(share).or_default().push(digest);
            }
        }
        let mut calls = Vec::new();
        for ((owner, function), digests) in shares {
            for part in digests.chunks(MAX_DIGESTS_PER_CALL) {
                calls.push((owner.clone(), function, part.to_vec()));
            }
        }
        let answers = stream::iter(calls)
            .map(|(owner, function, digests)| self.missing_of(owner, function, digests))
            .buffer_unordered(MAX_CALLS);
        answers.try_concat().await
    }

    async fn missing_of(
        &self,
        owner: Option<MemberId>,
        function: Function,
        digests: Vec<Digest>,
    ) -> Result<Vec<Digest>> {
        let Some(owner) = owner else { return self.bucket.find_missing(&digests).await };
        match self.ask_missing(&owner, function, &digests).await {
            Ok(missing) => Ok(missing),
            Err(error) => {
                if matches!(error, CallError::SteppedOver) {
                    add(&self.tier.counters.stepped_over, 1);
                }
                add(&self.tier.counters.fallbacks, 1);
                tracing::debug!(%owner, %error, "an owner does not say what is missing");
                self.bucket.find_missing(&digests).await
            }
        }
    }

    async fn ask_missing(
        &self,
        owner: &MemberId,
        function: Function,
        digests: &[Digest],
    ) -> Result<Vec<Digest>, CallError> {
        let request = FindMissingBlobsRequest {
            instance_name: self.instance.to_string(),
            blob_digests: digests.iter().map(|digest| digest.to_proto()).collect(),
            digest_function: function_code(function) as i32,
        };
        add(&self.tier.counters.existence_calls, 1);
        let peer = self.tier.peer(owner);
        let turns = peer.enter(WaitsFor::Bucket)?;
        let answer = peer.call(turns, FIND_MISSING, request, self.bounds().existence).await;
        let answer: FindMissingBlobsResponse = answer?;
        if answer.missing_blob_digests.is_empty() {
            return Ok(Vec::new());
        }
        // Nothing is missing but what was asked for.
        let mut asked: HashSet<Digest> = digests.iter().copied().collect();
        let named = answer.missing_blob_digests.iter();
        let named = named.filter_map(|named| digest(function, named).ok());
        Ok(named.filter(|digest| asked.remove(digest)).collect())
    }
}
