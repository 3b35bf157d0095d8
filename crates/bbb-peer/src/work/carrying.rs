//! Carries what a worker and its scheduler say to each other, and counts on the way how many slots are busy.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use bbb_cluster::{ClusterView, MemberId};
use bbb_lifecycle::Stop;
use bbb_scheduler::{FromWorker, Lease, SchedulerEnd, ToWorker};
use tokio::sync::watch;

use super::Ends;

/// The leases that a worker holds, counted for whoever asks. None are held once this is dropped.
pub(super) struct Busy {
    slots: u32,
    leases: HashSet<Lease>,
    shown: Arc<AtomicU32>,
}

impl Busy {
    pub(super) fn new(slots: u32, shown: Arc<AtomicU32>) -> Self {
        Self { slots, leases: HashSet::new(), shown }
    }

    fn told(&mut self, order: &ToWorker) {
        if let ToWorker::Run(lease, _) | ToWorker::Keep(lease, _) = order {
            self.leases.insert(*lease);
            self.show();
        }
    }

    fn reported(&mut self, report: &FromWorker) {
        if let FromWorker::Done(lease, _) | FromWorker::Returned(lease) = report {
            self.leases.remove(lease);
            self.show();
        }
    }

    /// What is held beyond the slots waits for one.
    fn show(&self) {
        let held = u32::try_from(self.leases.len()).unwrap_or(u32::MAX);
        self.shown.store(held.min(self.slots), Ordering::Relaxed);
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.shown.store(0, Ordering::Relaxed);
    }
}

/// Carries words between a worker and a scheduler until either is gone. The worker's channels have room for all that its
/// leases give rise to, so that neither direction has to wait for the other.
pub(super) async fn carry(near: SchedulerEnd, far: Ends<FromWorker, ToWorker>, mut busy: Busy) {
    let SchedulerEnd { orders, mut reports } = near;
    let Ends { to, mut from } = far;
    loop {
        tokio::select! {
            biased;
            report = reports.recv() => {
                let Some(report) = report else { return };
                busy.reported(&report);
                if to.send(report).await.is_err() {
                    return;
                }
            }
            order = from.recv() => {
                let Some(order) = order else { return };
                busy.told(&order);
                if orders.send(order).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Carries words until the node stops too, or `moved`. What was said by then is carried first: the last word of a worker that leaves is that
/// a task has ended, which would be run again if nobody heard it.
pub(super) async fn carry_until(
    carry: impl Future<Output = ()>,
    stop: Stop,
    moved: impl Future<Output = ()>,
) {
    tokio::select! {
        biased;
        () = carry => {}
        () = stop.requested() => {}
        () = moved => {}
    }
}

/// Resolves when another than `scheduler` schedules.
pub(super) async fn until_moved(mut view: watch::Receiver<Arc<ClusterView>>, scheduler: MemberId) {
    // An end of the view is the end of the node.
    let _ = view.wait_for(|view| view.scheduler().id != scheduler).await;
}

#[cfg(test)]
mod tests {
    use std::{future, time::Duration};

    use bbb_lifecycle::TaskGroup;
    use bbb_scheduler::WorkerLink;

    use super::*;

    #[tokio::test]
    async fn the_last_words_of_a_worker_are_carried() {
        let group = TaskGroup::new("test");
        group.shut_down(Duration::ZERO).await;
        let (link, near) = WorkerLink::pair(1);
        let (far, mut scheduler) = Ends::pair(8, 8);
        for lease in 1..=2 {
            assert!(link.report(FromWorker::Returned(Lease(lease))));
        }
        drop(link);
        let carry = carry(near, far, Busy::new(1, Arc::default()));
        carry_until(carry, group.stop(), future::pending()).await;
        for lease in 1..=2 {
            assert_eq!(scheduler.from.recv().await, Some(FromWorker::Returned(Lease(lease))));
        }
        assert_eq!(scheduler.from.recv().await, None);
    }
}
