//! FindMissingBlobs and the batch calls of the content-addressable storage.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use bbb_reapi::proto::reapi::{self as reapi, batch_read_blobs_response, compressor};
use bytes::Bytes;
use prost::Message;

use super::Row;
use crate::args::Args;
use crate::client::decode;
use crate::digest::Digest;
use crate::digest::OnTheWire as _;
use crate::drive::{Calls, Plan, Workload};
use crate::failure::Failure;
use crate::payload::{Blob, Source, Texture};
use crate::target::Target;

/// Digests in a FindMissingBlobs.
const DIGESTS: usize = 10_000;
/// Different requests for absent blobs, which take turns.
const ABSENT_SETS: usize = 8;
/// Every answer is compared by size, every so-manieth digest by digest.
const COMPARE_EVERY: u64 = 16;
/// Blobs of a batch, and their size.
const BATCH: usize = 500;
const BATCH_BLOB_BYTES: usize = 1 << 10;

const BATCH_READ: &str =
    "/build.bazel.remote.execution.v2.ContentAddressableStorage/BatchReadBlobs";

pub(super) fn rows(args: &Args, source: &Arc<Source>) -> Vec<Row> {
    let updates = (args.write_bytes.0 / (BATCH * BATCH_BLOB_BYTES)).max(1) as u64;
    let find = |present| FindMissing {
        present,
        blobs: if present { small_blobs(source) } else { Vec::new() },
        source: Arc::clone(source),
    };
    vec![
        Row::new("find-missing-present", "FindMissingBlobs of 10,000 that are there", find(true))
            .at_once(&[4]),
        Row::new("find-missing-absent", "FindMissingBlobs of 10,000 that are not", find(false))
            .at_once(&[4]),
        Row::new(
            "batch-update",
            "500 new blobs of 1 KiB, in batches",
            BatchUpdate(Arc::clone(source)),
        )
        .at_once(&[4])
        .calls(updates),
        Row::new("batch-read", "500 blobs of 1 KiB, in batches", BatchRead(Arc::clone(source)))
            .at_once(&[4]),
    ]
}

/// Blobs to be found, the same for all runs.
fn small_blobs(source: &Source) -> Vec<Blob> {
    (0..DIGESTS).map(|_| source.fresh_blob()).collect()
}

struct FindMissing {
    present: bool,
    blobs: Vec<Blob>,
    source: Arc<Source>,
}

struct FindMissingCalls {
    /// Encoded requests, and the digests that each asks for.
    requests: Vec<(Bytes, Vec<Digest>)>,
    present: bool,
}

#[async_trait]
impl Workload for FindMissing {
    async fn prepare(&self, target: &Target, _: &Plan) -> Result<Arc<dyn Calls>, Failure> {
        target.upload(&self.blobs).await?;
        let sets: Vec<Vec<Digest>> = if self.present {
            vec![self.blobs.iter().map(|blob| blob.digest.clone()).collect()]
        } else {
            let set = || small_blobs(&self.source).into_iter().map(|blob| blob.digest).collect();
            (0..ABSENT_SETS).map(|_| set()).collect()
        };
        let encoded = |digests: Vec<Digest>| {
            let request = target.find_missing_request(digests);
            (Bytes::from(request.encode_to_vec()), request.blob_digests)
        };
        let requests = sets.into_iter().map(encoded).collect();
        Ok(Arc::new(FindMissingCalls { requests, present: self.present }))
    }
}

#[async_trait]
impl Calls for FindMissingCalls {
    async fn call(&self, target: &Target, index: u64) -> Result<u64, Failure> {
        let (request, digests) = &self.requests[index as usize % self.requests.len()];
        let answer = target.find_missing_encoded(request).await?;
        if self.present {
            return match answer.len() {
                0 => Ok(0),
                _ => Err(Failure::wrong("blobs are missing that were acknowledged")),
            };
        }
        // Each digest takes as many bytes in the answer as in a request of these digests alone.
        let expected: usize = digests.iter().map(entry_bytes).sum();
        if answer.len() != expected {
            return Err(Failure::wrong(format!(
                "{} bytes of digests, not {expected}",
                answer.len()
            )));
        }
        if index.is_multiple_of(COMPARE_EVERY) {
            compare_missing(decode(answer)?, digests)?;
        }
        Ok(0)
    }
}

/// Bytes that a digest takes as field 2 of FindMissingBlobsResponse.
fn entry_bytes(digest: &Digest) -> usize {
    let bytes = digest.encoded_len();
    1 + prost::length_delimiter_len(bytes) + bytes
}

fn compare_missing(
    answer: reapi::FindMissingBlobsResponse,
    digests: &[Digest],
) -> Result<(), Failure> {
    let mut found: Vec<&str> =
        answer.missing_blob_digests.iter().map(|digest| digest.hash.as_str()).collect();
    let mut wanted: Vec<&str> = digests.iter().map(|digest| digest.hash.as_str()).collect();
    found.sort_unstable();
    wanted.sort_unstable();
    if found == wanted { Ok(()) } else { Err(Failure::wrong("other digests than were asked for")) }
}

struct BatchUpdate(Arc<Source>);

struct BatchUpdateCalls(Arc<Source>);

#[async_trait]
impl Workload for BatchUpdate {
    async fn prepare(&self, _: &Target, _: &Plan) -> Result<Arc<dyn Calls>, Failure> {
        Ok(Arc::new(BatchUpdateCalls(Arc::clone(&self.0))))
    }
}

#[async_trait]
impl Calls for BatchUpdateCalls {
    async fn call(&self, target: &Target, _: u64) -> Result<u64, Failure> {
        let mould = self.0.mould(Texture::Random, BATCH_BLOB_BYTES);
        let blobs: Vec<Blob> = (0..BATCH).map(|_| mould.blob()).collect();
        let blobs: Vec<&Blob> = blobs.iter().collect();
        for batch in target.batches(&blobs) {
            target.batch_update(batch).await?;
        }
        Ok((BATCH * BATCH_BLOB_BYTES) as u64)
    }
}

struct BatchRead(Arc<Source>);

struct BatchReadCalls {
    /// Encoded requests that together ask for all blobs.
    requests: Vec<Bytes>,
    blobs: HashMap<String, Blob>,
}

#[async_trait]
impl Workload for BatchRead {
    async fn prepare(&self, target: &Target, _: &Plan) -> Result<Arc<dyn Calls>, Failure> {
        let mould = self.0.mould(Texture::Random, BATCH_BLOB_BYTES);
        let blobs: Vec<Blob> = (0..BATCH).map(|_| mould.blob()).collect();
        target.upload(&blobs).await?;
        let all: Vec<&Blob> = blobs.iter().collect();
        let request = |batch: &&[&Blob]| reapi::BatchReadBlobsRequest {
            instance_name: target.speech.instance.clone(),
            digests: batch.iter().map(|blob| blob.digest.clone()).collect(),
            acceptable_compressors: vec![compressor::Value::Identity.into()],
            digest_function: target.speech.function.wire(),
        };
        let requests =
            target.batches(&all).iter().map(request).map(|r| r.encode_to_vec().into()).collect();
        let blobs = blobs.into_iter().map(|blob| (blob.digest.hash.clone(), blob)).collect();
        Ok(Arc::new(BatchReadCalls { requests, blobs }))
    }
}

#[async_trait]
impl Calls for BatchReadCalls {
    async fn call(&self, target: &Target, _: u64) -> Result<u64, Failure> {
        let mut seen = 0;
        for request in &self.requests {
            let body = crate::wire::Outgoing::encoded(request)?;
            let answer = target.client.call(BATCH_READ, body).await?.only_message().await?;
            let answer: reapi::BatchReadBlobsResponse = decode(answer)?;
            for response in &answer.responses {
                self.check(response)?;
            }
            seen += answer.responses.len();
        }
        match seen {
            BATCH => Ok((BATCH * BATCH_BLOB_BYTES) as u64),
            _ => Err(Failure::wrong(format!("{seen} blobs, not {BATCH}"))),
        }
    }

    fn remark(&self) -> Option<String> {
        (self.requests.len() > 1).then(|| format!("in {} calls each", self.requests.len()))
    }
}

impl BatchReadCalls {
    fn check(&self, response: &batch_read_blobs_response::Response) -> Result<(), Failure> {
        Failure::check(response.status.as_ref())?;
        let digest = response.digest.as_ref().map_or("", |digest| digest.hash.as_str());
        match self.blobs.get(digest) {
            Some(blob) if blob.len() == response.data.len() => blob.expect_at(0, &response.data),
            _ => Err(Failure::wrong(format!("blob {digest:?} of {} bytes", response.data.len()))),
        }
    }
}
