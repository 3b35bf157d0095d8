//! Bodies of responses.

use std::{
    future::Future as _,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures::{Stream, stream::BoxStream};
use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Status;

use super::Message;
use crate::status;

/// The body of a response with one message.
pub(super) struct UnaryBody {
    head: Option<Bytes>,
    payload: Option<Bytes>,
    trailers: Option<HeaderMap>,
}

impl UnaryBody {
    pub(super) fn new(message: Message) -> Self {
        let payload = Some(message.payload).filter(|payload| !payload.is_empty());
        Self { head: Some(message.head), payload, trailers: Some(trailers(None)) }
    }
}

impl http_body::Body for UnaryBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let data = self.head.take().or_else(|| self.payload.take()).map(Frame::data);
        let frame = data.or_else(|| self.trailers.take().map(Frame::trailers));
        Poll::Ready(frame.map(Ok))
    }
}

/// The body of a response with a stream of messages, which ends at the first error or at the deadline.
pub(super) struct StreamingBody {
    messages: BoxStream<'static, Result<Message, Status>>,
    payload: Option<Bytes>,
    deadline: Option<Pin<Box<Sleep>>>,
    ended: bool,
}

impl StreamingBody {
    pub(super) fn new(
        messages: BoxStream<'static, Result<Message, Status>>,
        deadline: Option<Instant>,
    ) -> Self {
        let deadline = deadline.map(|deadline| Box::pin(sleep_until(deadline)));
        Self { messages, payload: None, deadline, ended: false }
    }
}

impl http_body::Body for StreamingBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if let Some(payload) = self.payload.take() {
            return Poll::Ready(Some(Ok(Frame::data(payload))));
        }
        let deadline = self.deadline.as_mut();
        let late = deadline.is_some_and(|deadline| deadline.as_mut().poll(context).is_ready());
        let next = match late {
            true => Some(Err(status::deadline_exceeded("the deadline of the call is over"))),
            false => ready!(Pin::new(&mut self.messages).poll_next(context)),
        };
        let frame = match next {
            Some(Ok(message)) => {
                self.payload = Some(message.payload).filter(|payload| !payload.is_empty());
                Frame::data(message.head)
            }
            end => {
                self.ended = true;
                // What the stream holds on to, such as pins and memory, is let go before the client reads on.
                self.messages = Box::pin(futures::stream::empty());
                Frame::trailers(trailers(end.and_then(Result::err).as_ref()))
            }
        };
        Poll::Ready(Some(Ok(frame)))
    }
}

/// The trailers that end a call.
fn trailers(error: Option<&Status>) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(4);
    match error.map(|status| status.add_header(&mut trailers)) {
        Some(Ok(())) => {}
        // A status whose metadata cannot be written still says its code.
        Some(Err(status)) => {
            trailers.insert("grpc-status", HeaderValue::from(status.code() as i32));
        }
        None => {
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
        }
    }
    trailers
}
