//! GetActionResult and UpdateActionResult.

use std::sync::Arc;

use async_trait::async_trait;
use bbb_reapi::proto::reapi::{
    self as reapi, Action, ActionResult, Command, Directory, ExecutedActionMetadata, OutputFile,
};
use bytes::Bytes;
use prost::Message;

use super::{Needs, Row};
use crate::digest::Digest;
use crate::digest::OnTheWire as _;
use crate::drive::{Calls, Plan, Workload};
use crate::failure::Failure;
use crate::payload::{Blob, Source};
use crate::target::Target;

/// Results that are asked for in turn.
const RESULTS: usize = 1_000;
/// Output files of a result.
const OUTPUTS: usize = 3;

const GET: &str = "/build.bazel.remote.execution.v2.ActionCache/GetActionResult";
const UPDATE: &str = "/build.bazel.remote.execution.v2.ActionCache/UpdateActionResult";

pub(super) fn rows(source: &Arc<Source>) -> Vec<Row> {
    let entries = Arc::new(entries(source, RESULTS));
    let get = Get(Arc::clone(&entries));
    let update = Update(entries, Arc::clone(source));
    vec![
        Row::new("get-result", "GetActionResult of a result with 3 files, a hit", get)
            .needs(Needs::Results)
            .at_once(&[64]),
        Row::new("update-result", "UpdateActionResult with 3 files that are there", update)
            .needs(Needs::Results)
            .at_once(&[64]),
    ]
}

/// Actions, their results, and every blob that these need.
pub(super) struct Entries {
    pub(super) results: Vec<(Digest, ActionResult)>,
    pub(super) blobs: Vec<Blob>,
}

/// `count` of them that no server has seen before.
pub(super) fn entries(source: &Source, count: usize) -> Entries {
    let function = source.function();
    let command = Command { arguments: vec!["/bin/true".to_owned()], ..Command::default() };
    let command = Blob::whole(function, command.encode_to_vec());
    let root = Blob::whole(function, Directory::default().encode_to_vec());
    let outputs: Vec<Blob> = (0..OUTPUTS).map(|_| source.fresh_blob()).collect();
    let output_files = outputs.iter().enumerate().map(|(index, blob)| OutputFile {
        path: format!("out/{index}.txt"),
        digest: Some(blob.digest.clone()),
        ..OutputFile::default()
    });
    let result = ActionResult {
        output_files: output_files.collect(),
        execution_metadata: Some(ExecutedActionMetadata {
            worker: "bench".to_owned(),
            ..ExecutedActionMetadata::default()
        }),
        ..ActionResult::default()
    };
    let action = |_| Action {
        command_digest: Some(command.digest.clone()),
        input_root_digest: Some(root.digest.clone()),
        salt: source.fresh().to_vec(),
        ..Action::default()
    };
    let actions: Vec<Blob> = (0..count)
        .map(action)
        .map(|action| Blob::whole(function, action.encode_to_vec()))
        .collect();
    let results = actions.iter().map(|action| (action.digest.clone(), result.clone())).collect();
    let blobs = [command.clone(), root.clone()].into_iter().chain(outputs).chain(actions).collect();
    Entries { results, blobs }
}

/// UpdateActionResult; the answer must be the result that was sent, whatever metadata the server adds.
pub(super) async fn update(
    target: &Target,
    action: &Digest,
    result: &ActionResult,
) -> Result<(), Failure> {
    let request = reapi::UpdateActionResultRequest {
        instance_name: target.speech.instance.clone(),
        action_digest: Some(action.clone()),
        action_result: Some(result.clone()),
        digest_function: target.speech.function.wire(),
        ..reapi::UpdateActionResultRequest::default()
    };
    let answer: ActionResult = target.client.unary(UPDATE, &request).await?;
    same_outputs(&answer, result)
}

fn same_outputs(answer: &ActionResult, wanted: &ActionResult) -> Result<(), Failure> {
    let digests = |result: &ActionResult| -> Vec<Option<Digest>> {
        result.output_files.iter().map(|file| file.digest.clone()).collect()
    };
    if digests(answer) == digests(wanted) && answer.stdout_raw == wanted.stdout_raw {
        return Ok(());
    }
    Err(Failure::wrong("another result than was written"))
}

/// An encoded GetActionResult request.
pub(super) fn request(target: &Target, action: &Digest) -> Bytes {
    let request = reapi::GetActionResultRequest {
        instance_name: target.speech.instance.clone(),
        action_digest: Some(action.clone()),
        digest_function: target.speech.function.wire(),
        ..reapi::GetActionResultRequest::default()
    };
    request.encode_to_vec().into()
}

/// GetActionResult of an encoded request; the answer must have the outputs of `wanted`.
pub(super) async fn get(
    target: &Target,
    request: &Bytes,
    wanted: &ActionResult,
) -> Result<(), Failure> {
    let body = crate::wire::Outgoing::encoded(request)?;
    let answer = target.client.call(GET, body).await?.only_message().await?;
    same_outputs(&crate::client::decode(answer)?, wanted)
}

struct Get(Arc<Entries>);

struct GetCalls {
    entries: Arc<Entries>,
    requests: Vec<Bytes>,
}

#[async_trait]
impl Workload for Get {
    async fn prepare(&self, target: &Target, _: &Plan) -> Result<Arc<dyn Calls>, Failure> {
        target.upload(&self.0.blobs).await?;
        for (action, result) in &self.0.results {
            update(target, action, result).await?;
        }
        let requests = self.0.results.iter().map(|(action, _)| request(target, action)).collect();
        Ok(Arc::new(GetCalls { entries: Arc::clone(&self.0), requests }))
    }
}

#[async_trait]
impl Calls for GetCalls {
    async fn call(&self, target: &Target, index: u64) -> Result<u64, Failure> {
        let index = index as usize % self.requests.len();
        get(target, &self.requests[index], &self.entries.results[index].1).await?;
        Ok(0)
    }
}

struct Update(Arc<Entries>, Arc<Source>);

struct UpdateCalls(Arc<Entries>, Arc<Source>);

#[async_trait]
impl Workload for Update {
    async fn prepare(&self, target: &Target, _: &Plan) -> Result<Arc<dyn Calls>, Failure> {
        target.upload(&self.0.blobs).await?;
        Ok(Arc::new(UpdateCalls(Arc::clone(&self.0), Arc::clone(&self.1))))
    }
}

#[async_trait]
impl Calls for UpdateCalls {
    async fn call(&self, target: &Target, index: u64) -> Result<u64, Failure> {
        let (action, result) = &self.0.results[index as usize % self.0.results.len()];
        // No two results are the same, so that a server cannot leave one out.
        let stdout_raw = self.1.fresh().to_vec();
        update(target, action, &ActionResult { stdout_raw, ..result.clone() }).await?;
        Ok(0)
    }
}
