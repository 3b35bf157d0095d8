//! The worker's end of its connection to the scheduler.
//!
//! What crosses it is plain data, [`ToWorker`] and [`FromWorker`], so that the other end may as well be on
//! another machine. It promises that reports never block: their bound follows from the leases. It keeps nothing: a
//! worker's tasks outlive its connections.

use std::time::Duration;

use tokio::{
    sync::{mpsc, mpsc::error::TrySendError},
    time::{self, Interval, MissedTickBehavior},
};

use crate::{FromWorker, MAX_SLOTS, ToWorker};

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

/// A worker's end. [`order`](Self::order) must be polled all the time, also while all slots are busy: it is what tells
/// the scheduler that the worker lives, and what hears of revocations.
#[derive(Debug)]
pub struct WorkerLink {
    orders: mpsc::Receiver<ToWorker>,
    reports: mpsc::Sender<FromWorker>,
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

impl WorkerLink {
    /// The two ends of a connection of a worker that may have so many leases at a time: slots, what it takes
    /// beyond them, and what it has when it attaches. Must be called within a runtime.
    pub fn pair(places: u32) -> (Self, SchedulerEnd) {
        let places = places.min(MAX_PLACES) as usize;
        let (order, orders) = mpsc::channel(ORDERS_PER_LEASE * places + SPARE_ORDERS);
        let (report, reports) = mpsc::channel(REPORTS_PER_LEASE * places + SPARE_REPORTS);
        let mut heartbeat = time::interval(HEARTBEAT_EVERY);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let link = Self { orders, reports: report, heartbeat, silence: 0 };
        (link, SchedulerEnd { orders: order, reports })
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
                    self.beat();
                }
            }
        }
    }

    /// Tells the scheduler something. False if it does not hear: then it is gone, or reads nothing any more.
    pub fn report(&self, report: FromWorker) -> bool {
        match self.reports.try_send(report) {
            Ok(()) => true,
            Err(TrySendError::Closed(_)) => false,
            // What leases give rise to fits, since each is granted anew only after its last report was read.
            Err(TrySendError::Full(report)) => {
                tracing::warn!(?report, "the scheduler does not read this worker's reports");
                false
            }
        }
    }

    /// The bare channels of the worker's end: for those who carry them to a worker elsewhere.
    pub fn into_channels(self) -> (mpsc::Sender<FromWorker>, mpsc::Receiver<ToWorker>) {
        (self.reports, self.orders)
    }

    /// Says that the worker lives, unless earlier words of that kind are still unread: the rest of the
    /// room belongs to the leases.
    fn beat(&self) {
        let unread = self.reports.max_capacity() - self.reports.capacity();
        if unread < SPARE_REPORTS - 1 {
            self.report(FromWorker::Alive);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Lease;

    #[tokio::test(start_paused = true)]
    async fn orders_and_reports_cross_until_the_other_end_is_gone() {
        let (mut link, mut end) = WorkerLink::pair(1);
        end.orders.send(ToWorker::Recall(Lease(1))).await.unwrap();
        assert_eq!(link.order().await, Some(ToWorker::Recall(Lease(1))));
        assert!(link.report(FromWorker::Returned(Lease(1))));
        assert_eq!(end.reports.recv().await, Some(FromWorker::Returned(Lease(1))));
        drop(end);
        assert!(link.order().await.is_none());
        assert!(!link.report(FromWorker::Draining));
    }

    #[tokio::test(start_paused = true)]
    async fn a_polled_link_says_that_it_lives() {
        let (mut link, mut end) = WorkerLink::pair(1);
        let poll = async { link.order().await.is_some() };
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
}
