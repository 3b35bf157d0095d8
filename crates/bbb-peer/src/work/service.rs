//! The work of this node, for other nodes on the wire.

use std::{fmt, sync::Arc, time::Duration};

use bbb_lifecycle::TaskGroup;
use bbb_scheduler::{Filter, Holding, Listing, MAX_SLOTS, Page, WorkerOffer};
use futures::{StreamExt as _, stream::BoxStream};
use tokio::time;
use tonic::{Request, Response, Status, Streaming};

use super::{
    Answer, Question, Work, WorkError,
    batches::{MAX_BYTES, MAX_MESSAGE_BYTES, pack, state_bytes, unpack},
    wire::{Garbled, read},
};
use crate::proto::{self, work_server};

/// How long a worker may take to say what it offers and has.
const ATTACH_WITHIN: Duration = Duration::from_secs(10);

/// How many tasks a worker may bring.
const MAX_HOLDINGS: usize = 4 * MAX_SLOTS as usize;

/// The service of a node.
pub struct WorkService {
    work: Arc<dyn Work>,
    tasks: TaskGroup,
}

/// The service as a server takes it.
pub type WorkServer = work_server::WorkServer<WorkService>;

type Messages<M> = BoxStream<'static, Result<M, Status>>;

impl WorkService {
    /// Shows `work` to other nodes; tasks of `group` carry what comes.
    pub fn new(work: Arc<dyn Work>, group: &TaskGroup) -> WorkServer {
        WorkServer::new(Self { work, tasks: group.clone() })
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    async fn done(&self, question: Question) -> Result<Response<proto::DoneResponse>, Status> {
        match self.work.ask(question).await.map_err(refusal)? {
            Answer::Done(is_known) => Ok(Response::new(proto::DoneResponse { is_known })),
            _ => Err(other_answer()),
        }
    }
}

#[tonic::async_trait]
impl work_server::Work for WorkService {
    type OperationsStream = Messages<proto::SchedulerSays>;
    type WorkerStream = Messages<proto::Orders>;

    async fn operations(
        &self,
        request: Request<Streaming<proto::NodeSays>>,
    ) -> Result<Response<Self::OperationsStream>, Status> {
        let ends = self.work.operations().await.map_err(refusal)?;
        let heard = unpack(request.into_inner(), ends.to, self.tasks.stop());
        self.tasks.spawn("words of a node", heard);
        Ok(Response::new(pack(ends.from).map(Ok).boxed()))
    }

    async fn worker(
        &self,
        request: Request<Streaming<proto::WorkerSays>>,
    ) -> Result<Response<Self::WorkerStream>, Status> {
        let mut messages = request.into_inner();
        let attached = time::timeout(ATTACH_WITHIN, attached(&mut messages)).await;
        let (offer, holdings) = attached
            .map_err(|_| Status::deadline_exceeded("the worker does not say what it offers"))??;
        let ends = self.work.worker(offer, holdings).await.map_err(refusal)?;
        let heard = unpack(messages, ends.to, self.tasks.stop());
        self.tasks.spawn("words of a worker", heard);
        Ok(Response::new(pack(ends.from).map(Ok).boxed()))
    }

    async fn find(
        &self,
        request: Request<proto::OperationRequest>,
    ) -> Result<Response<proto::FindResponse>, Status> {
        let question = Question::Find(read(request.into_inner().id).map_err(garbled)?);
        match self.work.ask(question).await.map_err(refusal)? {
            Answer::Found(found) => Ok(Response::new(found.into())),
            _ => Err(other_answer()),
        }
    }

    async fn cancel(
        &self,
        request: Request<proto::OperationRequest>,
    ) -> Result<Response<proto::DoneResponse>, Status> {
        self.done(Question::Cancel(read(request.into_inner().id).map_err(garbled)?)).await
    }

    async fn forget(
        &self,
        request: Request<proto::OperationRequest>,
    ) -> Result<Response<proto::DoneResponse>, Status> {
        self.done(Question::Forget(read(request.into_inner().id).map_err(garbled)?)).await
    }

    async fn list(
        &self,
        request: Request<proto::ListRequest>,
    ) -> Result<Response<proto::ListResponse>, Status> {
        let request = request.into_inner();
        let instance = request.instance_name.parse();
        let instance = instance.map_err(|_| garbled(Garbled("instance")))?;
        let filter = Filter { instance, stage: read(request.stage).map_err(garbled)? };
        let after = read(request.after).map_err(garbled)?;
        let page = Page { after, size: request.size as usize };
        match self.work.ask(Question::List(filter, page)).await.map_err(refusal)? {
            Answer::Listing(listing) => Ok(Response::new(cut(listing).into())),
            _ => Err(other_answer()),
        }
    }

    async fn snapshot(
        &self,
        _: Request<proto::SnapshotRequest>,
    ) -> Result<Response<proto::SnapshotResponse>, Status> {
        match self.work.ask(Question::Snapshot).await.map_err(refusal)? {
            Answer::Snapshot(snapshot) => Ok(Response::new(snapshot.into())),
            _ => Err(other_answer()),
        }
    }
}

/// What a worker offers, and has.
async fn attached(
    messages: &mut Streaming<proto::WorkerSays>,
) -> Result<(WorkerOffer, Vec<Holding>), Status> {
    let (mut offer, mut holdings) = (None, Vec::new());
    loop {
        let message = messages.message().await?;
        let attach = message.and_then(|message| message.attach);
        let attach = attach.ok_or_else(|| garbled(Garbled("attachment")))?;
        if let Some(offered) = attach.offer {
            offer = Some(read(offered).map_err(garbled)?);
        }
        for held in attach.holdings {
            holdings.push(read(held).map_err(garbled)?);
        }
        if holdings.len() > MAX_HOLDINGS {
            return Err(Status::invalid_argument("the worker has more tasks than any may"));
        }
        if attach.is_whole {
            let offer = offer.ok_or_else(|| garbled(Garbled("offer")))?;
            return Ok((offer, holdings));
        }
    }
}

/// As much of a list as goes in one message.
fn cut(mut listing: Listing) -> Listing {
    let mut bytes = 0;
    let fits = |state: &&Arc<_>| {
        bytes += state_bytes(state);
        bytes <= MAX_BYTES
    };
    let kept = listing.operations.iter().take_while(fits).count().max(1);
    if kept < listing.operations.len() {
        listing.operations.truncate(kept);
        listing.next = listing.operations.last().map(|state| state.id);
    }
    listing
}

fn refusal(error: WorkError) -> Status {
    match error {
        WorkError::NotScheduler => Status::failed_precondition("this node does not schedule"),
        WorkError::Full(what) => Status::resource_exhausted(what),
        WorkError::Unreachable(error) => Status::unavailable(error.to_string()),
    }
}

fn garbled(garbled: Garbled) -> Status {
    Status::invalid_argument(garbled.to_string())
}

fn other_answer() -> Status {
    Status::internal("the answer is one to another question")
}

impl fmt::Debug for WorkService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkService").field("work", &self.work).finish_non_exhaustive()
    }
}
