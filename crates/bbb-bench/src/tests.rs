//! Every workload against a small server within the test, which can be told to lie.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bbb_reapi::proto::bytestream::{ReadRequest, ReadResponse, WriteRequest, WriteResponse};
use bbb_reapi::proto::longrunning::{Operation, operation};
use bbb_reapi::proto::protobuf::Any;
use bbb_reapi::proto::reapi::*;
use bytes::{Bytes, BytesMut};
use clap::Parser;
use http_body_util::{BodyExt, StreamBody};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::task::JoinSet;

use crate::args::Args;
use crate::client::{Client, Settings};
use crate::digest::OnTheWire as _;
use crate::drive::{self, Plan};
use crate::payload::Source;
use crate::target::{Speech, Target};
use crate::wire::Messages;
use crate::workloads;
use bbb_digest::Function;

#[derive(Parser)]
struct Options {
    #[command(flatten)]
    args: Args,
}

/// A server of everything in memory. It runs the workloads' own commands by knowing what they do.
#[derive(Default)]
struct Fake {
    blobs: Arc<Mutex<HashMap<String, Vec<u8>>>>,
    results: Arc<Mutex<HashMap<String, ActionResult>>>,
    /// Damages what it serves.
    lies: bool,
}

type Answer = Result<Vec<Vec<u8>>, i32>;
const NOT_FOUND: i32 = 5;

fn decode<M: Message + Default>(messages: &[Bytes]) -> M {
    M::decode(messages[0].clone()).unwrap()
}

fn one(message: &impl Message) -> Answer {
    Ok(vec![message.encode_to_vec()])
}

impl Fake {
    /// Another that serves the same.
    fn beside(&self, lies: bool) -> Self {
        Self { blobs: Arc::clone(&self.blobs), results: Arc::clone(&self.results), lies }
    }

    fn answer(&self, path: &str, messages: &[Bytes]) -> Answer {
        match path.rsplit('/').next().unwrap() {
            "GetCapabilities" => one(&capabilities()),
            "FindMissingBlobs" => {
                let request: FindMissingBlobsRequest = decode(messages);
                let blobs = self.blobs.lock().unwrap();
                let missing = |digest: &Digest| !blobs.contains_key(&digest.hash);
                let missing_blob_digests =
                    request.blob_digests.into_iter().filter(missing).collect();
                one(&FindMissingBlobsResponse { missing_blob_digests })
            }
            "BatchUpdateBlobs" => self.batch_update(decode(messages)),
            "BatchReadBlobs" => {
                let request: BatchReadBlobsRequest = decode(messages);
                let read = |digest: Digest| batch_read_blobs_response::Response {
                    data: self.served(&digest.hash).unwrap(),
                    digest: Some(digest),
                    ..Default::default()
                };
                let responses = request.digests.into_iter().map(read).collect();
                one(&BatchReadBlobsResponse { responses })
            }
            "GetTree" => self.tree(&decode(messages)),
            "Write" => self.write(messages),
            "Read" => {
                let name = decode::<ReadRequest>(messages).resource_name;
                let mut parts = name.rsplit('/').skip(1);
                let mut data = self.served(parts.next().unwrap()).ok_or(NOT_FOUND)?;
                if name.starts_with("compressed-blobs/zstd") {
                    data = zstd::encode_all(data.as_slice(), 1).unwrap();
                }
                Ok(data
                    .chunks(70_000)
                    .map(|d| ReadResponse { data: d.to_vec() }.encode_to_vec())
                    .collect())
            }
            "UpdateActionResult" => {
                let request: UpdateActionResultRequest = decode(messages);
                let result = request.action_result.unwrap();
                let key = request.action_digest.unwrap().hash;
                self.results.lock().unwrap().insert(key, result.clone());
                one(&result)
            }
            "GetActionResult" => {
                let request: GetActionResultRequest = decode(messages);
                let key = request.action_digest.unwrap().hash;
                let mut result =
                    self.results.lock().unwrap().get(&key).cloned().ok_or(NOT_FOUND)?;
                if self.lies {
                    result.output_files.pop();
                }
                one(&result)
            }
            "Execute" => self.execute(decode(messages)),
            _ => Err(12),
        }
    }

    fn served(&self, hash: &str) -> Option<Vec<u8>> {
        let mut data = self.blobs.lock().unwrap().get(hash).cloned()?;
        if self.lies {
            *data.last_mut().unwrap() ^= 1;
        }
        Some(data)
    }

    fn keep(&self, data: Vec<u8>) -> Digest {
        let digest = Function::Sha256.digest(&data);
        self.blobs.lock().unwrap().insert(digest.hash.clone(), data);
        digest
    }

    fn batch_update(&self, request: BatchUpdateBlobsRequest) -> Answer {
        let update = |item: batch_update_blobs_request::Request| {
            let digest = Some(self.keep(item.data));
            assert_eq!(digest, item.digest);
            batch_update_blobs_response::Response { digest, status: None }
        };
        let responses = request.requests.into_iter().map(update).collect();
        one(&BatchUpdateBlobsResponse { responses })
    }

    fn write(&self, messages: &[Bytes]) -> Answer {
        let requests = messages.iter().map(|m| WriteRequest::decode(m.clone()).unwrap());
        let requests: Vec<WriteRequest> = requests.collect();
        let mut data = requests.iter().map(|r| r.data.as_slice()).collect::<Vec<_>>().concat();
        let committed_size = data.len() as i64;
        let name = &requests[0].resource_name;
        if name.contains("compressed-blobs/zstd") {
            data = zstd::decode_all(data.as_slice()).unwrap();
        }
        let digest = self.keep(data);
        assert!(name.ends_with(&format!("/{}/{}", digest.hash, digest.size_bytes)), "{name}");
        one(&WriteResponse { committed_size })
    }

    /// Pages of at most 700 directories.
    fn tree(&self, request: &GetTreeRequest) -> Answer {
        let mut todo = vec![request.root_digest.clone().unwrap()];
        let mut directories = Vec::new();
        while let Some(digest) = todo.pop() {
            let directory: Directory = self.load(&digest);
            todo.extend(directory.directories.iter().filter_map(|node| node.digest.clone()));
            directories.push(directory);
        }
        let start: usize = request.page_token.parse().unwrap_or(0);
        let end = directories.len().min(start + 700);
        let more = end < directories.len() && !self.lies;
        one(&GetTreeResponse {
            directories: directories[start..end].to_vec(),
            next_page_token: if more { end.to_string() } else { String::new() },
        })
    }

    fn load<M: Message + Default>(&self, digest: &Digest) -> M {
        let blobs = self.blobs.lock().unwrap();
        M::decode(blobs[&digest.hash].as_slice()).unwrap()
    }

    fn execute(&self, request: ExecuteRequest) -> Answer {
        let key = request.action_digest.unwrap();
        let known = self.results.lock().unwrap().get(&key.hash).cloned();
        let cached_result = known.is_some() != self.lies;
        let result = known.unwrap_or_else(|| self.run(&key));
        self.results.lock().unwrap().insert(key.hash, result.clone());
        let response =
            ExecuteResponse { result: Some(result), cached_result, ..Default::default() };
        let any = Any {
            type_url: "type.googleapis.com/build.bazel.remote.execution.v2.ExecuteResponse".into(),
            value: response.encode_to_vec(),
        };
        let done = Operation {
            done: true,
            result: Some(operation::Result::Response(any)),
            ..Default::default()
        };
        Ok(vec![Operation::default().encode_to_vec(), done.encode_to_vec()])
    }

    fn run(&self, key: &Digest) -> ActionResult {
        let action: Action = self.load(key);
        let command: Command = self.load(&action.command_digest.unwrap());
        let mut root: Directory = self.load(&action.input_root_digest.unwrap());
        let file = |directory: &Directory, name: &str| -> Option<Digest> {
            directory.files.iter().find(|file| file.name == name)?.digest.clone()
        };
        let mut result = ActionResult::default();
        match command.arguments[0].as_str() {
            "/bin/true" => {}
            "/bin/cat" => {
                let (folders, name) = command.arguments[1].rsplit_once('/').unwrap();
                for folder in folders.split('/') {
                    let node = root.directories.iter().find(|node| node.name == folder).unwrap();
                    root = self.load(node.digest.as_ref().unwrap());
                }
                result.stdout_digest = file(&root, name);
            }
            _ if command.output_paths.is_empty() => result.stdout_raw = key.hash.clone().into(),
            _ => {
                let digest = file(&root, "source");
                result.output_files.push(OutputFile { digest, ..Default::default() });
            }
        }
        result
    }
}

fn capabilities() -> ServerCapabilities {
    ServerCapabilities {
        cache_capabilities: Some(CacheCapabilities {
            action_cache_update_capabilities: Some(ActionCacheUpdateCapabilities {
                update_enabled: true,
            }),
            supported_compressors: vec![compressor::Value::Zstd.into()],
            max_batch_total_size_bytes: 64 << 10,
            ..Default::default()
        }),
        execution_capabilities: Some(ExecutionCapabilities {
            exec_enabled: true,
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Serves `fake` until the set is dropped.
async fn serve(fake: Arc<Fake>, tasks: &mut JoinSet<()>) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            let fake = Arc::clone(&fake);
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let fake = Arc::clone(&fake);
                async move {
                    let path = request.uri().path().to_owned();
                    let mut cut = Messages::default();
                    cut.push(&request.into_body().collect().await.unwrap().to_bytes());
                    let messages: Vec<Bytes> = std::iter::from_fn(|| cut.pop().unwrap()).collect();
                    Ok::<_, Infallible>(respond(fake.answer(&path, &messages)))
                }
            });
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            connections.spawn(async move {
                drop(builder.serve_connection(TokioIo::new(stream), service).await);
            });
        }
    });
    address
}

type Frame = Result<http_body::Frame<Bytes>, Infallible>;
type Frames = StreamBody<tokio_stream::Iter<std::vec::IntoIter<Frame>>>;

fn respond(answer: Answer) -> http::Response<Frames> {
    let code = answer.as_ref().err().copied().unwrap_or(0);
    let mut frames = Vec::new();
    for message in answer.unwrap_or_default() {
        let mut bytes = BytesMut::from(&[0][..]);
        bytes.extend_from_slice(&(message.len() as u32).to_be_bytes());
        bytes.extend_from_slice(&message);
        frames.push(Ok(http_body::Frame::data(bytes.freeze())));
    }
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", code.into());
    frames.push(Ok(http_body::Frame::trailers(trailers)));
    http::Response::new(StreamBody::new(tokio_stream::iter(frames)))
}

async fn target(fake: Fake, tasks: &mut JoinSet<()>) -> Target {
    let address = serve(Arc::new(fake), tasks).await;
    let settings =
        Settings { connections: 2, frame_bytes: 16 << 10, headers: http::HeaderMap::new() };
    let client = Client::connect(&address, settings).await.unwrap();
    let speech =
        Speech { instance: String::new(), function: Function::Sha256, message_bytes: 100_000 };
    Target::new("fake", Some(std::process::id()), client, speech).await.unwrap()
}

/// Runs every workload on a fake, with another beside it; gives the calls of each, and its failures.
async fn run_all(lies: bool, other_lies: bool) -> Vec<(String, u64, u64)> {
    let mut tasks = JoinSet::new();
    let fake = Fake { lies, ..Fake::default() };
    let other = target(fake.beside(other_lies), &mut tasks).await;
    let target = Arc::new(target(fake, &mut tasks).await.with_through(other));
    let arguments = ["bench", "grpc://a:1", "--through", "grpc://b:1", "--sizes", "1KiB,1MiB"];
    let args = Options::parse_from(arguments).args;
    let source = Arc::new(Source::new(Function::Sha256));
    let plan = Plan {
        concurrency: 3,
        calls: 6,
        duration: Duration::from_secs(60),
        timeout: Duration::from_secs(60),
    };
    let mut all = Vec::new();
    for row in workloads::rows(&args, &source) {
        assert!(row.needs.met_by(target.offers));
        let sample = drive::run(&target, row.workload.as_ref(), plan).await.unwrap();
        if !lies && !other_lies {
            let stories: Vec<_> = sample.failures.classes().collect();
            assert!(stories.is_empty(), "{}: {stories:?}", row.name);
        }
        assert!(sample.through.is_some());
        all.push((row.name, sample.latency.count(), sample.failures.total()));
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_honest_server_passes_every_workload() {
    for (name, calls, failures) in run_all(false, false).await {
        assert_eq!((calls, failures), (6, 0), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lies_are_noticed() {
    let honest: Vec<String> = run_all(true, true)
        .await
        .into_iter()
        .filter_map(|(name, _, failures)| (failures == 0).then_some(name))
        .collect();
    // What has nothing to lie about, or where the fake does not: writes, and answers that it does not touch.
    let expected = [
        "get-capabilities",
        "find-missing-present",
        "find-missing-absent",
        "batch-update",
        "write-1KiB",
        "write-1MiB",
        "write-zstd-1MiB",
        "update-result",
        "merge",
        "through-find-missing",
    ];
    assert_eq!(honest, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_other_node_is_asked_for_what_the_server_was_told() {
    let all = run_all(false, true).await;
    let failed = all.iter().filter(|(_, _, failures)| *failures > 0);
    let failed: Vec<&str> = failed.map(|(name, ..)| name.as_str()).collect();
    assert_eq!(failed, ["through-read-1KiB", "through-read-1MiB", "through-get-result"]);
}

#[test]
fn names_choose_rows() {
    let source = Arc::new(Source::new(Function::Sha256));
    let names = |only: &str| -> Result<Vec<String>, String> {
        let args = Options::parse_from(["bench", "--list", "--only", only]).args;
        let rows = workloads::rows(&args, &source);
        let rows = crate::chosen(&args, rows).map_err(|error| error.to_string())?;
        Ok(rows.into_iter().map(|row| row.name).collect())
    };
    assert_eq!(names("find").unwrap(), ["find-missing-present", "find-missing-absent"]);
    assert_eq!(names("execute-inputs-1000,merge").unwrap(), ["execute-inputs-1000", "merge"]);
    assert_eq!(names("through-get-result").unwrap(), ["through-get-result"]);
    assert!(names("nothing").unwrap_err().contains("--only nothing"));
}
