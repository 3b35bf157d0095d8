//! Blobs by chunks: `GetChunkMapping` and `RegisterChunkMapping`, and their deprecated unary forms
//! `SplitBlob` and `SpliceBlob`.
//!
//! Mappings are not remembered: where a blob is cut follows from its bytes, so that every node and every
//! client that cuts by FastCDC 2020 comes to the same chunks. A mapping that a client registers serves to
//! put the blob together; the blob is stored as any other, its digest checked.

use std::{io, sync::Arc};

use bbb_digest::{Digest, Function};
use bbb_reapi::{
    Invalid, ToProto as _, digest, parts,
    proto::reapi::{self, chunking_function, digest_function},
    requested_function, required_digest,
};
use bbb_storage::{Cas, Encoding, Error, Source, SourceContent, Wanted};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use prost::Message as _;
use tokio::task;
use tonic::Status;

use super::fastcdc::Cutter;
use crate::{
    Door, Reservation,
    door::{check_parts, undecodable},
    limits::MAX_REPLY_BYTES,
    status::{IntoStatus as _, exhausted, internal, not_found},
    wire::{Message, Request, Requests, Response, streaming, unary},
};

/// How many chunks stand in one message: some 80 bytes each, well below what clients take.
const CHUNKS_PER_MESSAGE: usize = 10_000;

/// How many chunks a blob may be put together from or cut into: 100 GB of chunks of the announced size.
const MAX_CHUNKS: usize = 200_000;

/// How many chunks are read ahead while a blob is put together.
const CONCURRENT_CHUNKS: usize = 4;

const FAST_CDC_2020: i32 = chunking_function::Value::FastCdc2020 as i32;

/// Answers a call of `SplitBlob`.
pub(super) async fn split(door: Arc<Door>, request: Request) -> Response {
    door.wire
        .unary(request, async |message| {
            let request = reapi::SplitBlobRequest::decode(message).map_err(undecodable)?;
            let function =
                requested_function(request.digest_function, request.blob_digest.as_ref())
                    .map_err(|error| error.into_status())?;
            let cas = door.stores(&request.instance_name)?.cas;
            let blob = blob_digest(function, request.blob_digest.as_ref())?;
            let chunks = chunks_of(&door, cas, blob, chunks_in_reply(blob)).await?;
            let response = reapi::SplitBlobResponse {
                chunk_digests: chunks.iter().map(|chunk| chunk.to_proto()).collect(),
                chunking_function: FAST_CDC_2020,
            };
            Ok(Message::encoded(response.encode_to_vec()))
        })
        .await
}

/// Answers a call of `GetChunkMapping`.
pub(super) async fn get_mapping(door: Arc<Door>, request: Request) -> Response {
    door.wire
        .one_message(request, async |message, deadline| {
            let request = reapi::GetChunkMappingRequest::decode(message).map_err(undecodable)?;
            let function = named_function(request.digest_function)?;
            let cas = door.stores(&request.instance_name)?.cas;
            let blob = blob_digest(function, request.blob_digest.as_ref())?;
            let chunks = chunks_of(&door, cas, blob, MAX_CHUNKS).await?;
            let mut lists: Vec<_> = chunks.chunks(CHUNKS_PER_MESSAGE).collect();
            if lists.is_empty() {
                // That of the empty blob has a message too, since the first one tells the function.
                lists.push(&[]);
            }
            let messages: Vec<_> = lists.into_iter().enumerate().map(mapping).collect();
            Ok(streaming(stream::iter(messages), deadline))
        })
        .await
}

fn mapping((index, chunks): (usize, &[Digest])) -> Result<Message, Status> {
    let response = reapi::GetChunkMappingResponse {
        chunk_digests: chunks.iter().map(|chunk| chunk.to_proto()).collect(),
        chunking_function: if index == 0 { FAST_CDC_2020 } else { 0 },
    };
    Ok(Message::encoded(response.encode_to_vec()))
}

/// Answers a call of `SpliceBlob`.
pub(super) async fn splice(door: Arc<Door>, request: Request) -> Response {
    door.wire
        .unary(request, async |message| {
            check_parts(parts::SPLICE, &message)?;
            let request = reapi::SpliceBlobRequest::decode(message).map_err(undecodable)?;
            let function =
                requested_function(request.digest_function, request.blob_digest.as_ref())
                    .map_err(|error| error.into_status())?;
            let cas = door.stores(&request.instance_name)?.cas;
            let mut splice = Splice::new(&door, function, request.blob_digest.as_ref())?;
            splice.extend(&door, &request.chunk_digests).await?;
            let blob_digest = Some(splice.store(cas).await?.to_proto());
            let response = reapi::SpliceBlobResponse { blob_digest };
            Ok(Message::encoded(response.encode_to_vec()))
        })
        .await
}

/// Answers a call of `RegisterChunkMapping`.
pub(super) async fn register_mapping(door: Arc<Door>, request: Request) -> Response {
    door.wire
        .stream(request, async |mut requests, _| {
            let Some(first) = next(&mut requests).await? else {
                return Err(
                    Invalid::new("message", "is missing: the stream is empty").into_status()
                );
            };
            let function = named_function(first.digest_function)?;
            let cas = door.stores(&first.instance_name)?.cas;
            let mut splice = Splice::new(&door, function, first.blob_digest.as_ref())?;
            splice.extend(&door, &first.chunk_digests).await?;
            while let Some(more) = next(&mut requests).await? {
                splice.extend(&door, &more.chunk_digests).await?;
            }
            splice.store(cas).await?;
            let response = reapi::RegisterChunkMappingResponse::default();
            Ok(unary(Message::encoded(response.encode_to_vec())))
        })
        .await
}

async fn next(
    requests: &mut Requests,
) -> Result<Option<reapi::RegisterChunkMappingRequest>, Status> {
    let Some(message) = requests.next_message().await? else { return Ok(None) };
    let message = message.into_bytes();
    check_parts(parts::SPLICE, &message)?;
    reapi::RegisterChunkMappingRequest::decode(message).map(Some).map_err(undecodable)
}

/// The function of a request that must name one.
fn named_function(code: i32) -> Result<Function, Status> {
    if code == digest_function::Value::Unknown as i32 {
        return Err(Invalid::new("digest_function", "must be set").into_status());
    }
    requested_function(code, None).map_err(|error| error.into_status())
}

fn blob_digest(function: Function, wire: Option<&reapi::Digest>) -> Result<Digest, Status> {
    required_digest(function, "blob_digest", wire).map_err(|error| error.into_status())
}

/// How many chunks of a blob fit into one reply, whatever their sizes: none is larger than the blob.
fn chunks_in_reply(blob: Digest) -> usize {
    // The digest with its tag and length.
    let each = blob.to_proto().encoded_len() + 3;
    (MAX_REPLY_BYTES / each).min(MAX_CHUNKS)
}

/// Cuts a blob, stores its chunks, and gives their digests in order.
///
/// A blob of more than `most` chunks is refused, where its size tells before anything is read.
async fn chunks_of(
    door: &Door,
    cas: Arc<dyn Cas>,
    blob: Digest,
    most: usize,
) -> Result<Vec<Digest>, Status> {
    let cutter = Cutter::announced();
    let too_many = || {
        let what = format!("{blob} has more than the {most} chunks that one answer holds");
        exhausted("chunks", what)
    };
    if blob.size_bytes().div_ceil(cutter.max() as u64) > most as u64 {
        return Err(too_many());
    }
    // The chunk that is being cut, the piece that came last, and the digests.
    let most_held = (blob.size_bytes() / cutter.min() as u64 + 1).min(most as u64);
    let held = 2 * cutter.max() as u64 + most_held * size_of::<Digest>() as u64;
    let _memory = door.wire.budget().reserve(held.min(2 * blob.size_bytes())).await?;
    let found = cas.get(blob, Wanted::ALL).await.map_err(|error| error.into_status())?;
    let mut pieces = found.into_stream();
    let mut waiting = BytesMut::new();
    let mut chunks = Vec::new();
    loop {
        let piece = pieces.try_next().await.map_err(|error| error.into_status())?;
        let ended = piece.is_none();
        waiting.extend_from_slice(&piece.unwrap_or_default());
        while waiting.len() >= cutter.max() || (ended && !waiting.is_empty()) {
            let (digest, chunk, rest) = cut(cutter, blob.function(), waiting).await?;
            waiting = rest;
            if chunks.len() == most {
                return Err(too_many());
            }
            chunks.push(digest);
            // The only chunk of a blob is the blob.
            if digest != blob {
                cas.put(digest, chunk.into()).await.map_err(|error| error.into_status())?;
            }
        }
        if ended {
            return Ok(chunks);
        }
    }
}

/// Cuts off the first chunk and hashes it, off the reactor.
async fn cut(
    cutter: Cutter,
    function: Function,
    mut data: BytesMut,
) -> Result<(Digest, Bytes, BytesMut), Status> {
    let work = move || {
        let len = cutter.cut(&data);
        let chunk = data.split_to(len).freeze();
        (Digest::of(function, &chunk), chunk, data)
    };
    let done = task::spawn_blocking(work).await;
    done.map_err(|error| internal(format!("cutting a blob: {error}")))
}

/// A blob that is to be put together.
struct Splice {
    blob: Digest,
    chunks: Vec<Digest>,
    size_bytes: u64,
    /// Holds the memory of `chunks`, message by message.
    memory: Vec<Reservation>,
}

impl Splice {
    fn new(door: &Door, function: Function, wire: Option<&reapi::Digest>) -> Result<Self, Status> {
        let blob = blob_digest(function, wire)?;
        door.check_size(&blob).map_err(|error| error.into_status())?;
        Ok(Self { blob, chunks: Vec::new(), size_bytes: 0, memory: Vec::new() })
    }

    /// Takes in the digests of the next chunks.
    async fn extend(&mut self, door: &Door, wire: &[reapi::Digest]) -> Result<(), Status> {
        if wire.len() > MAX_CHUNKS - self.chunks.len() {
            let what = format!("are more than {MAX_CHUNKS}");
            return Err(Invalid::new("chunk_digests", what).into_status());
        }
        if !wire.is_empty() {
            let bytes = size_of_val(wire).max(wire.len() * size_of::<Digest>());
            self.memory.push(door.wire.budget().reserve(bytes as u64).await?);
        }
        self.take_in(wire).map_err(|error| error.into_status())
    }

    fn take_in(&mut self, wire: &[reapi::Digest]) -> Result<(), Invalid> {
        for chunk in wire {
            let index = self.chunks.len();
            let chunk = digest(self.blob.function(), chunk)
                .map_err(|error| error.within(&format!("chunk_digests[{index}]")))?;
            self.size_bytes += chunk.size_bytes();
            if self.size_bytes > self.blob.size_bytes() {
                let what = "are more bytes than the blob has";
                return Err(Invalid::new("chunk_digests", what));
            }
            self.chunks.push(chunk);
        }
        Ok(())
    }

    /// Puts the blob together, and stores it if its digest is right. One that is there is left alone.
    async fn store(self, cas: Arc<dyn Cas>) -> Result<Digest, Status> {
        let known = cas.find_missing(&[self.blob]).await;
        if known.map_err(|error| error.into_status())?.is_empty() {
            return Ok(self.blob);
        }
        if self.size_bytes != self.blob.size_bytes() {
            let (sum, size) = (self.size_bytes, self.blob.size_bytes());
            let what = format!("are {sum} bytes in all, but the blob has {size}");
            return Err(Invalid::new("chunk_digests", what).into_status());
        }
        let absent = cas.find_missing(&self.chunks).await;
        let absent = absent.map_err(|error| error.into_status())?;
        if let Some(first) = absent.first() {
            let count = absent.len();
            return Err(not_found(format!("{count} chunks are not stored here, first {first}")));
        }
        let chunks = Arc::clone(&cas);
        let pieces = stream::iter(self.chunks)
            .map(move |chunk| {
                let cas = Arc::clone(&chunks);
                async move { cas.get(chunk, Wanted::ALL).await.map(|blob| blob.into_stream()) }
            })
            .buffered(CONCURRENT_CHUNKS)
            .try_flatten()
            .map_err(|error: Error| io::Error::other(error.into_status()));
        let content = SourceContent::Stream(pieces.boxed());
        let source = Source { encoding: Encoding::Identity, content };
        cas.put(self.blob, source).await.map_err(|error| error.into_status())?;
        Ok(self.blob)
    }
}
