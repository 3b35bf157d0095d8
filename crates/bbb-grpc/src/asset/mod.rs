//! The Remote Asset API: Fetch and Push, as the comments of `build.bazel.remote.asset.v1` define them.
//!
//! Requests are parsed here into values of `bbb-asset`, which does the work. What went wrong outside of this cluster is told
//! within the response, with the story of each URI; everything else ends the call.

mod answer;
mod forms;
mod parse;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bbb_asset::{Assets, FetchError, Kind};
use bbb_digest::Digest;
use bbb_reapi::{
    Invalid,
    proto::asset::{
        FetchBlobRequest, FetchBlobResponse, FetchDirectoryRequest, FetchDirectoryResponse,
        PushBlobRequest, PushBlobResponse, PushDirectoryRequest, PushDirectoryResponse,
        fetch_server::{Fetch, FetchServer},
        push_server::{Push, PushServer},
    },
};
use tonic::{Request, Response, Status, async_trait};

use self::answer::answer;
use crate::{
    limits::{MAX_MESSAGE_BYTES, MAX_SMALL_MESSAGE_BYTES},
    status::{IntoStatus as _, permission_denied},
};

/// Other nodes, one of which may own a fetch.
#[async_trait]
pub trait Elsewhere: Send + Sync + fmt::Debug + 'static {
    /// Has an asset of `kind` fetched by the owner of the fetch that is called `key` and may take `timeout`. None if that is this
    /// node, or if the owner does not answer.
    ///
    /// Request and response are of the form that both kinds have: as bytes, those for a directory are the same.
    async fn fetch(
        &self,
        kind: Kind,
        key: Digest,
        timeout: Duration,
        request: FetchBlobRequest,
    ) -> Option<FetchBlobResponse>;
}

/// Both services of the API.
#[derive(Clone, Debug)]
pub struct Asset {
    assets: Assets,
    /// Whether clients may push.
    takes_pushes: bool,
    /// None where everything is fetched here.
    elsewhere: Option<Arc<dyn Elsewhere>>,
}

impl Asset {
    /// The services over `assets`. Clients may push if `takes_pushes`.
    pub fn new(assets: Assets, takes_pushes: bool) -> Self {
        Self { assets, takes_pushes, elsewhere: None }
    }

    /// These, which have what another node owns fetched there.
    #[must_use]
    pub fn with_elsewhere(self, elsewhere: Arc<dyn Elsewhere>) -> Self {
        Self { elsewhere: Some(elsewhere), ..self }
    }

    /// For other nodes: Fetch alone.
    pub fn into_fetch_server(self) -> FetchServer<Self> {
        FetchServer::new(self).max_decoding_message_size(MAX_SMALL_MESSAGE_BYTES)
    }

    /// The services as a server takes them.
    pub fn into_servers(self) -> (FetchServer<Self>, PushServer<Self>) {
        // A push may name all that its content refers to.
        let push = PushServer::new(self.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
        (self.into_fetch_server(), push)
    }

    async fn fetch(
        &self,
        kind: Kind,
        request: FetchBlobRequest,
    ) -> Result<FetchBlobResponse, Status> {
        let fetch = parse::fetch(kind, &request).map_err(Invalid::into_status)?;
        let (uris, function) = (request.uris.clone(), fetch.function);
        let found = self.assets.find(&fetch, SystemTime::now()).await;
        if let Some(found) = found.map_err(FetchError::into_status)? {
            return answer(uris, function, Ok(found));
        }
        if let Some(elsewhere) = self.elsewhere.as_ref().filter(|_| fetch.has_origin()) {
            let (key, timeout) = (fetch.key(), fetch.longest());
            if let Some(answer) = elsewhere.fetch(kind, key, timeout, request).await {
                return Ok(answer);
            }
        }
        answer(uris, function, self.assets.fetch(fetch, SystemTime::now()).await)
    }

    async fn push(&self, kind: Kind, request: PushBlobRequest) -> Result<(), Status> {
        let push = parse::push(kind, &request).map_err(Invalid::into_status)?;
        if !self.takes_pushes {
            return Err(permission_denied("clients may not push here (--client_results)"));
        }
        let pushed = self.assets.push(push, SystemTime::now()).await;
        pushed.map_err(bbb_storage::Error::into_status)
    }
}

#[async_trait]
impl Fetch for Asset {
    async fn fetch_blob(
        &self,
        request: Request<FetchBlobRequest>,
    ) -> Result<Response<FetchBlobResponse>, Status> {
        Ok(Response::new(self.fetch(Kind::Blob, request.into_inner()).await?))
    }

    async fn fetch_directory(
        &self,
        request: Request<FetchDirectoryRequest>,
    ) -> Result<Response<FetchDirectoryResponse>, Status> {
        let request = forms::fetch_request(request.into_inner());
        let response = self.fetch(Kind::Directory, request).await?;
        Ok(Response::new(forms::fetch_response(response)))
    }
}

#[async_trait]
impl Push for Asset {
    async fn push_blob(
        &self,
        request: Request<PushBlobRequest>,
    ) -> Result<Response<PushBlobResponse>, Status> {
        self.push(Kind::Blob, request.into_inner()).await?;
        Ok(Response::new(PushBlobResponse {}))
    }

    async fn push_directory(
        &self,
        request: Request<PushDirectoryRequest>,
    ) -> Result<Response<PushDirectoryResponse>, Status> {
        self.push(Kind::Directory, forms::push_request(request.into_inner())).await?;
        Ok(Response::new(PushDirectoryResponse {}))
    }
}
