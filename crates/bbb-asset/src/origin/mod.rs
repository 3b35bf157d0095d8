//! Origins: one GET at a time, on a connection of its own, to no address but one that was judged.
//!
//! The library below follows no redirect, keeps no connection and looks nothing up: whatever decides where bytes come from is
//! written here. A connection is not worth keeping for the few large things that builds fetch.

mod bounds;
mod connect;
mod proxy;

use std::{fmt, future::poll_fn, io, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Empty;
use hyper::{body::Body as _, body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::time::{self, Instant};
use url::Url;

use bounds::Pace;

use crate::{Reach, Refused};

pub use bounds::Bounds;
pub(crate) use connect::Way;
pub use connect::{LookUp, system_lookup};

/// How many bytes the head of an answer may have, and how many headers.
const MAX_HEAD_BYTES: usize = 64 << 10;
const MAX_HEADERS: usize = 200;

/// How this side calls itself.
const USER_AGENT: &str = concat!("buildbuildbuild/", env!("CARGO_PKG_VERSION"));

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HopError {
    /// It is not to be asked.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// It cannot be reached now.
    #[error("{what}")]
    Unreachable {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// It cannot be reached in the way that is known, and trying again is of no use.
    #[error("{what}")]
    Unusable {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A proxy does not let us through.
    #[error("the proxy answers {0}")]
    Proxy(StatusCode),
    /// It does not speak as it should.
    #[error("{what}")]
    Broken {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: hyper::Error,
    },
    /// It takes too long.
    #[error("{0} takes longer than {1:?}")]
    Slow(&'static str, Duration),
}

impl HopError {
    fn unreachable(what: impl Into<String>, source: io::Error) -> Self {
        Self::Unreachable { what: what.into(), source }
    }

    fn unusable(what: impl Into<String>, source: io::Error) -> Self {
        Self::Unusable { what: what.into(), source }
    }
}

/// The way to all origins.
#[derive(Clone)]
pub struct Origins {
    reach: Arc<Reach>,
    look_up: LookUp,
    tls: Result<Arc<rustls::ClientConfig>, Arc<rustls::Error>>,
    proxies: Arc<proxy::Proxies>,
    bounds: Bounds,
}

impl Origins {
    /// Origins within `reach`, through the proxies that the environment names (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`,
    /// `NO_PROXY`, in small letters too), trusting whom the system trusts (or `SSL_CERT_FILE`, `SSL_CERT_DIR`).
    pub fn from_env(reach: Reach) -> Self {
        let tls = connect::system_trust().map_err(Arc::new);
        if let Err(error) = &tls {
            tracing::warn!(%error, "nobody is trusted: nothing can be fetched by https");
        }
        let origins = Self {
            reach: Arc::new(reach),
            look_up: system_lookup(),
            tls,
            proxies: Arc::default(),
            bounds: Bounds::default(),
        };
        origins.through(|name| std::env::var(name).ok())
    }

    /// The same, with other ways to look names up and to trust, and no proxy.
    pub fn with(reach: Reach, look_up: LookUp, tls: Arc<rustls::ClientConfig>) -> Self {
        Self {
            reach: Arc::new(reach),
            look_up,
            tls: Ok(tls),
            proxies: Arc::default(),
            bounds: Bounds::default(),
        }
    }

    /// The same, through the proxies that these variables of an environment name.
    #[must_use]
    pub fn through(self, variable: impl Fn(&str) -> Option<String>) -> Self {
        let proxies = proxy::Proxies::of_variables(variable);
        for why in proxies.unusable() {
            tracing::warn!(why, "cannot use a proxy that the environment names");
        }
        Self { proxies: Arc::new(proxies), ..self }
    }

    /// The same, which waits as long as `bounds` say.
    #[must_use]
    pub fn within(self, bounds: Bounds) -> Self {
        Self { bounds, ..self }
    }

    pub(crate) fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// Asks for `url`.
    pub(crate) async fn get(&self, url: &Url, headers: HeaderMap) -> Result<Answer, HopError> {
        let (stream, form) = self.connect(url).await?;
        let request = request(url, headers, form);
        let bounds = self.bounds;
        let asked = async {
            let (mut sender, connection) = handshake(stream).await?;
            let mut connection = Connection(Some(Box::pin(connection)));
            let response = connection.drive(sender.send_request(request)).await;
            let response =
                response.map_err(|source| HopError::Broken { what: "asking", source })?;
            Ok(Answer { response, connection, pace: Pace::default(), bounds })
        };
        let asked = time::timeout(bounds.head, asked).await;
        asked.unwrap_or(Err(HopError::Slow("the answer", bounds.head)))
    }
}

impl fmt::Debug for Origins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origins").field("reach", &self.reach).finish_non_exhaustive()
    }
}

/// How the target of a request is written.
enum Form {
    /// As a path.
    Origin,
    /// As a whole, to a proxy, with what lets us use it.
    Absolute(Option<HeaderValue>),
}

async fn handshake(
    stream: connect::Stream,
) -> Result<
    (http1::SendRequest<Empty<Bytes>>, http1::Connection<TokioIo<connect::Stream>, Empty<Bytes>>),
    HopError,
> {
    let mut builder = http1::Builder::new();
    builder.max_headers(MAX_HEADERS).max_header_size(MAX_HEAD_BYTES);
    let shaken = builder.handshake(TokioIo::new(stream)).await;
    shaken.map_err(|source| HopError::Broken { what: "beginning to ask", source })
}

fn request(url: &Url, headers: HeaderMap, form: Form) -> Request<Empty<Bytes>> {
    let mut request = Request::new(Empty::new());
    let target = match &form {
        Form::Origin => &url[url::Position::BeforePath..url::Position::AfterQuery],
        Form::Absolute(_) => &url[..url::Position::AfterQuery],
    };
    // A URL that was parsed is a target; should it be none, it is asked for a page that is not there.
    *request.uri_mut() = target.parse().unwrap_or_default();
    *request.headers_mut() = headers;
    let headers = request.headers_mut();
    let authority = &url[url::Position::BeforeHost..url::Position::AfterPort];
    if let Ok(host) = HeaderValue::from_str(authority) {
        headers.insert(header::HOST, host);
    }
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    for (name, value) in [(header::USER_AGENT, USER_AGENT), (header::ACCEPT, "*/*")] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    if let Form::Absolute(Some(login)) = form {
        headers.insert(header::PROXY_AUTHORIZATION, login);
    }
    request
}

/// A connection, which only moves while somebody drives it.
pub(crate) struct Connection(Option<BoxFuture<'static, Result<(), hyper::Error>>>);

impl Connection {
    /// Waits for `work`, driving the connection meanwhile. What breaks the connection breaks the work.
    async fn drive<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        poll_fn(|cx| {
            if let Some(connection) = &mut self.0
                && connection.as_mut().poll(cx).is_ready()
            {
                self.0 = None;
            }
            work.as_mut().poll(cx)
        })
        .await
    }
}

/// An answer whose body comes in. To drop it ends the connection.
pub(crate) struct Answer {
    response: Response<Incoming>,
    connection: Connection,
    pace: Pace,
    bounds: Bounds,
}

impl Answer {
    pub(crate) fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// A header that is text.
    pub(crate) fn header(&self, name: header::HeaderName) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// Has what comes in small pieces come by `until`, or faster from then on: who is slow has no more than his share of the time.
    pub(crate) fn hurry(&mut self, until: Instant) {
        let left = until.saturating_duration_since(Instant::now()).max(Bounds::SHORTEST_PACE);
        self.bounds.pace = self.bounds.pace.min(left);
    }

    /// The next piece of the body; none at its end, which is there only if all came that was announced.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, HopError> {
        let Self { response, connection, pace, bounds } = self;
        let body = response.body_mut();
        let next = connection.drive(async {
            loop {
                let frame = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await;
                match frame.transpose()?.map(hyper::body::Frame::into_data) {
                    Some(Ok(data)) => return Ok(Some(data)),
                    Some(Err(_trailers)) => {}
                    None => return Ok(None),
                }
            }
        });
        let since = Instant::now();
        let Ok(next) = time::timeout(pace.left(bounds), next).await else {
            return Err(HopError::Slow("the next piece", bounds.pace));
        };
        let next = next.map_err(|source| HopError::Broken { what: "reading", source })?;
        pace.came(since.elapsed(), next.as_ref().map_or(0, Bytes::len));
        Ok(next)
    }
}
