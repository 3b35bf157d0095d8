//! The seam to the scheduler: here or on another node.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use async_trait::async_trait;
use bbb_digest::InstanceName;
use tokio::sync::watch;

use crate::{
    Demand, Holding, OperationId, OperationState, Platform, Submission, WorkerLink, WorkerOffer,
};

/// Hands work to workers and tells what becomes of it.
#[async_trait]
pub trait Dispatch: Send + Sync + fmt::Debug + 'static {
    /// Queues work, or joins equal work in flight. The operation lives on for a while when the watch is
    /// dropped, so that a client may come back.
    ///
    /// # Errors
    /// [`DispatchError::Full`] if too much is queued, [`DispatchError::Stopped`] if nothing is taken any
    /// more. Nothing was queued then.
    async fn submit(&self, submission: Submission) -> Result<Watch, DispatchError>;

    /// An operation that is known, also for some minutes after its end.
    ///
    /// # Errors
    /// [`DispatchError::Stopped`] if the scheduler is gone.
    async fn find(&self, id: OperationId) -> Result<Option<Watch>, DispatchError>;

    /// Operations in the order of their names, a page at a time.
    ///
    /// # Errors
    /// [`DispatchError::Stopped`] if the scheduler is gone.
    async fn list(&self, filter: Filter, page: Page) -> Result<Listing, DispatchError>;

    /// Ends an operation that has not ended; its processes are killed. Others that watch it see that too.
    ///
    /// # Errors
    /// [`DispatchError::Stopped`] if the scheduler is gone.
    async fn cancel(&self, id: OperationId) -> Result<(), DispatchError>;

    /// Forgets an operation once it has ended; does not cancel it.
    ///
    /// # Errors
    /// [`DispatchError::Stopped`] if the scheduler is gone.
    async fn forget(&self, id: OperationId) -> Result<(), DispatchError>;

    /// Takes a worker on, with the tasks that it has. For each of them the worker hears
    /// [`ToWorker::Keep`](crate::ToWorker::Keep) or [`ToWorker::Abandon`](crate::ToWorker::Abandon). It leaves by
    /// dropping its link.
    ///
    /// # Errors
    /// [`DispatchError::Full`] if there are too many workers, [`DispatchError::Stopped`] if the scheduler
    /// is gone.
    async fn attach(
        &self,
        offer: WorkerOffer,
        holdings: Vec<Holding>,
    ) -> Result<WorkerLink, DispatchError>;

    /// What is going on, for pages and for whoever has to decide about more workers.
    ///
    /// # Errors
    /// [`DispatchError::Stopped`] if the scheduler is gone.
    async fn snapshot(&self) -> Result<Snapshot, DispatchError>;
}

/// Why the scheduler did not do something, by what the caller does next.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DispatchError {
    /// Some bound is met: try again later.
    #[error("the scheduler is full: {0}")]
    Full(String),
    /// The scheduler is going or gone: ask another.
    #[error("the scheduler has stopped")]
    Stopped,
}

/// Which operations to list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Those of this instance alone.
    pub instance: InstanceName,
    /// Those in this stage alone.
    pub stage: Option<StageKind>,
}

/// A stage without what belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StageKind {
    /// Waits for a slot.
    Queued,
    /// A worker has it.
    Executing,
    /// Has ended.
    Completed,
}

/// Which part of a list is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// Begins behind this one.
    pub after: Option<OperationId>,
    /// How many at the most.
    pub size: usize,
}

/// A part of a list. It may be shorter than was asked for, even empty, and yet have a successor.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// The operations.
    pub operations: Vec<Arc<OperationState>>,
    /// Where the next part begins; none at the end.
    pub next: Option<OperationId>,
}

/// A scheduler at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Operations that wait.
    pub queued: usize,
    /// Operations that workers have.
    pub executing: usize,
    /// Operations that have ended and are still known.
    pub completed: usize,
    /// The workers, by name.
    pub workers: Vec<WorkerState>,
    /// What is asked for, by what it asks for.
    pub pools: Vec<PoolState>,
    /// How many tasks were given to workers since this scheduler began.
    pub granted: u64,
    /// How long those had waited for it, together.
    pub waited: Duration,
}

/// The operations that ask for the same, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolState {
    /// What they ask for.
    pub requirement: Platform,
    /// What each takes of a worker beside a slot.
    pub demand: Demand,
    /// How many wait.
    pub queued: usize,
    /// How many workers have.
    pub executing: usize,
    /// How long the one that has waited longest has.
    pub oldest_wait: Duration,
    /// The slots of workers that can run them, busy ones included.
    pub slots: u64,
}

/// A worker at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerState {
    /// What it offers.
    pub offer: WorkerOffer,
    /// How many of its slots are busy.
    pub busy: u32,
    /// Whether it takes no further tasks.
    pub draining: bool,
}

/// The state of an operation as it changes. Dropping the last one of an operation lets it be cancelled
/// some time later.
#[derive(Debug)]
pub struct Watch {
    states: watch::Receiver<Arc<OperationState>>,
    id: OperationId,
    watched: Weak<Watched>,
}

/// The operations that someone ceased to watch since this was last asked: each at most as often as there
/// were watches of it.
#[derive(Debug, Default)]
pub struct Watched(Mutex<Vec<OperationId>>);

impl Watch {
    /// A watch of these states. That it was dropped will be found in `watched`.
    pub fn new(states: watch::Receiver<Arc<OperationState>>, watched: &Arc<Watched>) -> Self {
        let id = states.borrow().id;
        Self { states, id, watched: Arc::downgrade(watched) }
    }

    /// The state now. Counts as seen.
    pub fn current(&mut self) -> Arc<OperationState> {
        Arc::clone(&self.states.borrow_and_update())
    }

    /// The next state that was not seen yet; those in between are left out. None if the operation was
    /// forgotten or the scheduler is gone: no other will come.
    pub async fn changed(&mut self) -> Option<Arc<OperationState>> {
        self.states.changed().await.ok()?;
        Some(self.current())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(watched) = self.watched.upgrade() {
            watched.0.lock().unwrap_or_else(PoisonError::into_inner).push(self.id);
        }
    }
}

impl Watched {
    /// Those whose watches were dropped.
    pub fn take_dropped(&self) -> Vec<OperationId> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
