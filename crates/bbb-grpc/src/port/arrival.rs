//! From a connection that was accepted to one that is known: what it is, whom it belongs to, which doors it finds.

use std::{io, sync::Arc};

use axum::{
    Router,
    extract::Request,
    response::{IntoResponse as _, Response},
};
use http::StatusCode;
use tokio::{io::AsyncWriteExt as _, net::TcpStream};
use tokio_rustls::{
    LazyConfigAcceptor,
    rustls::{self, ServerConfig, server::Acceptor},
    server::TlsStream,
};

use super::{
    connection::Version,
    opening::{Opening, Rewound, opening},
    windows::Side,
};
use crate::{doors::is_grpc, status, tls::ClientTls, wire::refuse};

/// A fatal TLS alert that says that no protocol is agreed upon (RFC 8446, section 6: `handshake_failure`).
const ALERT: [u8; 7] = [21, 3, 3, 0, 2, 2, 40];

/// The ways in.
pub(super) struct Ways {
    /// What is found in plain text: the clients' doors, or where those are behind TLS, the advice to use it.
    plain: Router,
    /// The clients' doors behind TLS.
    clients: Option<(Router, Arc<ClientTls>)>,
    /// The nodes' doors.
    nodes: Option<(Router, Arc<ServerConfig>)>,
}

/// A connection that is known.
pub(super) struct Arrived {
    pub(super) side: Side,
    pub(super) version: Version,
    pub(super) doors: Router,
    pub(super) io: Io,
}

/// The bytes of a connection, as its doors see them.
pub(super) enum Io {
    Plain(Rewound<TcpStream>),
    Tls(Box<Rewound<TlsStream<Rewound<TcpStream>>>>),
}

/// Why a connection was not let in.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    /// It broke before it was known.
    #[error("broke before it said what it is")]
    Broken(#[source] io::Error),
    /// It speaks TLS and is none of another node, and there is no TLS for clients.
    #[error("speaks TLS, which clients do not find here")]
    NoTls,
    /// A client failed its handshake.
    #[error("failed its TLS handshake")]
    Client(#[source] io::Error),
    /// Another node failed its handshake.
    #[error("failed its TLS handshake as another node")]
    Node(#[source] io::Error),
}

impl Refused {
    /// A handshake that did not come to its end is a failure only if TLS says so.
    fn by_tls(error: io::Error, failed: fn(io::Error) -> Self) -> Self {
        match error.get_ref().is_some_and(|cause| cause.is::<rustls::Error>()) {
            true => failed(error),
            false => Self::Broken(error),
        }
    }
}

impl Arrived {
    pub(super) fn is_plain(&self) -> bool {
        matches!(self.io, Io::Plain(_))
    }
}

impl Ways {
    pub(super) fn new(
        clients: Router,
        client_tls: Option<Arc<ClientTls>>,
        nodes: Option<(Router, Arc<ServerConfig>)>,
    ) -> Self {
        match client_tls {
            None => Self { plain: clients, clients: None, nodes },
            Some(tls) => Self {
                plain: Router::new().fallback(use_tls),
                clients: Some((clients, tls)),
                nodes,
            },
        }
    }

    /// Whether what comes in plain text is told to use TLS.
    pub(super) fn want_tls(&self) -> bool {
        self.clients.is_some()
    }

    /// Gets to know a connection. Waits as long as it takes.
    pub(super) async fn arrive(&self, stream: TcpStream) -> Result<Arrived, Refused> {
        // Without it small answers wait for the acknowledgement of what went before.
        stream.set_nodelay(true).map_err(Refused::Broken)?;
        let (opening, stream) = opening(stream).await.map_err(Refused::Broken)?;
        let version = match opening {
            Opening::Tls => return self.arrive_by_tls(stream).await,
            Opening::Http1 => Version::Http1,
            Opening::Http2 => Version::Http2,
        };
        let doors = self.plain.clone();
        Ok(Arrived { side: Side::Clients, version, doors, io: Io::Plain(stream) })
    }

    async fn arrive_by_tls(&self, stream: Rewound<TcpStream>) -> Result<Arrived, Refused> {
        let hello = LazyConfigAcceptor::new(Acceptor::default(), stream).await;
        let mut hello = hello.map_err(|error| Refused::by_tls(error, Refused::Client))?;
        let offered = hello.client_hello().alpn().map(|offered| offered.map(<[u8]>::to_vec));
        let offered: Vec<_> = offered.into_iter().flatten().collect();
        let of_nodes = |(_, tls): &&(Router, Arc<ServerConfig>)| {
            tls.alpn_protocols.iter().any(|protocol| offered.contains(protocol))
        };
        type Failed = fn(io::Error) -> Refused;
        let (side, doors, tls, failed): (_, _, _, Failed) =
            match (self.nodes.as_ref().filter(of_nodes), &self.clients) {
                (Some((doors, tls)), _) => (Side::Nodes, doors, Arc::clone(tls), Refused::Node),
                (None, Some((doors, tls))) => (Side::Clients, doors, tls.config(), Refused::Client),
                (None, None) => {
                    // It goes unheard where the other end is gone.
                    let _ = hello.io.write_all(&ALERT).await;
                    return Err(Refused::NoTls);
                }
            };
        let stream = hello.into_stream(tls).await;
        let stream = stream.map_err(|error| Refused::by_tls(error, failed))?;
        let (opening, stream) = opening(stream).await.map_err(Refused::Broken)?;
        let version = match opening {
            Opening::Http2 => Version::Http2,
            Opening::Http1 | Opening::Tls => Version::Http1,
        };
        let io = Io::Tls(Box::new(stream));
        Ok(Arrived { side, version, doors: doors.clone(), io })
    }
}

/// The answer to plain text where clients have to use TLS.
async fn use_tls(request: Request) -> Response {
    let what = "this port speaks TLS: use grpcs:// or https://";
    match is_grpc(request.headers()) {
        true => refuse(status::unauthenticated(what)),
        false => (StatusCode::BAD_REQUEST, format!("{what}\n")).into_response(),
    }
}
