//! Connections to origins: names looked up, every address judged, TLS where it is asked for.

use std::{io, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderValue, Request, header};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
    time,
};
use tokio_rustls::TlsConnector;
use url::Url;

use super::{Bounds, Connection, Form, HopError, Origins, handshake, proxy::Proxy};
use crate::place::bare;

/// How many addresses of one name are tried.
const MAX_ADDRESSES: usize = 6;

/// Looks a host and port up.
pub type LookUp =
    Arc<dyn Fn(String, u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync>;

/// As the system looks names up.
pub fn system_lookup() -> LookUp {
    Arc::new(|host, port| {
        Box::pin(async move { Ok(lookup_host((host.as_str(), port)).await?.collect()) })
    })
}

/// Whoever the system trusts is trusted.
pub(super) fn system_trust() -> Result<Arc<rustls::ClientConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_platform_verifier()?
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// What an HTTP connection runs over.
pub(super) type Stream = Box<dyn Duplex>;

pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// How an origin is reached.
pub(crate) enum Way {
    /// At one of these addresses, which were judged.
    Direct(Vec<SocketAddr>),
    /// Through a proxy, which looks names up.
    Proxy(Proxy),
}

impl Origins {
    /// A connection over which `url` can be asked for, and how.
    pub(super) async fn connect(&self, url: &Url) -> Result<(Stream, Form), HopError> {
        let host = url.host_str().unwrap_or_default();
        let is_tls = url.scheme() == "https";
        match self.way(url).await? {
            Way::Proxy(proxy) => {
                let stream = self.connect_to_proxy(&proxy).await?;
                if !is_tls {
                    return Ok((stream, Form::Absolute(proxy.login)));
                }
                let port = url.port_or_known_default().unwrap_or_default();
                let stream = self.tunnel(stream, host, port, proxy.login).await?;
                Ok((self.shake(host, stream).await?, Form::Origin))
            }
            Way::Direct(addresses) => {
                let stream: Stream =
                    Box::new(connect_to_any(host, &addresses, &self.bounds).await?);
                let stream = if is_tls { self.shake(host, stream).await? } else { stream };
                Ok((stream, Form::Origin))
            }
        }
    }

    /// The way on which `url` may be asked for.
    pub(crate) async fn way(&self, url: &Url) -> Result<Way, HopError> {
        let unusable = |what: &str| HopError::unusable(what, io::ErrorKind::InvalidInput.into());
        let host = url.host_str().ok_or_else(|| unusable("the URL has no host"))?;
        let port = url.port_or_known_default().ok_or_else(|| unusable("the URL has no port"))?;
        if let Some(proxy) = self.proxies.of(url).transpose()? {
            self.reach.judge_name(host, port)?;
            return Ok(Way::Proxy(proxy));
        }
        let addresses = self.look_up(host, port).await?;
        let mut judged = Vec::new();
        let mut refused = None;
        for address in addresses {
            match self.reach.judge(host, port, address.ip()) {
                Ok(()) => judged.push(address),
                Err(error) => refused = Some(error),
            }
        }
        match (judged.is_empty(), refused) {
            (true, Some(refused)) => Err(refused.into()),
            _ => Ok(Way::Direct(judged)),
        }
    }

    /// Whether `--fetch_allow` lists an origin that is reached on this way, and not just nothing forbids it.
    pub(crate) fn is_listed(&self, url: &Url, way: &Way) -> bool {
        let host = url.host_str().unwrap_or_default();
        let port = url.port_or_known_default().unwrap_or_default();
        match way {
            Way::Proxy(_) => self.reach.allows(host, port, None),
            Way::Direct(addresses) => {
                addresses.iter().all(|address| self.reach.allows(host, port, Some(address.ip())))
            }
        }
    }

    /// The proxy is the operator's choice, wherever it is.
    async fn connect_to_proxy(&self, proxy: &Proxy) -> Result<Stream, HopError> {
        let addresses = self.look_up(&proxy.host, proxy.port).await?;
        let called = format!("the proxy {}:{}", proxy.host, proxy.port);
        Ok(Box::new(connect_to_any(&called, &addresses, &self.bounds).await?))
    }

    async fn look_up(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, HopError> {
        let bare = bare(host);
        if let Ok(address) = bare.parse() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let within = self.bounds.look_up;
        let looked_up = time::timeout(within, (self.look_up)(bare.to_owned(), port)).await;
        let looked_up = looked_up.map_err(|_| HopError::Slow("looking the host up", within))?;
        looked_up.map_err(|error| HopError::unreachable(format!("cannot look {host} up"), error))
    }

    async fn shake(&self, host: &str, stream: Stream) -> Result<Stream, HopError> {
        let what = || format!("no TLS with {host}");
        let unusable = |error| HopError::unusable(what(), error);
        let config =
            self.tls.as_ref().map_err(|error| unusable(io::Error::other(Arc::clone(error))))?;
        let name = ServerName::try_from(bare(host).to_owned());
        let name = name.map_err(|error| unusable(io::Error::other(error)))?;
        let shaking = TlsConnector::from(Arc::clone(config)).connect(name, stream);
        let within = self.bounds.handshake;
        let shaken = time::timeout(within, shaking).await;
        let shaken = shaken.map_err(|_| HopError::Slow("the TLS handshake", within))?;
        let shaken = shaken.map_err(|error| match error.kind() {
            // So TLS says that something is wrong, a certificate above all, and not merely broken off.
            io::ErrorKind::InvalidData => unusable(error),
            _ => HopError::unreachable(what(), error),
        });
        Ok(Box::new(shaken?))
    }

    /// Has a proxy connect to a host (RFC 9110, section 9.3.6).
    async fn tunnel(
        &self,
        stream: Stream,
        host: &str,
        port: u16,
        login: Option<HeaderValue>,
    ) -> Result<Stream, HopError> {
        let authority = format!("{host}:{port}");
        let mut request = Request::connect(&authority).header(header::HOST, &authority);
        if let Some(login) = login {
            request = request.header(header::PROXY_AUTHORIZATION, login);
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|error| {
            let what = format!("no tunnel to {host} through the proxy");
            HopError::unusable(what, io::Error::other(error))
        })?;
        let broken = |source| HopError::Broken { what: "asking the proxy", source };
        let tunnelled = async {
            let (mut sender, connection) = handshake(stream).await?;
            let mut connection = Connection(Some(Box::pin(connection.with_upgrades())));
            let response = connection.drive(sender.send_request(request)).await.map_err(broken)?;
            if !response.status().is_success() {
                return Err(HopError::Proxy(response.status()));
            }
            let upgraded = connection.drive(hyper::upgrade::on(response)).await.map_err(broken)?;
            Ok(Box::new(TokioIo::new(upgraded)) as Stream)
        };
        let within = self.bounds.handshake;
        let tunnelled = time::timeout(within, tunnelled).await;
        tunnelled.unwrap_or(Err(HopError::Slow("the tunnel through the proxy", within)))
    }
}

/// Connects to the first address that answers.
async fn connect_to_any(
    called: &str,
    addresses: &[SocketAddr],
    bounds: &Bounds,
) -> Result<TcpStream, HopError> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "it has no address");
    for address in addresses.iter().take(MAX_ADDRESSES) {
        match time::timeout(bounds.connect, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(HopError::unreachable(format!("cannot connect to {called}"), last))
}
