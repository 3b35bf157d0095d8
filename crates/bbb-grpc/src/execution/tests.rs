use std::{
    collections::HashMap,
    fmt,
    net::SocketAddr,
    sync::{Mutex, atomic::AtomicUsize, atomic::Ordering},
};

use bbb_digest::{Digest, Function, InstanceName};
use bbb_lifecycle::TaskGroup;
use bbb_reapi::{
    REQUEST_METADATA_HEADER, ToProto as _,
    proto::{
        longrunning::{
            CancelOperationRequest, DeleteOperationRequest, GetOperationRequest,
            ListOperationsRequest, WaitOperationRequest, operation,
            operations_client::OperationsClient,
        },
        protobuf,
        reapi::{
            self, ActionResult, ExecuteOperationMetadata, ExecuteResponse,
            execution_client::ExecutionClient, execution_stage::Value as WireStage,
        },
    },
    to_duration,
};
use bbb_scheduler::{
    Demand, FromWorker, Lease, Outcome, Progress, Scheduler, Task, ToWorker, WorkerLink,
    WorkerOffer, core::Limits,
};
use bbb_storage::{
    ActionCache, Blob, Cas, Content, Encoding, Error, Source, SourceContent, Stores, TreeCache,
    Trees, Wanted,
};
use bytes::Bytes;
use prost::Message as _;
use tokio::net::TcpListener;
use tonic::{Code, metadata::MetadataValue, transport::Channel};
use tonic_types::StatusExt as _;

use super::*;
use crate::{Budgets, Doors, Port, Settings, operations::Operations as OperationsService};

const F: Function = Function::Sha256;

/// Stores of one instance in memory.
#[derive(Debug, Default)]
pub(super) struct Memory {
    blobs: Mutex<HashMap<Digest, Bytes>>,
    results: Mutex<HashMap<Digest, Arc<ActionResult>>>,
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory")
    }
}

#[tonic::async_trait]
impl Cas for Memory {
    async fn get(&self, digest: Digest, range: Wanted) -> bbb_storage::Result<Blob> {
        let bytes = self.blobs.lock().unwrap().get(&digest).cloned();
        let bytes = bytes.ok_or(Error::Missing(digest))?;
        let range = range.within(digest.size_bytes());
        let content = Content::Bytes(bytes.slice(range.start as usize..range.end as usize));
        Ok(Blob { size_bytes: digest.size_bytes(), encoding: Encoding::Identity, content })
    }

    async fn put(&self, digest: Digest, source: Source) -> bbb_storage::Result<()> {
        let SourceContent::Bytes(bytes) = source.content else { panic!("only bytes here") };
        self.blobs.lock().unwrap().insert(digest, bytes);
        Ok(())
    }

    async fn find_missing(&self, digests: &[Digest]) -> bbb_storage::Result<Vec<Digest>> {
        let blobs = self.blobs.lock().unwrap();
        Ok(digests.iter().filter(|d| !d.is_empty() && !blobs.contains_key(d)).copied().collect())
    }
}

#[tonic::async_trait]
impl ActionCache for Memory {
    async fn get(&self, action: Digest) -> bbb_storage::Result<Option<Arc<ActionResult>>> {
        Ok(self.results.lock().unwrap().get(&action).cloned())
    }

    async fn put(&self, action: Digest, result: ActionResult) -> bbb_storage::Result<()> {
        self.results.lock().unwrap().insert(action, Arc::new(result));
        Ok(())
    }
}

struct House {
    group: TaskGroup,
    instances: Arc<Instances>,
    scheduler: Arc<Scheduler>,
    execution: ExecutionClient<Channel>,
    operations: OperationsClient<Channel>,
    ran: Arc<AtomicUsize>,
}

async fn house(enabled: bool) -> House {
    let group = TaskGroup::new("test");
    let trees = Arc::new(TreeCache::new(1 << 20));
    let instances = Arc::new(Instances::new(move |name: &InstanceName| {
        let memory = Arc::new(Memory::default());
        let cas: Arc<dyn Cas> = Arc::<Memory>::clone(&memory);
        let trees = Arc::new(Trees::new(name.clone(), Arc::clone(&cas), Arc::clone(&trees)));
        Stores { cas, action_cache: memory, trees }
    }));
    let scheduler = Scheduler::start(&group, Limits::default());
    let dispatch: Arc<dyn Dispatch> = Arc::<Scheduler>::clone(&scheduler);
    let settings = ExecutionSettings { action_timeout: Duration::from_secs(3600), enabled };
    let service = Execution::new(Arc::clone(&instances), Arc::clone(&dispatch), settings);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let settings = Settings {
        client_results: true,
        exec_enabled: true,
        required_header: None,
        max_blob_bytes: 1 << 30,
    };
    let doors = Doors::new(settings, &Budgets::new(1 << 20, 1 << 20), Arc::clone(&instances))
        .with_service(service.into_server())
        .with_service(OperationsService::new(dispatch).into_server());
    Port::new(1 << 20, doors).serve(listener, &group);
    let channel =
        Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    House {
        group,
        instances,
        scheduler,
        execution: ExecutionClient::new(channel.clone()),
        operations: OperationsClient::new(channel),
        ran: Arc::default(),
    }
}

/// A worker that fakes results: it counts, and stores "out" as stdout.
async fn work(mut link: WorkerLink, instances: Arc<Instances>, ran: Arc<AtomicUsize>) {
    while let Some(order) = link.order().await {
        let ToWorker::Run(lease, task) = order else { continue };
        link.report(FromWorker::Progress(lease, Progress::Running));
        ran.fetch_add(1, Ordering::SeqCst);
        let cas = instances.get(&task.submission.key.instance).cas;
        let stdout = Digest::of(F, b"out");
        cas.put(stdout, Bytes::from_static(b"out").into()).await.unwrap();
        let result = ActionResult { stdout_digest: Some(stdout.to_proto()), ..Default::default() };
        let response = ExecuteResponse { result: Some(result), ..Default::default() };
        let outcome = Outcome::Decided(response.encode_to_vec().into());
        link.report(FromWorker::Done(lease, outcome));
    }
}

/// The task that the scheduler grants next.
async fn granted(link: &mut WorkerLink) -> (Lease, Task) {
    match link.order().await {
        Some(ToWorker::Run(lease, task)) => (lease, *task),
        other => panic!("{other:?}"),
    }
}

impl House {
    async fn attach(&self) -> WorkerLink {
        let platform = [("OSFamily".to_owned(), "linux".to_owned())].into_iter().collect();
        let offer = WorkerOffer { platform, ..WorkerOffer::of("the-worker", 2) };
        self.scheduler.attach(offer, Vec::new()).await.unwrap()
    }

    async fn attach_working(&self) {
        let link = self.attach().await;
        self.group.spawn("worker", work(link, Arc::clone(&self.instances), Arc::clone(&self.ran)));
    }

    async fn store(&self, bytes: Vec<u8>) -> Digest {
        let digest = Digest::of(F, &bytes);
        let cas = self.instances.get(&InstanceName::default()).cas;
        cas.put(digest, bytes.into()).await.unwrap();
        digest
    }

    async fn action(&self, change: impl FnOnce(&mut reapi::Action)) -> ExecuteRequest {
        let command = reapi::Command { arguments: vec!["true".into()], ..Default::default() };
        let command = self.store(command.encode_to_vec()).await;
        let root = self.store(reapi::Directory::default().encode_to_vec()).await;
        let mut action = reapi::Action {
            command_digest: Some(command.to_proto()),
            input_root_digest: Some(root.to_proto()),
            ..Default::default()
        };
        change(&mut action);
        let digest = self.store(action.encode_to_vec()).await;
        ExecuteRequest { action_digest: Some(digest.to_proto()), ..Default::default() }
    }

    async fn execute(&self, request: ExecuteRequest) -> Result<Vec<Operation>, Status> {
        let mut stream = self.execution.clone().execute(request).await?.into_inner();
        let mut all = Vec::new();
        while let Some(operation) = stream.message().await? {
            all.push(operation);
        }
        Ok(all)
    }
}

fn stage(operation: &Operation) -> WireStage {
    let any = operation.metadata.as_ref().unwrap();
    assert_eq!(
        any.type_url,
        "type.googleapis.com/build.bazel.remote.execution.v2.ExecuteOperationMetadata"
    );
    let metadata = ExecuteOperationMetadata::decode(&*any.value).unwrap();
    assert!(metadata.action_digest.is_some());
    assert_eq!(metadata.digest_function, reapi::digest_function::Value::Sha256 as i32);
    metadata.stage()
}

fn response(operation: &Operation) -> ExecuteResponse {
    assert!(operation.done);
    assert_eq!(stage(operation), WireStage::Completed);
    match operation.result.as_ref().unwrap() {
        operation::Result::Response(any) => {
            assert_eq!(
                any.type_url,
                "type.googleapis.com/build.bazel.remote.execution.v2.ExecuteResponse"
            );
            ExecuteResponse::decode(&*any.value).unwrap()
        }
        operation::Result::Error(error) => panic!("{error:?}"),
    }
}

fn named(name: &str) -> WaitExecutionRequest {
    WaitExecutionRequest { name: name.into() }
}

#[tokio::test]
async fn an_action_runs_and_is_found_again() {
    let house = house(true).await;
    house.attach_working().await;
    let request = house.action(|_| {}).await;
    let all = house.execute(ExecuteRequest { inline_stdout: true, ..request }).await.unwrap();
    let last = all.last().unwrap();
    assert!(all[..all.len() - 1].iter().all(|operation| !operation.done));
    let result = response(last).result.unwrap();
    assert_eq!(result.stdout_raw, b"out");
    assert!(last.name.starts_with("operations/"));

    let mut again = house.execution.clone().wait_execution(named(&last.name)).await.unwrap();
    let again = again.get_mut().message().await.unwrap().unwrap();
    assert_eq!(again.name, last.name);
    assert!(response(&again).result.unwrap().stdout_raw.is_empty());

    let mut operations = house.operations.clone();
    let got = operations.get_operation(GetOperationRequest { name: last.name.clone() }).await;
    assert!(got.unwrap().into_inner().done);
    let delete = DeleteOperationRequest { name: last.name.clone() };
    operations.delete_operation(delete).await.unwrap();
    let gone = house.execution.clone().wait_execution(named(&last.name)).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
}

#[tokio::test]
async fn a_known_result_is_one_message() {
    let house = house(false).await;
    let request = house.action(|_| {}).await;
    let digest = bbb_reapi::digest(F, request.action_digest.as_ref().unwrap()).unwrap();
    let cache = house.instances.get(&InstanceName::default()).action_cache;
    let stdout = house.store(b"hello".to_vec()).await;
    let result =
        ActionResult { exit_code: 3, stdout_digest: Some(stdout.to_proto()), ..Default::default() };
    cache.put(digest, result.clone()).await.unwrap();
    let all = house.execute(request.clone()).await.unwrap();
    assert_eq!(all.len(), 1);
    let cached = response(&all[0]);
    assert!(cached.cached_result);
    assert_eq!(cached.result, Some(result));
    let inlined = house.execute(ExecuteRequest { inline_stdout: true, ..request.clone() }).await;
    assert_eq!(response(&inlined.unwrap()[0]).result.unwrap().stdout_raw, b"hello");
    // Nothing can run here, so that a look-up that is skipped is refused.
    let skipped = house.execute(ExecuteRequest { skip_cache_lookup: true, ..request }).await;
    let status = skipped.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("--worker_slots"));
}

#[tokio::test]
async fn everything_that_is_missing_is_told_at_once() {
    let house = house(true).await;
    let absent = |text: String| Digest::of(F, text.as_bytes());
    for count in [3, 300] {
        let files = (0..count).map(|index| reapi::FileNode {
            name: format!("f{index:04}"),
            digest: Some(absent(format!("file {index}")).to_proto()),
            ..Default::default()
        });
        let directories = vec![reapi::DirectoryNode {
            name: "d".into(),
            digest: Some(absent("directory".into()).to_proto()),
        }];
        let root = reapi::Directory { files: files.collect(), directories, ..Default::default() };
        let root = house.store(root.encode_to_vec()).await;
        let command = absent("command".into());
        let request = house
            .action(|action| {
                action.input_root_digest = Some(root.to_proto());
                action.command_digest = Some(command.to_proto());
            })
            .await;
        let violations = match house.execute(request).await {
            Err(status) => {
                assert_eq!((status.code(), count), (Code::FailedPrecondition, 3));
                status.get_error_details().precondition_failure().unwrap().violations.clone()
            }
            Ok(operations) => {
                let status = response(&operations[0]).status.unwrap();
                assert_eq!((status.code, count), (Code::FailedPrecondition as i32, 300));
                let encoded = status.encode_to_vec().into();
                let status = Status::with_details(Code::Unknown, "", encoded);
                status.get_error_details().precondition_failure().unwrap().violations.clone()
            }
        };
        assert_eq!(violations.len(), count + 2);
        let subject = format!("blobs/{command}");
        assert!(violations.iter().any(|violation| violation.subject == subject));
        assert!(violations.iter().all(|violation| violation.r#type == "MISSING"));
    }
    let nowhere = absent("nowhere".into()).to_proto();
    let request = ExecuteRequest { action_digest: Some(nowhere), ..Default::default() };
    assert_eq!(house.execute(request).await.unwrap_err().code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let house = house(true).await;
    let field = async |request| {
        let status = house.execute(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        let details = status.get_error_details();
        details.bad_request().unwrap().field_violations[0].field.clone()
    };
    assert_eq!(field(ExecuteRequest::default()).await, "action_digest");
    let request = house.action(|_| {}).await;
    let instance_name = "a//b".into();
    assert_eq!(field(ExecuteRequest { instance_name, ..request.clone() }).await, "instance_name");
    let digest_function = 77;
    let bad = ExecuteRequest { digest_function, ..request };
    assert_eq!(field(bad).await, "digest_function");
    let long = Some(to_duration(Duration::from_secs(3601)));
    let request = house.action(|action| action.timeout = long).await;
    assert_eq!(field(request).await, "action.timeout");
    let command = reapi::Command::default();
    let command = house.store([command.encode_to_vec(), vec![0x9a, 0x06, 0]].concat()).await;
    let request = house.action(|a| a.command_digest = Some(command.to_proto())).await;
    assert_eq!(field(request).await, "command.arguments");
}

#[tokio::test]
async fn equal_actions_run_once_unless_they_must_not() {
    let house = house(true).await;
    let shared = house.action(|_| {}).await;
    let own = house.action(|action| action.do_not_cache = true).await;
    let mut streams = Vec::new();
    for request in [&shared, &shared, &own, &own] {
        let mut execution = house.execution.clone();
        streams.push(execution.execute(request.clone()).await.unwrap().into_inner());
    }
    for stream in &mut streams {
        assert_eq!(stage(&stream.message().await.unwrap().unwrap()), WireStage::Queued);
    }
    house.attach_working().await;
    for stream in &mut streams {
        let mut last = None;
        while let Some(operation) = stream.message().await.unwrap() {
            last = Some(operation);
        }
        assert!(response(&last.unwrap()).result.is_some());
    }
    assert_eq!(house.ran.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn cancelling_and_waiting() {
    let house = house(true).await;
    let mut link = house.attach().await;
    let request = house.action(|_| {}).await;
    let mut stream = house.execution.clone().execute(request).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap();
    let (lease, _) = granted(&mut link).await;
    let name = first.name.clone();
    let mut operations = house.operations.clone();
    let timeout = Some(protobuf::Duration { seconds: 0, nanos: 1 });
    let waited = operations.wait_operation(WaitOperationRequest { name: name.clone(), timeout });
    assert!(!waited.await.unwrap().into_inner().done);
    operations.cancel_operation(CancelOperationRequest { name: name.clone() }).await.unwrap();
    assert_eq!(link.order().await, Some(ToWorker::Revoke(lease)));
    let waited = operations.wait_operation(WaitOperationRequest { name, timeout: None }).await;
    let status = response(&waited.unwrap().into_inner()).status.unwrap();
    assert_eq!(status.code, Code::Cancelled as i32);
    let mut last = first;
    while let Some(operation) = stream.message().await.unwrap() {
        last = operation;
    }
    assert_eq!(response(&last).status.unwrap().code, Code::Cancelled as i32);
}

#[tokio::test]
async fn lists_stay_within_their_instance() {
    let house = house(true).await;
    let mut streams = Vec::new();
    for index in 0..5 {
        let request = house.action(|action| action.salt = vec![index]).await;
        let stream = house.execution.clone().execute(request).await.unwrap();
        streams.push(stream.into_inner());
    }
    let list = async |name: &str, filter: &str, page_token: String| {
        let request = ListOperationsRequest {
            name: name.into(),
            filter: filter.into(),
            page_size: 2,
            page_token,
            ..Default::default()
        };
        house.operations.clone().list_operations(request).await.map(Response::into_inner)
    };
    let (mut token, mut seen) = (String::new(), 0);
    loop {
        let page = list("operations", "stage = \"QUEUED\"", token).await.unwrap();
        assert!(page.operations.len() <= 2);
        seen += page.operations.len();
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, 5);
    let none = String::new;
    assert!(list("", "done=true", none()).await.unwrap().operations.is_empty());
    assert!(list("other/operations", "", none()).await.unwrap().operations.is_empty());
    assert_eq!(list("", "size>3", none()).await.unwrap_err().code(), Code::InvalidArgument);
    let name = streams[0].message().await.unwrap().unwrap().name;
    let other = GetOperationRequest { name: format!("other/{name}") };
    let error = house.operations.clone().get_operation(other).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
}

#[tokio::test]
async fn what_an_action_takes_and_needs_most_comes_to_its_worker() {
    let house = house(true).await;
    let offer = WorkerOffer {
        capacity: Demand { millicpus: 4000, memory_bytes: 1 << 30 },
        ..WorkerOffer::of("the-worker", 2)
    };
    let mut link = house.scheduler.attach(offer, Vec::new()).await.unwrap();
    let property = |name: &str, value: &str| reapi::platform::Property {
        name: name.into(),
        value: value.into(),
    };
    let large = house.store(vec![7; 100_000]).await;
    let file =
        reapi::FileNode { name: "f".into(), digest: Some(large.to_proto()), ..Default::default() };
    let below = reapi::Directory { files: vec![file], ..Default::default() };
    let below = house.store(below.encode_to_vec()).await;
    let node = reapi::DirectoryNode { name: "below".into(), digest: Some(below.to_proto()) };
    let root = reapi::Directory { directories: vec![node], ..Default::default() };
    let root = house.store(root.encode_to_vec()).await;
    let with = async |properties| {
        let platform = Some(reapi::Platform { properties });
        let input_root_digest = Some(root.to_proto());
        house
            .action(|action| {
                *action = reapi::Action { platform, input_root_digest, ..action.clone() }
            })
            .await
    };
    let steered =
        vec![property("cpus", "0.5"), property("memory", "512M"), property("staging", "plain")];
    let request = with(steered).await;
    let mut execution = house.execution.clone();
    let _stream = execution.execute(request).await.unwrap();
    let submission = granted(&mut link).await.1.submission;
    assert_eq!(submission.demand, Demand { millicpus: 500, memory_bytes: 512 << 20 });
    assert_eq!(submission.requirement, Default::default());
    let bytes: Vec<_> = submission.inputs.iter().map(|part| part.bytes).collect();
    assert_eq!(bytes, [100_000]);
    let refused = house.execute(with(vec![property("memory", "much")]).await).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let details = refused.get_error_details();
    assert_eq!(details.bad_request().unwrap().field_violations[0].field, "platform.memory");
    let refused = house.execute(with(vec![property("staging", "links")]).await).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let details = refused.get_error_details();
    assert_eq!(details.bad_request().unwrap().field_violations[0].field, "platform.staging");
}

#[tokio::test]
async fn an_operation_waits_for_its_client_and_says_where() {
    let house = house(true).await;
    let mut request = Request::new(house.action(|_| {}).await);
    let tool_invocation_id = "build 7".to_owned();
    let metadata = reapi::RequestMetadata { tool_invocation_id, ..Default::default() };
    let metadata = MetadataValue::from_bytes(&metadata.encode_to_vec());
    request.metadata_mut().insert_bin(REQUEST_METADATA_HEADER, metadata);
    let mut stream = house.execution.clone().execute(request).await.unwrap().into_inner();
    let name = stream.message().await.unwrap().unwrap().name;
    let id = OperationName::parse(&name).unwrap().id;
    drop(stream);
    let mut watch = house.scheduler.find(id).await.unwrap().unwrap();
    assert_eq!(&*watch.current().invocation, "build 7");
    assert!(matches!(watch.current().stage, Stage::Queued(_)));
    let metadata = message::operation(&watch.current()).metadata.unwrap();
    let metadata = ExecuteOperationMetadata::decode(&*metadata.value).unwrap();
    let so_far = metadata.partial_execution_metadata.unwrap();
    assert_eq!(so_far.auxiliary_metadata.len(), 1);
    assert!(so_far.queued_timestamp.is_some());
}

#[tokio::test]
async fn what_steers_need_not_be_offered() {
    let house = house(true).await;
    house.attach_working().await;
    let property = |name: &str, value: &str| reapi::platform::Property {
        name: name.into(),
        value: value.into(),
    };
    let properties = vec![property("OSFamily", "linux"), property("network", "on")];
    let platform = Some(reapi::Platform { properties });
    let request = house.action(|action| action.platform = platform).await;
    let all = house.execute(request).await.unwrap();
    assert!(response(all.last().unwrap()).result.is_some());
}

#[tokio::test]
async fn an_empty_platform_of_the_action_leaves_the_command_s() {
    let house = house(true).await;
    house.attach_working().await;
    let property = reapi::platform::Property { name: "OSFamily".into(), value: "plan9".into() };
    #[allow(deprecated)]
    let command = reapi::Command {
        arguments: vec!["true".into()],
        platform: Some(reapi::Platform { properties: vec![property] }),
        ..Default::default()
    };
    let command = house.store(command.encode_to_vec()).await.to_proto();
    let request = house.action(|action| {
        action.command_digest = Some(command);
        action.platform = Some(reapi::Platform::default());
    });
    let all = house.execute(request.await).await.unwrap();
    let status = response(all.last().unwrap()).status.unwrap();
    assert_eq!(status.code, Code::FailedPrecondition as i32, "{}", status.message);
}
