//! What other nodes may ask of this one, beside blobs and results.

use std::{fmt, sync::Arc};

use bbb_cluster::IntroduceError;
use bbb_digest::InstanceName;
use bbb_storage::Disk;
use tonic::{Request, Response, Status};

use crate::{
    Introductions, PeerTier,
    proto::{
        HoldRequest, HoldResponse, IntroduceRequest, IntroduceResponse, LocateRequest,
        LocateResponse,
        node_server::{Node, NodeServer},
    },
    wire,
};

/// The largest message that another node may send: hints and digests take some hundred kilobytes.
const MAX_MESSAGE_BYTES: usize = 1 << 20;

/// The longest name of a holder that is remembered: no member has a longer one.
const MAX_HOLDER_BYTES: usize = 128;

/// The service of a node.
pub struct NodeService {
    near: Arc<Disk>,
    tier: Arc<PeerTier>,
    introductions: Arc<Introductions>,
}

impl NodeService {
    /// A service that answers out of these.
    pub fn new(
        near: Arc<Disk>,
        tier: Arc<PeerTier>,
        introductions: Arc<Introductions>,
    ) -> NodeServer<Self> {
        NodeServer::new(Self { near, tier, introductions })
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
    }
}

#[tonic::async_trait]
impl Node for NodeService {
    async fn introduce(
        &self,
        request: Request<IntroduceRequest>,
    ) -> Result<Response<IntroduceResponse>, Status> {
        match self.introductions.answer(self.tier.me(), request.into_inner()).await {
            Ok(answer) => Ok(Response::new(answer)),
            Err(IntroduceError::Refused(why)) => Err(Status::failed_precondition(why)),
            Err(IntroduceError::Unreachable(error)) => {
                Err(Status::unavailable(format!("cannot look for the bucket's mark: {error}")))
            }
        }
    }

    async fn locate(
        &self,
        request: Request<LocateRequest>,
    ) -> Result<Response<LocateResponse>, Status> {
        let LocateRequest { instance_name, digest } = request.into_inner();
        let instance = instance(&instance_name)?;
        let digest = digest.as_ref().and_then(wire::read_digest);
        let digest = digest.ok_or_else(|| Status::invalid_argument("digest is none"))?;
        let mut holders = Vec::new();
        let absent = self.near.cas(&instance).find_missing(&[digest]).await;
        if absent.is_ok_and(|absent| absent.is_empty()) {
            holders.push(self.tier.me().name.to_string());
        }
        holders.extend(self.tier.hinted(&instance, digest).map(|holder| holder.name.to_string()));
        Ok(Response::new(LocateResponse { holders }))
    }

    async fn hold(&self, request: Request<HoldRequest>) -> Result<Response<HoldResponse>, Status> {
        let HoldRequest { holder, holdings } = request.into_inner();
        if holder.len() > MAX_HOLDER_BYTES {
            return Err(Status::invalid_argument("holder: too long for a node's name"));
        }
        for holding in holdings {
            let instance = instance(&holding.instance_name)?;
            // What is no digest here is one of a later version: no use to us, and no harm.
            let digests: Vec<_> = holding.digests.iter().filter_map(wire::read_digest).collect();
            self.tier.heard(&instance, &digests, &holder, holding.is_written);
        }
        Ok(Response::new(HoldResponse {}))
    }
}

fn instance(name: &str) -> Result<InstanceName, Status> {
    name.parse().map_err(|error| Status::invalid_argument(format!("instance_name: {error}")))
}

impl fmt::Debug for NodeService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeService").field("tier", &self.tier).finish_non_exhaustive()
    }
}
