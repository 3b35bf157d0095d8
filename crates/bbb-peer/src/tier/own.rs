//! The far tier of what this node owns: whoever holds it, else the bucket.

use std::fmt;

use async_trait::async_trait;
use bbb_cluster::MemberId;
use bbb_digest::Digest;
use bbb_storage::{Blob, Cas, Result, Source, Wanted};

use crate::{CallError, call::WaitsFor, proto, stats::add, wire};

use super::{Bucketed, Owner, fetch::Asked};

/// How many nodes are asked for what they hold before the bucket is.
const MAX_HOLDERS_ASKED: usize = 3;

#[derive(Debug)]
pub(super) struct Blobs {
    pub(super) far: Bucketed,
}

impl Blobs {
    /// The blob from the disk of a node that holds it, if one is known and gives it.
    async fn get_near(&self, digest: Digest, wanted: Wanted) -> Option<Blob> {
        let Bucketed { tier, instance, .. } = &self.far;
        let mut asked: Vec<MemberId> = Vec::new();
        if let Some(holder) = tier.hinted(instance, digest) {
            if let Some(blob) = self.try_holder(&holder, digest, wanted).await {
                return Some(blob);
            }
            asked.push(holder);
        }
        for owner in tier.owners(digest).filter_map(Owner::other) {
            for holder in self.located(&owner, digest).await {
                if asked.len() >= MAX_HOLDERS_ASKED {
                    return None;
                }
                if !asked.contains(&holder) {
                    if let Some(blob) = self.try_holder(&holder, digest, wanted).await {
                        return Some(blob);
                    }
                    asked.push(holder);
                }
            }
        }
        None
    }

    async fn try_holder(&self, holder: &MemberId, digest: Digest, wanted: Wanted) -> Option<Blob> {
        match self.far.ask_near(holder, digest, wanted).await {
            Asked::Given(blob) => Some(blob),
            Asked::Missing => {
                self.far.tier.hints.remove(&self.far.instance, digest, &holder.name);
                None
            }
            Asked::Lost | Asked::Failed => None,
        }
    }

    /// Who holds a blob, as another owner knows it.
    async fn located(&self, owner: &MemberId, digest: Digest) -> Vec<MemberId> {
        let Bucketed { tier, instance, .. } = &self.far;
        add(&tier.counters.locates, 1);
        let request = proto::LocateRequest {
            instance_name: instance.to_string(),
            digest: Some(wire::digest(digest)),
        };
        let answer: proto::LocateResponse = match self.send(owner, request).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::debug!(%owner, %digest, %error, "an owner does not say who holds a blob");
                return Vec::new();
            }
        };
        let view = tier.view.borrow();
        let names = answer.holders.iter().take(MAX_HOLDERS_ASKED);
        names.filter_map(|name| wire::other_member(&view, name).cloned()).collect()
    }

    async fn send(
        &self,
        owner: &MemberId,
        request: proto::LocateRequest,
    ) -> Result<proto::LocateResponse, CallError> {
        let peer = self.far.tier.peer(owner);
        let turns = peer.enter(WaitsFor::Node)?;
        peer.call(turns, "/bbb.peer.v1.Node/Locate", request, self.far.bounds().locate).await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Cas for Blobs {
    async fn get(&self, digest: Digest, wanted: Wanted) -> Result<Blob> {
        if !digest.is_empty()
            && let Some(blob) = self.get_near(digest, wanted).await
        {
            return Ok(blob);
        }
        self.far.bucket.get(digest, wanted).await
    }

    async fn put(&self, digest: Digest, source: Source) -> Result<()> {
        self.far.put(digest, source).await
    }

    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>> {
        self.far.bucket.find_missing(digests).await
    }
}

impl fmt::Display for Blobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "holders({})", self.far.bucket)
    }
}
