//! One connection that is known and has its window: HTTP until it ends.

use std::{net::SocketAddr, pin::pin, time::Duration};

use axum::{Router, body::Body};
use bbb_lifecycle::Stop;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::transport::server::TcpConnectInfo;
use tower::ServiceExt as _;

use super::windows::Window;
use crate::limits::Lobby;

/// How many calls one connection may have open at once.
const MAX_CONCURRENT_STREAMS: u32 = 1_024;

/// How many bytes a client may send on one stream ahead of being read, within the window of its connection.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 4 << 20;

/// The largest frame that is taken.
const MAX_FRAME_BYTES: u32 = 256 << 10;

/// The most that a call's headers may take, in bytes.
const MAX_HEADER_BYTES: u32 = 64 << 10;

/// How often a silent connection is asked whether it lives, and how long it has to answer.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// How long the headers of an HTTP/1 request may take to come.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// The version of HTTP that a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    Http1,
    Http2,
}

/// Serves a connection until it ends. When the word to stop comes, the calls that are open end. Requests carry the other
/// end's address as tonic's [`TcpConnectInfo`].
///
/// # Errors
/// If the connection ends badly.
pub(super) async fn serve<I>(
    io: I,
    version: Version,
    from: SocketAddr,
    router: Router,
    window: &Window,
    stop: &Stop,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connect_info = TcpConnectInfo { local_addr: None, remote_addr: Some(from) };
    let lobby = Lobby::of_window(u64::from(window.bytes()));
    let service = router.map_request(move |mut request: http::Request<Incoming>| {
        request.extensions_mut().insert(lobby.clone());
        request.extensions_mut().insert(connect_info.clone());
        request.map(Body::new)
    });
    let builder = builder(version, window.bytes());
    let connection = builder.serve_connection(TokioIo::new(io), TowerToHyperService::new(service));
    let mut connection = pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.requested() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    }
}

fn builder(version: Version, window_bytes: u32) -> auto::Builder<TokioExecutor> {
    // Calls belong to their connection: it waits for them, and they end with it.
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(window_bytes)
        .max_frame_size(MAX_FRAME_BYTES)
        .max_header_list_size(MAX_HEADER_BYTES)
        .max_concurrent_streams(MAX_CONCURRENT_STREAMS)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE);
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    match version {
        Version::Http1 => builder.http1_only(),
        Version::Http2 => builder.http2_only(),
    }
}
