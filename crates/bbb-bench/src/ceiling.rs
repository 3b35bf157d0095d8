//! The raw ceiling: a bare tonic server that stores nothing, in a process of its own.
//!
//! It answers GetCapabilities with a message of the usual size, discards what ByteStream writes, and serves
//! ByteStream reads from memory (zeros, of the size that the resource name says). For every action it spawns `/bin/true` by
//! plain fork and exec, whatever the action says, and waits for it. What it costs is what the gRPC stack and the kernel
//! cost; no server on this stack does the same calls for less.

use std::convert::Infallible;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::task::{Context, Poll};

use anyhow::{Context as _, bail};
use bbb_reapi::proto::bytestream::{ReadRequest, WriteResponse};
use bbb_reapi::proto::longrunning::{Operation, operation};
use bbb_reapi::proto::protobuf::Any;
use bbb_reapi::proto::reapi;
use bbb_reapi::proto::semver::SemVer;
use bytes::Bytes;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service};
use tonic::server::{
    ClientStreamingService, Grpc, NamedService, ServerStreamingService, UnaryService,
};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::args::Address;

/// Data per message of a read.
const MESSAGE_BYTES: usize = 1 << 20;
/// HTTP/2 windows, as a server would set them that was made for large blobs.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// HTTP/2 frames that it takes.
const FRAME_BYTES: u32 = 256 << 10;
/// What an operation of ours holds.
const EXECUTE_RESPONSE: &str =
    "type.googleapis.com/build.bazel.remote.execution.v2.ExecuteResponse";
/// How the child tells its address.
const READY: &str = "ceiling listens on ";

/// The child process that is the bare server; it ends with this value.
pub(crate) struct Ceiling {
    child: Child,
    /// The child ends, too, when this closes: so it cannot outlive us, whatever happens.
    _lifeline: ChildStdin,
    pub(crate) address: Address,
}

impl Ceiling {
    /// Starts this program again with the same arguments and `--serve_ceiling`.
    ///
    /// # Errors
    /// When the program cannot be started, or does not say where it listens.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(std::env::args_os().skip(1))
            .arg("--serve_ceiling")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the bare server")?;
        let (Some(lifeline), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("the bare server has no pipes");
        };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        match line.trim_end().strip_prefix(READY).and_then(|address| address.parse().ok()) {
            Some(address) => Ok(Self { child, _lifeline: lifeline, address }),
            None => {
                child.kill()?;
                child.wait()?;
                bail!("the bare server said {line:?} instead of its address")
            }
        }
    }

    /// The child's process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Ceiling {
    fn drop(&mut self) {
        // It may be gone already; then there is nothing to do.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Is the bare server until standard input closes.
///
/// # Errors
/// When no port can be had, or serving fails.
pub(crate) async fn serve() -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    {
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{READY}{}", listener.local_addr()?)?;
        stdout.flush()?;
    }
    let incoming = TcpListenerStream::new(listener).map(|stream| {
        let stream = stream?;
        stream.set_nodelay(true)?;
        Ok::<_, std::io::Error>(stream)
    });
    // Reading standard input blocks: it has a thread of its own, which ends with the process.
    let (closed, wait) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut nothing = Vec::new();
        drop(std::io::stdin().read_to_end(&mut nothing));
        // Nobody waits any more when serving has failed.
        let _ = closed.send(());
    });
    let server = tonic::transport::Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES)
        .add_service(Served(Capabilities))
        .add_service(Served(Execution))
        .add_service(Served(ByteStream { zeros: Bytes::from(vec![0; MESSAGE_BYTES]) }))
        .serve_with_incoming(incoming);
    tokio::select! {
        served = server => served.context("the bare server failed"),
        _ = wait => Ok(()),
    }
}

/// `google.bytestream.ReadResponse` and the data of `WriteRequest`, without copies.
#[derive(Clone, PartialEq, prost::Message)]
struct Data {
    #[prost(bytes = "bytes", tag = "10")]
    data: Bytes,
}

#[derive(Clone)]
struct Capabilities;

impl NamedService for Capabilities {
    const NAME: &'static str = "build.bazel.remote.execution.v2.Capabilities";
}

impl UnaryService<reapi::GetCapabilitiesRequest> for Capabilities {
    type Response = reapi::ServerCapabilities;
    type Future = std::future::Ready<Result<Response<Self::Response>, Status>>;

    fn call(&mut self, _: Request<reapi::GetCapabilitiesRequest>) -> Self::Future {
        std::future::ready(Ok(Response::new(capabilities())))
    }
}

/// An answer of the usual size.
fn capabilities() -> reapi::ServerCapabilities {
    let version = |minor| Some(SemVer { major: 2, minor, ..SemVer::default() });
    reapi::ServerCapabilities {
        cache_capabilities: Some(reapi::CacheCapabilities {
            digest_functions: vec![1, 2, 5, 6, 9],
            supported_compressors: vec![1],
            max_batch_total_size_bytes: 4 << 20,
            ..reapi::CacheCapabilities::default()
        }),
        execution_capabilities: Some(reapi::ExecutionCapabilities {
            digest_function: 1,
            digest_functions: vec![1, 2, 5, 6, 9],
            exec_enabled: true,
            ..reapi::ExecutionCapabilities::default()
        }),
        low_api_version: version(0),
        high_api_version: version(11),
        ..reapi::ServerCapabilities::default()
    }
}

#[derive(Clone)]
struct ByteStream {
    zeros: Bytes,
}

impl NamedService for ByteStream {
    const NAME: &'static str = "google.bytestream.ByteStream";
}

impl ClientStreamingService<Data> for ByteStream {
    type Response = WriteResponse;
    type Future = BoxFuture<Response<Self::Response>, Status>;

    fn call(&mut self, request: Request<Streaming<Data>>) -> Self::Future {
        Box::pin(async move {
            let mut messages = request.into_inner();
            let mut committed_size = 0;
            while let Some(message) = messages.message().await? {
                committed_size += message.data.len() as i64;
            }
            Ok(Response::new(WriteResponse { committed_size }))
        })
    }
}

impl ServerStreamingService<ReadRequest> for ByteStream {
    type Response = Data;
    type ResponseStream = tokio_stream::Iter<Box<dyn Iterator<Item = Result<Data, Status>> + Send>>;
    type Future = std::future::Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<ReadRequest>) -> Self::Future {
        let name = request.into_inner().resource_name;
        let size: Option<usize> = name.rsplit('/').next().and_then(|size| size.parse().ok());
        let Some(size) = size else {
            return std::future::ready(Err(Status::invalid_argument("no size")));
        };
        let zeros = self.zeros.clone();
        let messages = (0..size)
            .step_by(MESSAGE_BYTES)
            .map(move |offset| Ok(Data { data: zeros.slice(..MESSAGE_BYTES.min(size - offset)) }));
        let messages: Box<dyn Iterator<Item = _> + Send> = Box::new(messages);
        std::future::ready(Ok(Response::new(tokio_stream::iter(messages))))
    }
}

/// Runs the command that does nothing, in place of any action.
#[derive(Clone)]
struct Execution;

impl NamedService for Execution {
    const NAME: &'static str = "build.bazel.remote.execution.v2.Execution";
}

impl ServerStreamingService<reapi::ExecuteRequest> for Execution {
    type Response = Operation;
    type ResponseStream = tokio_stream::Once<Result<Operation, Status>>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, _: Request<reapi::ExecuteRequest>) -> Self::Future {
        Box::pin(async {
            let spawned = || Command::new("/bin/true").status();
            let status = tokio::task::spawn_blocking(spawned).await;
            let status = status.map_err(|error| Status::internal(error.to_string()))??;
            let result = reapi::ActionResult {
                exit_code: status.code().unwrap_or(-1),
                ..reapi::ActionResult::default()
            };
            let response = reapi::ExecuteResponse {
                result: Some(result),
                ..reapi::ExecuteResponse::default()
            };
            let response = Any {
                type_url: EXECUTE_RESPONSE.to_owned(),
                value: prost::Message::encode_to_vec(&response),
            };
            let operation = Operation {
                done: true,
                result: Some(operation::Result::Response(response)),
                ..Operation::default()
            };
            Ok(Response::new(tokio_stream::once(Ok(operation))))
        })
    }
}

type HttpFuture = BoxFuture<http::Response<Body>, Infallible>;

/// The methods of a service, as HTTP.
trait Methods: NamedService + Clone + Send + 'static {
    /// The answer of the method that is called; none if there is no such method.
    fn call(&self, request: http::Request<Body>) -> Option<HttpFuture>;
}

/// Serves methods.
#[derive(Clone)]
struct Served<S>(S);

impl<S: NamedService> NamedService for Served<S> {
    const NAME: &'static str = S::NAME;
}

impl<S: Methods> Service<http::Request<Body>> for Served<S> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = HttpFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> HttpFuture {
        self.0.call(request).unwrap_or_else(unimplemented)
    }
}

impl Methods for Capabilities {
    fn call(&self, request: http::Request<Body>) -> Option<HttpFuture> {
        match method(&request) {
            "GetCapabilities" => Some(Box::pin(async move {
                Ok(Grpc::new(ProstCodec::default()).unary(Self, request).await)
            })),
            _ => None,
        }
    }
}

impl Methods for Execution {
    fn call(&self, request: http::Request<Body>) -> Option<HttpFuture> {
        match method(&request) {
            "Execute" => Some(Box::pin(async move {
                Ok(Grpc::new(ProstCodec::default()).server_streaming(Self, request).await)
            })),
            _ => None,
        }
    }
}

impl Methods for ByteStream {
    fn call(&self, request: http::Request<Body>) -> Option<HttpFuture> {
        let service = self.clone();
        match method(&request) {
            "Read" => Some(Box::pin(async move {
                let mut grpc = Grpc::new(ProstCodec::<Data, ReadRequest>::default());
                Ok(grpc.server_streaming(service, request).await)
            })),
            "Write" => Some(Box::pin(async move {
                let mut grpc = Grpc::new(ProstCodec::<WriteResponse, Data>::default())
                    .max_decoding_message_size(usize::MAX);
                Ok(grpc.client_streaming(service, request).await)
            })),
            _ => None,
        }
    }
}

fn method(request: &http::Request<Body>) -> &str {
    request.uri().path().rsplit('/').next().unwrap_or_default()
}

fn unimplemented() -> HttpFuture {
    let mut response = http::Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert("grpc-status", http::HeaderValue::from_static("12"));
    headers.insert("content-type", http::HeaderValue::from_static("application/grpc"));
    Box::pin(std::future::ready(Ok(response)))
}
