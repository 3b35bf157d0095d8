//! Operations as messages.

use std::fmt;

use bbb_digest::{Digest, InstanceName};
use bbb_reapi::{
    Channel, LogHost, LogId, LogResource, ToProto as _, function_code,
    proto::{
        longrunning::{Operation, operation},
        protobuf::{Any, StringValue},
        reapi::{
            ActionResult, ExecuteOperationMetadata, ExecuteResponse, ExecutedActionMetadata,
            execution_stage::Value as WireStage,
        },
        rpc,
    },
    to_timestamp,
};
use bbb_scheduler::{
    AttemptId, DispatchError, End, Failure, OperationId, OperationState, Place, Progress, Stage,
};
use bytes::Bytes;
use prost::Message as _;
use tonic::Status;

use crate::status::{self, IntoStatus};

const METADATA: &str =
    "type.googleapis.com/build.bazel.remote.execution.v2.ExecuteOperationMetadata";
const RESPONSE: &str = "type.googleapis.com/build.bazel.remote.execution.v2.ExecuteResponse";
const STRING_VALUE: &str = "type.googleapis.com/google.protobuf.StringValue";

/// The segment before an operation's id.
const SEGMENT: &str = "operations";

/// What an operation is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OperationName {
    pub(crate) instance: InstanceName,
    pub(crate) id: OperationId,
}

impl OperationName {
    /// Reads a name in the one form that it has.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let (parent, id) = name.rsplit_once('/')?;
        let canonical =
            id.len() == 32 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let id = u128::from_str_radix(id, 16).ok().filter(|_| canonical)?;
        Some(Self { instance: parse_parent(parent)?, id: OperationId(id) })
    }
}

impl fmt::Display for OperationName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.instance.is_empty() {
            write!(f, "{}/", self.instance)?;
        }
        write!(f, "{SEGMENT}/{}", self.id)
    }
}

/// The instance of `{instance}/operations`, or of `operations` alone.
pub(crate) fn parse_parent(parent: &str) -> Option<InstanceName> {
    let instance = match parent.strip_suffix(SEGMENT)? {
        "" => "",
        instance => instance.strip_suffix('/').filter(|instance| !instance.is_empty())?,
    };
    instance.parse().ok()
}

/// An operation as it stands.
pub(crate) fn operation(state: &OperationState) -> Operation {
    match &state.stage {
        Stage::Completed { end: End::Decided(response), .. } => decided(state, response.clone()),
        Stage::Completed { end: End::Failed(failure), .. } => {
            let response = ExecuteResponse {
                status: Some(failure_message(failure)),
                message: failure.to_string(),
                ..Default::default()
            };
            ended(name(state), metadata(state), response.encode_to_vec())
        }
        Stage::Queued(_) | Stage::Executing { .. } => Operation {
            name: name(state),
            metadata: Some(metadata(state)),
            done: false,
            result: None,
        },
    }
}

/// An operation that has ended with this encoded `ExecuteResponse`.
pub(crate) fn decided(state: &OperationState, response: Bytes) -> Operation {
    ended(name(state), metadata(state), response.into())
}

/// An operation that has ended before anyone had to know of it, with a result from the cache.
pub(super) fn cached(instance: InstanceName, action: Digest, result: &ActionResult) -> Operation {
    unscheduled(instance, action, cached_response(result))
}

/// An operation that has ended before anyone had to know of it, with an error.
pub(super) fn refused(instance: InstanceName, action: Digest, status: rpc::Status) -> Operation {
    let message = status.message.clone();
    let response = ExecuteResponse { status: Some(status), message, ..Default::default() };
    unscheduled(instance, action, response.encode_to_vec())
}

fn unscheduled(instance: InstanceName, action: Digest, response: Vec<u8>) -> Operation {
    let id = OperationId(uuid::Uuid::new_v4().as_u128());
    let metadata = encoded_metadata(WireStage::Completed, action, None, Default::default());
    ended(OperationName { instance, id }.to_string(), metadata, response)
}

/// An encoded `ExecuteResponse` around a result, which is not copied first: this is the road of every
/// action that a cache answers.
fn cached_response(result: &ActionResult) -> Vec<u8> {
    let mut response = Vec::with_capacity(result.encoded_len() + 16);
    prost::encoding::message::encode(1, result, &mut response);
    prost::encoding::bool::encode(2, &true, &mut response);
    response
}

fn ended(name: String, metadata: Any, response: Vec<u8>) -> Operation {
    let response = Any { type_url: RESPONSE.into(), value: response };
    Operation {
        name,
        metadata: Some(metadata),
        done: true,
        result: Some(operation::Result::Response(response)),
    }
}

fn name(state: &OperationState) -> String {
    OperationName { instance: state.key.instance.clone(), id: state.id }.to_string()
}

fn metadata(state: &OperationState) -> Any {
    let mut so_far = ExecutedActionMetadata {
        queued_timestamp: Some(to_timestamp(state.queued_at)),
        ..Default::default()
    };
    let mut logs = [String::new(), String::new()];
    let stage = match &state.stage {
        Stage::Queued(place) => {
            so_far.auxiliary_metadata = vec![shown(place)];
            WireStage::Queued
        }
        Stage::Executing { worker, progress, since, attempt_id, .. } => {
            // Before that, nobody has them.
            if let Some(attempt_id) = attempt_id
                && *progress >= Progress::Running
            {
                logs = log_names(&state.key.instance, worker, *attempt_id);
            }
            so_far.worker = worker.to_string();
            so_far.worker_start_timestamp = Some(to_timestamp(*since));
            WireStage::Executing
        }
        Stage::Completed { .. } => WireStage::Completed,
    };
    encoded_metadata(stage, state.key.action, Some(so_far), logs)
}

/// What the standard output and error of an attempt are called: the worker has them under these names too.
fn log_names(instance: &InstanceName, worker: &str, attempt: AttemptId) -> [String; 2] {
    let host = LogHost::of_node(worker);
    [Channel::Stdout, Channel::Stderr].map(|channel| {
        let id = LogId { host, number: attempt.0, channel };
        LogResource { instance: instance.clone(), id }.to_string()
    })
}

fn encoded_metadata(
    stage: WireStage,
    action: Digest,
    so_far: Option<ExecutedActionMetadata>,
    [stdout_stream_name, stderr_stream_name]: [String; 2],
) -> Any {
    let metadata = ExecuteOperationMetadata {
        stage: stage as i32,
        action_digest: Some(action.to_proto()),
        digest_function: function_code(action.function()) as i32,
        partial_execution_metadata: so_far,
        stdout_stream_name,
        stderr_stream_name,
    };
    Any { type_url: METADATA.into(), value: metadata.encode_to_vec() }
}

/// Where an operation waits, for people.
fn shown(place: &Place) -> Any {
    let Place { ahead, waiting, slots } = place;
    let value = match slots {
        0 => format!("waits for a worker that offers what it asks for, with {waiting} in all"),
        _ => format!("waits behind about {ahead} of {waiting} actions for {slots} slots"),
    };
    Any { type_url: STRING_VALUE.into(), value: StringValue { value }.encode_to_vec() }
}

/// What a client is told of an operation that no worker decided: by the comment of `Execute`, which names
/// the codes.
fn failure_message(failure: &Failure) -> rpc::Status {
    let what = failure.to_string();
    let status = match failure {
        Failure::Unsatisfiable(_) => status::failed_precondition(what),
        Failure::Attempts(_) => status::internal(what),
        Failure::Cancelled(_) => status::cancelled(what),
        Failure::Starved(_) => status::unavailable(what),
    };
    status.into_message()
}

impl IntoStatus for DispatchError {
    fn into_status(self) -> Status {
        let what = self.to_string();
        match self {
            Self::Full(_) => status::exhausted("operations", what),
            Self::Stopped => status::unavailable(what),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::SystemTime};

    use bbb_digest::Function;
    use bbb_reapi::proto::reapi::OutputFile;
    use bbb_scheduler::ActionKey;

    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for instance in ["", "main", "a/b"] {
            let name = OperationName {
                instance: instance.parse().unwrap(),
                id: OperationId(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef),
            };
            assert_eq!(OperationName::parse(&name.to_string()), Some(name));
        }
        let id = "0123456789abcdef0123456789abcdef";
        let upper = id.to_uppercase();
        for bad in [
            "",
            "operations/",
            id,
            &format!("/operations/{id}"),
            &format!("xoperations/{id}"),
            &format!("blobs/operations/{id}"),
            &format!("operations/{upper}"),
            &format!("operations/+{}", &id[1..]),
            &format!("operations/{id}0"),
        ] {
            assert_eq!(OperationName::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_cached_response_is_what_the_library_would_write() {
        let result = ActionResult {
            exit_code: 3,
            output_files: vec![OutputFile { path: "x".into(), ..Default::default() }],
            ..Default::default()
        };
        let response = ExecuteResponse {
            result: Some(result.clone()),
            cached_result: true,
            ..Default::default()
        };
        assert_eq!(ExecuteResponse::decode(&*cached_response(&result)).unwrap(), response);
    }

    /// What the metadata of an operation says of an attempt that is so far: its logs.
    fn logs_at(progress: Progress, attempt_id: Option<AttemptId>) -> [String; 2] {
        let (worker, since) = ("a".into(), SystemTime::UNIX_EPOCH);
        let action = Digest::empty(Function::Sha256);
        let state = OperationState {
            id: OperationId(1),
            key: Arc::new(ActionKey { instance: "main".parse().unwrap(), action }),
            invocation: "".into(),
            priority: 0,
            queued_at: since,
            stage: Stage::Executing { worker, progress, attempt: 1, since, attempt_id },
        };
        let metadata = ExecuteOperationMetadata::decode(&*metadata(&state).value).unwrap();
        [metadata.stdout_stream_name, metadata.stderr_stream_name]
    }

    #[test]
    fn logs_are_named_once_there_are_some() {
        let attempt = Some(AttemptId(7));
        assert_eq!(logs_at(Progress::Fetching, attempt), ["", ""]);
        assert_eq!(logs_at(Progress::Running, None), ["", ""]);
        for progress in [Progress::Running, Progress::Uploading] {
            let [stdout, stderr] = logs_at(progress, attempt);
            let host = LogHost::of_node("a").0;
            assert_eq!(stdout, format!("main/logstreams/{host:016x}-{:032x}-o", 7));
            assert_eq!(stderr, format!("main/logstreams/{host:016x}-{:032x}-e", 7));
        }
    }
}
