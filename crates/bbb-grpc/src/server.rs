//! The doors put together: one port for gRPC and pages, HTTP/1 and HTTP/2.

use std::{convert::Infallible, future::Future, io, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::Request,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use bbb_lifecycle::{Stop, TaskGroup};
use bbb_reapi::proto::asset::{fetch_server::FetchServer, push_server::PushServer};
use bbb_storage::Instances;
use http::{HeaderMap, StatusCode, header};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{interval, sleep},
};
use tonic::server::NamedService;
use tonic_health::{ServingStatus, server::HealthReporter};
use tower::{Service, ServiceExt as _};

use crate::{
    Budget, Door, RequiredHeader, action_cache,
    asset::Asset,
    bytestream::{self, Uploads},
    capabilities, cas,
    limits::{MAX_MESSAGE_BYTES, MAX_SMALL_MESSAGE_BYTES},
    reflection, request_metadata, status,
    windows::{Window, Windows},
    wire::{Wire, refuse},
};

/// How many calls one connection may have open at once.
const MAX_CONCURRENT_STREAMS: u32 = 1_024;

/// How many bytes a client may send on one stream ahead of being read, within the window of its connection.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;

/// The largest frame that is taken.
const MAX_FRAME_BYTES: u32 = 256 << 10;

/// The most that a call's headers may take, in bytes.
const MAX_HEADER_BYTES: u32 = 64 << 10;

/// How often a silent connection is asked whether it lives, and how long it has to answer.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// How long the headers of an HTTP/1 request may take to come.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// How often uploads that broke off are looked after.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// How the doors behave.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whether clients may write action results.
    pub client_results: bool,
    /// Whether actions can be run.
    pub exec_enabled: bool,
    /// The header that every request must carry.
    pub required_header: Option<RequiredHeader>,
    /// The memory that requests share while they are read and answered, in bytes.
    pub request_bytes: u64,
    /// The memory that uploads share between their messages, in bytes.
    pub upload_bytes: u64,
    /// The memory that connections share for what clients send ahead of being read, in bytes. It also
    /// bounds how many connections are open at once; more wait to be accepted.
    pub window_bytes: u64,
    /// The largest blob that is taken, in bytes.
    pub max_blob_bytes: u64,
}

/// All services of one port.
pub struct Doors {
    router: Router,
    services: Vec<&'static str>,
    settings: Settings,
    uploads: Arc<Uploads>,
    health: HealthReporter,
}

impl Doors {
    /// The services that need but stores, health and reflection.
    pub fn new(settings: Settings, instances: Arc<Instances>) -> Self {
        let budget = Budget::new(settings.request_bytes);
        let max_blob_bytes = settings.max_blob_bytes;
        let door = |max_message_bytes| {
            let wire = Wire::new(budget.clone(), max_message_bytes);
            Door { wire, instances: Arc::clone(&instances), max_blob_bytes }
        };
        let uploads = Arc::new(Uploads::new(settings.upload_bytes));
        let router = Router::new()
            .merge(capabilities::routes(door(MAX_SMALL_MESSAGE_BYTES), &settings))
            .merge(bytestream::routes(door(MAX_MESSAGE_BYTES), Arc::clone(&uploads)))
            .merge(action_cache::routes(door(MAX_MESSAGE_BYTES), settings.client_results))
            .merge(cas::routes(door(MAX_MESSAGE_BYTES)));
        let (health, health_service) = tonic_health::server::health_reporter();
        let services = vec![capabilities::NAME, bytestream::NAME, action_cache::NAME, cas::NAME];
        let limited = MAX_SMALL_MESSAGE_BYTES;
        Self { router, services, settings, uploads, health }
            .with_reflection()
            .with_service(health_service)
            .with_service(FetchServer::new(Asset).max_decoding_message_size(limited))
            .with_service(PushServer::new(Asset).max_decoding_message_size(limited))
    }

    /// These and reflection, without which all else works as well.
    fn with_reflection(self) -> Self {
        match (reflection::v1(), reflection::v1alpha()) {
            (Ok(v1), Ok(v1alpha)) => self.with_service(v1).with_service(v1alpha),
            (Err(error), _) | (_, Err(error)) => {
                tracing::warn!(%error, "no reflection: its descriptors cannot be read");
                self
            }
        }
    }

    /// These and one more gRPC service. Its requests carry
    /// [`RequestMetadata`](bbb_reapi::RequestMetadata) as an extension.
    #[must_use]
    pub fn with_service<S>(mut self, service: S) -> Self
    where
        S: Service<http::Request<tonic::body::Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Response: IntoResponse,
        S::Future: Send + 'static,
    {
        let service = service.map_request(|mut request: Request| {
            let metadata = request_metadata::of(request.headers());
            request.extensions_mut().insert(metadata);
            request.map(tonic::body::Body::new)
        });
        self.router = self.router.route_service(&format!("/{}/{{*method}}", S::NAME), service);
        self.services.push(S::NAME);
        self
    }

    /// These and some pages.
    #[must_use]
    pub fn with_pages(mut self, pages: Router) -> Self {
        self.router = self.router.merge(pages);
        self
    }

    /// Everything as one service, for tests and for those who listen themselves.
    pub fn into_router(self, stop: Stop) -> Router {
        let healthz = move || async move {
            match stop.is_requested() {
                false => (StatusCode::OK, "ok\n"),
                true => (StatusCode::SERVICE_UNAVAILABLE, "stopping\n"),
            }
        };
        let router = self.router.route("/healthz", get(healthz)).fallback(unknown);
        match self.settings.required_header {
            Some(required) => {
                let check = move |request: Request, next: Next| {
                    let refusal = required.refusal(&request);
                    async move {
                        match refusal {
                            Some(refusal) => refusal,
                            None => next.run(request).await,
                        }
                    }
                };
                router.layer(middleware::from_fn(check))
            }
            None => router,
        }
    }

    /// Serves on `listener` until the group is asked to stop; then takes no more connections, and lets
    /// the calls that are open end. All of it is done by tasks of the group.
    pub fn serve(self, listener: TcpListener, tasks: &TaskGroup) {
        let stop = tasks.stop();
        let (uploads, sweeper_stop) = (Arc::clone(&self.uploads), tasks.stop());
        tasks.spawn("uploads", async move {
            let mut ticks = interval(SWEEP_EVERY);
            until(&sweeper_stop, async {
                loop {
                    ticks.tick().await;
                    uploads.sweep();
                }
            })
            .await;
        });
        let (health, services) = (self.health.clone(), self.services.clone());
        let windows = Windows::new(self.settings.window_bytes);
        let router = self.into_router(tasks.stop());
        let owner = tasks.clone();
        tasks.spawn("accept", async move {
            announce(&health, &services, ServingStatus::Serving).await;
            until(&stop, accept(&listener, &windows, &router, &owner)).await;
            announce(&health, &services, ServingStatus::NotServing).await;
        });
    }
}

/// Does something until the word to stop comes.
async fn until(stop: &Stop, work: impl Future<Output = ()>) {
    tokio::select! {
        () = work => {}
        () = stop.requested() => {}
    }
}

async fn announce(health: &HealthReporter, services: &[&'static str], status: ServingStatus) {
    for service in services.iter().chain(&[""]) {
        health.set_service_status(*service, status).await;
    }
}

/// Whether a request is a gRPC call, or the try of one.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// The answer to what no service knows.
async fn unknown(request: Request) -> Response {
    let path = request.uri().path();
    match is_grpc(request.headers()) {
        true => refuse(status::unimplemented(format!("no method {path} is known here"))),
        false => (StatusCode::NOT_FOUND, "no such page\n").into_response(),
    }
}

/// Accepts connections for ever.
async fn accept(listener: &TcpListener, windows: &Windows, router: &Router, tasks: &TaskGroup) {
    loop {
        let Some(window) = windows.open().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (router, stop) = (router.clone(), tasks.stop());
                tasks.spawn("connection", async move {
                    serve_connection(stream, &window, router, stop).await;
                });
            }
            Err(error) => {
                // Out of file descriptors, mostly: it passes as connections close.
                tracing::warn!(%error, "cannot accept connections");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve_connection(stream: TcpStream, window: &Window, router: Router, stop: Stop) {
    if let Err(error) = served(stream, window, router, stop).await {
        tracing::debug!(error, "connection ended badly");
    }
}

async fn served(
    stream: TcpStream,
    window: &Window,
    router: Router,
    stop: Stop,
) -> Result<(), String> {
    let described = |error: io::Error| error.to_string();
    // Without it small answers wait for the acknowledgement of what went before.
    stream.set_nodelay(true).map_err(described)?;
    // Calls belong to their connection: it waits for them, and they end with it.
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(window.bytes())
        .max_frame_size(MAX_FRAME_BYTES)
        .max_header_list_size(MAX_HEADER_BYTES)
        .max_concurrent_streams(MAX_CONCURRENT_STREAMS)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE);
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    let service =
        router.map_request(|request: http::Request<hyper::body::Incoming>| request.map(Body::new));
    let connection =
        builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.requested() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    ended.map_err(|error| error.to_string())
}
