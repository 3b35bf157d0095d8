//! `BatchUpdateBlobs`: the data of each blob is a slice of the request.

use std::sync::Arc;

use bbb_digest::{Digest, Function};
use bbb_reapi::{
    Invalid, parts,
    proto::{
        reapi::{self, batch_update_blobs_response as response, compressor},
        rpc,
    },
    requested_function, required_digest,
};
use bbb_storage::{Cas, Encoding, Source, SourceContent};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use prost::Message as _;

use super::CONCURRENT_BLOBS;
use crate::{
    Door,
    door::{check_parts, undecodable},
    limits::{MAX_BATCH_BYTES, MAX_REPLY_BYTES},
    status::{IntoStatus as _, ok_message},
    wire::{Message, Request, Response},
};

/// `BatchUpdateBlobsRequest`, with data that is not copied.
#[derive(Clone, PartialEq, prost::Message)]
struct BatchUpdate {
    #[prost(string, tag = "1")]
    instance_name: String,
    #[prost(message, repeated, tag = "2")]
    requests: Vec<Update>,
    #[prost(int32, tag = "5")]
    digest_function: i32,
}

/// `BatchUpdateBlobsRequest.Request`.
#[derive(Clone, PartialEq, prost::Message)]
struct Update {
    #[prost(message, optional, tag = "1")]
    digest: Option<reapi::Digest>,
    #[prost(bytes = "bytes", tag = "2")]
    data: Bytes,
    #[prost(int32, tag = "3")]
    compressor: i32,
}

/// Answers a call.
pub(super) async fn answer(door: Arc<Door>, request: Request) -> Response {
    door.wire
        .unary(request, async |message| {
            check_parts(parts::BATCH, &message)?;
            let batch = BatchUpdate::decode(message).map_err(undecodable)?;
            let example = batch.requests.first().and_then(|update| update.digest.as_ref());
            let function = requested_function(batch.digest_function, example);
            let function = function.map_err(|error| error.into_status())?;
            let cas = door.stores(&batch.instance_name)?.cas;
            check_total(&batch).map_err(|error| error.into_status())?;
            let responses = stream::iter(batch.requests)
                .map(|update| store(&door, &cas, function, update))
                .buffered(CONCURRENT_BLOBS)
                .collect()
                .await;
            let mut response = reapi::BatchUpdateBlobsResponse { responses };
            // What went wrong stands in the messages, too; a reply that is too large is no reply at all.
            if response.encoded_len() > MAX_REPLY_BYTES {
                let statuses = response.responses.iter_mut().filter_map(|one| one.status.as_mut());
                statuses.for_each(|status| status.details.clear());
            }
            Ok(Message::encoded(response.encode_to_vec()))
        })
        .await
}

/// Refuses more than what is announced as `max_batch_total_size_bytes`.
fn check_total(batch: &BatchUpdate) -> Result<(), Invalid> {
    let size = |update: &Update| {
        let announced = update.digest.as_ref().map_or(0, |digest| digest.size_bytes);
        u64::try_from(announced).unwrap_or(0).max(update.data.len() as u64)
    };
    let total = batch.requests.iter().map(size).fold(0, u64::saturating_add);
    match total > MAX_BATCH_BYTES {
        true => {
            let what = format!("hold {total} bytes in all, more than {MAX_BATCH_BYTES}");
            Err(Invalid::new("requests", what))
        }
        false => Ok(()),
    }
}

async fn store(
    door: &Door,
    cas: &Arc<dyn Cas>,
    function: Function,
    update: Update,
) -> response::Response {
    let status = match parse(door, function, &update) {
        Ok((digest, encoding)) => {
            let content = SourceContent::Bytes(update.data);
            match cas.put(digest, Source { encoding, content }).await {
                Ok(()) => ok_message(),
                Err(error) => error.into_message(),
            }
        }
        Err(invalid) => invalid.into_message(),
    };
    answered(update.digest, status)
}

fn answered(digest: Option<reapi::Digest>, status: rpc::Status) -> response::Response {
    response::Response { digest, status: Some(status) }
}

fn parse(door: &Door, function: Function, update: &Update) -> Result<(Digest, Encoding), Invalid> {
    let digest = required_digest(function, "digest", update.digest.as_ref())?;
    door.check_size(&digest)?;
    let encoding = match compressor::Value::try_from(update.compressor) {
        Ok(compressor::Value::Identity) => Encoding::Identity,
        Ok(compressor::Value::Zstd) => Encoding::Zstd,
        _ => return Err(Invalid::new("compressor", "is neither IDENTITY nor ZSTD")),
    };
    let len = update.data.len() as u64;
    if encoding == Encoding::Identity && len != digest.size_bytes() {
        let what = format!("has {len} bytes, but the digest says {}", digest.size_bytes());
        return Err(Invalid::new("data", what));
    }
    Ok((digest, encoding))
}
