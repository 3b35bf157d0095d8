//! `ContentAddressableStorage`: which blobs are here, small blobs in batches, trees, and blobs by chunks.
//!
//! The comments of the service in the Remote Execution API are the rules. Requests that may be large are
//! read in place, and their memory is reserved before they are read.

use std::{future::Future, sync::Arc};

use axum::{Router, routing::any};

use crate::{
    Door,
    wire::{Request, Response},
};

mod batch_read;
mod batch_update;
mod chunks;
pub(crate) mod fastcdc;
mod find_missing;
mod tree;

/// The service's name.
pub const NAME: &str = "build.bazel.remote.execution.v2.ContentAddressableStorage";

/// How many blobs of one call are read or written at once.
const CONCURRENT_BLOBS: usize = 64;

/// The routes of the service.
pub fn routes(door: Door) -> Router {
    let door = Arc::new(door);
    let router = Router::new();
    let router = method(router, "FindMissingBlobs", &door, find_missing::answer);
    let router = method(router, "BatchUpdateBlobs", &door, batch_update::answer);
    let router = method(router, "BatchReadBlobs", &door, batch_read::answer);
    let router = method(router, "GetTree", &door, tree::answer);
    let router = method(router, "SplitBlob", &door, chunks::split);
    let router = method(router, "SpliceBlob", &door, chunks::splice);
    let router = method(router, "GetChunkMapping", &door, chunks::get_mapping);
    method(router, "RegisterChunkMapping", &door, chunks::register_mapping)
}

fn method<F>(
    router: Router,
    name: &str,
    door: &Arc<Door>,
    answer: impl FnOnce(Arc<Door>, Request) -> F + Copy + Send + Sync + 'static,
) -> Router
where
    F: Future<Output = Response> + Send + 'static,
{
    let door = Arc::clone(door);
    router.route(&format!("/{NAME}/{name}"), any(move |request| answer(door, request)))
}
