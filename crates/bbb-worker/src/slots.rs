use std::{fmt, sync::Arc, time::Duration};

use bbb_lifecycle::{Stop, TaskGroup};
use bbb_scheduler::{
    Assignment, Dispatch, DispatchError, Lease, Outcome, Reporter, WorkerLink, WorkerOffer,
};
use tokio::{sync::mpsc, time};

use crate::{Executor, Report};

/// How long after a scheduler was lost, or did not take this worker on, it is asked again.
const ATTACH_AGAIN: Duration = Duration::from_secs(1);

/// How long the end of a task waits for what is left of it to be gone. Longer than anything takes to be
/// killed; the scheduler gives a worker up that does not stop a revoked task in such a time.
const LINGER: Duration = Duration::from_secs(30);

/// The slots of a worker: takes tasks from a scheduler as they come and has an executor do them.
pub struct Slots {
    offer: WorkerOffer,
    dispatch: Arc<dyn Dispatch>,
    executor: Arc<dyn Executor>,
}

impl Slots {
    /// Slots as `offer` has them, for whoever `dispatch` leads to.
    pub fn new(
        offer: WorkerOffer,
        dispatch: Arc<dyn Dispatch>,
        executor: Arc<dyn Executor>,
    ) -> Self {
        Self { offer, dispatch, executor }
    }

    /// Starts to take tasks; each becomes a task of `tasks`. When that is asked to stop, no further one is
    /// taken, and those that run are done: whoever shuts it down says how long that may last.
    pub fn start(self, tasks: &TaskGroup) {
        let group = tasks.clone();
        tasks.spawn("slots", async move { self.run(&group).await });
    }

    async fn run(self, tasks: &TaskGroup) {
        let stop = tasks.stop();
        while !stop.is_requested() {
            match self.dispatch.attach(self.offer.clone(), Vec::new()).await {
                Ok(link) => self.serve(link, tasks, &stop).await,
                Err(error @ (DispatchError::Full(_) | DispatchError::Stopped)) => {
                    tracing::debug!(worker = self.offer.name, %error, "worker is not taken on");
                }
            }
            stop.until_requested(time::sleep(ATTACH_AGAIN)).await;
        }
    }

    /// Takes tasks until the scheduler is gone, or all is done after the word to stop.
    async fn serve(&self, mut link: WorkerLink, tasks: &TaskGroup, stop: &Stop) {
        let reporter = link.reporter();
        // Every task has a sender, so the receiver tells when none is left.
        let (running, mut ended) = mpsc::channel::<()>(1);
        let mut running = Some(running);
        loop {
            let assignment = tokio::select! {
                assignment = link.next() => assignment,
                () = stop.requested(), if running.is_some() => {
                    reporter.drain();
                    running = None;
                    continue;
                }
                _ = ended.recv(), if running.is_none() => return,
            };
            let Some(assignment) = assignment else {
                tracing::debug!(worker = self.offer.name, "scheduler is gone");
                return;
            };
            let Some(held) = running.clone() else {
                // It was granted before the scheduler heard that no further one is taken.
                let outcome = Outcome::Failed("worker is stopping".into());
                reporter.done(assignment.lease, outcome);
                continue;
            };
            let (executor, reporter) = (Arc::clone(&self.executor), reporter.clone());
            tasks.spawn("action", async move {
                let _held = held;
                execute(&*executor, assignment, reporter).await;
            });
        }
    }
}

/// Does one task, or stops with it when its lease is revoked. It has ended when nothing of it is left, so
/// that no further one takes its slot before.
async fn execute(executor: &dyn Executor, assignment: Assignment, reporter: Reporter) {
    let Assignment { lease, task, revoked } = assignment;
    let mut end = End { reporter: reporter.clone(), lease, outcome: None };
    // Every clone of the report has this sender, so the receiver tells when none is left.
    let (alive, mut gone) = mpsc::channel::<()>(1);
    let report = Report::to(move |progress| {
        let _alive = &alive;
        reporter.progress(lease, progress);
    });
    tokio::select! {
        outcome = executor.execute(task, report) => end.outcome = Some(outcome),
        () = revoked.cancelled() => end.outcome = Some(Outcome::Failed("task was revoked".into())),
    }
    if time::timeout(LINGER, gone.recv()).await.is_err() {
        tracing::warn!(?lease, "something of a task lives on after its end");
    }
}

/// Reports the end of a task whatever happens, a panic too, so that no lease stays held for nothing.
struct End {
    reporter: Reporter,
    lease: Lease,
    outcome: Option<Outcome>,
}

impl Drop for End {
    fn drop(&mut self) {
        let outcome = self.outcome.take();
        let outcome = outcome.unwrap_or_else(|| Outcome::Failed("worker broke off".into()));
        self.reporter.done(self.lease, outcome);
    }
}

impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slots").field("offer", &self.offer).finish_non_exhaustive()
    }
}
