//! A worker's slots: takes tasks from a scheduler, has an executor do them, and reports what came of them.

use std::{sync::Arc, time::Duration};

use bbb_lifecycle::TaskGroup;
use bbb_scheduler::{
    Assignment, Dispatch, DispatchError, Outcome, Reporter, WorkerLink, WorkerOffer,
};
use tokio::time::sleep;

use crate::{Executor, Report};

/// How long a worker waits before it attaches again to a scheduler that was lost or full.
const ATTACH_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// Binds an executor to a scheduler.
#[derive(Debug)]
pub struct Slots {
    offer: WorkerOffer,
    executor: Arc<dyn Executor>,
    dispatch: Arc<dyn Dispatch>,
    tasks: TaskGroup,
}

impl Slots {
    /// Attaches to `dispatch` as long as `tasks` is not asked to stop, and whenever the link is lost anew.
    /// Every task that is done is a task of the group. What still runs when the group stops is killed.
    pub fn start(
        offer: WorkerOffer,
        executor: Arc<dyn Executor>,
        dispatch: Arc<dyn Dispatch>,
        tasks: &TaskGroup,
    ) {
        let slots = Self { offer, executor, dispatch, tasks: tasks.clone() };
        let stop = tasks.stop();
        tasks.spawn("slots", async move {
            tokio::select! {
                () = slots.serve() => {}
                () = stop.requested() => {}
            }
        });
    }

    /// Ends when the scheduler has stopped for good.
    async fn serve(&self) {
        loop {
            match self.dispatch.attach(self.offer.clone()).await {
                Ok(link) => self.take_from(link).await,
                Err(DispatchError::Stopped) => return,
                Err(error @ DispatchError::Full(_)) => {
                    tracing::warn!(%error, "cannot attach to the scheduler");
                }
            }
            sleep(ATTACH_AGAIN_AFTER).await;
        }
    }

    /// Takes tasks until the link is lost.
    async fn take_from(&self, mut link: WorkerLink) {
        while let Some(assignment) = link.next().await {
            let (executor, reporter) = (Arc::clone(&self.executor), link.reporter());
            self.tasks.spawn("slot", execute(executor, assignment, reporter));
        }
    }
}

/// Does one task, unless it is revoked first, and reports its end once nothing of it is left.
async fn execute(executor: Arc<dyn Executor>, assignment: Assignment, reporter: Reporter) {
    let Assignment { lease, task, revoked } = assignment;
    let progress = reporter.clone();
    let report = Report::to(move |step| progress.progress(lease, step));
    let outcome = tokio::select! {
        outcome = executor.execute(task, report) => outcome,
        () = revoked.cancelled() => Outcome::Failed("was revoked".into()),
    };
    reporter.done(lease, outcome);
}
