//! The worker's end of its connection to the scheduler.
//!
//! What crosses it is plain data, [`ToWorker`] and [`FromWorker`], so that the other end may as well be on
//! another machine. It promises that reports never block: their bound follows from the leases.
//!
//! A worker that keeps its tasks beyond one connection takes orders as they are ([`WorkerLink::order`],
//! [`WorkerLink::report`]); one that begins with nothing and stops with its connection has it simpler
//! ([`WorkerLink::next`], [`WorkerLink::reporter`]).

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

/// A scheduler of which nothing was heard during so many heartbeats of the worker is lost. They are counted instead
/// of the time, so that a stop of this process, however long, is one.
pub const LOST_AFTER_BEATS: u32 = 4;

/// How many reports one lease gives rise to: three of progress, what staging took, and its end.
const REPORTS_PER_LEASE: usize = 5;

/// Room for what a worker says beside its leases.
const SPARE_REPORTS: usize = 8;

/// How many orders one lease gives rise to: the grant, or that a holding is kept or not; a recall; a revocation.
const ORDERS_PER_LEASE: usize = 3;

/// The most leases that one connection has room for: slots, as many places beyond, and what a worker brings.
const MAX_PLACES: u32 = 4 * MAX_SLOTS;

/// Room for what a scheduler says beside leases.
const SPARE_ORDERS: usize = 8;

/// A worker's end. [`order`](Self::order) or [`next`](Self::next) must be polled all the time, also while all slots
/// are busy: it is what tells the scheduler that the worker lives, and what hears of revocations.
#[derive(Debug)]
pub struct WorkerLink {
    orders: mpsc::Receiver<ToWorker>,
    reporter: Reporter,
    heartbeat: Interval,
    /// How many heartbeats ago the scheduler was heard.
    silence: u32,
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
    /// The two ends of a connection of a worker that may have so many leases at a time: slots, what it takes
    /// beyond them, and what it has when it attaches. Must be called within a runtime.
    pub fn pair(places: u32) -> (Self, SchedulerEnd) {
        let places = places.min(MAX_PLACES) as usize;
        let (order, orders) = mpsc::channel(ORDERS_PER_LEASE * places + SPARE_ORDERS);
        let (report, reports) = mpsc::channel(REPORTS_PER_LEASE * places + SPARE_REPORTS);
        let mut heartbeat = time::interval(HEARTBEAT_EVERY);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let reporter = Reporter { reports: report, held: Arc::default() };
        (Self { orders, reporter, heartbeat, silence: 0 }, SchedulerEnd { orders: order, reports })
    }

    /// What the scheduler wants next. None when it is gone, was not heard for [`LOST_AFTER_BEATS`] or has given this
    /// worker up: whoever waits for it then attaches anew, with what still runs.
    pub async fn order(&mut self) -> Option<ToWorker> {
        loop {
            // Orders first: what came while this process stood still counts before its silence does.
            tokio::select! {
                biased;
                order = self.orders.recv() => {
                    self.silence = 0;
                    match order? {
                        ToWorker::Alive => {}
                        order => return Some(order),
                    }
                }
                _ = self.heartbeat.tick() => {
                    self.silence += 1;
                    if self.silence > LOST_AFTER_BEATS {
                        return None;
                    }
                    self.reporter.alive();
                }
            }
        }
    }

    /// Tells the scheduler something. False if it does not hear: then it is gone, or reads nothing any more.
    pub fn report(&self, report: FromWorker) -> bool {
        self.reporter.reports.try_send(report).is_ok()
    }

    /// The next task, of which there are never more than places. None when the scheduler is gone or has
    /// given this worker up: whatever still runs is then to be stopped, and the worker attached anew.
    pub async fn next(&mut self) -> Option<Assignment> {
        loop {
            match self.order().await {
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
    async fn a_scheduler_that_falls_silent_is_lost() {
        let (mut link, end) = WorkerLink::pair(1);
        end.orders.send(ToWorker::Alive).await.unwrap();
        let began = time::Instant::now();
        assert!(link.order().await.is_none());
        let after = began.elapsed();
        assert!(after >= Duration::from_secs(4) && after < Duration::from_secs(6), "{after:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_of_this_process_is_not_the_silence_of_its_scheduler() {
        let (mut link, end) = WorkerLink::pair(1);
        end.orders.send(ToWorker::Alive).await.unwrap();
        let early = time::timeout(Duration::from_secs(2), link.order()).await;
        assert!(early.is_err(), "{early:?}");
        time::advance(Duration::from_secs(3600)).await;
        end.orders.send(ToWorker::Recall(Lease(1))).await.unwrap();
        assert_eq!(link.order().await, Some(ToWorker::Recall(Lease(1))));
        time::advance(Duration::from_secs(3600)).await;
        let early = time::timeout(Duration::from_secs(2), link.order()).await;
        assert!(early.is_err(), "{early:?}");
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
