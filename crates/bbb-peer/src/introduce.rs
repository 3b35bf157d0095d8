//! Introductions: two nodes tell each other who they are, and find out whether they may share a cache.

use std::{
    collections::HashSet,
    error::Error,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bbb_cluster::{MemberId, Properties};
use bbb_storage::{Bucket, Mark};
use tonic::Code;

use crate::{CallError, Connections, proto, wire::NodeKey};

/// The version of what nodes say to each other. Those of different versions do not mix.
pub const PROTOCOL: u32 = 1;

/// How long a node may take to answer, with a look into its bucket.
const INTRODUCE_TIMEOUT: Duration = Duration::from_secs(3);

/// How many marks are remembered as seen. Past that they are looked for again.
const MAX_SEEN: usize = 4096;

/// Why a member is not introduced.
#[derive(Debug, thiserror::Error)]
pub enum IntroduceError {
    /// It cannot be reached now, or not be judged: ask again.
    #[error("it cannot be introduced now")]
    Unreachable(#[source] Box<dyn Error + Send + Sync>),
    /// It is not to be a member: why, in one line.
    #[error("{0}")]
    Refused(String),
}

/// Who this node is to others, and how it judges them.
pub struct Introductions {
    me: MemberId,
    mark: Mark,
    bucket: Arc<Bucket>,
    own: Box<dyn Fn() -> Properties + Send + Sync>,
    connections: Arc<Connections>,
    /// Marks of other nodes that were found in the bucket.
    seen: Mutex<HashSet<Mark>>,
}

impl Introductions {
    /// Introductions of `me`, which has left `mark` in its bucket and says `own` of itself.
    pub fn new(
        me: MemberId,
        bucket: Arc<Bucket>,
        mark: Mark,
        own: impl Fn() -> Properties + Send + Sync + 'static,
        connections: Arc<Connections>,
    ) -> Arc<Self> {
        let seen = Mutex::default();
        Arc::new(Self { me, mark, bucket, own: Box::new(own), connections, seen })
    }

    /// Asks a member who it is and tells it who we are.
    ///
    /// # Errors
    /// [`IntroduceError::Refused`] if one of both does not want the other, else [`IntroduceError::Unreachable`].
    pub async fn introduce(&self, member: &MemberId) -> Result<Properties, IntroduceError> {
        let request = proto::IntroduceRequest { introduction: Some(self.introduction()) };
        let path = "/bbb.peer.v1.Node/Introduce";
        let peer = self.connections.to(member);
        let answer = peer.call_anyway(path, request, INTRODUCE_TIMEOUT).await;
        let answer: proto::IntroduceResponse = answer.map_err(|error| match error {
            CallError::Refused(status) if status.code() == Code::FailedPrecondition => {
                IntroduceError::Refused(format!("{member} refuses: {}", status.message()))
            }
            error => IntroduceError::Unreachable(Box::new(error)),
        })?;
        let introduction = answer.introduction.unwrap_or_default();
        let found = introduction.node.clone().map(NodeKey::from);
        self.judge(introduction).await?;
        if found != Some(NodeKey::from(member)) {
            // It has started anew, or another has its address by now: gossip will say so.
            let found = found.map_or_else(String::new, |node| node.name.to_string());
            let what = format!("{found:?} answers in place of {member}, or has started again");
            return Err(IntroduceError::Unreachable(what.into()));
        }
        Ok(answer.properties.unwrap_or_default().into())
    }

    /// Answers a node that introduces itself.
    pub(crate) async fn answer(
        &self,
        request: proto::IntroduceRequest,
    ) -> Result<proto::IntroduceResponse, IntroduceError> {
        self.judge(request.introduction.unwrap_or_default()).await?;
        Ok(proto::IntroduceResponse {
            introduction: Some(self.introduction()),
            properties: Some((self.own)().into()),
        })
    }

    fn introduction(&self) -> proto::Introduction {
        proto::Introduction {
            protocol: PROTOCOL,
            node: Some((&self.me).into()),
            bucket_mark: self.mark.to_string(),
        }
    }

    /// Whether a node may be a member.
    async fn judge(&self, introduction: proto::Introduction) -> Result<(), IntroduceError> {
        let proto::Introduction { protocol, node, bucket_mark } = introduction;
        let name = node.unwrap_or_default().name;
        if protocol != PROTOCOL {
            return Err(IntroduceError::Refused(format!(
                "{name} speaks version {protocol} of the nodes' protocol, {} speaks {PROTOCOL}: \
                 run one version of the program on all nodes",
                self.me.name
            )));
        }
        let mark: Mark = bucket_mark
            .parse()
            .map_err(|error| IntroduceError::Refused(format!("{name} has no bucket: {error}")))?;
        if self.seen().contains(&mark) {
            return Ok(());
        }
        match self.bucket.has_mark(mark).await {
            Ok(true) => {
                let mut seen = self.seen();
                if seen.len() >= MAX_SEEN {
                    seen.clear();
                }
                seen.insert(mark);
                Ok(())
            }
            Ok(false) => Err(IntroduceError::Refused(format!(
                "{name} has another bucket than {}, or another prefix in it: a cluster shares one \
                 (--bucket, --bucket_endpoint)",
                self.me.name
            ))),
            Err(error) => Err(IntroduceError::Unreachable(Box::new(error))),
        }
    }

    fn seen(&self) -> MutexGuard<'_, HashSet<Mark>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Introductions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Introductions").field("me", &self.me).finish_non_exhaustive()
    }
}
