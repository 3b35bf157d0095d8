//! Words on their way over the wire: as many in one message as there are just then, within a bound.

use bbb_lifecycle::Stop;
use bbb_scheduler::{End, FromWorker, OperationState, Stage, ToWorker};
use futures::{Stream, stream};
use tokio::sync::mpsc;
use tonic::Streaming;

use super::{
    FromScheduler, ToScheduler,
    wire::{Garbled, Read, Write as _, outcome_bytes, read},
};
use crate::proto;

/// How many words go in one message at the most.
const MAX_WORDS: usize = 256;

/// About how many bytes go in one message, unless a single word has more.
pub(super) const MAX_BYTES: usize = 1 << 20;

/// About how many bytes a word takes beside what it carries.
const WORD_BYTES: usize = 512;

/// The largest message that is taken: none is larger than [`MAX_BYTES`] and the largest result.
pub(super) const MAX_MESSAGE_BYTES: usize = 32 << 20;

/// What is said over a stream, and the message that carries it.
pub(super) trait Word: Sized + Send + 'static {
    /// A message with several of them.
    type Message: Default + Send + 'static;

    /// Its sign of life, which a message without any other stands for.
    const ALIVE: Self;

    /// About how many bytes it takes.
    fn bytes(&self) -> usize;

    fn put(self, message: &mut Self::Message);

    fn take(message: Self::Message) -> Result<Vec<Self>, Garbled>;
}

/// Messages with what comes through a channel.
pub(super) fn pack<W: Word>(words: mpsc::Receiver<W>) -> impl Stream<Item = W::Message> {
    stream::unfold(words, |mut words| async move {
        let first = words.recv().await?;
        let mut message = W::Message::default();
        let (mut count, mut bytes) = (1, first.bytes());
        first.put(&mut message);
        while count < MAX_WORDS
            && bytes < MAX_BYTES
            && let Ok(word) = words.try_recv()
        {
            count += 1;
            bytes += word.bytes();
            word.put(&mut message);
        }
        Some((message, words))
    })
}

/// Puts what comes over the wire into a channel, until either ends.
pub(super) async fn unpack<W: Word>(
    mut messages: Streaming<W::Message>,
    words: mpsc::Sender<W>,
    stop: Stop,
) {
    loop {
        let message = tokio::select! {
            biased;
            () = stop.requested() => return,
            () = words.closed() => return,
            message = messages.message() => message,
        };
        let Ok(Some(message)) = message else { return };
        let said = match W::take(message) {
            Ok(said) => said,
            Err(garbled) => {
                tracing::warn!(error = %garbled, "another node cannot be understood");
                return;
            }
        };
        for word in if said.is_empty() { vec![W::ALIVE] } else { said } {
            let sent = tokio::select! {
                biased;
                () = stop.requested() => return,
                sent = words.send(word) => sent,
            };
            if sent.is_err() {
                return;
            }
        }
    }
}

fn all<T: Read<M>, M>(messages: Vec<M>) -> Result<Vec<T>, Garbled> {
    messages.into_iter().map(read).collect()
}

/// What the outcome of an operation takes.
pub(super) fn state_bytes(state: &OperationState) -> usize {
    match &state.stage {
        Stage::Completed { end: End::Decided(response), .. } => WORD_BYTES + response.len(),
        _ => WORD_BYTES,
    }
}

impl Word for ToScheduler {
    type Message = proto::NodeSays;
    const ALIVE: Self = Self::Alive;

    fn bytes(&self) -> usize {
        match self {
            Self::Submit(_) => 2 * WORD_BYTES,
            _ => 32,
        }
    }

    fn put(self, message: &mut proto::NodeSays) {
        message.sayings.extend(self.write());
    }

    fn take(message: proto::NodeSays) -> Result<Vec<Self>, Garbled> {
        all(message.sayings)
    }
}

impl Word for FromScheduler {
    type Message = proto::SchedulerSays;
    const ALIVE: Self = Self::Alive;

    fn bytes(&self) -> usize {
        match self {
            Self::State(_, state) => state_bytes(state),
            _ => 32,
        }
    }

    fn put(self, message: &mut proto::SchedulerSays) {
        message.sayings.extend(self.write());
    }

    fn take(message: proto::SchedulerSays) -> Result<Vec<Self>, Garbled> {
        all(message.sayings)
    }
}

impl Word for FromWorker {
    type Message = proto::WorkerSays;
    const ALIVE: Self = Self::Alive;

    fn bytes(&self) -> usize {
        match self {
            Self::Done(_, outcome) => WORD_BYTES + outcome_bytes(outcome),
            _ => 32,
        }
    }

    fn put(self, message: &mut proto::WorkerSays) {
        message.reports.extend(self.write());
    }

    fn take(message: proto::WorkerSays) -> Result<Vec<Self>, Garbled> {
        all(message.reports)
    }
}

impl Word for ToWorker {
    type Message = proto::Orders;
    const ALIVE: Self = Self::Alive;

    fn bytes(&self) -> usize {
        match self {
            Self::Run(..) => 2 * WORD_BYTES,
            _ => 32,
        }
    }

    fn put(self, message: &mut proto::Orders) {
        message.orders.extend(self.write());
    }

    fn take(message: proto::Orders) -> Result<Vec<Self>, Garbled> {
        all(message.orders)
    }
}
