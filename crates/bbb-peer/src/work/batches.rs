//! Words on their way over the wire: as many in one message as there are just then, within a bound.

use bbb_lifecycle::Stop;
use bbb_scheduler::{End, Failure, FromWorker, OperationState, Stage, Submission, ToWorker};
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

/// What the state of an operation takes.
pub(super) fn state_bytes(state: &OperationState) -> usize {
    let end = match &state.stage {
        Stage::Completed { end: End::Decided(response), .. } => response.len(),
        Stage::Completed { end: End::Failed(failure), .. } => match failure {
            Failure::Unsatisfiable(why) | Failure::Cancelled(why) => why.len(),
            Failure::Attempts(story) => story.0.iter().map(String::len).sum(),
            Failure::Starved(_) => 0,
        },
        Stage::Queued(_) | Stage::Executing { .. } => 0,
    };
    WORD_BYTES + state.invocation.len() + end
}

/// What work takes: a client says how much of it there is, and all of a message that is too large would be lost.
pub(super) fn submission_bytes(submission: &Submission) -> usize {
    const PROPERTY_BYTES: usize = 16;
    let requirement = submission.requirement.iter();
    let requirement = requirement.map(|(name, value)| PROPERTY_BYTES + name.len() + value.len());
    2 * WORD_BYTES + submission.invocation.len() + requirement.sum::<usize>()
}

impl Word for ToScheduler {
    type Message = proto::NodeSays;
    const ALIVE: Self = Self::Alive;

    fn bytes(&self) -> usize {
        match self {
            Self::Submit(submission) => submission_bytes(submission),
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
            Self::Run(_, task) => submission_bytes(&task.submission),
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

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::SystemTime};

    use bbb_digest::{Digest, Function};
    use bbb_scheduler::{ActionKey, Known, OperationId};
    use futures::StreamExt as _;
    use prost::Message as _;

    use super::*;

    /// How large the messages are with so many equal words, of which none is lost.
    async fn sizes<W: Word>(word: impl Fn() -> W, count: usize) -> Vec<usize>
    where
        W::Message: prost::Message,
    {
        let (to, words) = mpsc::channel(count);
        for _ in 0..count {
            to.try_send(word()).ok().unwrap();
        }
        drop(to);
        let messages: Vec<_> = pack(words).collect().await;
        let sizes = messages.iter().map(|message| message.encoded_len()).collect();
        let taken = messages.into_iter().map(|message| W::take(message).unwrap().len());
        assert_eq!(taken.sum::<usize>(), count);
        sizes
    }

    #[tokio::test]
    async fn words_of_any_size_make_no_message_that_is_too_large() {
        let large = "x".repeat(MAX_BYTES);
        let key =
            ActionKey { instance: Default::default(), action: Digest::of(Function::Sha256, b"a") };
        let submit = || {
            let known = Known {
                id: OperationId(1),
                queued_at: SystemTime::UNIX_EPOCH,
                held_by: None,
                attempts: Vec::new(),
            };
            let requirement = [("a".to_owned(), large.clone())].into_iter().collect();
            let known = Some(Box::new(known));
            let submission = Submission { requirement, known, ..Submission::of(key.clone()) };
            ToScheduler::Submit(Box::new(submission))
        };
        let refused = || {
            let end = End::Failed(Failure::Unsatisfiable(large.as_str().into()));
            let state = OperationState {
                id: OperationId(1),
                key: Arc::new(key.clone()),
                invocation: "".into(),
                priority: 0,
                queued_at: SystemTime::UNIX_EPOCH,
                stage: Stage::Completed { at: SystemTime::UNIX_EPOCH, end },
            };
            FromScheduler::State(OperationId(1), Arc::new(state))
        };
        for sizes in [sizes(submit, 5).await, sizes(refused, 5).await] {
            assert!(sizes.iter().all(|bytes| *bytes <= 2 * MAX_BYTES + WORD_BYTES), "{sizes:?}");
        }
        assert_eq!(sizes(|| ToScheduler::Watch(OperationId(1)), 2 * MAX_WORDS).await.len(), 2);
    }
}
