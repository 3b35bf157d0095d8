//! A proxy between a node and an S3 server that makes the server as bad as it is told to.
//!
//! Told over a second port, at run time:
//!
//! - `POST /faults?latency_ms=100&error=5` puts these faults in force instead of those before; `POST /faults` takes all away.
//!   `error`, `slow_down`, `reset_before`, `lost_response`, `truncate` and `corrupt` meet so many of 100 requests, `only=put,part`
//!   those of these kinds alone; `outage=true` cuts everything off, `full=507` refuses what takes room; `for_s=60` ends
//!   all of it after that time.
//! - `GET /faults` says what is in force.
//! - `GET /counts` gives a `name value` a line: requests by kind, answers by status, faults, bytes both ways. `DELETE /counts` does
//!   the same and begins again at 0.
//!
//! It promises to forward what no fault meets as it came, the host header above all, which signatures cover. Who asks and what
//! is stored it refuses to know. Chance comes from a seed; with requests in parallel a seed repeats the odds, not the events.

mod faults;
mod kind;
mod passing;
mod socket;
mod state;

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, atomic::AtomicBool, atomic::Ordering},
};

use anyhow::Context as _;
use bbb_lifecycle::TaskGroup;
use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header, uri::Authority,
};
use http_body_util::{BodyExt as _, Either, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use tokio::{net::TcpListener, time};

pub use faults::{Chance, Fate, Faults};
pub use kind::Kind;

use passing::{Damage, Passing};
use socket::Socket;
use state::State;

/// The connection ends here, without an answer.
#[derive(Clone, Copy, Debug)]
struct Cut;

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the connection was cut on purpose")
    }
}

impl std::error::Error for Cut {}

type Answer = Response<Either<Passing, Full<Bytes>>>;

/// A proxy that runs.
#[derive(Debug)]
pub struct Proxy {
    /// Where it speaks S3.
    pub address: SocketAddr,
    /// Where it is told what to do.
    pub control: SocketAddr,
}

impl Proxy {
    /// Listens on two ports of loopback, 0 for any, in front of the S3 server at `upstream`. Its tasks are those of `tasks`.
    ///
    /// # Errors
    /// When a port cannot be had.
    pub async fn start(
        upstream: Authority,
        port: u16,
        control_port: u16,
        seed: u64,
        tasks: &TaskGroup,
    ) -> anyhow::Result<Self> {
        let listen = async |port| {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
            listener.with_context(|| format!("cannot listen on port {port}"))
        };
        let (doors, control) = (listen(port).await?, listen(control_port).await?);
        let started = Self { address: doors.local_addr()?, control: control.local_addr()? };
        let state = Arc::new(State::new(seed));
        let client = Client::builder(TokioExecutor::new()).build_http();
        let road = Arc::new(Road { upstream, client, state: Arc::clone(&state) });
        tasks.spawn(
            "s3",
            accept(doors, tasks.clone(), move |socket, tasks| {
                tasks.spawn("s3 connection", Arc::clone(&road).serve(socket));
            }),
        );
        tasks.spawn(
            "control",
            accept(control, tasks.clone(), move |socket, tasks| {
                tasks.spawn("control connection", serve_control(Arc::clone(&state), socket));
            }),
        );
        Ok(started)
    }
}

/// Takes connections until the group stops.
async fn accept(listener: TcpListener, tasks: TaskGroup, serve: impl Fn(Socket, &TaskGroup)) {
    let stop = tasks.stop();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.requested() => return,
        };
        // A connection that broke before it was taken is not ours to mourn.
        if let Ok((stream, _)) = accepted {
            serve(Socket::from(stream), &tasks);
        }
    }
}

/// The way to the S3 server.
#[derive(Debug)]
struct Road {
    upstream: Authority,
    client: Client<HttpConnector, Passing>,
    state: Arc<State>,
}

impl Road {
    async fn serve(self: Arc<Self>, socket: Socket) {
        let reset = socket.reset_switch();
        if self.state.outage() {
            reset.store(true, Ordering::Relaxed);
            return;
        }
        let service = service_fn(|request| self.answer(request, &reset));
        // Connections that end badly are this proxy's trade.
        let _ended = http1::Builder::new().serve_connection(TokioIo::new(socket), service).await;
    }

    async fn answer(&self, request: Request<Incoming>, reset: &AtomicBool) -> Result<Answer, Cut> {
        let kind = Kind::of(request.method(), request.uri(), request.headers());
        self.state.count(kind.name(), 1);
        let latency = self.state.faults().latency;
        if !latency.is_zero() {
            time::sleep(latency).await;
        }
        let fate = self.state.fate(kind);
        if let Some(name) = fate.name() {
            self.state.count(counted_fault(name), 1);
        }
        let answer = match fate {
            Fate::Outage | Fate::Meets(Chance::ResetBefore) => Err(Cut),
            Fate::Full(status) => Ok(refusal(status, "QuotaExceeded")),
            Fate::Meets(Chance::Error) => Ok(refusal(500, "InternalError")),
            Fate::Meets(Chance::SlowDown) => Ok(refusal(503, "SlowDown")),
            Fate::Meets(Chance::LostResponse) => {
                let _lost = self.forward(request).await?.into_body().collect().await;
                Err(Cut)
            }
            Fate::Meets(chance @ (Chance::Truncate | Chance::Corrupt)) => {
                let answer = self.forward(request).await?;
                Ok(self.damaged(answer, chance))
            }
            Fate::Pass => self.forward(request).await.map(|answer| answer.map(Either::Left)),
        };
        match &answer {
            Ok(answer) => self.state.count(counted_status(answer.status()), 1),
            Err(Cut) => reset.store(true, Ordering::Relaxed),
        }
        answer
    }

    async fn forward(&self, request: Request<Incoming>) -> Result<Response<Passing>, Cut> {
        let (mut parts, body) = request.into_parts();
        let uri = Uri::builder()
            .scheme("http")
            .authority(self.upstream.clone())
            .path_and_query(parts.uri.path_and_query().map_or("/", |path| path.as_str()));
        parts.uri = uri.build().map_err(|_| Cut)?;
        parts.version = Version::HTTP_11;
        parts.headers.remove(header::CONNECTION);
        let body = Passing::new(body, "bytes_up", Arc::clone(&self.state));
        let answer = self.client.request(Request::from_parts(parts, body)).await;
        let (mut parts, body) = answer.map_err(|_| Cut)?.into_parts();
        parts.headers.remove(header::CONNECTION);
        let body = Passing::new(body, "bytes_down", Arc::clone(&self.state));
        Ok(Response::from_parts(parts, body))
    }

    /// What the server answered, with its object damaged.
    fn damaged(&self, answer: Response<Passing>, how: Chance) -> Answer {
        let length = answer.headers().get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        let damage = match (how, length) {
            _ if !answer.status().is_success() => None,
            (_, None | Some(0)) => None,
            (Chance::Truncate, Some(length)) => Some(Damage::CutAt(length / 2)),
            (_, Some(length)) => Some(Damage::FlipAt(self.state.below(length))),
        };
        answer.map(|body| Either::Left(body.damaged(damage)))
    }
}

/// The name under which a fault is counted.
fn counted_fault(name: &'static str) -> &'static str {
    match name {
        "error" => "fault_error",
        "slow_down" => "fault_slow_down",
        "reset_before" => "fault_reset_before",
        "lost_response" => "fault_lost_response",
        "truncate" => "fault_truncate",
        "corrupt" => "fault_corrupt",
        "full" => "fault_full",
        _ => "fault_outage",
    }
}

const fn counted_status(status: StatusCode) -> &'static str {
    match status.as_u16() {
        200..300 => "status_2xx",
        300..400 => "status_3xx",
        404 => "status_404",
        400..500 => "status_4xx",
        _ => "status_5xx",
    }
}

/// An error as S3 servers word it.
fn refusal(status: u16, code: &str) -> Answer {
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>on purpose</Message></Error>"
    );
    let mut answer = plain(status, text);
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    answer.map(Either::Right)
}

fn plain(status: u16, text: String) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::from(text)));
    *answer.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    answer
}

async fn serve_control(state: Arc<State>, socket: Socket) {
    let service = service_fn(async |request: Request<Incoming>| {
        Ok::<_, Infallible>(control(&state, &request))
    });
    let _ended = http1::Builder::new().serve_connection(TokioIo::new(socket), service).await;
}

fn control(state: &State, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    match (request.method(), request.uri().path()) {
        (&Method::POST, "/faults") => match Faults::parse(request.uri()) {
            Ok(faults) => {
                let text = format!("{faults}\n");
                state.set_faults(faults);
                plain(200, text)
            }
            Err(error) => plain(400, error + "\n"),
        },
        (&Method::GET, "/faults") => plain(200, format!("{}\n", state.faults())),
        (&Method::GET, "/counts") => plain(200, state.counts()),
        (&Method::DELETE, "/counts") => {
            let counts = state.counts();
            state.forget_counts();
            plain(200, counts)
        }
        _ => plain(404, "there are POST and GET /faults, GET and DELETE /counts\n".to_owned()),
    }
}

#[cfg(test)]
mod tests;
