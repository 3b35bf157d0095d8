use std::{future::Future, time::Duration};

use axum::body::Body;
use bbb_reapi::Invalid;
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use http_body_util::BodyExt as _;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::Status;

use super::{FrameError, Frames, Message, Response, Rope, refuse, reply};
use crate::{
    Budget, Reservation,
    limits::{Lobby, too_many_wait},
    status::{self, IntoStatus as _},
};

/// How long a client may pause within a message.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// A request as the router gives it.
pub type Request = http::Request<Body>;

/// How the doors read requests.
#[derive(Clone, Debug)]
pub struct Wire {
    budget: Budget,
    max_message_bytes: usize,
}

impl Wire {
    /// Takes messages of at most `max_message_bytes`, the memory for which comes out of `budget`.
    pub fn new(budget: Budget, max_message_bytes: usize) -> Self {
        Self { budget, max_message_bytes }
    }

    /// What the memory comes out of.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Answers a call that has one message in both directions. The memory of the request is reserved until
    /// the answer is there.
    pub async fn unary<F>(&self, request: Request, answer: impl FnOnce(Bytes) -> F) -> Response
    where
        F: Future<Output = Result<Message, Status>>,
    {
        self.one_message(request, async |bytes, _| answer(bytes).await.map(reply::unary)).await
    }

    /// Answers a call that begins with one message. What comes is up to `answer`, which gets the
    /// message and the deadline.
    pub async fn one_message(
        &self,
        request: Request,
        answer: impl AsyncFnOnce(Bytes, Option<Instant>) -> Result<Response, Status>,
    ) -> Response {
        self.stream(request, async |mut requests, deadline| {
            let Some(message) = requests.next_message().await? else {
                return Err(status::internal("request has no message"));
            };
            answer(message.into_bytes(), deadline).await
        })
        .await
    }

    /// Answers a call that is a stream of messages.
    pub async fn stream(
        &self,
        request: Request,
        answer: impl AsyncFnOnce(Requests, Option<Instant>) -> Result<Response, Status>,
    ) -> Response {
        if let Some(refusal) = not_grpc(&request) {
            return refusal;
        }
        let deadline = match self.deadline(request.headers()) {
            Ok(deadline) => deadline,
            Err(status) => return refuse(status),
        };
        let requests = Requests {
            lobby: request.extensions().get().cloned(),
            body: request.into_body(),
            frames: Frames::new(self.max_message_bytes),
            budget: self.budget.clone(),
            reserved: None,
            ended: false,
        };
        let answered = answer(requests, deadline);
        let answered = match deadline {
            Some(deadline) => timeout_at(deadline, answered).await.unwrap_or_else(|_| {
                Err(status::deadline_exceeded("the deadline of the call is over"))
            }),
            None => answered.await,
        };
        answered.unwrap_or_else(refuse)
    }

    /// When the caller stops waiting; refuses what is not understood.
    fn deadline(&self, headers: &HeaderMap) -> Result<Option<Instant>, Status> {
        let encoding = headers.get("grpc-encoding").map(|value| value.as_bytes());
        if encoding.is_some_and(|encoding| encoding != b"identity") {
            return Err(unsupported_encoding());
        }
        let Some(timeout) = headers.get("grpc-timeout") else { return Ok(None) };
        let parsed = timeout.to_str().ok().and_then(parse_timeout);
        let timeout = parsed.ok_or_else(|| status::internal("grpc-timeout cannot be read"))?;
        Ok(Instant::now().checked_add(timeout))
    }
}

/// UNIMPLEMENTED with the encodings that are taken, as gRPC's compression rules ask for.
fn unsupported_encoding() -> Status {
    let mut status = status::unimplemented(FrameError::Compressed.to_string());
    let identity = tonic::metadata::MetadataValue::from_static("identity");
    status.metadata_mut().insert("grpc-accept-encoding", identity);
    status
}

/// The answer to what is no gRPC call at all.
fn not_grpc(request: &Request) -> Option<Response> {
    let refusal = |code: StatusCode| {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = code;
        Some(response)
    };
    if request.method() != Method::POST {
        return refusal(StatusCode::METHOD_NOT_ALLOWED);
    }
    let content_type = request.headers().get(header::CONTENT_TYPE).map(|value| value.as_bytes());
    let rest = content_type.and_then(|value| value.strip_prefix(b"application/grpc"));
    match rest {
        Some(b"" | b"+proto") => None,
        Some([b';', ..]) => None,
        Some(rest) if rest.starts_with(b"+proto;") => None,
        _ => refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE),
    }
}

/// At most eight digits and a unit, as gRPC writes it.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let count = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

/// The messages of a request as they come.
#[derive(Debug)]
pub struct Requests {
    body: Body,
    frames: Frames,
    budget: Budget,
    /// Where they wait for memory. None where their connection is not known.
    lobby: Option<Lobby>,
    /// The memory of the message that was given last.
    reserved: Option<Reservation>,
    ended: bool,
}

impl Requests {
    /// The memory of a message.
    async fn reserve(&mut self, bytes: u64) -> Result<Reservation, Status> {
        if let Some(reservation) = self.budget.try_reserve(bytes) {
            return Ok(reservation);
        }
        let place = self.place_to_wait(bytes);
        let reservation = self.budget.reserve(bytes).await?;
        place.map(|_| reservation).ok_or_else(too_many_wait)
    }

    /// A place to wait in while so many bytes lie in the window of the connection. If there is none, what comes is
    /// discarded from now on: the call can but be told to come back when its turn would be.
    pub(crate) fn place_to_wait(&mut self, bytes: u64) -> Option<Reservation> {
        let Some(lobby) = &self.lobby else { return Some(Reservation::none()) };
        let place = lobby.place(bytes);
        if place.is_none() {
            self.body = Body::empty();
        }
        place
    }

    /// The next message; none after the last. The memory of the one before goes back to the budget.
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    /// If the body is no sequence of messages, is broken off, or memory does not become free.
    pub async fn next_message(&mut self) -> Result<Option<Rope>, Status> {
        self.reserved = None;
        loop {
            if let Some(len) = self.frames.awaited().map_err(frame_status)?
                && self.reserved.is_none()
            {
                self.reserved = Some(self.reserve(len as u64).await?);
            }
            if let Some(message) = self.frames.next_message().map_err(frame_status)? {
                return Ok(Some(message));
            }
            if self.ended {
                return self.frames.ended().map(|()| None).map_err(frame_status);
            }
            let frame = match self.reserved {
                None => self.body.frame().await,
                // Memory waits for the rest of the message, and others may wait for memory.
                Some(_) => timeout(MAX_PAUSE, self.body.frame()).await.map_err(|_| {
                    status::deadline_exceeded("the rest of a message did not come in time")
                })?,
            };
            match frame {
                Some(Ok(frame)) => frame.into_data().into_iter().for_each(|data| {
                    self.frames.push(data);
                }),
                Some(Err(error)) => {
                    return Err(status::cancelled(format!("request broke off: {error}")));
                }
                None => self.ended = true,
            }
        }
    }
}

fn frame_status(error: FrameError) -> Status {
    match error {
        FrameError::Compressed => unsupported_encoding(),
        // The API's code for what exceeds a limit, where gRPC's libraries would say RESOURCE_EXHAUSTED.
        FrameError::TooLong { .. } => Invalid::new("message", error).into_status(),
        FrameError::Flag(_) | FrameError::BrokenOff => status::internal(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        assert_eq!(parse_timeout("100m"), Some(Duration::from_millis(100)));
        assert_eq!(parse_timeout("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for bad in ["", "S", "1", "-1S", "123456789S", "1 S", "1é", "1s"] {
            assert_eq!(parse_timeout(bad), None, "{bad:?}");
        }
    }
}
