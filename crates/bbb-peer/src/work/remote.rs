//! The work of other nodes, over the connections to them.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use bbb_cluster::MemberId;
use bbb_lifecycle::TaskGroup;
use bbb_scheduler::{FromWorker, Holding, HoldingState, OperationId, ToWorker, WorkerOffer};
use futures::{StreamExt as _, stream};
use prost::Message;
use tokio::sync::mpsc;
use tonic::{Code, Streaming};

use super::{
    Answer, Ends, FromScheduler, Question, Reach, ToScheduler, Work, WorkError,
    accepting::{ASK_WITHIN, OPEN_WITHIN},
    batches::{MAX_BYTES, MAX_MESSAGE_BYTES, Word, pack, submission_bytes, unpack},
    serving::ROOM,
    wire::{Garbled, Read, id, outcome_bytes, read},
};
use crate::{CallError, Connections, Peer, proto};

/// Leads to other nodes by the connections to them.
pub struct PeerReach {
    connections: Arc<Connections>,
    tasks: TaskGroup,
}

impl PeerReach {
    /// Over these connections; tasks of `group` carry what comes.
    pub fn new(connections: Arc<Connections>, group: &TaskGroup) -> Arc<Self> {
        Arc::new(Self { connections, tasks: group.clone() })
    }
}

impl Reach for PeerReach {
    fn to(&self, member: &MemberId) -> Arc<dyn Work> {
        Arc::new(Remote { peer: self.connections.to(member), tasks: self.tasks.clone() })
    }
}

/// The work of one other node.
struct Remote {
    peer: Arc<Peer>,
    tasks: TaskGroup,
}

impl Remote {
    /// Has what comes over the wire come through a channel.
    fn words<W: Word>(&self, messages: Streaming<W::Message>, room: usize) -> mpsc::Receiver<W> {
        let (to, words) = mpsc::channel(room);
        self.tasks.spawn("words of a node", unpack(messages, to, self.tasks.stop()));
        words
    }

    async fn call<T, Q, A>(&self, path: &'static str, message: Q) -> Result<T, WorkError>
    where
        T: Read<A>,
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let turns = self.peer.enter_anyway();
        let answer: A = self.peer.call(turns, path, message, ASK_WITHIN).await.map_err(failed)?;
        read(answer).map_err(garbled)
    }

    /// Has something done with an operation. Gives whether the node knew it.
    async fn does(&self, path: &'static str, name: OperationId) -> Result<Answer, WorkError> {
        self.call(path, proto::OperationRequest { id: id(name) }).await.map(Answer::Done)
    }
}

#[async_trait]
impl Work for Remote {
    async fn operations(&self) -> Result<Ends<ToScheduler, FromScheduler>, WorkError> {
        let (to, said) = mpsc::channel(ROOM);
        let (turns, path) = (self.peer.enter_anyway(), "/bbb.peer.v1.Work/Operations");
        let opened =
            self.peer.exchange(turns, path, pack(said), MAX_MESSAGE_BYTES, OPEN_WITHIN).await;
        let from = self.words(opened.map_err(failed)?, ROOM);
        Ok(Ends { to, from })
    }

    async fn worker(
        &self,
        offer: WorkerOffer,
        holdings: Vec<Holding>,
    ) -> Result<Ends<FromWorker, ToWorker>, WorkError> {
        let (to, reports) = mpsc::channel(ROOM);
        let first = stream::iter(attach(offer, holdings));
        let (turns, path) = (self.peer.enter_anyway(), "/bbb.peer.v1.Work/Worker");
        let messages = first.chain(pack(reports));
        let opened =
            self.peer.exchange(turns, path, messages, MAX_MESSAGE_BYTES, OPEN_WITHIN).await;
        let from = self.words(opened.map_err(failed)?, ROOM);
        Ok(Ends { to, from })
    }

    async fn ask(&self, question: Question) -> Result<Answer, WorkError> {
        match question {
            Question::Find(name) => {
                let request = proto::OperationRequest { id: id(name) };
                let path = "/bbb.peer.v1.Work/Find";
                self.call::<_, _, proto::FindResponse>(path, request).await.map(Answer::Found)
            }
            Question::Cancel(name) => self.does("/bbb.peer.v1.Work/Cancel", name).await,
            Question::Forget(name) => self.does("/bbb.peer.v1.Work/Forget", name).await,
            Question::List(filter, page) => {
                let request = proto::ListRequest {
                    instance_name: filter.instance.to_string(),
                    stage: proto::StageKind::from(filter.stage).into(),
                    after: page.after.map(id).unwrap_or_default(),
                    size: u32::try_from(page.size).unwrap_or(u32::MAX),
                };
                let path = "/bbb.peer.v1.Work/List";
                self.call::<_, _, proto::ListResponse>(path, request).await.map(Answer::Listing)
            }
            Question::Snapshot => {
                let path = "/bbb.peer.v1.Work/Snapshot";
                let request = proto::SnapshotRequest {};
                let answer = self.call::<_, _, proto::SnapshotResponse>(path, request).await;
                answer.map(Answer::Snapshot)
            }
        }
    }
}

impl Read<proto::DoneResponse> for bool {
    fn read(message: proto::DoneResponse) -> Result<Self, Garbled> {
        Ok(message.is_known)
    }
}

/// What a worker offers and has, in messages of a bounded size.
fn attach(offer: WorkerOffer, holdings: Vec<Holding>) -> Vec<proto::WorkerSays> {
    let mut parts = vec![proto::Attach { offer: Some(offer.into()), ..proto::Attach::default() }];
    let mut bytes = 0;
    for holding in holdings {
        bytes += submission_bytes(&holding.task.submission);
        if let HoldingState::Ended(outcome) = &holding.state {
            bytes += outcome_bytes(outcome);
        }
        if bytes > MAX_BYTES {
            bytes = 0;
            parts.push(proto::Attach::default());
        }
        if let Some(part) = parts.last_mut() {
            part.holdings.push(holding.into());
        }
    }
    if let Some(last) = parts.last_mut() {
        last.is_whole = true;
    }
    let says = |attach| proto::WorkerSays { attach: Some(attach), reports: Vec::new() };
    parts.into_iter().map(says).collect()
}

fn failed(error: CallError) -> WorkError {
    match error {
        CallError::Refused(status) if status.code() == Code::FailedPrecondition => {
            WorkError::NotScheduler
        }
        CallError::Refused(status) if status.code() == Code::ResourceExhausted => {
            WorkError::Full(status.message().to_owned())
        }
        error => WorkError::Unreachable(error.into()),
    }
}

fn garbled(garbled: Garbled) -> WorkError {
    WorkError::Unreachable(garbled.into())
}

impl fmt::Debug for PeerReach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerReach").finish_non_exhaustive()
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Remote").field(&self.peer).finish()
    }
}
