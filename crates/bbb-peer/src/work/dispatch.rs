//! [`ClusterDispatch`]: work as clients and the worker of this node, and other nodes, find it.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use async_trait::async_trait;
use bbb_cluster::{ClusterView, MemberId};
use bbb_lifecycle::TaskGroup;
use bbb_scheduler::{
    Dispatch, DispatchError, Filter, FromWorker, Holding, Ids, Listing, OperationId, OwnIds, Page,
    Scheduler, Snapshot, Submission, ToWorker, Watch, WorkerLink, WorkerOffer, core::Limits,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time,
};

use super::{
    Answer, Counts, Ends, FromScheduler, MakeScheduler, Question, Reach, ToScheduler, Work,
    WorkError,
    accepting::{ASK_WITHIN, Accepting, INBOX, OPEN_WITHIN, Reply, Request, accepted_by},
    carrying,
    table::TableLimits,
    terms::Terms,
};

/// How the work of a node is set up.
#[derive(Clone)]
pub struct WorkSettings {
    /// How much this node remembers of operations that it accepted.
    pub table: TableLimits,
    /// Makes a scheduler for each term in which this node schedules.
    pub scheduler: MakeScheduler,
    /// Where names and the time of day come from.
    pub ids: Arc<dyn Ids>,
}

impl Default for WorkSettings {
    fn default() -> Self {
        Self {
            table: TableLimits::default(),
            scheduler: Arc::new(|tasks| Scheduler::start(tasks, Limits::default())),
            ids: Arc::new(OwnIds),
        }
    }
}

/// The work of a cluster, seen from one of its nodes.
///
/// As [`Dispatch`] it is for clients and the worker here, as [`Work`] for other nodes.
pub struct ClusterDispatch {
    requests: mpsc::Sender<Request>,
    terms: Arc<Terms>,
    view: watch::Receiver<Arc<ClusterView>>,
    reach: Arc<dyn Reach>,
    tasks: TaskGroup,
    busy_slots: Arc<AtomicU32>,
}

impl ClusterDispatch {
    /// Takes part in the work of the cluster of `view`, by tasks of `group`.
    pub fn start(
        settings: WorkSettings,
        view: watch::Receiver<Arc<ClusterView>>,
        reach: Arc<dyn Reach>,
        group: &TaskGroup,
    ) -> Arc<Self> {
        let WorkSettings { table, scheduler, ids } = settings;
        let terms = Terms::follow(view.clone(), scheduler, group);
        let (requests, inbox) = mpsc::channel(INBOX);
        let accepting =
            Accepting::new(table, view.clone(), Arc::clone(&terms), Arc::clone(&reach), ids);
        group.spawn("accepted operations", accepting.run(inbox, group.stop()));
        let (tasks, busy_slots) = (group.clone(), Arc::default());
        Arc::new(Self { requests, terms, view, reach, tasks, busy_slots })
    }

    /// How many operations this node has accepted that are still known.
    ///
    /// # Errors
    /// [`DispatchError::Stopped`] if the node stops.
    pub async fn counts(&self) -> Result<Counts, DispatchError> {
        self.request(Request::Count).await
    }

    /// How many slots of this node's worker are busy.
    pub fn busy_slots(&self) -> u32 {
        self.busy_slots.load(Ordering::Relaxed)
    }

    /// The scheduler at this moment, if it is here: none on all nodes but one.
    pub fn local_scheduler(&self) -> Option<Arc<Scheduler>> {
        self.terms.scheduler()
    }

    async fn request<T>(
        &self,
        request: impl FnOnce(Reply<T>) -> Request,
    ) -> Result<T, DispatchError> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| DispatchError::Stopped)?;
        answer.await.map_err(|_| DispatchError::Stopped)
    }

    fn scheduler(&self) -> MemberId {
        self.view.borrow().scheduler().id.clone()
    }

    /// The work of another node; none of this one.
    fn other(&self, node: &MemberId) -> Option<Arc<dyn Work>> {
        (*self.view.borrow().me() != *node).then(|| self.reach.to(node))
    }

    async fn ask_scheduler(&self, question: Question) -> Result<Answer, DispatchError> {
        let scheduler = self.scheduler();
        let asking = async {
            match self.other(&scheduler) {
                Some(node) => node.ask(question).await,
                None => self.terms.ask(question).await,
            }
        };
        match time::timeout(ASK_WITHIN, asking).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(WorkError::Full(what))) => Err(DispatchError::Full(what)),
            Ok(Err(WorkError::NotScheduler | WorkError::Unreachable(_))) | Err(_) => {
                Err(DispatchError::Stopped)
            }
        }
    }

    /// Has the node that accepted an operation do something with it, or else the scheduler.
    async fn elsewhere(&self, id: OperationId, question: Question) -> Result<(), DispatchError> {
        let accepted_by = accepted_by(&self.view.borrow(), id).cloned();
        if let Some(node) = accepted_by.and_then(|node| self.other(&node)) {
            let answer = time::timeout(ASK_WITHIN, node.ask(question.clone())).await;
            if matches!(answer, Ok(Ok(Answer::Done(true)))) {
                return Ok(());
            }
        }
        self.ask_scheduler(question).await.map(drop)
    }
}

#[async_trait]
impl Dispatch for ClusterDispatch {
    async fn submit(&self, submission: Submission) -> Result<Watch, DispatchError> {
        self.request(|reply| Request::Submit(submission, reply)).await?
    }

    async fn find(&self, id: OperationId) -> Result<Option<Watch>, DispatchError> {
        self.request(|reply| Request::Find(id, reply)).await?
    }

    async fn list(&self, filter: Filter, page: Page) -> Result<Listing, DispatchError> {
        match self.ask_scheduler(Question::List(filter, page)).await? {
            Answer::Listing(listing) => Ok(listing),
            _ => Err(DispatchError::Stopped),
        }
    }

    async fn cancel(&self, id: OperationId) -> Result<(), DispatchError> {
        match self.request(|reply| Request::Cancel(id, reply)).await? {
            true => Ok(()),
            false => self.elsewhere(id, Question::Cancel(id)).await,
        }
    }

    async fn forget(&self, id: OperationId) -> Result<(), DispatchError> {
        match self.request(|reply| Request::Forget(id, reply)).await? {
            true => Ok(()),
            false => self.elsewhere(id, Question::Forget(id)).await,
        }
    }

    async fn attach(
        &self,
        offer: WorkerOffer,
        holdings: Vec<Holding>,
    ) -> Result<WorkerLink, DispatchError> {
        let scheduler = self.scheduler();
        let slots = offer.slots;
        let brought = u32::try_from(holdings.len()).unwrap_or(u32::MAX);
        let places = slots.saturating_add(offer.prefetch).saturating_add(brought);
        let opening = async {
            match self.other(&scheduler) {
                Some(node) => node.worker(offer, holdings).await,
                None => self.terms.worker(offer, holdings).await,
            }
        };
        let moved = carrying::until_moved(self.view.clone(), scheduler.clone());
        let opened = tokio::select! {
            biased;
            // Whoever does not schedule any more is not waited for.
            () = moved => return Err(DispatchError::Stopped),
            opened = time::timeout(OPEN_WITHIN, opening) => opened,
        };
        let far = match opened {
            Ok(Ok(far)) => far,
            Ok(Err(WorkError::Full(what))) => return Err(DispatchError::Full(what)),
            Ok(Err(WorkError::NotScheduler | WorkError::Unreachable(_))) | Err(_) => {
                return Err(DispatchError::Stopped);
            }
        };
        let (link, near) = WorkerLink::pair(places);
        let moved = carrying::until_moved(self.view.clone(), scheduler);
        let stop = self.tasks.stop();
        let busy = carrying::Busy::new(slots, Arc::clone(&self.busy_slots));
        let carry = carrying::carry(near, far, busy);
        self.tasks.spawn("stream of the worker", carrying::carry_until(carry, stop, moved));
        Ok(link)
    }

    async fn snapshot(&self) -> Result<Snapshot, DispatchError> {
        match self.ask_scheduler(Question::Snapshot).await? {
            Answer::Snapshot(snapshot) => Ok(snapshot),
            _ => Err(DispatchError::Stopped),
        }
    }
}

#[async_trait]
impl Work for ClusterDispatch {
    async fn operations(&self) -> Result<Ends<ToScheduler, FromScheduler>, WorkError> {
        self.terms.operations()
    }

    async fn worker(
        &self,
        offer: WorkerOffer,
        holdings: Vec<Holding>,
    ) -> Result<Ends<FromWorker, ToWorker>, WorkError> {
        self.terms.worker(offer, holdings).await
    }

    async fn ask(&self, question: Question) -> Result<Answer, WorkError> {
        let stopped = |stopped: DispatchError| WorkError::Unreachable(stopped.into());
        let is_known = match question {
            Question::Find(id) => {
                let found = self.request(|reply| Request::Tell(id, reply)).await;
                return found.map(Answer::Found).map_err(stopped);
            }
            Question::Cancel(id) => self.request(|reply| Request::Cancel(id, reply)).await,
            Question::Forget(id) => self.request(|reply| Request::Forget(id, reply)).await,
            Question::List(..) | Question::Snapshot => return self.terms.ask(question).await,
        };
        match is_known.map_err(stopped)? {
            true => Ok(Answer::Done(true)),
            false if self.terms.scheduler().is_none() => Ok(Answer::Done(false)),
            false => self.terms.ask(question).await,
        }
    }
}

impl fmt::Debug for ClusterDispatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterDispatch").field("terms", &self.terms).finish_non_exhaustive()
    }
}

impl fmt::Debug for WorkSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkSettings").field("table", &self.table).finish_non_exhaustive()
    }
}
