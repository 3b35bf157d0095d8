//! `Capabilities`: what this server can do, and nothing that it cannot.

use std::sync::Arc;

use axum::{Router, routing::any};
use bbb_digest::Function;
use bbb_reapi::{
    function_code,
    proto::{
        reapi::{
            ActionCacheUpdateCapabilities, CacheCapabilities, ExecutionCapabilities,
            FastCdc2020Params, GetCapabilitiesRequest, PriorityCapabilities, ServerCapabilities,
            compressor, priority_capabilities::PriorityRange, symlink_absolute_path_strategy,
        },
        semver::SemVer,
    },
};
use bbb_scheduler::PRIORITIES;
use prost::Message as _;

use crate::{
    Door, Settings,
    cas::fastcdc::AVERAGE_BYTES,
    door::undecodable,
    limits::MAX_BATCH_BYTES,
    wire::{Message, Request},
};

/// The service's name.
pub const NAME: &str = "build.bazel.remote.execution.v2.Capabilities";

/// The oldest version of the API that is spoken: Bazel up to 6 asks for exactly this one.
const LOW: (i32, i32) = (2, 0);

/// The newest version of the API that is fulfilled: that of `GetChunkMapping`.
const HIGH: (i32, i32) = (2, 13);

/// The routes of the service.
pub fn routes(door: Door, settings: &Settings) -> Router {
    let response = Message::encoded(capabilities(settings).encode_to_vec());
    let door = Arc::new(door);
    Router::new().route(
        &format!("/{NAME}/GetCapabilities"),
        any(move |request: Request| async move {
            door.wire
                .unary(request, async |message| {
                    let request = GetCapabilitiesRequest::decode(message).map_err(undecodable)?;
                    // All instances are alike; a name that can be none is refused all the same.
                    door.instance(&request.instance_name).map(|_| response)
                })
                .await
        }),
    )
}

/// What is announced.
pub fn capabilities(settings: &Settings) -> ServerCapabilities {
    ServerCapabilities {
        cache_capabilities: Some(cache(settings)),
        execution_capabilities: Some(execution(settings)),
        deprecated_api_version: None,
        low_api_version: Some(version(LOW)),
        high_api_version: Some(version(HIGH)),
    }
}

fn cache(settings: &Settings) -> CacheCapabilities {
    let zstd = vec![compressor::Value::Zstd as i32];
    CacheCapabilities {
        digest_functions: functions(),
        action_cache_update_capabilities: Some(ActionCacheUpdateCapabilities {
            update_enabled: settings.client_results,
        }),
        // The one priority there is: the store keeps what was used last.
        cache_priority_capabilities: Some(priorities(0, 0)),
        max_batch_total_size_bytes: MAX_BATCH_BYTES.cast_signed(),
        symlink_absolute_path_strategy: symlink_absolute_path_strategy::Value::Allowed as i32,
        supported_compressors: zstd.clone(),
        supported_batch_update_compressors: zstd,
        max_cas_blob_size_bytes: settings.max_blob_bytes.cast_signed(),
        split_blob_support: true,
        splice_blob_support: true,
        fast_cdc_2020_params: Some(FastCdc2020Params {
            avg_chunk_size_bytes: AVERAGE_BYTES as u64,
            seed: 0,
        }),
        rep_max_cdc_params: None,
    }
}

fn execution(settings: &Settings) -> ExecutionCapabilities {
    ExecutionCapabilities {
        digest_function: function_code(Function::Sha256) as i32,
        exec_enabled: settings.exec_enabled,
        execution_priority_capabilities: Some(priorities(*PRIORITIES.start(), *PRIORITIES.end())),
        supported_node_properties: vec!["unix_mode".into(), "mtime".into()],
        digest_functions: functions(),
    }
}

fn functions() -> Vec<i32> {
    Function::ALL.map(|function| function_code(function) as i32).to_vec()
}

fn priorities(min_priority: i32, max_priority: i32) -> PriorityCapabilities {
    PriorityCapabilities { priorities: vec![PriorityRange { min_priority, max_priority }] }
}

fn version((major, minor): (i32, i32)) -> SemVer {
    SemVer { major, minor, patch: 0, prerelease: String::new() }
}
