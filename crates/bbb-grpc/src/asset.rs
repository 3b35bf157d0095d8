//! The Remote Asset API, as far as it goes yet: requests are checked, and then answered with
//! UNIMPLEMENTED. Clients such as BuildStream find out by an invalid request whether the service is there.

use bbb_reapi::{
    Invalid,
    proto::asset::{
        FetchBlobRequest, FetchBlobResponse, FetchDirectoryRequest, FetchDirectoryResponse,
        PushBlobRequest, PushBlobResponse, PushDirectoryRequest, PushDirectoryResponse,
        fetch_server::Fetch, push_server::Push,
    },
    proto::reapi,
    requested_function, required_digest,
};
use tonic::{Request, Response, Status, async_trait};

use crate::status::{IntoStatus as _, unimplemented};

/// Both services of the API.
#[derive(Clone, Copy, Debug)]
pub struct Asset;

#[async_trait]
impl Fetch for Asset {
    async fn fetch_blob(
        &self,
        request: Request<FetchBlobRequest>,
    ) -> Result<Response<FetchBlobResponse>, Status> {
        let request = request.into_inner();
        Err(checked(check_uris(&request.uris)))
    }

    async fn fetch_directory(
        &self,
        request: Request<FetchDirectoryRequest>,
    ) -> Result<Response<FetchDirectoryResponse>, Status> {
        let request = request.into_inner();
        Err(checked(check_uris(&request.uris)))
    }
}

#[async_trait]
impl Push for Asset {
    async fn push_blob(
        &self,
        request: Request<PushBlobRequest>,
    ) -> Result<Response<PushBlobResponse>, Status> {
        let request = request.into_inner();
        let digest = request.blob_digest.as_ref();
        let digest = check_digest("blob_digest", request.digest_function, digest);
        Err(checked(check_uris(&request.uris).and(digest)))
    }

    async fn push_directory(
        &self,
        request: Request<PushDirectoryRequest>,
    ) -> Result<Response<PushDirectoryResponse>, Status> {
        let request = request.into_inner();
        let digest = request.root_directory_digest.as_ref();
        let digest = check_digest("root_directory_digest", request.digest_function, digest);
        Err(checked(check_uris(&request.uris).and(digest)))
    }
}

/// INVALID_ARGUMENT for what is invalid, UNIMPLEMENTED for what is not.
fn checked(check: Result<(), Invalid>) -> Status {
    match check {
        Ok(()) => unimplemented("this server does not fetch or remember remote assets yet"),
        Err(invalid) => invalid.into_status(),
    }
}

fn check_uris(uris: &[String]) -> Result<(), Invalid> {
    if uris.is_empty() {
        return Err(Invalid::new("uris", "is empty; at least one is needed"));
    }
    let scheme = |uri: &String| uri.split_once(':').is_some_and(|(scheme, _)| !scheme.is_empty());
    match uris.iter().position(|uri| !scheme(uri)) {
        Some(index) => Err(Invalid::new(format!("uris[{index}]"), "has no scheme")),
        None => Ok(()),
    }
}

fn check_digest(field: &str, code: i32, wire: Option<&reapi::Digest>) -> Result<(), Invalid> {
    let function = requested_function(code, wire)?;
    required_digest(function, field, wire).map(|_| ())
}
