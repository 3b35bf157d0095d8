//! Actions: run, answered from the cache, with large inputs, as in a build, and merged.

mod build;
mod inputs;
mod merge;
mod noop;

use std::sync::Arc;

use bbb_reapi::proto::longrunning::{Operation, operation};
use bbb_reapi::proto::reapi::{
    self as reapi, Action, Command, ExecuteResponse, Platform, platform::Property,
};
use prost::Message;

use super::{Needs, Row};
use crate::args::Args;
use crate::client::decode;
use crate::digest::Digest;
use crate::digest::OnTheWire as _;
use crate::failure::Failure;
use crate::payload::{Blob, Source};
use crate::target::Target;
use crate::wire::{Messages, Outgoing};

const EXECUTE: &str = "/build.bazel.remote.execution.v2.Execution/Execute";
const EXECUTE_RESPONSE: &str = "build.bazel.remote.execution.v2.ExecuteResponse";

pub(super) fn rows(args: &Args, source: &Arc<Source>) -> Vec<Row> {
    let maker = Maker { source: Arc::clone(source), platform: platform(args) };
    let noop = Row::new(
        "execute-noop",
        "new action that does nothing, executed",
        noop::Noop(maker.clone()),
    );
    let mut rows = vec![
        Row::new(
            "execute-cached",
            "action answered from the cache by Execute",
            noop::Cached(maker.clone()),
        )
        .at_once(&[64]),
        Row::new(
            "execute-inputs-1000",
            "action with 1,000 input files, one of them changed",
            inputs::Inputs::new(&maker, 1_000),
        )
        .calls(300),
        Row::new(
            "execute-inputs-10000",
            "action with 10,000 input files, one of them changed",
            inputs::Inputs::new(&maker, 10_000),
        )
        .calls(100),
        Row::new(
            "build-like",
            "FindMissing, 3 uploads, 20 ms of work, 1 download",
            build::Build(maker.clone()),
        )
        .at_once(&[8])
        .calls(4_000),
        Row::new("merge", "equal actions at once, 50 ms of work", merge::Merge(maker))
            .at_once(&[64])
            .calls(64 * 20),
    ];
    rows = rows.into_iter().map(|row| row.needs(Needs::Execution)).collect();
    rows.insert(0, noop.needs(Needs::Spawn).at_once(&[1, 8, 64, 256]).calls(4_000));
    rows
}

/// The platform that the user asks actions to have, in the order that the specification demands.
fn platform(args: &Args) -> Option<Platform> {
    let mut properties: Vec<Property> = args
        .platform
        .iter()
        .map(|(name, value)| Property { name: name.clone(), value: value.clone() })
        .collect();
    properties.sort_by(|a, b| (&a.name, &a.value).cmp(&(&b.name, &b.value)));
    (!properties.is_empty()).then_some(Platform { properties })
}

/// Makes commands and actions.
#[derive(Clone)]
struct Maker {
    source: Arc<Source>,
    platform: Option<Platform>,
}

impl Maker {
    /// A command with these arguments and output paths.
    #[expect(
        deprecated,
        reason = "servers of API 2.1 and older look for the platform in the command"
    )]
    fn command(&self, arguments: &[&str], outputs: &[&str]) -> Blob {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let command = Command {
            arguments: texts(arguments),
            output_paths: texts(outputs),
            output_files: texts(outputs),
            platform: self.platform.clone(),
            ..Command::default()
        };
        self.blob(&command)
    }

    /// An action that no server has seen.
    fn action(&self, command: &Blob, root: &Digest) -> Blob {
        self.blob(&Action {
            command_digest: Some(command.digest.clone()),
            input_root_digest: Some(root.clone()),
            salt: self.source.fresh().to_vec(),
            platform: self.platform.clone(),
            ..Action::default()
        })
    }

    fn blob(&self, message: &impl Message) -> Blob {
        Blob::whole(self.source.function(), message.encode_to_vec())
    }
}

/// Executes an action to its end; it must have run, with exit code 0.
async fn execute(target: &Target, action: &Digest) -> Result<ExecuteResponse, Failure> {
    let request = reapi::ExecuteRequest {
        instance_name: target.speech.instance.clone(),
        action_digest: Some(action.clone()),
        digest_function: target.speech.function.wire(),
        ..reapi::ExecuteRequest::default()
    };
    let mut answer = target.client.call(EXECUTE, Outgoing::message(&request)?).await?;
    let mut messages = Messages::default();
    let mut last = None;
    while let Some(message) = answer.message(&mut messages).await? {
        last = Some(message);
    }
    let last = last.ok_or_else(|| Failure::wrong("no operation"))?;
    let response = response(decode(last)?)?;
    match &response.result {
        Some(result) if result.exit_code == 0 => Ok(response),
        Some(result) => Err(Failure::wrong(format!(
            "exit code {}: {}",
            result.exit_code,
            String::from_utf8_lossy(&result.stderr_raw)
        ))),
        None => Err(Failure::wrong("no result")),
    }
}

/// The response of a finished operation.
fn response(operation: Operation) -> Result<ExecuteResponse, Failure> {
    if !operation.done {
        return Err(Failure::wrong("the stream ended before the operation was done"));
    }
    match operation.result {
        Some(operation::Result::Response(any)) if any.type_url.ends_with(EXECUTE_RESPONSE) => {
            let response: ExecuteResponse = decode(any.value.into())?;
            Failure::check(response.status.as_ref())?;
            Ok(response)
        }
        Some(operation::Result::Error(status)) => {
            Failure::check(Some(&status))?;
            Err(Failure::wrong("an error with code OK"))
        }
        _ => Err(Failure::wrong("an operation without ExecuteResponse")),
    }
}

/// The digest of the standard output of a response.
fn stdout(target: &Target, response: &ExecuteResponse) -> Option<Digest> {
    let result = response.result.as_ref()?;
    result
        .stdout_digest
        .clone()
        .filter(|digest| digest.size_bytes > 0)
        .or_else(|| Some(target.speech.function.digest(&result.stdout_raw)))
}
