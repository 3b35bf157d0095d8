//! A server under load: its connections, what it announced, and the calls that several workloads need.

use std::collections::HashSet;

use bbb_reapi::proto::bytestream::{ReadRequest, WriteResponse};
use bbb_reapi::proto::reapi::{self as reapi, batch_update_blobs_request, compressor};
use bytes::Bytes;
use prost::Message;

use crate::client::{Answer, Client, decode};
use bbb_digest::Function;

use crate::digest::{Digest, OnTheWire as _};
use crate::failure::Failure;
use crate::payload::Blob;
use crate::wire::Outgoing;

/// Batch limit towards servers that announce none: gRPC's usual limit of 4 MiB for a message, less some room.
const UNANNOUNCED_BATCH_BYTES: usize = (4 << 20) - (64 << 10);
/// Bytes of a batch that a blob takes beside its data.
const BATCH_ENTRY_BYTES: usize = 128;
/// Digests in one FindMissingBlobs.
const FIND_MISSING_DIGESTS: usize = 10_000;

const CAS: [&str; 2] = [
    "/build.bazel.remote.execution.v2.ContentAddressableStorage/FindMissingBlobs",
    "/build.bazel.remote.execution.v2.ContentAddressableStorage/BatchUpdateBlobs",
];
const GET_CAPABILITIES: &str = "/build.bazel.remote.execution.v2.Capabilities/GetCapabilities";
const WRITE: &str = "/google.bytestream.ByteStream/Write";
const READ: &str = "/google.bytestream.ByteStream/Read";

/// What a server says that it can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Offers {
    /// Bytes of blobs in one batch.
    pub(crate) batch_bytes: usize,
    /// Whether it runs actions.
    pub(crate) execution: bool,
    /// Whether ByteStream takes and gives zstd.
    pub(crate) zstd: bool,
    /// Whether clients may write action results.
    pub(crate) update_results: bool,
    /// Whether there is another node, at which what is written here can be read.
    pub(crate) through: bool,
}

/// How a session speaks.
#[derive(Clone, Debug)]
pub(crate) struct Speech {
    /// Instance name.
    pub(crate) instance: String,
    /// Digest function.
    pub(crate) function: Function,
    /// Data per message of a write.
    pub(crate) message_bytes: usize,
}

/// A server under load.
#[derive(Debug)]
pub(crate) struct Target {
    /// Its name in reports.
    pub(crate) label: String,
    /// Its process, if it is on this machine and was named.
    pub(crate) pid: Option<u32>,
    /// Whether it stores what is written, so that reads can be compared: our bare server does not.
    pub(crate) stores: bool,
    /// Another node of its cluster.
    pub(crate) through: Option<Box<Target>>,
    /// Processes that have a part in the work beside those of both nodes.
    pub(crate) also: Vec<u32>,
    pub(crate) client: Client,
    pub(crate) speech: Speech,
    pub(crate) offers: Offers,
}

impl Target {
    /// Asks the server for its capabilities.
    ///
    /// # Errors
    /// Any [`Failure`].
    pub(crate) async fn new(
        label: impl Into<String>,
        pid: Option<u32>,
        client: Client,
        speech: Speech,
    ) -> Result<Self, Failure> {
        let mut target = Self {
            label: label.into(),
            pid,
            stores: true,
            through: None,
            also: Vec::new(),
            client,
            speech,
            offers: Offers::default(),
        };
        target.offers = offers(&target.capabilities().await?);
        Ok(target)
    }

    /// The same server in a cluster with another node.
    pub(crate) fn with_through(self, through: Self) -> Self {
        let offers = Offers { through: true, ..self.offers };
        Self { through: Some(Box::new(through)), offers, ..self }
    }

    /// The other node.
    ///
    /// # Errors
    /// [`Failure::Wrong`] when there is none: workloads say that they need it.
    pub(crate) fn through(&self) -> Result<&Self, Failure> {
        self.through.as_deref().ok_or_else(|| Failure::wrong("there is no other node"))
    }

    /// GetCapabilities.
    pub(crate) async fn capabilities(&self) -> Result<reapi::ServerCapabilities, Failure> {
        let instance_name = self.speech.instance.clone();
        self.client.unary(GET_CAPABILITIES, &reapi::GetCapabilitiesRequest { instance_name }).await
    }

    /// The FindMissingBlobs request for `blob_digests`.
    pub(crate) fn find_missing_request(
        &self,
        blob_digests: Vec<Digest>,
    ) -> reapi::FindMissingBlobsRequest {
        reapi::FindMissingBlobsRequest {
            instance_name: self.speech.instance.clone(),
            blob_digests,
            digest_function: self.speech.function.wire(),
        }
    }

    /// Sends an encoded FindMissingBlobs request and gives the encoded answer.
    pub(crate) async fn find_missing_encoded(&self, request: &Bytes) -> Result<Bytes, Failure> {
        self.client.call(CAS[0], Outgoing::encoded(request)?).await?.only_message().await
    }

    /// Those of `digests` that the server does not have.
    pub(crate) async fn find_missing(&self, digests: Vec<Digest>) -> Result<Vec<Digest>, Failure> {
        let request = Bytes::from(self.find_missing_request(digests).encode_to_vec());
        let answer: reapi::FindMissingBlobsResponse =
            decode(self.find_missing_encoded(&request).await?)?;
        Ok(answer.missing_blob_digests)
    }

    /// Makes sure that the server has `blobs`: sends those that it misses, in batches where they fit.
    pub(crate) async fn upload(&self, blobs: &[Blob]) -> Result<(), Failure> {
        if !self.stores {
            return Ok(());
        }
        let mut missing = HashSet::new();
        for some in blobs.chunks(FIND_MISSING_DIGESTS) {
            let digests = some.iter().map(|blob| blob.digest.clone()).collect();
            missing.extend(self.find_missing(digests).await?.into_iter().map(|d| d.hash));
        }
        let wanted: Vec<&Blob> =
            blobs.iter().filter(|blob| missing.remove(&blob.digest.hash)).collect();
        let (small, large): (Vec<&Blob>, Vec<&Blob>) = wanted
            .into_iter()
            .partition(|blob| blob.len() + BATCH_ENTRY_BYTES <= self.offers.batch_bytes);
        for batch in self.batches(&small) {
            self.batch_update(batch).await?;
        }
        for blob in large {
            self.write(blob).await?;
        }
        Ok(())
    }

    /// Cuts `blobs` into batches that the server takes.
    pub(crate) fn batches<'a>(&self, blobs: &'a [&'a Blob]) -> Vec<&'a [&'a Blob]> {
        let mut batches = Vec::new();
        let mut rest = blobs;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fitting = rest.iter().take_while(|blob| {
                bytes += blob.len() + BATCH_ENTRY_BYTES;
                bytes <= self.offers.batch_bytes
            });
            let (batch, others) = rest.split_at(fitting.count().max(1));
            batches.push(batch);
            rest = others;
        }
        batches
    }

    /// BatchUpdateBlobs; every blob must be acknowledged.
    pub(crate) async fn batch_update(&self, blobs: &[&Blob]) -> Result<(), Failure> {
        let requests = blobs.iter().map(|blob| batch_update_blobs_request::Request {
            digest: Some(blob.digest.clone()),
            data: blob.to_vec(),
            compressor: compressor::Value::Identity.into(),
        });
        let request = reapi::BatchUpdateBlobsRequest {
            instance_name: self.speech.instance.clone(),
            requests: requests.collect(),
            digest_function: self.speech.function.wire(),
        };
        let answer: reapi::BatchUpdateBlobsResponse = self.client.unary(CAS[1], &request).await?;
        for response in &answer.responses {
            Failure::check(response.status.as_ref())?;
        }
        let acknowledged: HashSet<&str> = answer
            .responses
            .iter()
            .filter_map(|response| Some(response.digest.as_ref()?.hash.as_str()))
            .collect();
        match blobs.iter().find(|blob| !acknowledged.contains(blob.digest.hash.as_str())) {
            None => Ok(()),
            Some(blob) => {
                Err(Failure::wrong(format!("blob {} was not acknowledged", blob.digest.hash)))
            }
        }
    }

    /// Writes a blob by ByteStream.
    pub(crate) async fn write(&self, blob: &Blob) -> Result<(), Failure> {
        self.write_parts("blobs", &blob.digest, &blob.parts).await
    }

    /// Writes `parts`, the form `kind` (`blobs` or `compressed-blobs/zstd`) of a blob, by ByteStream.
    pub(crate) async fn write_parts(
        &self,
        kind: &str,
        digest: &Digest,
        parts: &[Bytes],
    ) -> Result<(), Failure> {
        let upload = uuid::Uuid::new_v4();
        let resource = self.resource(&format!("uploads/{upload}/{kind}"), digest);
        let body = Outgoing::write(resource, parts, self.speech.message_bytes)?;
        let sent: i64 = parts.iter().map(|part| part.len() as i64).sum();
        let answer: WriteResponse =
            decode(self.client.call(WRITE, body).await?.only_message().await?)?;
        // For a blob that is there already servers may answer early: with the whole size, or -1 when compressed.
        let identity = kind == "blobs";
        if answer.committed_size == sent || (!identity && answer.committed_size == -1) {
            return Ok(());
        }
        Err(Failure::wrong(format!("{} of {sent} bytes committed", answer.committed_size)))
    }

    /// Starts to read the form `kind` of a blob by ByteStream.
    pub(crate) async fn read(&self, kind: &str, digest: &Digest) -> Result<Answer, Failure> {
        let request = ReadRequest {
            resource_name: self.resource(kind, digest),
            read_offset: 0,
            read_limit: 0,
        };
        self.client.call(READ, Outgoing::message(&request)?).await
    }

    /// A resource name (see the service ByteStream in the Remote Execution API's proto file).
    fn resource(&self, middle: &str, digest: &Digest) -> String {
        let Speech { instance, function, .. } = &self.speech;
        let slash = if instance.is_empty() { "" } else { "/" };
        let segment = function.resource_segment();
        format!("{instance}{slash}{middle}/{segment}{}/{}", digest.hash, digest.size_bytes)
    }
}

/// What the answer to GetCapabilities offers.
fn offers(capabilities: &reapi::ServerCapabilities) -> Offers {
    let cache = capabilities.cache_capabilities.clone().unwrap_or_default();
    let zstd = i32::from(compressor::Value::Zstd);
    Offers {
        batch_bytes: match usize::try_from(cache.max_batch_total_size_bytes) {
            Ok(limit) if limit > 0 => limit.min(UNANNOUNCED_BATCH_BYTES),
            _ => UNANNOUNCED_BATCH_BYTES,
        },
        execution: capabilities
            .execution_capabilities
            .as_ref()
            .is_some_and(|execution| execution.exec_enabled),
        zstd: cache.supported_compressors.contains(&zstd),
        update_results: cache
            .action_cache_update_capabilities
            .is_some_and(|update| update.update_enabled),
        through: false,
    }
}
