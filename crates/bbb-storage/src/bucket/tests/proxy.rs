//! A proxy between the tier and an S3 server in which things go wrong on the wire.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use futures::{StreamExt as _, stream, stream::BoxStream};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Request, Response,
    body::{Frame, Incoming},
    client::conn::http1 as client,
    server::conn::http1 as server,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::net::{TcpListener, TcpStream};

use super::TaskGroup;

/// What goes wrong: chances between 0 and 1, drawn for each request.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct WireFaults {
    /// The connection is closed before the server sees the request.
    pub(super) resets: f64,
    /// "503 Slow Down", and the server does not see the request.
    pub(super) slow_down: f64,
    /// The server has done it, and the connection is closed without an answer.
    pub(super) lost_answers: f64,
    /// The answer's body breaks off half-way.
    pub(super) cut_bodies: f64,
    /// A byte of the answer's body is another one.
    pub(super) wrong_bytes: f64,
}

pub(super) struct Proxy {
    pub(super) address: SocketAddr,
    state: Arc<State>,
}

struct State {
    server: SocketAddr,
    group: TaskGroup,
    faults: Mutex<(WireFaults, StdRng)>,
}

type Body = UnsyncBoxBody<Bytes, io::Error>;

enum Fate {
    Reset,
    SlowDown,
    Lost,
    Cut,
    Wrong,
    Good,
}

impl Proxy {
    pub(super) async fn start(server: SocketAddr, group: &TaskGroup) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let faults = Mutex::new((WireFaults::default(), StdRng::seed_from_u64(7)));
        let state = Arc::new(State { server, group: group.clone(), faults });
        let (served, owner) = (Arc::clone(&state), group.clone());
        group.spawn("proxy", async move {
            while let Ok((connection, _)) = listener.accept().await {
                let state = Arc::clone(&served);
                owner.spawn("proxied connection", async move {
                    let service = service_fn(move |request| {
                        let state = Arc::clone(&state);
                        async move { state.answer(request).await }
                    });
                    // Ends in an error when that is what the request met.
                    let _ = server::Builder::new()
                        .serve_connection(TokioIo::new(connection), service)
                        .await;
                });
            }
        });
        Self { address, state }
    }

    pub(super) fn set(&self, faults: WireFaults) {
        self.state.faults.lock().unwrap_or_else(PoisonError::into_inner).0 = faults;
    }
}

impl State {
    fn draw(&self) -> Fate {
        let (faults, chance) = &mut *self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        let fates = [
            (faults.resets, Fate::Reset),
            (faults.slow_down, Fate::SlowDown),
            (faults.lost_answers, Fate::Lost),
            (faults.cut_bodies, Fate::Cut),
            (faults.wrong_bytes, Fate::Wrong),
        ];
        fates
            .into_iter()
            .find(|(rate, _)| chance.random_bool(*rate))
            .map_or(Fate::Good, |(_, fate)| fate)
    }

    async fn answer(&self, request: Request<Incoming>) -> io::Result<Response<Body>> {
        let reset = || io::Error::from(io::ErrorKind::ConnectionReset);
        let fate = self.draw();
        match fate {
            Fate::Reset => return Err(reset()),
            Fate::SlowDown => {
                let _ = request.into_body().collect().await;
                let body = "<Error><Code>SlowDown</Code><Message>on purpose</Message></Error>";
                let body = Full::new(Bytes::from(body)).map_err(never).boxed_unsync();
                return Ok(Response::builder().status(503).body(body).unwrap());
            }
            _ => {}
        }
        let (parts, body) = self.forward(request).await?.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        let half = body.len() / 2;
        let pieces: BoxStream<'static, io::Result<Bytes>> = match fate {
            Fate::Lost => return Err(reset()),
            Fate::Cut if half > 0 => stream::iter([Ok(body.slice(..half)), Err(reset())]).boxed(),
            Fate::Wrong if half > 0 => {
                let mut wrong = body.to_vec();
                wrong[half] ^= 1;
                stream::iter([Ok(wrong.into())]).boxed()
            }
            _ => stream::iter([Ok(body)]).boxed(),
        };
        // The length in the head is that of the whole.
        let body = StreamBody::new(pieces.map(|piece| piece.map(Frame::data))).boxed_unsync();
        Ok(Response::from_parts(parts, body))
    }

    async fn forward(&self, request: Request<Incoming>) -> io::Result<Response<Incoming>> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        let connection = TcpStream::connect(self.server).await?;
        let (mut sender, connection) =
            client::handshake(TokioIo::new(connection)).await.map_err(io::Error::other)?;
        let request = Request::from_parts(parts, Full::new(body));
        self.group.spawn("proxy's own connection", async move { drop(connection.await) });
        sender.send_request(request).await.map_err(io::Error::other)
    }
}

fn never(never: Infallible) -> io::Error {
    match never {}
}
