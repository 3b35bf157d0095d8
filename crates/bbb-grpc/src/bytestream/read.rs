//! `ByteStream.Read`.

use bbb_reapi::{BlobResource, Compressor, Invalid, Resource, proto::bytestream::ReadRequest};
use bbb_storage::{Blob, Content, Encoding, Error, Logs, READ_CHUNK_BYTES, Wanted, zstd};
use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream, stream::BoxStream};
use prost::Message as _;
use tokio::time::Instant;
use tonic::Status;

use super::logs;
use crate::{
    Door,
    door::undecodable,
    status::{IntoStatus as _, not_found, out_of_range},
    wire::{Message, Response, streaming, unary},
};

/// The most data that one message holds, in bytes: clients take messages of 4 MiB.
pub(super) const MAX_DATA_BYTES: usize = 1 << 20;

/// The number of `ReadResponse.data`.
pub(super) const DATA: u32 = 10;

/// Answers a call.
pub(super) async fn read(
    door: &Door,
    logs: Option<&dyn Logs>,
    message: Bytes,
    deadline: Option<Instant>,
) -> Result<Response, Status> {
    let request = ReadRequest::decode(message).map_err(undecodable)?;
    let parsed = Resource::parse(&request.resource_name).map_err(|error| error.into_status())?;
    let invalid = |what| Err(Invalid::new("resource_name", what).into_status());
    let resource = match (parsed, logs) {
        (Resource::Blob(resource), _) => resource,
        (Resource::Log(log), Some(logs)) => {
            return logs::read(logs, &log, &request, deadline).await;
        }
        (Resource::Log(_), None) => return Err(not_found("there are no logs here")),
        (Resource::Upload(_), _) => {
            return invalid("names an upload; a blob to be read has no uploads/{uuid}/ before it");
        }
        (Resource::LogWrite(_), _) => {
            return invalid("is the name by which a log is written; it is read by the other one");
        }
    };
    let wanted = wanted(&request, &resource)?;
    let stores = door.instances.get(&resource.instance);
    let blob = stores.cas.get(resource.digest, wanted).await;
    let blob = blob.map_err(|error| error.into_status())?;
    match resource.compressor {
        Compressor::Identity => identity(blob, deadline).await,
        Compressor::Zstd => Ok(stream_of(compressed(blob), deadline)),
    }
}

/// The part of the blob that is asked for, in the encoding that it is asked for in.
fn wanted(request: &ReadRequest, resource: &BlobResource) -> Result<Wanted, Status> {
    let size_bytes = resource.digest.size_bytes();
    let offset = u64::try_from(request.read_offset).ok().filter(|offset| *offset <= size_bytes);
    let offset = offset.ok_or_else(|| {
        let offset = request.read_offset;
        out_of_range(format!("read_offset {offset} is not within the blob's {size_bytes} bytes"))
    })?;
    let limit = u64::try_from(request.read_limit)
        .map_err(|_| Invalid::new("read_limit", "is negative").into_status())?;
    if limit != 0 && resource.compressor == Compressor::Zstd {
        let what = "must be 0 for compressed blobs";
        return Err(Invalid::new("read_limit", what).into_status());
    }
    let prefer = match resource.compressor {
        Compressor::Identity => Encoding::Identity,
        Compressor::Zstd => Encoding::Zstd,
    };
    Ok(Wanted { offset, limit: Some(limit).filter(|limit| *limit != 0), prefer })
}

/// The blob as it is. What fits into one message goes out in one.
async fn identity(blob: Blob, deadline: Option<Instant>) -> Result<Response, Status> {
    match (&blob.content, blob.encoding) {
        (Content::Bytes(bytes), Encoding::Identity) if bytes.len() <= MAX_DATA_BYTES => {
            Ok(unary(Message::of_bytes(DATA, bytes.clone())))
        }
        (Content::File(file), Encoding::Identity)
            if file.range.end - file.range.start <= READ_CHUNK_BYTES =>
        {
            let bytes = file.read(file.range.clone()).await.map_err(|error| error.into_status())?;
            Ok(unary(Message::of_bytes(DATA, bytes)))
        }
        _ => Ok(stream_of(blob.into_stream(), deadline)),
    }
}

/// The blob as zstd frames: as it is stored, where it is stored so.
fn compressed(blob: Blob) -> BoxStream<'static, Result<Bytes, Error>> {
    match (blob.encoding, blob.content) {
        (Encoding::Zstd, Content::Stream(stream)) => stream,
        (Encoding::Zstd, Content::Bytes(bytes)) => stream::once(async { Ok(bytes) }).boxed(),
        (encoding, content) => {
            // Of a file that holds zstd frames the whole is read, as it is.
            let passes = encoding == Encoding::Zstd;
            let blob = Blob { encoding: Encoding::Identity, content, ..blob };
            match passes {
                true => blob.into_stream(),
                false => zstd::encode(blob.into_stream(), |error| {
                    Error::unavailable("compressing a blob", error)
                }),
            }
        }
    }
}

fn stream_of(
    pieces: impl Stream<Item = Result<Bytes, Error>> + Send + 'static,
    deadline: Option<Instant>,
) -> Response {
    let messages = pieces.flat_map(|piece| match piece {
        Ok(piece) => cut(piece).left_stream(),
        Err(error) => stream::once(async { Err(error.into_status()) }).right_stream(),
    });
    streaming(messages, deadline)
}

fn cut(mut piece: Bytes) -> impl Stream<Item = Result<Message, Status>> {
    stream::iter(std::iter::from_fn(move || {
        let next = piece.split_to(piece.len().min(MAX_DATA_BYTES));
        (!next.is_empty()).then(|| Ok(Message::of_bytes(DATA, next)))
    }))
}
