//! What one node of a cluster was told, asked of another that has never seen it.
//!
//! Everything is written at the server before a run, and asked for at the other node once: no answer is warm.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use prost::Message;

use super::action_cache::{self, Entries};
use super::bytestream::{at_once, read_identity};
use super::{Needs, Row};
use crate::args::{Args, Size};
use crate::drive::{Calls, Plan, Workload};
use crate::failure::Failure;
use crate::payload::{Blob, Source, TAIL_BYTES, Texture};
use crate::target::Target;

/// Calls of a run at most, since all that they ask for has to be written first.
const READS: u64 = 4_000;
const RESULTS: u64 = 1_000;
const FINDS: u64 = 4;
/// Digests in a FindMissingBlobs.
const DIGESTS: usize = 10_000;

pub(super) fn rows(args: &Args, source: &Arc<Source>) -> Vec<Row> {
    let mut rows = Vec::new();
    for &size in &args.sizes {
        let bytes = size.0.max(TAIL_BYTES);
        let row = Row::new(
            format!("through-read-{size}"),
            format!("ByteStream read of {size} that another node was told (--through)"),
            Read { source: Arc::clone(source), size },
        );
        let reads = (args.write_bytes.0 / bytes) as u64;
        rows.push(row.needs(Needs::Through).at_once(at_once(bytes)).calls(reads.clamp(1, READS)));
    }
    let find = Row::new(
        "through-find-missing",
        "FindMissingBlobs of 10,000 that another node was told (--through)",
        FindMissing(Arc::clone(source)),
    );
    let get = Row::new(
        "through-get-result",
        "GetActionResult of a result with 3 files that another node was told (--through)",
        Get(Arc::clone(source)),
    );
    rows.push(find.needs(Needs::Through).calls(FINDS));
    rows.push(get.needs(Needs::ThroughResults).at_once(&[64]).calls(RESULTS));
    rows
}

struct Read {
    source: Arc<Source>,
    size: Size,
}

struct ReadCalls(Vec<Blob>);

#[async_trait]
impl Workload for Read {
    async fn prepare(&self, target: &Target, plan: &Plan) -> Result<Arc<dyn Calls>, Failure> {
        let mould = self.source.mould(Texture::Random, self.size.0);
        let blobs: Vec<Blob> = (0..plan.calls).map(|_| mould.blob()).collect();
        target.upload(&blobs).await?;
        Ok(Arc::new(ReadCalls(blobs)))
    }
}

#[async_trait]
impl Calls for ReadCalls {
    async fn call(&self, target: &Target, index: u64) -> Result<u64, Failure> {
        let blob = &self.0[index as usize];
        read_identity(target.through()?, blob).await?;
        Ok(blob.len() as u64)
    }
}

struct FindMissing(Arc<Source>);

/// Encoded requests.
struct FindMissingCalls(Vec<Bytes>);

#[async_trait]
impl Workload for FindMissing {
    async fn prepare(&self, target: &Target, plan: &Plan) -> Result<Arc<dyn Calls>, Failure> {
        let mut requests = Vec::new();
        for _ in 0..plan.calls {
            let blobs: Vec<Blob> = (0..DIGESTS).map(|_| self.0.fresh_blob()).collect();
            target.upload(&blobs).await?;
            let digests = blobs.into_iter().map(|blob| blob.digest).collect();
            requests.push(target.find_missing_request(digests).encode_to_vec().into());
        }
        Ok(Arc::new(FindMissingCalls(requests)))
    }
}

#[async_trait]
impl Calls for FindMissingCalls {
    async fn call(&self, target: &Target, index: u64) -> Result<u64, Failure> {
        let request = &self.0[index as usize];
        match target.through()?.find_missing_encoded(request).await?.len() {
            0 => Ok(0),
            _ => Err(Failure::wrong("blobs are missing that another node has acknowledged")),
        }
    }
}

struct Get(Arc<Source>);

struct GetCalls(Entries);

#[async_trait]
impl Workload for Get {
    async fn prepare(&self, target: &Target, plan: &Plan) -> Result<Arc<dyn Calls>, Failure> {
        let entries = action_cache::entries(&self.0, plan.calls as usize);
        target.upload(&entries.blobs).await?;
        for (action, result) in &entries.results {
            action_cache::update(target, action, result).await?;
        }
        Ok(Arc::new(GetCalls(entries)))
    }
}

#[async_trait]
impl Calls for GetCalls {
    async fn call(&self, target: &Target, index: u64) -> Result<u64, Failure> {
        let (action, result) = &self.0.results[index as usize];
        let through = target.through()?;
        action_cache::get(through, &action_cache::request(through, action), result).await?;
        Ok(0)
    }
}
