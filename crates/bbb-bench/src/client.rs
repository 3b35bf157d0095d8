//! A small gRPC client over `hyper`, made to cost little beside the server that is measured.
//!
//! It keeps some HTTP/2 connections with raised windows and spreads calls over them in turn, replaces those that
//! broke, and hands bodies through without copying. It knows nothing of the services.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Uri, Version, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tonic::Code;

use crate::failure::Failure;
use crate::wire::{Messages, Outgoing};

/// Flow-control window of a stream: what a server may send ahead of the reader.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// Flow-control window of a connection.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// How much a stream may buffer on its way to the socket.
const SEND_BUFFER_BYTES: usize = 1 << 20;

/// How to connect.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// HTTP/2 connections per server.
    pub(crate) connections: usize,
    /// Largest HTTP/2 frame that is taken from the server.
    pub(crate) frame_bytes: u32,
    /// Headers that every call carries.
    pub(crate) headers: HeaderMap,
}

/// Connections to one server.
#[derive(Debug)]
pub(crate) struct Client {
    authority: String,
    settings: Settings,
    lanes: Vec<Mutex<SendRequest<Outgoing>>>,
    next: AtomicUsize,
    /// The tasks that move the connections' bytes; they end with the client.
    drivers: Mutex<JoinSet<()>>,
}

impl Client {
    /// Connects to `authority` (`HOST:PORT`).
    ///
    /// # Errors
    /// [`Failure::Connection`] when the address cannot be resolved, refuses or does not speak HTTP/2.
    pub(crate) async fn connect(authority: &str, settings: Settings) -> Result<Self, Failure> {
        let mut drivers = JoinSet::new();
        let mut lanes = Vec::new();
        for _ in 0..settings.connections {
            lanes.push(Mutex::new(open(authority, &settings, &mut drivers).await?));
        }
        Ok(Self {
            authority: authority.to_owned(),
            settings,
            lanes,
            next: AtomicUsize::new(0),
            drivers: Mutex::new(drivers),
        })
    }

    /// Sends one message and reads the one message of the answer.
    ///
    /// # Errors
    /// Any [`Failure`] but `Late`.
    pub(crate) async fn unary<Answer: Message + Default>(
        &self,
        path: &'static str,
        request: &impl Message,
    ) -> Result<Answer, Failure> {
        decode(self.call(path, Outgoing::message(request)?).await?.only_message().await?)
    }

    /// Sends a body and gives the body of the answer.
    ///
    /// # Errors
    /// [`Failure::Connection`], or [`Failure::Status`] when the answer is nothing but a status.
    pub(crate) async fn call(&self, path: &'static str, body: Outgoing) -> Result<Answer, Failure> {
        let uri = Uri::builder()
            .scheme("http")
            .authority(self.authority.as_str())
            .path_and_query(path)
            .build()
            .map_err(|error| Failure::connection(&error))?;
        let mut request = Request::new(body);
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = uri;
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = self.settings.headers.clone();
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(header::TE, HeaderValue::from_static("trailers"));

        let response = self
            .lane()
            .await?
            .send_request(request)
            .await
            .map_err(|error| Failure::connection(&error))?;
        if response.headers().contains_key("grpc-status") {
            check_status(response.headers())?;
        } else if response.status() != http::StatusCode::OK {
            return Err(Failure::wrong(format!("HTTP status {}", response.status())));
        }
        Ok(Answer { body: response.into_body() })
    }

    /// The next connection in turn, opened again if it broke.
    async fn lane(&self) -> Result<SendRequest<Outgoing>, Failure> {
        let lane = &self.lanes[self.next.fetch_add(1, Ordering::Relaxed) % self.lanes.len()];
        let current = lane.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if !current.is_closed() {
            return Ok(current);
        }
        let mut fresh_drivers = JoinSet::new();
        let fresh = open(&self.authority, &self.settings, &mut fresh_drivers).await?;
        *lane.lock().unwrap_or_else(PoisonError::into_inner) = fresh.clone();
        self.adopt(fresh_drivers);
        Ok(fresh)
    }

    /// Keeps the drivers of a connection that replaced another, and forgets those that ended.
    fn adopt(&self, mut fresh: JoinSet<()>) {
        let mut drivers = self.drivers.lock().unwrap_or_else(PoisonError::into_inner);
        while drivers.try_join_next().is_some() {}
        drivers.spawn(async move { while fresh.join_next().await.is_some() {} });
    }
}

async fn open(
    authority: &str,
    settings: &Settings,
    drivers: &mut JoinSet<()>,
) -> Result<SendRequest<Outgoing>, Failure> {
    let stream =
        TcpStream::connect(authority).await.map_err(|error| Failure::connection(&error))?;
    stream.set_nodelay(true).map_err(|error| Failure::connection(&error))?;
    let (sender, connection) = Builder::new(TokioExecutor::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(settings.frame_bytes)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| Failure::connection(&error))?;
    // What goes wrong with the connection is told to every call on it.
    drivers.spawn(async move { drop(connection.await) });
    Ok(sender)
}

/// The body of an answer.
#[derive(Debug)]
pub(crate) struct Answer {
    body: Incoming,
}

impl Answer {
    /// The next piece of the body; `None` at its end, when the status that followed is OK.
    ///
    /// # Errors
    /// [`Failure::Status`] when the call failed, [`Failure::Connection`] when it broke.
    pub(crate) async fn piece(&mut self) -> Result<Option<Bytes>, Failure> {
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(|error| Failure::connection(&error))?;
            match frame.into_data() {
                Ok(data) => return Ok(Some(data)),
                Err(frame) => {
                    if let Some(trailers) = frame.trailers_ref() {
                        check_status(trailers)?;
                        return Ok(None);
                    }
                }
            }
        }
        Err(Failure::Connection("the answer ended without a status".to_owned()))
    }

    /// The next message of a stream of them; `None` at the end.
    ///
    /// # Errors
    /// As [`Answer::piece`], and [`Failure::Wrong`] for what is not a message.
    pub(crate) async fn message(
        &mut self,
        messages: &mut Messages,
    ) -> Result<Option<Bytes>, Failure> {
        loop {
            if let Some(message) = messages.pop()? {
                return Ok(Some(message));
            }
            match self.piece().await? {
                Some(piece) => messages.push(&piece),
                None if messages.is_empty() => return Ok(None),
                None => return Err(Failure::wrong("the answer ended within a message")),
            }
        }
    }

    /// The one message of the answer.
    ///
    /// # Errors
    /// As [`Answer::message`], and [`Failure::Wrong`] when there is not exactly one.
    pub(crate) async fn only_message(mut self) -> Result<Bytes, Failure> {
        let mut messages = Messages::default();
        let first = self.message(&mut messages).await?;
        let message = first.ok_or_else(|| Failure::wrong("an answer without a message"))?;
        match self.message(&mut messages).await? {
            None => Ok(message),
            Some(_) => Err(Failure::wrong("an answer of several messages")),
        }
    }
}

/// Decodes a message.
///
/// # Errors
/// [`Failure::Wrong`] when it is malformed.
pub(crate) fn decode<M: Message + Default>(message: Bytes) -> Result<M, Failure> {
    M::decode(message).map_err(|error| Failure::wrong(error.to_string()))
}

/// Refuses a status other than OK.
fn check_status(headers: &HeaderMap) -> Result<(), Failure> {
    let Some(status) = headers.get("grpc-status") else {
        return Err(Failure::wrong("trailers without a status"));
    };
    match Code::from_bytes(status.as_bytes()) {
        Code::Ok => Ok(()),
        code => {
            let message = headers.get("grpc-message").map_or(&b""[..], HeaderValue::as_bytes);
            Err(Failure::Status { code, message: percent_decoded(message) })
        }
    }
}

/// Text with its `%XX` escapes resolved; what is no escape stays.
fn percent_decoded(text: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        let escaped = tail
            .first_chunk::<2>()
            .filter(|_| *first == b'%')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_statuses_are_decoded() {
        assert_eq!(percent_decoded(b"a%20b%C3%A9"), "a bé");
        assert_eq!(percent_decoded(b"100% %zz %2"), "100% %zz %2");
    }

    #[test]
    fn statuses() {
        let mut headers = HeaderMap::new();
        assert!(check_status(&headers).is_err());
        headers.insert("grpc-status", HeaderValue::from_static("0"));
        assert!(check_status(&headers).is_ok());
        headers.insert("grpc-status", HeaderValue::from_static("5"));
        headers.insert("grpc-message", HeaderValue::from_static("gone%21"));
        assert_eq!(check_status(&headers).unwrap_err().to_string(), "NotFound: gone!");
    }
}
