//! The Remote Asset API: Fetch and Push, as the comments of `build.bazel.remote.asset.v1` define them.
//!
//! Requests are parsed here into values of `bbb-asset`, which does the work. What went wrong outside of this cluster is told
//! within the response, with the story of each URI; everything else ends the call.

mod fetch;
mod parse;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bbb_asset::{Assets, FetchError};
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

use self::fetch::Told;
use crate::{
    limits::MAX_SMALL_MESSAGE_BYTES,
    status::{IntoStatus as _, permission_denied},
};

/// Other nodes, one of which may own a fetch that is called `key` and may take `timeout`. None of its methods answers if that is
/// this node, or if the owner does not.
#[async_trait]
pub trait Elsewhere: Send + Sync + fmt::Debug + 'static {
    /// Has a blob fetched by its owner.
    async fn blob(
        &self,
        key: Digest,
        timeout: Duration,
        request: FetchBlobRequest,
    ) -> Option<FetchBlobResponse>;

    /// Has a directory fetched by its owner.
    async fn directory(
        &self,
        key: Digest,
        timeout: Duration,
        request: FetchDirectoryRequest,
    ) -> Option<FetchDirectoryResponse>;
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
        let push = PushServer::new(self.clone());
        (self.into_fetch_server(), push.max_decoding_message_size(MAX_SMALL_MESSAGE_BYTES))
    }

    /// What is remembered, if it is; else those who may own what is to be fetched.
    async fn find(
        &self,
        fetch: &bbb_asset::Fetch,
    ) -> Result<(Option<Told>, Option<&Arc<dyn Elsewhere>>), Status> {
        let found = self.assets.find(fetch, SystemTime::now()).await;
        let found = found.map_err(FetchError::into_status)?;
        let elsewhere = self.elsewhere.as_ref().filter(|_| found.is_none() && fetch.has_origin());
        Ok((found.map(|found| Told::of(fetch).found(&found)), elsewhere))
    }

    async fn fetch(&self, fetch: bbb_asset::Fetch) -> Result<Told, Status> {
        let told = Told::of(&fetch);
        match self.assets.fetch(fetch, SystemTime::now()).await {
            Ok(found) => Ok(told.found(&found)),
            Err(FetchError::Outside { failed, uri, what }) => Ok(told.failed(failed, uri, what)),
            Err(error) => Err(error.into_status()),
        }
    }

    async fn push(&self, push: Result<bbb_asset::Push, Invalid>) -> Result<(), Status> {
        let push = push.map_err(Invalid::into_status)?;
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
        let request = request.into_inner();
        let fetch = parse::fetch_blob(&request).map_err(Invalid::into_status)?;
        let (found, elsewhere) = self.find(&fetch).await?;
        if let Some(told) = found {
            return Ok(Response::new(told.into_blob()));
        }
        if let Some(elsewhere) = elsewhere {
            let answer = elsewhere.blob(fetch.key(), fetch.longest(), request).await;
            if let Some(answer) = answer {
                return Ok(Response::new(answer));
            }
        }
        Ok(Response::new(self.fetch(fetch).await?.into_blob()))
    }

    async fn fetch_directory(
        &self,
        request: Request<FetchDirectoryRequest>,
    ) -> Result<Response<FetchDirectoryResponse>, Status> {
        let request = request.into_inner();
        let fetch = parse::fetch_directory(&request).map_err(Invalid::into_status)?;
        let (found, elsewhere) = self.find(&fetch).await?;
        if let Some(told) = found {
            return Ok(Response::new(told.into_directory()));
        }
        if let Some(elsewhere) = elsewhere {
            let answer = elsewhere.directory(fetch.key(), fetch.longest(), request).await;
            if let Some(answer) = answer {
                return Ok(Response::new(answer));
            }
        }
        Ok(Response::new(self.fetch(fetch).await?.into_directory()))
    }
}

#[async_trait]
impl Push for Asset {
    async fn push_blob(
        &self,
        request: Request<PushBlobRequest>,
    ) -> Result<Response<PushBlobResponse>, Status> {
        self.push(parse::push_blob(request.into_inner())).await?;
        Ok(Response::new(PushBlobResponse {}))
    }

    async fn push_directory(
        &self,
        request: Request<PushDirectoryRequest>,
    ) -> Result<Response<PushDirectoryResponse>, Status> {
        self.push(parse::push_directory(request.into_inner())).await?;
        Ok(Response::new(PushDirectoryResponse {}))
    }
}
