//! The worker's end of its connection to the scheduler.
//!
//! What crosses it is plain data, [`ToWorker`] and [`FromWorker`], so that the other end may as well be on
//! another machine. It promises that reports never block: their bound follows from the leases.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{mpsc, mpsc::error::TrySendError},
    time::{self, Interval, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use crate::{FromWorker, Lease, MAX_SLOTS, Outcome, Progress, Task, ToWorker};

/// How often a worker says that it lives.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(1);

/// How many reports one lease gives rise to: three of progress and its end.
const REPORTS_PER_LEASE: usize = 4;

/// Room for what a worker says beside its leases.
const SPARE_REPORTS: usize = 8;

/// A worker's end. [`next`](Self::next) must be polled all the time, also while all slots are busy: it is
/// what tells the scheduler that the worker lives, and what hears of revocations.
#[derive(Debug)]
pub struct WorkerLink {
    orders: mpsc::Receiver<ToWorker>,
    reporter: Reporter,
    heartbeat: Interval,
}

/// The scheduler's end, or that of whatever carries it elsewhere.
#[derive(Debug)]
pub struct SchedulerEnd {
    /// What the worker is told.
    pub orders: mpsc::Sender<ToWorker>,
    /// What the worker tells. It ends when the worker is gone.
    pub reports: mpsc::Receiver<FromWorker>,
}

/// A task that came to this worker.
#[derive(Clone, Debug)]
pub struct Assignment {
    /// Names the grant in reports.
    pub lease: Lease,
    /// What to do.
    pub task: Task,
    /// Cancelled when the task is to be stopped; it must still be reported as done, once nothing of it is
    /// left, with whatever outcome. Cancelled too when the scheduler is gone.
    pub revoked: CancellationToken,
}

/// Where a worker reports. Cheap to clone; never blocks.
#[derive(Clone, Debug)]
pub struct Reporter {
    reports: mpsc::Sender<FromWorker>,
    held: Arc<Mutex<HashMap<Lease, Held>>>,
}

/// A lease that this worker holds.
#[derive(Debug)]
struct Held {
    revoked: CancellationToken,
    progress: Option<Progress>,
}

impl WorkerLink {
    /// The two ends of a connection of a worker with so many slots. Must be called within a runtime.
    pub fn pair(slots: u32) -> (Self, SchedulerEnd) {
        let slots = slots.min(MAX_SLOTS) as usize;
        // Each slot can have one grant and its revocation under way.
        let (order, orders) = mpsc::channel(2 * slots + 1);
        let (report, reports) = mpsc::channel(REPORTS_PER_LEASE * slots + SPARE_REPORTS);
        let mut heartbeat = time::interval(HEARTBEAT_EVERY);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let reporter = Reporter { reports: report, held: Arc::default() };
        (Self { orders, reporter, heartbeat }, SchedulerEnd { orders: order, reports })
    }

    /// The next task, of which there are never more than slots. None when the scheduler is gone or has
    /// given this worker up: whatever still runs is then to be stopped, and the worker attached anew.
    pub async fn next(&mut self) -> Option<Assignment> {
        loop {
            tokio::select! {
                order = self.orders.recv() => match order {
                    Some(ToWorker::Run(lease, task)) => {
                        let revoked = self.reporter.hold(lease);
                        return Some(Assignment { lease, task: *task, revoked });
                    }
                    Some(ToWorker::Revoke(lease)) => self.reporter.revoke(lease),
                    Some(
                        ToWorker::Alive
                        | ToWorker::Keep(..)
                        | ToWorker::Abandon(_)
                        | ToWorker::Recall(_),
                    ) => {}
                    None => {
                        self.reporter.revoke_all();
                        return None;
                    }
                },
                _ = self.heartbeat.tick() => self.reporter.alive(),
            }
        }
    }

    /// The bare channels of the worker's end: for those who carry them to a worker elsewhere.
    pub fn into_channels(mut self) -> (mpsc::Sender<FromWorker>, mpsc::Receiver<ToWorker>) {
        let orders = std::mem::replace(&mut self.orders, mpsc::channel(1).1);
        (self.reporter.reports.clone(), orders)
    }

    /// Where to report what becomes of the tasks.
    pub fn reporter(&self) -> Reporter {
        self.reporter.clone()
    }
}

impl Drop for WorkerLink {
    /// A worker that nobody hears any more must not go on with what others will be given.
    fn drop(&mut self) {
        self.reporter.revoke_all();
    }
}

impl Reporter {
    /// A task has come so far. Going back or staying is not reported.
    pub fn progress(&self, lease: Lease, progress: Progress) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(lease_held) = held.get_mut(&lease) else { return };
        if lease_held.progress < Some(progress) {
            lease_held.progress = Some(progress);
            self.send(FromWorker::Progress(lease, progress));
        }
    }

    /// A task has ended, nothing of it is left, and its slot is free.
    pub fn done(&self, lease: Lease, outcome: Outcome) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.remove(&lease).is_some() {
            self.send(FromWorker::Done(lease, outcome));
        }
    }

    /// The worker takes no further tasks and goes on with those that it has.
    pub fn drain(&self) {
        self.send(FromWorker::Draining);
    }

    /// Says that the worker lives, unless earlier words of that kind are still unread: the rest of the
    /// room belongs to the leases.
    fn alive(&self) {
        let unread = self.reports.max_capacity() - self.reports.capacity();
        if unread < SPARE_REPORTS - 1 {
            self.send(FromWorker::Alive);
        }
    }

    fn hold(&self, lease: Lease) -> CancellationToken {
        let revoked = CancellationToken::new();
        let held = Held { revoked: revoked.clone(), progress: None };
        self.held.lock().unwrap_or_else(PoisonError::into_inner).insert(lease, held);
        revoked
    }

    fn revoke(&self, lease: Lease) {
        if let Some(held) = self.held.lock().unwrap_or_else(PoisonError::into_inner).get(&lease) {
            held.revoked.cancel();
        }
    }

    fn revoke_all(&self) {
        for held in self.held.lock().unwrap_or_else(PoisonError::into_inner).values() {
            held.revoked.cancel();
        }
    }

    /// What leases give rise to fits by the channel's size: a slot is granted again only after its last
    /// report was read.
    fn send(&self, report: FromWorker) {
        if let Err(TrySendError::Full(report)) = self.reports.try_send(report) {
            tracing::warn!(?report, "the scheduler does not read this worker's reports");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use bbb_digest::{Digest, Function, InstanceName};

    use super::*;
    use crate::{ActionKey, OperationId, Submission};

    fn task() -> Task {
        Task {
            operation: OperationId(7),
            submission: Submission::of(ActionKey {
                instance: InstanceName::default(),
                action: Digest::of(Function::Sha256, b"a"),
            }),
            queued_at: SystemTime::UNIX_EPOCH,
            attempt: 1,
        }
    }

    async fn report(end: &mut SchedulerEnd) -> FromWorker {
        loop {
            match end.reports.recv().await.unwrap() {
                FromWorker::Alive => {}
                other => return other,
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_comes_is_revoked_and_ends() {
        let (mut link, mut end) = WorkerLink::pair(1);
        end.orders.send(ToWorker::Run(Lease(1), Box::new(task()))).await.unwrap();
        let assignment = link.next().await.unwrap();
        let reporter = link.reporter();
        reporter.progress(Lease(1), Progress::Running);
        reporter.progress(Lease(1), Progress::Fetching);
        assert_eq!(report(&mut end).await, FromWorker::Progress(Lease(1), Progress::Running));
        end.orders.send(ToWorker::Revoke(Lease(1))).await.unwrap();
        tokio::select! {
            _ = link.next() => panic!("nothing else was granted"),
            () = assignment.revoked.cancelled() => {}
        }
        let outcome = Outcome::Failed("stopped".into());
        reporter.done(Lease(1), outcome.clone());
        reporter.done(Lease(1), outcome.clone());
        assert_eq!(report(&mut end).await, FromWorker::Done(Lease(1), outcome));
        drop(end);
        assert!(link.next().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_polled_link_says_that_it_lives() {
        let (mut link, mut end) = WorkerLink::pair(1);
        let poll = async { link.next().await.is_some() };
        let hear = async {
            for _ in 0..3 {
                assert_eq!(end.reports.recv().await, Some(FromWorker::Alive));
            }
            drop(end);
        };
        assert!(!tokio::join!(poll, hear).0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_scheduler_stops_what_runs() {
        let (mut link, end) = WorkerLink::pair(1);
        end.orders.send(ToWorker::Run(Lease(1), Box::new(task()))).await.unwrap();
        let assignment = link.next().await.unwrap();
        drop(end);
        assert!(link.next().await.is_none());
        assert!(assignment.revoked.is_cancelled());
    }
}
