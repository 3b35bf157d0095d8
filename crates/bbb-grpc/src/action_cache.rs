//! `ActionCache`: results of actions, with what clients want of them inlined.
//!
//! Whether all blobs of a result are there is the business of the action cache below.

use std::sync::Arc;

use axum::{Router, routing::any};
use bbb_digest::{Digest, Function};
use bbb_reapi::{
    Invalid, OutputPath, parts,
    proto::reapi::{self, ActionResult, GetActionResultRequest, UpdateActionResultRequest},
    requested_function, required_digest,
};
use bytes::Bytes;
use prost::Message as _;
use tonic::Status;

use crate::{
    Door,
    door::{check_parts, undecodable},
    inline::{Hints, Inlining},
    status::{IntoStatus as _, not_found, permission_denied},
    wire::{Message, Request, Response},
};

/// The service's name.
pub const NAME: &str = "build.bazel.remote.execution.v2.ActionCache";

/// The routes of the service. Without `client_results` clients may read results but not write any.
pub fn routes(door: Door, client_results: bool) -> Router {
    let reader = Arc::new(door);
    let writer = Arc::clone(&reader);
    Router::new()
        .route(
            &format!("/{NAME}/GetActionResult"),
            any(move |request| async move { get(&reader, request).await }),
        )
        .route(
            &format!("/{NAME}/UpdateActionResult"),
            any(move |request| async move { update(&writer, client_results, request).await }),
        )
}

async fn get(door: &Door, request: Request) -> Response {
    door.wire
        .unary(request, async |message| {
            check_parts(parts::GET_ACTION_RESULT, &message)?;
            let request = GetActionResultRequest::decode(message).map_err(undecodable)?;
            let action = action(request.digest_function, request.action_digest.as_ref())
                .map_err(|error| error.into_status())?;
            let stores = door.stores(&request.instance_name)?;
            let result = stores.action_cache.get(action).await;
            let Some(result) = result.map_err(|error| error.into_status())? else {
                return Err(not_found(format!("no result of action {action} is known")));
            };
            let hints = Hints {
                stdout: request.inline_stdout,
                stderr: request.inline_stderr,
                files: request.inline_output_files,
            };
            match Inlining::new(&stores.cas, action.function(), hints) {
                Some(inlining) => {
                    let mut result = ActionResult::clone(&result);
                    inlining.fill(&mut result).await;
                    Ok(Message::encoded(result.encode_to_vec()))
                }
                None => Ok(Message::encoded(result.encode_to_vec())),
            }
        })
        .await
}

fn action(code: i32, wire: Option<&reapi::Digest>) -> Result<Digest, Invalid> {
    let function = requested_function(code, wire)?;
    required_digest(function, "action_digest", wire)
}

async fn update(door: &Door, client_results: bool, request: Request) -> Response {
    door.wire
        .unary(request, async |message| match client_results {
            true => store(door, message).await,
            false => Err(permission_denied(
                "this server trusts the results of its workers alone (--client_results=false)",
            )),
        })
        .await
}

async fn store(door: &Door, message: Bytes) -> Result<Message, Status> {
    check_parts(parts::UPDATE_ACTION_RESULT, &message)?;
    let request = UpdateActionResultRequest::decode(message).map_err(undecodable)?;
    let action = action(request.digest_function, request.action_digest.as_ref())
        .map_err(|error| error.into_status())?;
    let result = request
        .action_result
        .ok_or_else(|| Invalid::new("action_result", "is not set").into_status())?;
    check(action.function(), &result)
        .map_err(|error| error.within("action_result").into_status())?;
    let stores = door.stores(&request.instance_name)?;
    let response = Message::encoded(result.encode_to_vec());
    stores.action_cache.put(action, result).await.map_err(|error| error.into_status())?;
    Ok(response)
}

/// Checks every path and digest of a result.
// The deprecated fields are what Bazel up to 6 sends.
#[allow(deprecated)]
fn check(function: Function, result: &ActionResult) -> Result<(), Invalid> {
    for (index, file) in result.output_files.iter().enumerate() {
        let at = format!("output_files[{index}]");
        check_path(&file.path, false).map_err(|error| error.within(&at))?;
        required_digest(function, "digest", file.digest.as_ref())
            .map_err(|error| error.within(&at))?;
    }
    for (index, directory) in result.output_directories.iter().enumerate() {
        let at = format!("output_directories[{index}]");
        check_path(&directory.path, true).map_err(|error| error.within(&at))?;
        let tree = directory.tree_digest.as_ref();
        let root = directory.root_directory_digest.as_ref();
        if tree.is_some() || root.is_none() {
            required_digest(function, "tree_digest", tree).map_err(|error| error.within(&at))?;
        }
        if root.is_some() {
            required_digest(function, "root_directory_digest", root)
                .map_err(|error| error.within(&at))?;
        }
    }
    for (field, links) in [
        ("output_symlinks", &result.output_symlinks),
        ("output_file_symlinks", &result.output_file_symlinks),
        ("output_directory_symlinks", &result.output_directory_symlinks),
    ] {
        for (index, link) in links.iter().enumerate() {
            let at = format!("{field}[{index}]");
            check_path(&link.path, false).map_err(|error| error.within(&at))?;
            if link.target.is_empty() || link.target.contains('\0') {
                return Err(Invalid::new("target", "is empty or holds NUL").within(&at));
            }
        }
    }
    for (field, digest) in
        [("stdout_digest", &result.stdout_digest), ("stderr_digest", &result.stderr_digest)]
    {
        if digest.is_some() {
            required_digest(function, field, digest.as_ref())?;
        }
    }
    Ok(())
}

fn check_path(path: &str, may_be_empty: bool) -> Result<(), Invalid> {
    if path.is_empty() && !may_be_empty {
        return Err(Invalid::new("path", "is empty"));
    }
    OutputPath::new(path).map(|_| ())
}
