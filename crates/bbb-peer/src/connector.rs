//! How a connection to another node is made: TCP, then TLS with the certificates of the cluster.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::{net::TcpStream, time};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tower::Service;

/// How long another node may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long it may take to prove itself after that.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);

/// What connects to one address.
#[derive(Clone)]
pub(crate) struct Connector {
    pub(crate) to: SocketAddr,
    pub(crate) tls: Arc<rustls::ClientConfig>,
    pub(crate) server_name: ServerName<'static>,
}

impl Connector {
    async fn connect(self) -> io::Result<TokioIo<TlsStream<TcpStream>>> {
        let stream = within(CONNECT_TIMEOUT, TcpStream::connect(self.to)).await?;
        // Without it small messages wait for the acknowledgement of what went before.
        stream.set_nodelay(true)?;
        let handshake = TlsConnector::from(self.tls).connect(self.server_name, stream);
        Ok(TokioIo::new(within(HANDSHAKE_TIMEOUT, handshake).await?))
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

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        Box::pin(self.clone().connect())
    }
}
