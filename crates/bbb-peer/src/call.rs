//! Calls to another node, each within a bound, and what came of them by what the caller does next.

use std::{error::Error as _, time::Duration};

use futures::Stream;
use http::{Uri, uri::PathAndQuery};
use prost::Message;
use tokio::time::{Instant, timeout};
use tonic::{Request, Status, Streaming, client::Grpc, transport::Channel};
use tonic_prost::ProstCodec;

use crate::{Peer, breaker::Turn};

/// The largest message that is taken from another node: none is larger than a result may be.
const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The node did not answer a moment ago and was not asked. Ask another.
    #[error("it is stepped over, for it did not answer a moment ago")]
    SteppedOver,
    /// It was not reached, or the connection broke; it may have done what it was asked for. Ask another.
    #[error("the connection to it failed")]
    Lost(#[source] Box<Status>),
    /// It has not answered in time; it may have done what it was asked for. Ask another.
    #[error("it has not answered within {0:?}")]
    Late(Duration),
    /// It has answered that it cannot, or will not.
    #[error("it says {}: {}", .0.code(), .0.message())]
    Refused(#[source] Box<Status>),
}

/// Which of a node's services are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// What it answers others from: its disk, those that hold a blob, the bucket.
    Whole,
    /// Its disk alone.
    Near,
}

impl Side {
    fn origin(self) -> Uri {
        match self {
            Self::Whole => Uri::from_static("http://node"),
            Self::Near => Uri::from_static("http://node/near"),
        }
    }
}

/// What an answer may have to wait for, and so what it means if it is late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitsFor {
    /// The node alone: it is not well.
    Node,
    /// The bucket, through the node: who knows which of them is slow. It is asked no such thing for a while, and what it
    /// has itself is still to be had from it.
    Bucket,
    /// Somebody outside, for minutes maybe: that it is late says nothing of the node.
    Outside,
}

impl Peer {
    /// The right to ask for something; none while the node is stepped over.
    pub(crate) fn enter(&self, waits_for: WaitsFor) -> Result<Turns, CallError> {
        let now = Instant::now();
        let node = match waits_for {
            WaitsFor::Node | WaitsFor::Bucket => self.node.enter(now),
            WaitsFor::Outside => self.node.enter_beside(now),
        };
        let node = node.ok_or(CallError::SteppedOver)?;
        let bucket = match waits_for {
            WaitsFor::Node | WaitsFor::Outside => None,
            WaitsFor::Bucket => Some(self.bucket.enter(now).ok_or(CallError::SteppedOver)?),
        };
        Ok(Turns { node, bucket, waits_for })
    }

    /// The same, however the node has behaved: for those who want to know just that.
    pub(crate) fn enter_anyway(&self) -> Turns {
        let (node, bucket) = (self.node.enter_anyway(), Some(self.bucket.enter_anyway()));
        Turns { node, bucket, waits_for: WaitsFor::Bucket }
    }

    /// Sends one message and gives the one that comes back.
    pub(crate) async fn call<Q, A>(
        &self,
        turns: Turns,
        path: &'static str,
        message: Q,
        within: Duration,
    ) -> Result<A, CallError>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut grpc = self.grpc(Side::Whole);
        let answer = async {
            ready(&mut grpc).await?;
            let codec = ProstCodec::<Q, A>::default();
            grpc.unary(Request::new(message), PathAndQuery::from_static(path), codec).await
        };
        turns.judge(within, answer).await.map(tonic::Response::into_inner)
    }

    /// Sends one message and gives the first one that comes back, with those that follow it.
    pub(crate) async fn open<Q, A>(
        &self,
        turns: Turns,
        side: Side,
        path: &'static str,
        message: Q,
        within: Duration,
    ) -> Result<(Option<A>, Incoming<A>), CallError>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut grpc = self.grpc(side);
        let first = async {
            ready(&mut grpc).await?;
            let codec = ProstCodec::<Q, A>::default();
            let path = PathAndQuery::from_static(path);
            let opened = grpc.server_streaming(Request::new(message), path, codec).await?;
            let mut stream = opened.into_inner();
            let first = stream.message().await?;
            Ok((stream, first))
        };
        let (stream, first) = turns.judge(within, first).await?;
        Ok((first, Incoming { stream, turns }))
    }

    /// Opens a stream in both directions: `messages` go out, what comes in is given. They may be as large as `max_bytes`.
    pub(crate) async fn exchange<Q, A>(
        &self,
        turns: Turns,
        path: &'static str,
        messages: impl Stream<Item = Q> + Send + 'static,
        max_bytes: usize,
        within: Duration,
    ) -> Result<Streaming<A>, CallError>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut grpc = self.grpc(Side::Whole).max_decoding_message_size(max_bytes);
        let opened = async {
            ready(&mut grpc).await?;
            let codec = ProstCodec::<Q, A>::default();
            grpc.streaming(Request::new(messages), PathAndQuery::from_static(path), codec).await
        };
        turns.judge(within, opened).await.map(tonic::Response::into_inner)
    }

    fn grpc(&self, side: Side) -> Grpc<Channel> {
        Grpc::with_origin(self.channel.clone(), side.origin())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
    }
}

/// Messages that go on coming in.
#[derive(Debug)]
pub(crate) struct Incoming<A> {
    stream: Streaming<A>,
    turns: Turns,
}

impl<A> Incoming<A> {
    /// The next message, if it comes within the bound; none at the end.
    pub(crate) async fn next(&mut self, within: Duration) -> Result<Option<A>, CallError> {
        self.turns.judge(within, self.stream.message()).await
    }
}

async fn ready(grpc: &mut Grpc<Channel>) -> Result<(), Status> {
    grpc.ready().await.map_err(|error| Status::from_error(Box::new(error)))
}

/// The right to call a node, and the duty to tell what came of it.
#[derive(Debug)]
pub(crate) struct Turns {
    node: Turn,
    /// None if the answer does not wait for the bucket.
    bucket: Option<Turn>,
    waits_for: WaitsFor,
}

impl Turns {
    /// Waits for an answer within a bound, and tells what came of it.
    async fn judge<T>(
        &self,
        within: Duration,
        answer: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, CallError> {
        let answer = timeout(within, answer).await;
        match answer {
            Ok(Ok(answer)) => {
                self.answered();
                Ok(answer)
            }
            // What comes from the other side has no source here; what the connection says has one.
            Ok(Err(status)) if status.source().is_none() => {
                self.answered();
                Err(CallError::Refused(Box::new(status)))
            }
            Ok(Err(status)) => {
                self.node.failed(Instant::now());
                Err(CallError::Lost(Box::new(status)))
            }
            Err(_) => {
                if self.waits_for != WaitsFor::Outside {
                    self.bucket.as_ref().unwrap_or(&self.node).failed(Instant::now());
                }
                Err(CallError::Late(within))
            }
        }
    }

    fn answered(&self) {
        self.node.answered();
        if let Some(bucket) = &self.bucket {
            bucket.answered();
        }
    }
}
