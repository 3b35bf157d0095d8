//! Logs wherever they grow: a log's name says which node has it, and that one is asked.
//!
//! When that node is gone, or does not know the log any more, it is looked for among those that have ended, and in the
//! node's journal. What a journal has of it is all that there will be only if the node is gone; else it may go on there.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bbb_cluster::{ClusterView, MemberId};
use bbb_digest::InstanceName;
use bbb_lifecycle::Stop;
use bbb_reapi::{
    LogHost, LogResource, LogWriteResource,
    proto::bytestream::{
        QueryWriteStatusRequest, QueryWriteStatusResponse, ReadRequest, WriteRequest, WriteResponse,
    },
};
use bbb_storage::{Error, LocalLogs, LogBytes, LogError, LogPiece, Logs, Written};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::watch;
use tonic::Code;

use crate::{
    CallError, Connections, Peer,
    call::{Incoming, Side, WaitsFor},
    tier::{Piece, READ},
};

/// The paths of the other calls.
const WRITE: &str = "/google.bytestream.ByteStream/Write";
const QUERY: &str = "/google.bytestream.ByteStream/QueryWriteStatus";

/// How long a node may take to append a piece, or to tell how far a log is. The last piece has the whole log stored.
const ANSWERED_WITHIN: Duration = Duration::from_secs(60);

/// The largest answer to a write.
const MAX_ANSWER_BYTES: usize = 1 << 10;

/// The logs of a cluster.
pub struct SharedLogs {
    local: Arc<LocalLogs>,
    view: watch::Receiver<Arc<ClusterView>>,
    connections: Arc<Connections>,
}

impl SharedLogs {
    /// The logs of this node, and those of the others in the view.
    pub fn new(
        local: Arc<LocalLogs>,
        view: watch::Receiver<Arc<ClusterView>>,
        connections: Arc<Connections>,
    ) -> Self {
        Self { local, view, connections }
    }

    /// The node that has a log while it grows, if it is another one that is there.
    fn host(&self, host: LogHost) -> Option<MemberId> {
        if host == self.local.host() { None } else { member(&self.view.borrow(), host) }
    }

    /// What there is of a log whose node does not answer.
    fn left(&self, log: &LogResource) -> Left {
        Left { local: Arc::clone(&self.local), view: self.view.clone(), log: log.clone() }
    }

    async fn ask(
        &self,
        peer: &Peer,
        log: &LogResource,
        offset: u64,
    ) -> Result<(Option<Piece>, Incoming<Piece>), CallError> {
        let turns = peer.enter(WaitsFor::Node)?;
        let request = ReadRequest {
            resource_name: log.to_string(),
            read_offset: i64::try_from(offset).unwrap_or(i64::MAX),
            read_limit: 0,
        };
        let within = self.connections.bounds().owner_first_byte;
        peer.open(turns, Side::Whole, READ, request, within).await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Logs for SharedLogs {
    async fn read(&self, log: &LogResource, offset: u64) -> Result<LogBytes, LogError> {
        let Some(host) = self.host(log.id.host) else { return self.local.read(log, offset).await };
        match self.ask(&self.connections.to(&host), log, offset).await {
            Ok((first, incoming)) => {
                let (left, leaving) = (self.left(log), self.local.leaving());
                let idle = self.connections.bounds().idle;
                let rest = None;
                let following = Following { left, offset, incoming, idle, leaving, rest };
                Ok(following.stream(first))
            }
            Err(CallError::Refused(status)) if status.code() == Code::OutOfRange => {
                // What it says of the log's length is for people.
                Err(LogError::OutOfRange { offset, len: 0 })
            }
            Err(error) => match self.left(log).read(offset).await {
                Err(LogError::Unknown) if !is_unknown(&error) => Err(unreachable(error)),
                read => read,
            },
        }
    }

    async fn create(&self, instance: &InstanceName) -> Result<LogWriteResource, LogError> {
        self.local.create(instance).await
    }

    async fn append(&self, log: &LogWriteResource, piece: LogPiece) -> Result<Written, LogError> {
        let Some(host) = self.host(log.log.id.host) else {
            return self.local.append(log, piece).await;
        };
        let peer = self.connections.to(&host);
        let has_ended = piece.is_last;
        let request = WriteRequest {
            resource_name: log.to_string(),
            write_offset: i64::try_from(piece.offset).unwrap_or(i64::MAX),
            finish_write: has_ended,
            data: piece.data.into(),
        };
        let answer = async {
            let turns = peer.enter(WaitsFor::Node)?;
            let messages = stream::once(async { request });
            let within = ANSWERED_WITHIN;
            let opened = peer.exchange(turns, WRITE, messages, MAX_ANSWER_BYTES, within).await;
            let mut answers: tonic::Streaming<WriteResponse> = opened?;
            let answer = answers.message().await;
            answer.map_err(|status| CallError::Refused(Box::new(status)))
        };
        match answer.await {
            Ok(answer) => {
                let committed = answer.unwrap_or_default().committed_size;
                Ok(Written { committed: u64::try_from(committed).unwrap_or_default(), has_ended })
            }
            Err(CallError::Refused(status)) => Err(match status.code() {
                Code::NotFound => LogError::Unknown,
                Code::FailedPrecondition => LogError::Ended,
                Code::ResourceExhausted => LogError::Full(status.message().to_owned()),
                Code::InvalidArgument => {
                    LogError::WrongOffset { committed: self.written(log).await?.committed }
                }
                _ => unreachable(CallError::Refused(status)),
            }),
            Err(error) => Err(unreachable(error)),
        }
    }

    async fn written(&self, log: &LogWriteResource) -> Result<Written, LogError> {
        let Some(host) = self.host(log.log.id.host) else { return self.local.written(log).await };
        let peer = self.connections.to(&host);
        let request = QueryWriteStatusRequest { resource_name: log.to_string() };
        let answer = async {
            let turns = peer.enter(WaitsFor::Node)?;
            peer.call(turns, QUERY, request, ANSWERED_WITHIN).await
        };
        match answer.await {
            Ok(QueryWriteStatusResponse { committed_size, complete }) => Ok(Written {
                committed: u64::try_from(committed_size).unwrap_or_default(),
                has_ended: complete,
            }),
            Err(error) if is_unknown(&error) => Err(LogError::Unknown),
            Err(error) => Err(unreachable(error)),
        }
    }
}

fn is_unknown(error: &CallError) -> bool {
    matches!(error, CallError::Refused(status) if status.code() == Code::NotFound)
}

fn unreachable(error: CallError) -> LogError {
    Error::unavailable("asking the node that has a log", std::io::Error::other(error)).into()
}

/// The member that has the logs of a host.
fn member(view: &ClusterView, host: LogHost) -> Option<MemberId> {
    let found = view.others().find(|member| LogHost::of_node(&member.id.name) == host);
    found.map(|member| member.id.clone())
}

/// What there is of a log without its node.
struct Left {
    local: Arc<LocalLogs>,
    view: watch::Receiver<Arc<ClusterView>>,
    log: LogResource,
}

impl Left {
    /// Reads it. Where it is cut, it may go on as long as its node is a member.
    async fn read(&self, offset: u64) -> Result<LogBytes, LogError> {
        let left = self.local.read_left(&self.log, offset).await?;
        let (view, host) = (self.view.clone(), self.log.id.host);
        let cut = move |error| match error {
            LogError::Cut if member(&view.borrow(), host).is_some() => {
                let silent = std::io::Error::other("it does not answer");
                Error::unavailable("asking the node that has a log", silent).into()
            }
            other => other,
        };
        Ok(left.map_err(cut).boxed())
    }
}

/// A log that comes in from its node.
struct Following {
    left: Left,
    offset: u64,
    incoming: Incoming<Piece>,
    idle: Duration,
    /// When this node takes its leave.
    leaving: Stop,
    /// What there is of it when its node is gone.
    rest: Option<LogBytes>,
}

impl Following {
    fn stream(mut self, first: Option<Piece>) -> LogBytes {
        let first = first.map(|piece| piece.data).unwrap_or_default();
        self.offset += first.len() as u64;
        let rest = stream::try_unfold(self, |mut following| async move {
            Ok(following.next().await?.map(|piece| (piece, following)))
        });
        stream::once(async { Ok(first) }).chain(rest).boxed()
    }

    async fn next(&mut self) -> Result<Option<Bytes>, LogError> {
        loop {
            if let Some(rest) = &mut self.rest {
                return rest.try_next().await;
            }
            let incoming = self.incoming.next(self.idle);
            let Some(incoming) = self.leaving.until_requested(incoming).await else {
                return Err(LogError::Leaving);
            };
            match incoming {
                Ok(Some(Piece { data })) => {
                    self.offset += data.len() as u64;
                    // A sign of life.
                    if !data.is_empty() {
                        return Ok(Some(data));
                    }
                }
                Ok(None) => return Ok(None),
                Err(CallError::Refused(status)) if status.code() == Code::DataLoss => {
                    return Err(LogError::Cut);
                }
                Err(error) => {
                    tracing::debug!(log = %self.left.log, %error, "the node of a log breaks off");
                    self.rest = Some(match self.left.read(self.offset).await {
                        Err(LogError::Unknown) => return Err(LogError::Cut),
                        read => read?,
                    });
                }
            }
        }
    }
}

impl fmt::Debug for SharedLogs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedLogs").field("local", &self.local).finish_non_exhaustive()
    }
}
