//! Calls to another node, each within a bound, and what came of them by what the caller does next.

use std::{error::Error as _, time::Duration};

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

impl Peer {
    /// Sends one message and gives the one that comes back, if the node is not stepped over.
    pub(crate) async fn call<Q, A>(
        &self,
        path: &'static str,
        message: Q,
        within: Duration,
    ) -> Result<A, CallError>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let turn = self.breaker.enter(Instant::now()).ok_or(CallError::SteppedOver)?;
        self.call_in(turn, path, message, within).await
    }

    /// The same, however the node has behaved: who asks wants to know just that.
    pub(crate) async fn call_anyway<Q, A>(
        &self,
        path: &'static str,
        message: Q,
        within: Duration,
    ) -> Result<A, CallError>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        self.call_in(self.breaker.enter_anyway(), path, message, within).await
    }

    async fn call_in<Q, A>(
        &self,
        turn: Turn,
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
        judged(&turn, within, answer).await.map(tonic::Response::into_inner)
    }

    /// Sends one message and gives the stream that comes back as soon as it begins.
    pub(crate) async fn open<Q, A>(
        &self,
        side: Side,
        path: &'static str,
        message: Q,
        within: Duration,
    ) -> Result<Incoming<A>, CallError>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let turn = self.breaker.enter(Instant::now()).ok_or(CallError::SteppedOver)?;
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
        let (stream, first) = judged(&turn, within, first).await?;
        Ok(Incoming { stream, first, turn })
    }

    fn grpc(&self, side: Side) -> Grpc<Channel> {
        Grpc::with_origin(self.channel.clone(), side.origin())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
    }
}

/// Messages that come in.
#[derive(Debug)]
pub(crate) struct Incoming<A> {
    stream: Streaming<A>,
    first: Option<A>,
    turn: Turn,
}

impl<A> Incoming<A> {
    /// The next message, if it comes within the bound; none at the end.
    pub(crate) async fn next(&mut self, within: Duration) -> Result<Option<A>, CallError> {
        match self.first.take() {
            Some(first) => Ok(Some(first)),
            None => judged(&self.turn, within, self.stream.message()).await,
        }
    }
}

async fn ready(grpc: &mut Grpc<Channel>) -> Result<(), Status> {
    grpc.ready().await.map_err(|error| Status::from_error(Box::new(error)))
}

/// Waits for an answer within a bound, and tells the breaker what came of it.
async fn judged<T>(
    turn: &Turn,
    within: Duration,
    answer: impl Future<Output = Result<T, Status>>,
) -> Result<T, CallError> {
    match timeout(within, answer).await {
        Ok(Ok(answer)) => {
            turn.answered();
            Ok(answer)
        }
        // What comes from the other side has no source here; what the connection says has one.
        Ok(Err(status)) if status.source().is_none() => {
            turn.answered();
            Err(CallError::Refused(Box::new(status)))
        }
        Ok(Err(status)) => {
            turn.failed(Instant::now());
            Err(CallError::Lost(Box::new(status)))
        }
        Err(_) => {
            turn.failed(Instant::now());
            Err(CallError::Late(within))
        }
    }
}
