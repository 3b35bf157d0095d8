//! Introductions: two nodes tell each other who they are, and find out whether they may share a cache.

use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use async_trait::async_trait;
use bbb_cluster::{
    INTRODUCTION_TIMEOUT, Introduce, IntroduceError, Member, MemberId, OwnProperties, Properties,
};
use bbb_storage::{Bucket, Mark};
use tonic::Code;

use crate::{CallError, Connections, proto, wire};

/// The version of what nodes say to each other. Those of different versions do not mix.
pub const PROTOCOL: u32 = 2;

/// How many marks are remembered as seen. Past that they are looked for again.
const MAX_SEEN: usize = 4096;

/// What others said of themselves when they introduced themselves goes there.
type Heard = Box<dyn Fn(&MemberId, Properties) + Send + Sync>;

/// How this node introduces itself, and how it judges others.
pub struct Introductions {
    mark: Mark,
    bucket: Arc<Bucket>,
    own: OwnProperties,
    connections: Arc<Connections>,
    heard: OnceLock<Heard>,
    /// Marks of other nodes that were found in the bucket.
    seen: Mutex<HashSet<Mark>>,
}

impl Introductions {
    /// Introductions of a node that has left `mark` in its bucket and says `own` of itself.
    pub fn new(
        bucket: Arc<Bucket>,
        mark: Mark,
        own: OwnProperties,
        connections: Arc<Connections>,
    ) -> Arc<Self> {
        let (heard, seen) = (OnceLock::new(), Mutex::default());
        Arc::new(Self { mark, bucket, own, connections, heard, seen })
    }

    /// From now on `heard` is told who has introduced itself to this node and was not refused. The first call counts.
    pub fn tell(&self, heard: impl Fn(&MemberId, Properties) + Send + Sync + 'static) {
        let _already_told = self.heard.set(Box::new(heard));
    }

    /// Answers a node that introduces itself to `me`.
    pub(crate) async fn answer(
        &self,
        me: MemberId,
        request: proto::IntroduceRequest,
    ) -> Result<proto::IntroduceResponse, IntroduceError> {
        let introduction = request.introduction.unwrap_or_default();
        self.judge(&me, &introduction).await?;
        if let (Some(from), Some(heard)) = (wire::read_member(&introduction), self.heard.get()) {
            heard(&from, request.properties.unwrap_or_default().into());
        }
        Ok(proto::IntroduceResponse {
            introduction: Some(self.introduction(&me)),
            properties: Some((self.own)().into()),
        })
    }

    fn introduction(&self, me: &MemberId) -> proto::Introduction {
        proto::Introduction {
            protocol: PROTOCOL,
            name: me.name.to_string(),
            generation: me.generation,
            gossip_address: me.gossip.to_string(),
            port_address: me.port.to_string(),
            bucket_mark: self.mark.to_string(),
        }
    }

    /// Whether a node may be a member.
    async fn judge(
        &self,
        me: &MemberId,
        introduction: &proto::Introduction,
    ) -> Result<(), IntroduceError> {
        let proto::Introduction { protocol, name, bucket_mark, .. } = introduction;
        if *protocol != PROTOCOL {
            return Err(IntroduceError::Refused(format!(
                "{name} speaks version {protocol} of the nodes' protocol, {} speaks {PROTOCOL}: \
                 run one version of the program on all nodes",
                me.name
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
                 (--bucket, --endpoint)",
                me.name
            ))),
            Err(error) => Err(IntroduceError::Unreachable(Box::new(error))),
        }
    }

    fn seen(&self) -> MutexGuard<'_, HashSet<Mark>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Introduce for Introductions {
    async fn introduce(&self, me: &Member, to: &MemberId) -> Result<Properties, IntroduceError> {
        let request = proto::IntroduceRequest {
            introduction: Some(self.introduction(&me.id)),
            properties: Some(me.properties.clone().into()),
        };
        let path = "/bbb.peer.v1.Node/Introduce";
        let peer = self.connections.to(to);
        let answer = peer.call(peer.enter_anyway(), path, request, INTRODUCTION_TIMEOUT).await;
        let answer: proto::IntroduceResponse = answer.map_err(|error| match error {
            CallError::Refused(status) if status.code() == Code::FailedPrecondition => {
                IntroduceError::Refused(status.message().to_owned())
            }
            error => IntroduceError::Unreachable(Box::new(error)),
        })?;
        let introduction = answer.introduction.unwrap_or_default();
        if *introduction.name != *to.name || introduction.generation < to.generation {
            // Another has its address by now, and gossip will say so.
            let what = format!("{:?} answers in place of {to}", introduction.name);
            return Err(IntroduceError::Unreachable(what.into()));
        }
        self.judge(&me.id, &introduction).await?;
        Ok(answer.properties.unwrap_or_default().into())
    }
}

impl fmt::Debug for Introductions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Introductions").field("mark", &self.mark).finish_non_exhaustive()
    }
}
