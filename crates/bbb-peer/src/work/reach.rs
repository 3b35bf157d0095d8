//! The seam between the work of nodes: plain values over bounded channels, whatever carries them.
//!
//! There are two streams and a few questions. A node that accepts operations holds one stream to the scheduler of the moment,
//! a worker another. Whoever carries them promises order, and that a stream which breaks ends for both sides within seconds;
//! what was under way is lost then.

use std::{error::Error, fmt, sync::Arc};

use async_trait::async_trait;
use bbb_cluster::MemberId;
use bbb_scheduler::{
    Filter, FromWorker, Holding, Listing, OperationId, OperationState, Page, Snapshot, Submission,
    ToWorker, WorkerOffer,
};
use tokio::sync::mpsc;

/// Leads to the work of other nodes.
pub trait Reach: Send + Sync + fmt::Debug + 'static {
    /// The work of a member as it is seen from here. Nothing is sent yet.
    fn to(&self, member: &MemberId) -> Arc<dyn Work>;
}

/// The work of one node, for the others.
///
/// Channel ends are given as the asker holds them. A stream ends when either side drops both of its ends; both sides say
/// that they live each [`HEARTBEAT_EVERY`](bbb_scheduler::HEARTBEAT_EVERY), and may give the other up when it does not.
#[async_trait]
pub trait Work: Send + Sync + fmt::Debug + 'static {
    /// Opens the stream of a node that accepts operations. Operations that are handed in or watched over it lose that watch
    /// when it ends.
    ///
    /// # Errors
    /// [`WorkError::NotScheduler`] if the node does not schedule now, [`WorkError::Unreachable`] if it gave no answer.
    async fn operations(&self) -> Result<Ends<ToScheduler, FromScheduler>, WorkError>;

    /// Opens the stream of a worker, with the tasks that it has.
    ///
    /// # Errors
    /// [`WorkError::NotScheduler`] if the node does not schedule now, [`WorkError::Full`] if it has too many workers,
    /// [`WorkError::Unreachable`] if it gave no answer: it may have taken the worker on for a moment.
    async fn worker(
        &self,
        offer: WorkerOffer,
        holdings: Vec<Holding>,
    ) -> Result<Ends<FromWorker, ToWorker>, WorkError>;

    /// Asks the node for something that it answers by itself, without a third one.
    ///
    /// # Errors
    /// As [`Self::operations`].
    async fn ask(&self, question: Question) -> Result<Answer, WorkError>;
}

/// One side's ends of a stream between two nodes.
#[derive(Debug)]
pub struct Ends<Out, In> {
    /// What this side says.
    pub to: mpsc::Sender<Out>,
    /// What it hears; nothing more once the other side is gone.
    pub from: mpsc::Receiver<In>,
}

impl<Out, In> Ends<Out, In> {
    /// Both sides of a stream on which so many messages may be under way in each direction.
    pub fn pair(out: usize, back: usize) -> (Self, Ends<In, Out>) {
        let (to, far_from) = mpsc::channel(out);
        let (far_to, from) = mpsc::channel(back);
        (Self { to, from }, Ends { to: far_to, from: far_from })
    }
}

/// What a node that accepts operations tells the scheduler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToScheduler {
    /// It lives.
    Alive,
    /// Do this, and tell of it. `known` names it; handing it in again is the same as once.
    Submit(Box<Submission>),
    /// Tell of an operation that another may have handed in.
    Watch(OperationId),
    /// Nobody watches it here any more.
    Unwatch(OperationId),
    /// End it.
    Cancel(OperationId),
    /// Forget it once it has ended.
    Forget(OperationId),
}

/// What the scheduler tells a node that accepts operations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromScheduler {
    /// It lives.
    Alive,
    /// How an operation stands that was handed in or is watched: the newest state, others may have been left out. The
    /// operation is called by the name that the node knows, which may not be that in the state: equal work is done once.
    State(OperationId, Arc<OperationState>),
    /// There is none of that name, not any more perhaps.
    Unknown(OperationId),
    /// It is not taken now, for this reason: hand it in again later.
    Refused(OperationId, String),
}

/// What is asked of one node, and answered out of what it knows itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// An operation that it accepted.
    Find(OperationId),
    /// End an operation that it accepted, or that it schedules.
    Cancel(OperationId),
    /// Forget an operation that it accepted, or that it schedules, once it has ended.
    Forget(OperationId),
    /// Operations that it schedules.
    List(Filter, Page),
    /// How its scheduler is.
    Snapshot,
}

/// The answer to a [`Question`] of the same name.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The operation, if it is known.
    Found(Option<Found>),
    /// Whether it knew the operation. If it did, the operation will end, or be forgotten.
    Done(bool),
    /// The operations.
    Listing(Listing),
    /// How its scheduler is.
    Snapshot(Snapshot),
}

/// An operation as the node knows it that accepted it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// How it stands, as far as the node knows.
    pub state: Arc<OperationState>,
    /// The work, unless it has ended: all that it takes to hand the operation in.
    pub submission: Option<Box<Submission>>,
}

/// Why another node did not do something, by what the asker does next.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    /// It does not schedule, as it sees the cluster: ask again when the view has changed, or in a moment.
    #[error("the node does not schedule")]
    NotScheduler,
    /// Some bound is met there: try again later.
    #[error("the scheduler is full: {0}")]
    Full(String),
    /// It gave no answer, or none that can be used; it may have done what it was asked for.
    #[error("the node gives no answer")]
    Unreachable(#[source] Box<dyn Error + Send + Sync>),
}
