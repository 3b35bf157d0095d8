//! The scheduler of the cluster, for as long as this node is the one that schedules.
//!
//! A term begins with a scheduler that knows nothing, and ends with all streams to it: whoever had one moves on to the next
//! scheduler and tells it what there is.

use std::{fmt, sync::Arc, time::Duration};

use bbb_cluster::ClusterView;
use bbb_lifecycle::TaskGroup;
use bbb_scheduler::{
    Dispatch as _, DispatchError, FromWorker, Holding, Scheduler, ToWorker, WorkerOffer,
};
use tokio::{sync::watch, time};

use super::{Answer, Ends, FromScheduler, Question, ToScheduler, WorkError, serving};

/// How long the tasks of a term may take to end.
const END_WITHIN: Duration = Duration::from_secs(5);

/// How long after a scheduler has failed another one begins.
const BEGIN_AGAIN: Duration = Duration::from_secs(1);

/// Makes schedulers, whose tasks are to run in the given group.
pub type MakeScheduler = Arc<dyn Fn(&TaskGroup) -> Arc<Scheduler> + Send + Sync>;

/// The terms of this node, one after the other.
pub(super) struct Terms {
    current: watch::Sender<Option<Term>>,
}

#[derive(Clone)]
struct Term {
    scheduler: Arc<Scheduler>,
    tasks: TaskGroup,
}

impl Terms {
    /// Follows the view by a task of `group`.
    pub(super) fn follow(
        view: watch::Receiver<Arc<ClusterView>>,
        make: MakeScheduler,
        group: &TaskGroup,
    ) -> Arc<Self> {
        let terms = Arc::new(Self { current: watch::Sender::new(None) });
        if is_ours(&view.borrow()) {
            terms.begin(&make);
        }
        let (following, stop) = (Arc::clone(&terms), group.stop());
        group.spawn("terms", async move {
            stop.until_requested(following.run(view, make)).await;
            following.end().await;
        });
        terms
    }

    async fn run(&self, mut view: watch::Receiver<Arc<ClusterView>>, make: MakeScheduler) {
        loop {
            let is_ours = is_ours(&view.borrow_and_update());
            let term = self.current.borrow().clone();
            match (is_ours, &term) {
                (true, None) => self.begin(&make),
                (false, Some(_)) => self.end().await,
                _ => {}
            }
            tokio::select! {
                biased;
                changed = view.changed() => if changed.is_err() {
                    return;
                },
                story = failure(term.as_ref()) => {
                    tracing::error!(story, "the scheduler has failed; another one begins");
                    self.end().await;
                    time::sleep(BEGIN_AGAIN).await;
                }
            }
        }
    }

    fn begin(&self, make: &MakeScheduler) {
        tracing::info!("this node schedules the work of the cluster");
        let tasks = TaskGroup::new("term");
        let scheduler = make(&tasks);
        self.current.send_replace(Some(Term { scheduler, tasks }));
    }

    async fn end(&self) {
        let Some(term) = self.current.send_replace(None) else { return };
        tracing::info!("this node ceases to schedule the work of the cluster");
        term.tasks.shut_down(END_WITHIN).await;
    }

    fn term(&self) -> Result<Term, WorkError> {
        self.current.borrow().clone().ok_or(WorkError::NotScheduler)
    }

    /// The scheduler, if it is here.
    pub(super) fn scheduler(&self) -> Option<Arc<Scheduler>> {
        self.current.borrow().as_ref().map(|term| Arc::clone(&term.scheduler))
    }

    /// See [`Work::operations`](super::Work::operations).
    pub(super) fn operations(&self) -> Result<Ends<ToScheduler, FromScheduler>, WorkError> {
        let Term { scheduler, tasks } = self.term()?;
        let (theirs, ours) = Ends::pair(serving::ROOM, serving::ROOM);
        let stop = tasks.stop();
        tasks.spawn("operations of a node", serving::run(scheduler, ours, stop));
        Ok(theirs)
    }

    /// See [`Work::worker`](super::Work::worker).
    pub(super) async fn worker(
        &self,
        offer: WorkerOffer,
        holdings: Vec<Holding>,
    ) -> Result<Ends<FromWorker, ToWorker>, WorkError> {
        let scheduler = self.term()?.scheduler;
        let link = scheduler.attach(offer, holdings).await.map_err(refused)?;
        let (to, from) = link.into_channels();
        Ok(Ends { to, from })
    }

    /// Answers what a scheduler answers.
    pub(super) async fn ask(&self, question: Question) -> Result<Answer, WorkError> {
        let scheduler = self.term()?.scheduler;
        match question {
            Question::List(filter, page) => scheduler.list(filter, page).await.map(Answer::Listing),
            Question::Snapshot => scheduler.snapshot().await.map(Answer::Snapshot),
            Question::Cancel(id) => match scheduler.find(id).await {
                Ok(None) => Ok(Answer::Done(false)),
                Ok(Some(_)) => scheduler.cancel(id).await.map(|()| Answer::Done(true)),
                Err(error) => Err(error),
            },
            Question::Forget(id) => match scheduler.find(id).await {
                Ok(None) => Ok(Answer::Done(false)),
                Ok(Some(_)) => scheduler.forget(id).await.map(|()| Answer::Done(true)),
                Err(error) => Err(error),
            },
            Question::Find(_) => Ok(Answer::Found(None)),
        }
        .map_err(refused)
    }
}

/// Whether the node that sees this schedules.
fn is_ours(view: &ClusterView) -> bool {
    view.scheduler().id == *view.me()
}

/// Resolves when a part of a term has failed.
async fn failure(term: Option<&Term>) -> String {
    match term {
        Some(term) => term.tasks.failed().await,
        None => std::future::pending().await,
    }
}

fn refused(error: DispatchError) -> WorkError {
    match error {
        DispatchError::Full(what) => WorkError::Full(what),
        DispatchError::Stopped => WorkError::NotScheduler,
    }
}

impl fmt::Debug for Terms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_ours = self.current.borrow().is_some();
        f.debug_struct("Terms").field("is_ours", &is_ours).finish_non_exhaustive()
    }
}
