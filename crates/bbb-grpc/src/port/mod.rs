//! The port: clients in plain text or under TLS, and other nodes, told apart by how their connections begin.
//!
//! The first byte tells TLS from plain text. What a TLS client offers as its protocol (ALPN, RFC 7301) tells other nodes
//! from clients: nodes have to prove themselves by a certificate of the cluster and find the nodes' doors, everybody else
//! finds the clients'. HTTP/1 and HTTP/2 are told apart by their first bytes, with and without TLS.
//!
//! Promises: who says nothing, or not enough, is hung up on in time and takes nobody's place; what all connections may
//! send ahead of being read stays within a bound, of which other nodes always have a part.
//!
//! The room knows nothing of what the doors do, nor of how nodes come by their certificates.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bbb_lifecycle::{Stop, TaskGroup};
use futures::future::{join, join_all};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{interval, sleep, timeout},
};
use tokio_rustls::rustls::ServerConfig;
use tonic_health::ServingStatus;

mod arrival;
mod complaint;
mod connection;

mod opening;
mod windows;

pub(crate) use connection::STREAM_WINDOW_BYTES;

use arrival::{Arrived, Io, Ways};
use complaint::Complaints;
use windows::{Side, Window, Windows};

use crate::{Doors, tls::ClientTls};

/// How many connections may be between being accepted and being known.
const MAX_ARRIVALS: usize = 1_024;

/// How long a connection may take to say what it is, its TLS handshake included.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(10);

/// How long after a failure connections are accepted again.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// How many connections may wait for others to end; more are hung up on.
const MAX_WAITING: usize = 1_024;

/// How long a connection waits for others to end.
const WINDOW_TIMEOUT: Duration = Duration::from_secs(60);

/// How often uploads that broke off are looked after.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// One port, before it is served.
pub struct Port {
    window_bytes: u64,
    clients: Doors,
    client_tls: Option<Arc<ClientTls>>,
    nodes: Option<(Doors, Arc<ServerConfig>)>,
    on_refused_node: Option<Box<OnRefusedNode>>,
}

/// Told of each node that fails its handshake: where it is, and why. It may come often: on purpose, too.
pub type OnRefusedNode = dyn Fn(SocketAddr, &io::Error) + Send + Sync;

impl Port {
    /// Clients in plain text. `window_bytes` is the memory that connections share for what is sent ahead of being read;
    /// it also bounds how many are open at once, more wait.
    pub fn new(window_bytes: u64, clients: Doors) -> Self {
        Self { window_bytes, clients, client_tls: None, nodes: None, on_refused_node: None }
    }

    /// Clients under TLS; in plain text they find but the advice to use it.
    #[must_use]
    pub fn with_client_tls(self, tls: Arc<ClientTls>) -> Self {
        Self { client_tls: Some(tls), ..self }
    }

    /// And other nodes: those who offer a protocol (ALPN) of this configuration, and stand up to it.
    #[must_use]
    pub fn with_nodes(self, nodes: Doors, tls: Arc<ServerConfig>) -> Self {
        Self { nodes: Some((nodes, tls)), ..self }
    }

    /// Has somebody else say in the log that a node was refused, who knows what to do.
    #[must_use]
    pub fn on_refused_node(
        self,
        tell: impl Fn(SocketAddr, &io::Error) + Send + Sync + 'static,
    ) -> Self {
        Self { on_refused_node: Some(Box::new(tell)), ..self }
    }

    /// Serves on `listener` until the group is asked to stop; then takes no more connections, and lets
    /// the calls that are open end. All of it is done by tasks of the group.
    pub fn serve(self, listener: TcpListener, tasks: &TaskGroup) {
        let stop = tasks.stop();
        let nodes = self.nodes.as_ref().map(|(doors, _)| doors);
        let uploads: Vec<_> = self
            .clients
            .uploads()
            .into_iter()
            .chain(nodes.into_iter().flat_map(Doors::uploads))
            .collect();
        let sweeper_stop = tasks.stop();
        tasks.spawn("uploads", async move {
            let mut ticks = interval(SWEEP_EVERY);
            let driving = join_all(uploads.iter().map(|uploads| uploads.drive()));
            let sweeping = async {
                loop {
                    ticks.tick().await;
                    uploads.iter().for_each(|uploads| uploads.sweep());
                }
            };
            sweeper_stop.until_requested(join(driving, sweeping)).await;
        });
        if let Some(tls) = self.client_tls.clone() {
            let stop = tasks.stop();
            tasks.spawn("certificates", async move {
                stop.until_requested(tls.keep_current()).await;
            });
        }
        let health = self.clients.health();
        let entrance = Arc::new(Entrance::new(self, &stop));
        let owner = tasks.clone();
        tasks.spawn("accept", async move {
            if let Some(health) = &health {
                health.announce(ServingStatus::Serving).await;
            }
            stop.until_requested(accept(&listener, &entrance, &owner)).await;
            if let Some(health) = &health {
                health.announce(ServingStatus::NotServing).await;
            }
        });
    }
}

/// What connections come in by.
struct Entrance {
    ways: Ways,
    arrivals: Arc<Semaphore>,
    windows: Windows,
    waiting: Semaphore,
    complaints: Complaints,
}

impl Entrance {
    fn new(port: Port, stop: &Stop) -> Self {
        let nodes = port.nodes.map(|(doors, tls)| (doors.into_router(stop.clone()), tls));
        let clients = port.clients.into_router(stop.clone());
        Self {
            windows: Windows::new(port.window_bytes, nodes.is_some()),
            ways: Ways::new(clients, port.client_tls, nodes),
            arrivals: Arc::new(Semaphore::new(MAX_ARRIVALS)),
            waiting: Semaphore::new(MAX_WAITING),
            complaints: Complaints::new(port.on_refused_node),
        }
    }

    /// Sees one connection from its first byte to its last.
    async fn receive(
        &self,
        stream: TcpStream,
        from: SocketAddr,
        place: OwnedSemaphorePermit,
        stop: &Stop,
    ) {
        let arrival =
            stop.until_requested(timeout(ARRIVAL_TIMEOUT, self.ways.arrive(stream))).await;
        drop(place);
        let arrived = match arrival {
            Some(Ok(Ok(arrived))) => arrived,
            Some(Ok(Err(refused))) => return self.complaints.refused(from, &refused),
            Some(Err(_)) => {
                tracing::debug!(%from, "a connection did not say in time what it is");
                return;
            }
            None => return,
        };
        if arrived.is_plain() && self.ways.want_tls() {
            self.complaints.plain(from);
        }
        let Some(window) = stop.until_requested(self.window(arrived.side, from)).await.flatten()
        else {
            return;
        };
        let Arrived { version, doors, .. } = arrived;
        let ended = match arrived.io {
            Io::Plain(io) => connection::serve(io, version, from, doors, &window, stop).await,
            Io::Tls(io) => connection::serve(io, version, from, doors, &window, stop).await,
        };
        if let Err(error) = ended {
            tracing::debug!(%from, %error, "connection ended badly");
        }
    }

    /// A window, as soon as there is one; none if too many wait, or this one has waited for too long.
    async fn window(&self, side: Side, from: SocketAddr) -> Option<Window> {
        if let Some(window) = self.windows.try_open(side) {
            return Some(window);
        }
        let window = match self.waiting.try_acquire() {
            Ok(_waiting) => timeout(WINDOW_TIMEOUT, self.windows.open(side)).await.ok().flatten(),
            Err(_) => None,
        };
        if window.is_none() {
            self.complaints.too_many(from);
        }
        window
    }
}

/// Accepts connections for ever.
async fn accept(listener: &TcpListener, entrance: &Arc<Entrance>, tasks: &TaskGroup) {
    loop {
        let Ok(place) = Arc::clone(&entrance.arrivals).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, from)) => {
                let (entrance, stop) = (Arc::clone(entrance), tasks.stop());
                tasks.spawn("connection", async move {
                    entrance.receive(stream, from, place, &stop).await;
                });
            }
            Err(error) => {
                // Out of file descriptors, mostly: it passes as connections close.
                entrance.complaints.accept(&error);
                sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}
