//! How a connection to another node is made: TCP, then TLS with the certificates of the cluster.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures::future::BoxFuture;
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::{
    net::TcpStream,
    time::{self, Instant},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tower::Service;

use crate::Bounds;

/// How long nobody connects to an address again that could not be connected to. Calls that waited for one connection would
/// wait for one after the other else.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// What connects to one address.
#[derive(Clone)]
pub(crate) struct Connector {
    to: SocketAddr,
    tls: Arc<rustls::ClientConfig>,
    server_name: ServerName<'static>,
    bounds: Bounds,
    failed_at: Arc<Mutex<Option<Instant>>>,
}

impl Connector {
    pub(crate) fn new(
        to: SocketAddr,
        tls: Arc<rustls::ClientConfig>,
        server_name: ServerName<'static>,
        bounds: Bounds,
    ) -> Self {
        Self { to, tls, server_name, bounds, failed_at: Arc::default() }
    }

    async fn connect(self) -> io::Result<TokioIo<TlsStream<TcpStream>>> {
        let failed_at = Arc::clone(&self.failed_at);
        let failed_at = || failed_at.lock().unwrap_or_else(PoisonError::into_inner);
        let last = *failed_at();
        if last.is_some_and(|last| last.elapsed() < AGAIN_AFTER) {
            let what = "it could not be connected to a moment ago";
            return Err(io::Error::new(io::ErrorKind::NotConnected, what));
        }
        let connected = self.connect_now().await;
        *failed_at() = connected.is_err().then(Instant::now);
        connected
    }

    async fn connect_now(self) -> io::Result<TokioIo<TlsStream<TcpStream>>> {
        let stream = within(self.bounds.connect, TcpStream::connect(self.to)).await?;
        // Without it small messages wait for the acknowledgement of what went before.
        stream.set_nodelay(true)?;
        let handshake = TlsConnector::from(self.tls).connect(self.server_name, stream);
        Ok(TokioIo::new(within(self.bounds.handshake, handshake).await?))
    }
}

async fn within<T>(
    limit: Duration,
    work: impl Future<Output = io::Result<T>> + Send,
) -> io::Result<T> {
    time::timeout(limit, work).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        Box::pin(self.clone().connect())
    }
}
