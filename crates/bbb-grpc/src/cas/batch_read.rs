//! `BatchReadBlobs`: files are read straight into the response.

use std::{io, sync::Arc};

use bbb_digest::Digest;
use bbb_reapi::{
    Invalid, digest, parts,
    proto::{
        reapi::{BatchReadBlobsRequest, compressor},
        rpc,
    },
    requested_function,
};
use bbb_storage::{Blob, Cas, Content, Encoding, Error, PinnedFile, Wanted, zstd};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use prost::{
    Message as _,
    encoding::{WireType, encode_key, encode_varint},
};
use tokio::task;
use tonic::Status;

use super::CONCURRENT_BLOBS;
use crate::{
    Door, Reservation,
    door::{check_parts, undecodable},
    limits::{MAX_BATCH_BYTES, MAX_REPLY_BYTES},
    status::{IntoStatus as _, internal},
    wire::{Message, Request, Response, digest_field},
};

/// Up to so many bytes are put together without leaving the reactor.
const INLINE_BYTES: u64 = 256 << 10;

/// What stands beside the data of a blob in a response, in bytes: mostly its digest.
const ENTRY_BYTES: u64 = 100;

/// Of more blobs than this the code alone tells what went wrong with each, so that a response which names all of a large
/// batch as missing is not too large itself.
const MAX_EXPLAINED: usize = 5_000;

/// Blobs smaller than this, in bytes, are not worth a zstd frame.
const MIN_COMPRESSED_BYTES: u64 = 256;

/// Answers a call.
pub(super) async fn answer(door: Arc<Door>, request: Request) -> Response {
    door.wire
        .unary(request, async |message| {
            check_parts(parts::BATCH, &message)?;
            let request = BatchReadBlobsRequest::decode(message).map_err(undecodable)?;
            let digests = parse(&request)?;
            let total = digests.iter().map(Digest::size_bytes).fold(0, u64::saturating_add);
            if total > MAX_BATCH_BYTES {
                let what = format!("name {total} bytes in all, more than {MAX_BATCH_BYTES}");
                return Err(Invalid::new("digests", what).into_status());
            }
            let zstd = request.acceptable_compressors.contains(&(compressor::Value::Zstd as i32));
            let wanted = if zstd { Wanted::ALL_ZSTD } else { Wanted::ALL };
            let cas = door.stores(&request.instance_name)?.cas;
            // What is found, and the response that it is put into.
            let beside = digests.len() as u64 * ENTRY_BYTES;
            let memory = door.replies.reserve(2 * total + beside).await?;
            let found: Vec<Found> = stream::iter(digests)
                .map(|digest| find(cas.as_ref(), digest, wanted))
                .buffered(CONCURRENT_BLOBS)
                .collect()
                .await;
            respond(found, zstd, total, memory).await
        })
        .await
}

fn parse(request: &BatchReadBlobsRequest) -> Result<Vec<Digest>, Status> {
    let function = requested_function(request.digest_function, request.digests.first());
    let function = function.map_err(|error| error.into_status())?;
    let parsed = request.digests.iter().enumerate().map(|(index, wire)| {
        digest(function, wire)
            .map_err(|error| error.within(&format!("digests[{index}]")).into_status())
    });
    parsed.collect()
}

/// A blob as it was found.
struct Found {
    digest: Digest,
    data: Result<Data, Error>,
}

/// The bytes of a blob in a form that can be put into a response.
enum Data {
    Bytes(Bytes),
    Zstd(Bytes),
    File(PinnedFile),
}

async fn find(cas: &dyn Cas, digest: Digest, wanted: Wanted) -> Found {
    let data = match cas.get(digest, wanted).await {
        Ok(blob) => data(blob).await,
        Err(error) => Err(error),
    };
    Found { digest, data }
}

async fn data(blob: Blob) -> Result<Data, Error> {
    match (blob.encoding, blob.content) {
        (Encoding::Identity, Content::Bytes(bytes)) => Ok(Data::Bytes(bytes)),
        (Encoding::Zstd, Content::Bytes(bytes)) => Ok(Data::Zstd(bytes)),
        (Encoding::Identity, Content::File(file)) => Ok(Data::File(file)),
        (encoding, content) => {
            // At most as many bytes as the batch may have come here.
            let stream = Blob { size_bytes: blob.size_bytes, encoding, content }.into_stream();
            let bytes = stream.try_fold(BytesMut::new(), |mut bytes, piece| async move {
                bytes.extend_from_slice(&piece);
                Ok(bytes)
            });
            Ok(Data::Bytes(bytes.await?.freeze()))
        }
    }
}

/// Puts the response together, off the reactor where that takes long.
async fn respond(
    found: Vec<Found>,
    zstd: bool,
    total: u64,
    mut memory: Reservation,
) -> Result<Message, Status> {
    let in_memory = found.iter().all(|found| matches!(found.data, Ok(Data::Bytes(_)) | Err(_)));
    let response = match in_memory && !zstd && total <= INLINE_BYTES {
        true => encode(found, zstd, total),
        false => task::spawn_blocking(move || encode(found, zstd, total))
            .await
            .map_err(|error| internal(format!("putting a batch together: {error}")))?,
    };
    if response.len() > MAX_REPLY_BYTES {
        let what = format!("would make a response of {} bytes: ask for fewer", response.len());
        return Err(Invalid::new("digests", what).into_status());
    }
    // A client may be slow to take it.
    memory.shrink_to(response.len() as u64);
    Ok(Message::encoded(memory.holding(response)))
}

/// The encoded `BatchReadBlobsResponse`; may block.
fn encode(found: Vec<Found>, zstd: bool, total: u64) -> Vec<u8> {
    let mut response = Vec::with_capacity(total as usize + found.len() * ENTRY_BYTES as usize);
    let mut entry = Vec::new();
    let is_brief = found.len() > MAX_EXPLAINED;
    for Found { digest, data } in found {
        entry.clear();
        digest_field(1, &digest, &mut entry);
        match data.and_then(|data| readable(digest, data, zstd)) {
            Ok((data, encoding)) => {
                encode_key(2, WireType::LengthDelimited, &mut entry);
                encode_varint(data.len() as u64, &mut entry);
                entry.extend_from_slice(&data);
                put_message(3, &rpc::Status::default(), &mut entry);
                if encoding == Encoding::Zstd {
                    encode_key(4, WireType::Varint, &mut entry);
                    encode_varint(compressor::Value::Zstd as u64, &mut entry);
                }
            }
            Err(error) => {
                let mut status = error.into_message();
                if is_brief {
                    status = rpc::Status { code: status.code, ..Default::default() };
                }
                put_message(3, &status, &mut entry);
            }
        }
        encode_key(1, WireType::LengthDelimited, &mut response);
        encode_varint(entry.len() as u64, &mut response);
        response.extend_from_slice(&entry);
    }
    response
}

fn put_message(field: u32, message: &rpc::Status, buffer: &mut Vec<u8>) {
    prost::encoding::message::encode(field, message, buffer);
}

/// The bytes in a form that the client takes.
fn readable(digest: Digest, data: Data, zstd: bool) -> Result<(Bytes, Encoding), Error> {
    let failed = |error: io::Error| Error::unavailable(format!("transcoding blob {digest}"), error);
    let bytes = match data {
        Data::Zstd(bytes) if zstd => return Ok((bytes, Encoding::Zstd)),
        Data::Zstd(bytes) => {
            zstd::decode_bytes(&bytes, digest.size_bytes() as usize).map_err(failed)?
        }
        Data::File(file) => file.read_blocking(file.range.clone())?,
        Data::Bytes(bytes) => bytes,
    };
    if zstd && digest.size_bytes() >= MIN_COMPRESSED_BYTES {
        let encoded = zstd::encode_bytes(&bytes).map_err(failed)?;
        if encoded.len() < bytes.len() {
            return Ok((encoded, Encoding::Zstd));
        }
    }
    Ok((bytes, Encoding::Identity))
}
