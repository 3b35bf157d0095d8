//! Introductions: two nodes tell each other who they are, and find out whether they may share a cache.

use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bbb_cluster::{Cluster, Introduce, IntroduceError, Member, MemberId, Properties};
use bbb_storage::{Bucket, Mark};
use tonic::Code;

use crate::{
    CallError, Connections, proto,
    wire::{self, NodeKey},
};

/// The version of what nodes say to each other. Those of different versions do not mix.
pub const PROTOCOL: u32 = 1;

/// How long a node may take to answer, with a look into its bucket.
const INTRODUCE_TIMEOUT: Duration = Duration::from_secs(3);

/// How many marks are remembered as seen. Past that they are looked for again.
const MAX_SEEN: usize = 4096;

/// Who this node is to others, and how it judges them.
pub struct Introductions {
    /// Who this node was when it started.
    first: MemberId,
    /// What it is a part of, once it is.
    cluster: OnceLock<Cluster>,
    mark: Mark,
    bucket: Arc<Bucket>,
    own: Box<dyn Fn() -> Properties + Send + Sync>,
    connections: Arc<Connections>,
    /// Marks of other nodes that were found in the bucket.
    seen: Mutex<HashSet<Mark>>,
}

impl Introductions {
    /// Introductions of a node that starts as `first`, which has left `mark` in its bucket and says `own` of itself.
    pub fn new(
        first: MemberId,
        bucket: Arc<Bucket>,
        mark: Mark,
        own: impl Fn() -> Properties + Send + Sync + 'static,
        connections: Arc<Connections>,
    ) -> Arc<Self> {
        let seen = Mutex::default();
        let cluster = OnceLock::new();
        Arc::new(Self { first, cluster, mark, bucket, own: Box::new(own), connections, seen })
    }

    /// What others say of themselves when they ask is passed on to the cluster from now on, and this node is called what
    /// it is called there.
    pub fn attend(&self, cluster: Cluster) {
        // There is one cluster in a node's life.
        let _second = self.cluster.set(cluster);
    }

    async fn ask(&self, me: &Member, member: &MemberId) -> Result<Properties, IntroduceError> {
        let request = proto::IntroduceRequest {
            introduction: Some(self.introduction(&me.id)),
            properties: Some(me.properties.clone().into()),
        };
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
        let introduction = request.introduction.unwrap_or_default();
        let node = introduction.node.clone().map(NodeKey::from);
        self.judge(introduction).await?;
        let mut me = self.first.clone();
        if let Some(cluster) = self.cluster.get() {
            let view = cluster.view().borrow().clone();
            me = view.me().clone();
            let asking = node.and_then(|node| wire::other_member(&view, &node).cloned());
            if let (Some(asking), Some(properties)) = (asking, request.properties) {
                cluster.heard(&asking, properties.into());
            }
        }
        Ok(proto::IntroduceResponse {
            introduction: Some(self.introduction(&me)),
            properties: Some((self.own)().into()),
        })
    }

    fn introduction(&self, me: &MemberId) -> proto::Introduction {
        proto::Introduction {
            protocol: PROTOCOL,
            node: Some(me.into()),
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
                self.first.name
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
                self.first.name
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
        self.ask(me, to).await
    }
}

impl fmt::Debug for Introductions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Introductions").field("first", &self.first).finish_non_exhaustive()
    }
}
