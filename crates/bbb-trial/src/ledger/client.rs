//! The calls that a ledger's client makes of a node. A call that hangs fails.

use std::time::Duration;

use anyhow::Context as _;
use bbb_digest::Digest;
use bbb_reapi::{
    ToProto as _,
    proto::{
        bytestream::{ReadRequest, WriteRequest, byte_stream_client::ByteStreamClient},
        reapi::{
            ActionResult, BatchReadBlobsRequest, BatchUpdateBlobsRequest, FindMissingBlobsRequest,
            GetActionResultRequest, UpdateActionResultRequest,
            action_cache_client::ActionCacheClient, batch_update_blobs_request, compressor,
            content_addressable_storage_client::ContentAddressableStorageClient,
        },
    },
};
use bytes::Bytes;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};
use uuid::Uuid;

use super::goods::Way;

/// Longer than the deadline that a node has for its bucket.
const CALL_DEADLINE: Duration = Duration::from_secs(120);
/// What a client sends in one message of a stream.
const MESSAGE_BYTES: usize = 256 << 10;
const LARGEST_MESSAGE_BYTES: usize = 16 << 20;

/// How a blob is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reading {
    /// Within one message.
    Batch,
    /// As a stream of bytes from this offset on.
    From(u64),
    /// As a stream of zstd frames.
    Frames,
}

/// A client of one instance of one node.
#[derive(Clone, Debug)]
pub(super) struct Client {
    instance: String,
    channel: Channel,
}

impl Client {
    /// A client of the node at `server`, as in `grpc://127.0.0.1:1234`; it connects when it first has to.
    pub(super) fn new(server: &str, instance: &str) -> anyhow::Result<Self> {
        let address = server.strip_prefix("grpc://").context("a server is grpc://HOST:PORT")?;
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?.timeout(CALL_DEADLINE);
        Ok(Self { instance: instance.to_owned(), channel: endpoint.connect_lazy() })
    }

    fn cas(&self) -> ContentAddressableStorageClient<Channel> {
        ContentAddressableStorageClient::new(self.channel.clone())
            .max_decoding_message_size(LARGEST_MESSAGE_BYTES)
    }

    fn bytestream(&self) -> ByteStreamClient<Channel> {
        ByteStreamClient::new(self.channel.clone()).max_decoding_message_size(LARGEST_MESSAGE_BYTES)
    }

    fn resource(&self, rest: &str) -> String {
        if self.instance.is_empty() { rest.to_owned() } else { format!("{}/{rest}", self.instance) }
    }

    /// Which of these the node says are missing.
    pub(super) async fn missing(&self, digests: &[Digest]) -> Result<Vec<String>, Status> {
        let request = FindMissingBlobsRequest {
            instance_name: self.instance.clone(),
            blob_digests: digests.iter().map(Digest::to_proto).collect(),
            ..FindMissingBlobsRequest::default()
        };
        let answer = self.cas().find_missing_blobs(request).await?.into_inner();
        Ok(answer.missing_blob_digests.into_iter().map(|digest| digest.hash).collect())
    }

    /// Stores a blob on its own, or some in one call; says of each whether it was acknowledged.
    pub(super) async fn store(
        &self,
        way: Way,
        blobs: &[(Digest, Bytes)],
    ) -> Result<Vec<Result<(), Status>>, Status> {
        if way == Way::Batch {
            return self.update_batch(blobs).await;
        }
        let mut stored = Vec::new();
        for (digest, data) in blobs {
            stored.push(self.write(digest, data, way).await);
        }
        Ok(stored)
    }

    async fn update_batch(
        &self,
        blobs: &[(Digest, Bytes)],
    ) -> Result<Vec<Result<(), Status>>, Status> {
        let request = |(digest, data): &(Digest, Bytes)| batch_update_blobs_request::Request {
            digest: Some(digest.to_proto()),
            data: data.to_vec(),
            ..batch_update_blobs_request::Request::default()
        };
        let request = BatchUpdateBlobsRequest {
            instance_name: self.instance.clone(),
            requests: blobs.iter().map(request).collect(),
            ..BatchUpdateBlobsRequest::default()
        };
        let answer = self.cas().batch_update_blobs(request).await?.into_inner();
        let said = |(digest, _): &(Digest, Bytes)| {
            let hash = digest.hex();
            let of_it = answer.responses.iter().find(|response| {
                response.digest.as_ref().is_some_and(|digest| digest.hash == hash.as_str())
            });
            match of_it.map(|response| response.status.as_ref()) {
                Some(None) => Ok(()),
                Some(Some(status)) if status.code == 0 => Ok(()),
                Some(Some(status)) => Err(Status::new(status.code.into(), status.message.clone())),
                None => Err(Status::internal("the answer says nothing of a blob")),
            }
        };
        Ok(blobs.iter().map(said).collect())
    }

    async fn write(&self, digest: &Digest, data: &Bytes, way: Way) -> Result<(), Status> {
        let (kind, sent) = match way {
            Way::Frames(bytes) => ("compressed-blobs/zstd", frames(data, bytes)?),
            Way::Batch | Way::Stream => ("blobs", data.clone()),
        };
        let (hash, size) = (digest.hex(), digest.size_bytes());
        let name = format!("uploads/{}/{kind}/{}/{size}", Uuid::new_v4(), hash.as_str());
        let name = self.resource(&name);
        let length = sent.len();
        let request = move |begin: usize| {
            let end = length.min(begin + MESSAGE_BYTES);
            WriteRequest {
                resource_name: if begin == 0 { name.clone() } else { String::new() },
                write_offset: i64::try_from(begin).unwrap_or(i64::MAX),
                finish_write: end == length,
                data: sent[begin..end].to_vec(),
            }
        };
        let requests = tokio_stream::iter((0..length).step_by(MESSAGE_BYTES).map(request));
        self.bytestream().write(requests).await.map(|_| ())
    }

    /// The bytes of a blob, from where `reading` begins.
    pub(super) async fn read(&self, digest: &Digest, reading: Reading) -> Result<Vec<u8>, Status> {
        let (kind, offset) = match reading {
            Reading::Batch => return self.read_batch(digest).await,
            Reading::From(offset) => ("blobs", offset),
            Reading::Frames => ("compressed-blobs/zstd", 0),
        };
        let name = format!("{kind}/{}/{}", digest.hex().as_str(), digest.size_bytes());
        let request = ReadRequest {
            resource_name: self.resource(&name),
            read_offset: i64::try_from(offset).unwrap_or(i64::MAX),
            read_limit: 0,
        };
        let mut answers = self.bytestream().read(request).await?.into_inner();
        let mut data = Vec::new();
        while let Some(answer) = answers.message().await? {
            data.extend_from_slice(&answer.data);
        }
        if reading == Reading::Frames {
            data =
                zstd::decode_all(&*data).map_err(|error| Status::data_loss(error.to_string()))?;
        }
        Ok(data)
    }

    async fn read_batch(&self, digest: &Digest) -> Result<Vec<u8>, Status> {
        let request = BatchReadBlobsRequest {
            instance_name: self.instance.clone(),
            digests: vec![digest.to_proto()],
            acceptable_compressors: vec![compressor::Value::Identity as i32],
            ..BatchReadBlobsRequest::default()
        };
        let answer = self.cas().batch_read_blobs(request).await?.into_inner();
        let response = answer.responses.into_iter().next();
        let response = response.ok_or_else(|| Status::internal("the answer holds no blob"))?;
        match response.status {
            Some(status) if status.code != 0 => {
                Err(Status::new(Code::from(status.code), status.message))
            }
            _ => Ok(response.data.to_vec()),
        }
    }

    pub(super) async fn put_result(
        &self,
        action: &Digest,
        result: ActionResult,
    ) -> Result<(), Status> {
        let request = UpdateActionResultRequest {
            instance_name: self.instance.clone(),
            action_digest: Some(action.to_proto()),
            action_result: Some(result),
            ..UpdateActionResultRequest::default()
        };
        ActionCacheClient::new(self.channel.clone()).update_action_result(request).await.map(|_| ())
    }

    pub(super) async fn result(&self, action: &Digest) -> Result<ActionResult, Status> {
        let request = GetActionResultRequest {
            instance_name: self.instance.clone(),
            action_digest: Some(action.to_proto()),
            inline_stdout: true,
            ..GetActionResultRequest::default()
        };
        let mut client = ActionCacheClient::new(self.channel.clone());
        Ok(client.get_action_result(request).await?.into_inner())
    }
}

/// zstd frames of so many bytes each.
fn frames(data: &Bytes, bytes: usize) -> Result<Bytes, Status> {
    let mut all = Vec::new();
    for piece in data.chunks(bytes) {
        let frame = zstd::encode_all(piece, 1);
        all.extend(frame.map_err(|error| Status::internal(error.to_string()))?);
    }
    Ok(all.into())
}
