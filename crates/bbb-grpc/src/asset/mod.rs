//! The Remote Asset API: Fetch and Push, as the comments of `build.bazel.remote.asset.v1` define them.
//!
//! Requests are parsed here into values of `bbb-asset`, which does the work. What went wrong outside of this cluster is told
//! within the response, with the story of each URI; everything else ends the call.

mod fetch;
mod parse;

use std::time::SystemTime;

use bbb_asset::{Assets, FetchError};
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

use crate::{
    limits::MAX_SMALL_MESSAGE_BYTES,
    status::{IntoStatus as _, permission_denied},
};

/// Both services of the API.
#[derive(Clone, Debug)]
pub struct Asset {
    assets: Assets,
    /// Whether clients may push.
    takes_pushes: bool,
}

impl Asset {
    /// The services over `assets`. Clients may push if `takes_pushes`.
    pub fn new(assets: Assets, takes_pushes: bool) -> Self {
        Self { assets, takes_pushes }
    }

    /// The services as a server takes them.
    pub fn into_servers(self) -> (FetchServer<Self>, PushServer<Self>) {
        let limited = MAX_SMALL_MESSAGE_BYTES;
        let push = PushServer::new(self.clone()).max_decoding_message_size(limited);
        (FetchServer::new(self).max_decoding_message_size(limited), push)
    }

    async fn fetch(&self, fetch: Result<bbb_asset::Fetch, Invalid>) -> Result<fetch::Told, Status> {
        let fetch = fetch.map_err(Invalid::into_status)?;
        let told = fetch::Told::of(&fetch);
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
        let told = self.fetch(parse::fetch_blob(request.into_inner())).await?;
        Ok(Response::new(told.into_blob()))
    }

    async fn fetch_directory(
        &self,
        request: Request<FetchDirectoryRequest>,
    ) -> Result<Response<FetchDirectoryResponse>, Status> {
        let told = self.fetch(parse::fetch_directory(request.into_inner())).await?;
        Ok(Response::new(told.into_directory()))
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
