//! The doors put together: the services and pages that one kind of caller finds on a port.
//!
//! Clients find [`Doors::new`], other nodes [`Doors::for_nodes`]; neither has a way to what is the other's. All doors of
//! a process share one [`Budgets`].

use std::{convert::Infallible, sync::Arc};

use axum::{
    Router,
    extract::Request,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use bbb_lifecycle::Stop;
use bbb_storage::{Instances, Logs};
use http::{HeaderMap, StatusCode, header};
use tonic::server::NamedService;
use tonic_health::{ServingStatus, server::HealthReporter};
use tower::{Service, ServiceExt as _};

use crate::{
    Budget, Door, RequiredHeader, action_cache,
    asset::Asset,
    bytestream::{self, Uploads},
    capabilities, cas,
    limits::{MAX_MESSAGE_BYTES, MAX_SMALL_MESSAGE_BYTES},
    logstream::LogStreams,
    reflection, request_metadata, status,
    wire::{Wire, refuse},
};

/// How the doors for clients behave.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whether clients may write action results.
    pub client_results: bool,
    /// Whether actions can be run.
    pub exec_enabled: bool,
    /// The header that every request must carry.
    pub required_header: Option<RequiredHeader>,
    /// The largest blob that is taken, in bytes.
    pub max_blob_bytes: u64,
}

/// The memory that all doors of a process share.
#[derive(Clone, Debug)]
pub struct Budgets {
    requests: Budget,
    /// Apart, so that clients which are slow to take their replies keep nobody from asking; and a call holds some of
    /// the one while it waits for the other.
    replies: Budget,
    uploads: Budget,
}

/// Replies have so small a part of the memory of requests.
const REPLIES_PART: u64 = 4;

impl Budgets {
    /// So much for requests while they are read and answered, and so much for uploads between their messages, in bytes.
    pub fn new(request_bytes: u64, upload_bytes: u64) -> Self {
        let reply_bytes = request_bytes / REPLIES_PART;
        Self {
            requests: Budget::new(request_bytes - reply_bytes),
            replies: Budget::new(reply_bytes),
            uploads: Budget::new(upload_bytes),
        }
    }
}

/// The services and pages for one kind of caller.
pub struct Doors {
    router: Router,
    required_header: Option<RequiredHeader>,
    uploads: Vec<Arc<Uploads>>,
    /// None for other nodes, who learn of each other's health by gossip.
    health: Option<Health>,
}

/// What tells clients which services are served.
#[derive(Clone)]
pub(crate) struct Health {
    reporter: HealthReporter,
    services: Vec<&'static str>,
}

impl Doors {
    /// For clients: the services that need but stores, health and reflection.
    pub fn new(settings: Settings, budgets: &Budgets, instances: Arc<Instances>) -> Self {
        Self::for_clients(settings, budgets, instances, None)
    }

    /// The same, with logs.
    pub fn with_logs(
        settings: Settings,
        budgets: &Budgets,
        instances: Arc<Instances>,
        logs: Arc<dyn Logs>,
    ) -> Self {
        Self::for_clients(settings, budgets, instances, Some(Arc::clone(&logs)))
            .with_service(LogStreams::new(logs))
    }

    fn for_clients(
        settings: Settings,
        budgets: &Budgets,
        instances: Arc<Instances>,
        logs: Option<Arc<dyn Logs>>,
    ) -> Self {
        let doors = Self::over_blobs(settings.max_blob_bytes, budgets, &instances, logs);
        let door = |max_message_bytes| Door {
            wire: Wire::new(budgets.requests.clone(), max_message_bytes),
            replies: budgets.replies.clone(),
            instances: Arc::clone(&instances),
            max_blob_bytes: settings.max_blob_bytes,
        };
        let router = (doors.router)
            .merge(capabilities::routes(door(MAX_SMALL_MESSAGE_BYTES), &settings))
            .merge(action_cache::routes(door(MAX_MESSAGE_BYTES), settings.client_results));
        let (reporter, health_service) = tonic_health::server::health_reporter();
        let services = vec![capabilities::NAME, bytestream::NAME, action_cache::NAME, cas::NAME];
        Self {
            router,
            required_header: settings.required_header,
            uploads: doors.uploads,
            health: Some(Health { reporter, services }),
        }
        .with_reflection()
        .with_service(health_service)
    }

    /// These, and the Remote Asset API.
    #[must_use]
    pub fn with_assets(self, asset: Asset) -> Self {
        let (fetch, push) = asset.into_servers();
        self.with_service(fetch).with_service(push)
    }

    /// For other nodes, who prove themselves by their certificates: blobs and results, both of which they may write, and
    /// the logs of this node, if there are any.
    pub fn for_nodes(
        max_blob_bytes: u64,
        budgets: &Budgets,
        instances: Arc<Instances>,
        logs: Option<Arc<dyn Logs>>,
    ) -> Self {
        let mut doors = Self::over_blobs(max_blob_bytes, budgets, &instances, logs);
        let wire = Wire::new(budgets.requests.clone(), MAX_MESSAGE_BYTES);
        let replies = budgets.replies.clone();
        let door = Door { wire, replies, instances, max_blob_bytes };
        doors.router = doors.router.merge(action_cache::routes(door, true));
        doors
    }

    /// For other nodes: blobs alone.
    pub fn for_nodes_near(
        max_blob_bytes: u64,
        budgets: &Budgets,
        instances: Arc<Instances>,
    ) -> Self {
        Self::over_blobs(max_blob_bytes, budgets, &instances, None)
    }

    fn over_blobs(
        max_blob_bytes: u64,
        budgets: &Budgets,
        instances: &Arc<Instances>,
        logs: Option<Arc<dyn Logs>>,
    ) -> Self {
        let door = || Door {
            wire: Wire::new(budgets.requests.clone(), MAX_MESSAGE_BYTES),
            replies: budgets.replies.clone(),
            instances: Arc::clone(instances),
            max_blob_bytes,
        };
        let uploads = Arc::new(Uploads::new(budgets.uploads.clone()));
        let router = Router::new()
            .merge(bytestream::routes(door(), Arc::clone(&uploads), logs))
            .merge(cas::routes(door()));
        Self { router, required_header: None, uploads: vec![uploads], health: None }
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
        if let Some(health) = &mut self.health {
            health.services.push(S::NAME);
        }
        self
    }

    /// These and some pages.
    #[must_use]
    pub fn with_pages(mut self, pages: Router) -> Self {
        self.router = self.router.merge(pages);
        self
    }

    /// These, and others under a prefix like `/near`. These alone ask for their header.
    #[must_use]
    pub fn with_doors_under(mut self, prefix: &str, others: Self) -> Self {
        self.router = self.router.nest(prefix, others.router.fallback(unknown));
        self.uploads.extend(others.uploads);
        self
    }

    /// Everything as one service, for tests and for those who listen themselves. Clients find `/healthz` too.
    pub fn into_router(self, stop: Stop) -> Router {
        let router = match self.health {
            Some(_) => self.router.route("/healthz", get(async move || healthz(&stop))),
            None => self.router,
        };
        let router = router.fallback(unknown);
        match self.required_header {
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

    /// The uploads that are under way here: somebody has to sweep them now and then.
    pub(crate) fn uploads(&self) -> Vec<Arc<Uploads>> {
        self.uploads.clone()
    }

    /// What tells clients which services are served.
    pub(crate) fn health(&self) -> Option<Health> {
        self.health.clone()
    }
}

impl Health {
    /// Tells whether the services are served.
    pub(crate) async fn announce(&self, status: ServingStatus) {
        for service in self.services.iter().chain(&[""]) {
            self.reporter.set_service_status(*service, status).await;
        }
    }
}

fn healthz(stop: &Stop) -> (StatusCode, &'static str) {
    match stop.is_requested() {
        false => (StatusCode::OK, "ok\n"),
        true => (StatusCode::SERVICE_UNAVAILABLE, "stopping\n"),
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
