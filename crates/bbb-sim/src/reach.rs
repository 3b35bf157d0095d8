//! The way from node to node, over the simulated network.

use std::sync::Arc;

use async_trait::async_trait;
use bbb_cluster::MemberId;
use bbb_peer::work::{Answer, Ends, FromScheduler, Question, Reach, ToScheduler, Work, WorkError};
use bbb_scheduler::{FromWorker, Holding, ToWorker, WorkerOffer};
use tokio::sync::oneshot;

use crate::{
    net::{Broken, Host},
    node::Cluster,
    views,
};

/// What leads from one host to all others.
#[derive(Debug)]
pub(crate) struct Ways {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) from: Host,
}

/// The work of one host as it is found from another.
#[derive(Debug)]
struct Way {
    cluster: Arc<Cluster>,
    from: Host,
    to: Option<Host>,
}

impl Reach for Ways {
    fn to(&self, member: &MemberId) -> Arc<dyn Work> {
        let cluster = Arc::clone(&self.cluster);
        Arc::new(Way { cluster, from: self.from, to: views::host_of(member) })
    }
}

impl Way {
    /// Has the node at the other end do something, and brings back what it said.
    async fn call<T, F>(
        &self,
        ask: impl FnOnce(Arc<dyn Work>) -> F + Send,
    ) -> Result<(T, Host), WorkError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, WorkError>> + Send + 'static,
    {
        let net = &self.cluster.net;
        let to = self.to.ok_or(Broken).map_err(unreachable)?;
        net.travel(self.from, to).await.map_err(unreachable)?;
        let node = self.cluster.machines[to].node().ok_or(Broken).map_err(unreachable)?;
        let (reply, answer) = oneshot::channel();
        let asked = ask(Arc::clone(&node.work));
        node.spawn("call", async move {
            // One that has gone needs no answer.
            let _ = reply.send(asked.await);
        });
        let answer = answer.await.map_err(|_| unreachable(Broken))?;
        net.travel(to, self.from).await.map_err(unreachable)?;
        Ok((answer?, to))
    }
}

fn unreachable(_: Broken) -> WorkError {
    WorkError::Unreachable("the simulated way there is broken".into())
}

#[async_trait]
impl Work for Way {
    async fn operations(&self) -> Result<Ends<ToScheduler, FromScheduler>, WorkError> {
        let (far, to) = self.call(|work| async move { work.operations().await }).await?;
        Ok(self.cluster.net.join(self.from, to, far))
    }

    async fn worker(
        &self,
        offer: WorkerOffer,
        holdings: Vec<Holding>,
    ) -> Result<Ends<FromWorker, ToWorker>, WorkError> {
        let ask = |work: Arc<dyn Work>| async move { work.worker(offer, holdings).await };
        let (far, to) = self.call(ask).await?;
        Ok(self.cluster.net.join(self.from, to, far))
    }

    async fn ask(&self, question: Question) -> Result<Answer, WorkError> {
        let ask = |work: Arc<dyn Work>| async move { work.ask(question).await };
        Ok(self.call(ask).await?.0)
    }
}
