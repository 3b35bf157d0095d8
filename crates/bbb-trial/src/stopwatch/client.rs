//! The calls that a stopwatch makes.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use bbb_digest::{Digest, Function};
use bbb_reapi::{
    ToProto as _,
    proto::{
        longrunning::{
            CancelOperationRequest, GetOperationRequest, Operation, operation,
            operations_client::OperationsClient,
        },
        protobuf,
        reapi::{
            Action, BatchUpdateBlobsRequest, Command, Directory, ExecuteOperationMetadata,
            ExecuteRequest, ExecuteResponse, ExecutedActionMetadata, Platform,
            WaitExecutionRequest, batch_update_blobs_request::Request,
            content_addressable_storage_client::ContentAddressableStorageClient,
            execution_client::ExecutionClient, execution_stage, platform::Property,
        },
        rpc,
    },
};
use prost::Message;
use tonic::{
    Code, Status, Streaming,
    transport::{Channel, Endpoint},
};

/// How long a connection may take to come about.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// An action, and what it asks of a worker.
pub(super) struct Wanted {
    pub(super) work: Work,
    pub(super) properties: Vec<(String, String)>,
}

/// What an action does.
pub(super) enum Work {
    /// Writes some bytes, then sleeps.
    Sleep { seed: u64, index: u64, length_ms: u64, output_bytes: u64 },
    /// Runs these words, each time anew.
    Words { words: Vec<String>, timeout_ms: Option<u64> },
}

/// What came of an action.
pub(super) struct End {
    /// The operation's status, and what it says.
    pub(super) status: rpc::Status,
    pub(super) exit_code: i32,
    /// What the server tells people of it.
    pub(super) message: String,
    pub(super) is_cached: bool,
    /// What the server says of how it ran.
    pub(super) metadata: ExecutedActionMetadata,
}

/// A client with a connection of its own.
pub(super) struct Client(Channel);

/// Words that name the same action each time, and in whose place a process shows which it is: seconds to sleep, with a tail
/// of digits that no other action has.
fn seconds(seed: u64, index: u64, length_ms: u64) -> String {
    format!(
        "{}.{:03}{:05}{:05}",
        length_ms / 1000,
        length_ms % 1000,
        seed % 100_000,
        index % 100_000
    )
}

/// A message as a blob.
fn blob(message: &impl Message) -> (Digest, Vec<u8>) {
    let bytes = message.encode_to_vec();
    (Digest::of(Function::Sha256, &bytes), bytes)
}

impl Wanted {
    /// The action's digest, and all blobs that it takes.
    #[expect(
        deprecated,
        reason = "servers of API 2.1 and older look for the platform in the command"
    )]
    fn blobs(&self) -> (Digest, Vec<(Digest, Vec<u8>)>) {
        let mut properties: Vec<_> = self.properties.clone();
        properties.sort();
        let property = |(name, value)| Property { name, value };
        let properties: Vec<_> = properties.into_iter().map(property).collect();
        let platform = (!properties.is_empty()).then_some(Platform { properties });
        let command = blob(&Command {
            arguments: self.work.words(),
            output_paths: vec!["output".to_owned()],
            output_files: vec!["output".to_owned()],
            platform: platform.clone(),
            ..Command::default()
        });
        let root = blob(&Directory::default());
        let action = blob(&Action {
            command_digest: Some(command.0.to_proto()),
            input_root_digest: Some(root.0.to_proto()),
            platform,
            timeout: self.work.timeout(),
            do_not_cache: matches!(self.work, Work::Words { .. }),
            ..Action::default()
        });
        (action.0, vec![command, root, action])
    }
}

impl Work {
    fn words(&self) -> Vec<String> {
        match self {
            // The process is what it sleeps: whoever looks at processes can tell one run from two.
            Self::Sleep { seed, index, length_ms, output_bytes } => {
                let seconds = seconds(*seed, *index, *length_ms);
                let script = format!(
                    "head -c {output_bytes} /dev/urandom >output && exec /bin/sleep {seconds}"
                );
                vec!["/bin/sh".to_owned(), "-c".to_owned(), script]
            }
            Self::Words { words, .. } => words.clone(),
        }
    }

    fn timeout(&self) -> Option<protobuf::Duration> {
        let Self::Words { timeout_ms: Some(ms), .. } = self else { return None };
        let seconds = i64::try_from(ms / 1000).ok()?;
        Some(protobuf::Duration { seconds, nanos: (ms % 1000) as i32 * 1_000_000 })
    }
}

impl Client {
    /// A client of the server at `grpc://HOST:PORT`; it connects when it first has to.
    pub(super) fn new(server: &str) -> anyhow::Result<Self> {
        let address = server.strip_prefix("grpc://").context("a server is grpc://HOST:PORT")?;
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
        Ok(Self(endpoint.connect_timeout(CONNECT_WITHIN).connect_lazy()))
    }

    async fn upload(&self, blobs: Vec<(Digest, Vec<u8>)>) -> Result<(), Status> {
        let request = |(digest, data): (Digest, Vec<u8>)| Request {
            digest: Some(digest.to_proto()),
            data,
            ..Request::default()
        };
        let requests = blobs.into_iter().map(request).collect();
        let request = BatchUpdateBlobsRequest { requests, ..Default::default() };
        let mut cas = ContentAddressableStorageClient::new(self.0.clone());
        let answer = cas.batch_update_blobs(request).await?.into_inner();
        let bad = answer.responses.into_iter().filter_map(|response| response.status);
        match bad.into_iter().find(|status| status.code != 0) {
            Some(status) => Err(Status::new(Code::from(status.code), status.message)),
            None => Ok(()),
        }
    }

    async fn operations(&self, wanted: &Wanted) -> Result<Streaming<Operation>, Status> {
        let (action, blobs) = wanted.blobs();
        self.upload(blobs).await?;
        let request =
            ExecuteRequest { action_digest: Some(action.to_proto()), ..Default::default() };
        Ok(ExecutionClient::new(self.0.clone()).execute(request).await?.into_inner())
    }

    /// Executes it and stays to the end. Sets `name` as soon as the operation has one.
    pub(super) async fn execute(
        &self,
        wanted: &Wanted,
        name: &mut Option<Arc<str>>,
    ) -> Result<End, Status> {
        follow(self.operations(wanted).await?, name).await
    }

    /// Stays with an operation that was there before.
    pub(super) async fn wait(
        &self,
        known: &str,
        name: &mut Option<Arc<str>>,
    ) -> Result<End, Status> {
        let request = WaitExecutionRequest { name: known.to_owned() };
        let stream = ExecutionClient::new(self.0.clone()).wait_execution(request).await?;
        follow(stream.into_inner(), name).await
    }

    /// Executes it, stays until a worker has it, and says its name.
    pub(super) async fn begin(&self, wanted: &Wanted) -> anyhow::Result<Arc<str>> {
        let mut stream = self.operations(wanted).await?;
        while let Some(operation) = stream.message().await? {
            anyhow::ensure!(!operation.done, "it ended at once");
            if metadata(&operation)?.stage() == execution_stage::Value::Executing {
                return Ok(operation.name.into());
            }
        }
        anyhow::bail!("the stream ended before a worker took it")
    }

    pub(super) async fn cancel(&self, name: &str) -> Result<(), Status> {
        let request = CancelOperationRequest { name: name.to_owned() };
        OperationsClient::new(self.0.clone()).cancel_operation(request).await.map(|_| ())
    }

    pub(super) async fn stage(&self, name: &str) -> Result<String, Status> {
        let request = GetOperationRequest { name: name.to_owned() };
        let mut client = OperationsClient::new(self.0.clone());
        let operation = client.get_operation(request).await?.into_inner();
        let metadata = metadata(&operation)?;
        let worker = metadata.partial_execution_metadata.clone().unwrap_or_default().worker;
        Ok(format!("{} {worker}", metadata.stage().as_str_name()))
    }
}

fn metadata(operation: &Operation) -> Result<ExecuteOperationMetadata, Status> {
    let value = operation.metadata.as_ref().map(|any| any.value.as_slice()).unwrap_or_default();
    ExecuteOperationMetadata::decode(value).map_err(|error| Status::data_loss(error.to_string()))
}

/// Reads what becomes of an operation until it has ended.
async fn follow(
    mut stream: Streaming<Operation>,
    name: &mut Option<Arc<str>>,
) -> Result<End, Status> {
    while let Some(operation) = stream.message().await? {
        if !operation.name.is_empty() {
            *name = Some(operation.name.as_str().into());
        }
        if !operation.done {
            continue;
        }
        let response = match operation.result {
            Some(operation::Result::Response(any)) => ExecuteResponse::decode(&*any.value)
                .map_err(|error| Status::data_loss(error.to_string()))?,
            Some(operation::Result::Error(status)) => {
                ExecuteResponse { status: Some(status), ..Default::default() }
            }
            None => return Err(Status::data_loss("an operation that is done without a result")),
        };
        let result = response.result.unwrap_or_default();
        return Ok(End {
            status: response.status.unwrap_or_default(),
            exit_code: result.exit_code,
            message: response.message,
            is_cached: response.cached_result,
            metadata: result.execution_metadata.unwrap_or_default(),
        });
    }
    Err(Status::unavailable("the stream ended before the operation"))
}
