use bbb_digest::Digest;
use bbb_grpc::Settings;
use bbb_reapi::{
    ToProto as _,
    proto::reapi::{
        self, ActionResult, GetActionResultRequest, OutputDirectory, OutputFile, OutputSymlink,
        Tree, UpdateActionResultRequest, action_cache_client::ActionCacheClient,
    },
};
use prost::Message as _;
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt as _;

use crate::support::{FUNCTION, Server, settings};

type Client = ActionCacheClient<Channel>;

async fn get(client: &mut Client, action: Digest) -> Result<ActionResult, Status> {
    let request =
        GetActionResultRequest { action_digest: Some(action.to_proto()), ..Default::default() };
    client.get_action_result(request).await.map(tonic::Response::into_inner)
}

async fn update(
    client: &mut Client,
    action: Digest,
    result: ActionResult,
) -> Result<ActionResult, Status> {
    let request = UpdateActionResultRequest {
        action_digest: Some(action.to_proto()),
        action_result: Some(result),
        ..Default::default()
    };
    client.update_action_result(request).await.map(tonic::Response::into_inner)
}

fn file(path: &str, digest: Digest) -> OutputFile {
    OutputFile { path: path.into(), digest: Some(digest.to_proto()), ..Default::default() }
}

#[tokio::test]
async fn results_are_kept_and_inlined() {
    let server = Server::start().await;
    let mut client = ActionCacheClient::new(server.channel.clone());
    let memory = server.memory();
    let action = Digest::of(FUNCTION, b"action");
    assert_eq!(get(&mut client, action).await.unwrap_err().code(), Code::NotFound);
    let result = ActionResult {
        output_files: vec![
            file("a/b", memory.add("small")),
            file("c", memory.add(vec![1; 3 << 20])),
        ],
        stdout_digest: Some(memory.add("out").to_proto()),
        stderr_digest: Some(memory.add("err").to_proto()),
        exit_code: 7,
        ..Default::default()
    };
    assert_eq!(update(&mut client, action, result.clone()).await.unwrap(), result);
    assert_eq!(get(&mut client, action).await.unwrap(), result);
    let request = GetActionResultRequest {
        action_digest: Some(action.to_proto()),
        inline_stdout: true,
        inline_stderr: true,
        inline_output_files: vec!["a/b".into(), "c".into(), "unknown".into()],
        ..Default::default()
    };
    let inlined = client.get_action_result(request).await.unwrap().into_inner();
    assert_eq!((inlined.stdout_raw, inlined.stderr_raw), (b"out".to_vec(), b"err".to_vec()));
    assert_eq!(inlined.output_files[0].contents, b"small");
    assert!(inlined.output_files[1].contents.is_empty(), "too large for a message");
}

#[tokio::test]
async fn a_result_is_served_only_with_all_its_blobs() {
    let server = Server::start().await;
    let mut client = ActionCacheClient::new(server.channel.clone());
    let memory = server.memory();
    let action = Digest::of(FUNCTION, b"action");
    let absent = Digest::of(FUNCTION, b"absent");
    let files = ActionResult { output_files: vec![file("a", absent)], ..Default::default() };
    let refused = update(&mut client, action, files).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let details = refused.get_error_details();
    let violation = &details.precondition_failure().unwrap().violations[0];
    assert_eq!(violation.r#type, "MISSING");
    assert_eq!(violation.subject, format!("blobs/{absent}"));
    let leaf = memory.add("leaf");
    let tree = Tree {
        root: Some(reapi::Directory {
            files: vec![reapi::FileNode {
                name: "leaf".into(),
                digest: Some(leaf.to_proto()),
                ..Default::default()
            }],
            ..Default::default()
        }),
        children: vec![],
    };
    let directory = OutputDirectory {
        path: String::new(),
        tree_digest: Some(memory.add(tree.encode_to_vec()).to_proto()),
        ..Default::default()
    };
    let result = ActionResult { output_directories: vec![directory], ..Default::default() };
    update(&mut client, action, result).await.unwrap();
    get(&mut client, action).await.unwrap();
    memory.blobs.lock().unwrap().remove(&leaf);
    assert_eq!(get(&mut client, action).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn hostile_results_are_refused() {
    let server = Server::start().await;
    let mut client = ActionCacheClient::new(server.channel.clone());
    let action = Digest::of(FUNCTION, b"action");
    let there = server.memory().add("x");
    let link = |path: &str, target: &str| OutputSymlink {
        path: path.into(),
        target: target.into(),
        ..Default::default()
    };
    let bad_digest = Some(reapi::Digest { hash: "x".into(), size_bytes: 1 });
    for (field, result) in [
        (
            "output_files[0].path",
            ActionResult { output_files: vec![file("../x", there)], ..Default::default() },
        ),
        (
            "output_files[0].path",
            ActionResult { output_files: vec![file("", there)], ..Default::default() },
        ),
        (
            "output_files[0].digest",
            ActionResult {
                output_files: vec![OutputFile { path: "a".into(), ..Default::default() }],
                ..Default::default()
            },
        ),
        (
            "output_directories[0].tree_digest",
            ActionResult {
                output_directories: vec![OutputDirectory::default()],
                ..Default::default()
            },
        ),
        (
            "output_symlinks[0].path",
            ActionResult { output_symlinks: vec![link("/a", "b")], ..Default::default() },
        ),
        (
            "output_symlinks[0].target",
            ActionResult { output_symlinks: vec![link("a", "")], ..Default::default() },
        ),
        ("stdout_digest.hash", ActionResult { stdout_digest: bad_digest, ..Default::default() }),
    ] {
        let refused = update(&mut client, action, result).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        let details = refused.get_error_details();
        let found = &details.bad_request().unwrap().field_violations[0].field;
        assert_eq!(*found, format!("action_result.{field}"));
    }
    let request = UpdateActionResultRequest::default();
    let refused = client.update_action_result(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn clients_may_be_kept_from_writing_results() {
    let server = Server::with(Settings { client_results: false, ..settings() }).await;
    let mut client = ActionCacheClient::new(server.channel.clone());
    let action = Digest::of(FUNCTION, b"action");
    let refused = update(&mut client, action, ActionResult::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("--client_results"), "{refused}");
}
