//! What goes on, as others get to see it.

use super::{Core, Now};
use crate::{PoolState, Snapshot, WorkerState};

impl Core {
    /// Operations that wait, that workers have or are believed to, and that have ended.
    pub fn counts(&self) -> (usize, usize, usize) {
        let finished = self.finished.len();
        (self.operations.len() - finished - self.executing, self.executing, finished)
    }

    /// All that goes on.
    pub fn snapshot(&self, now: Now) -> Snapshot {
        let (queued, executing, completed) = self.counts();
        let mut workers: Vec<_> = self
            .workers
            .values()
            .map(|worker| WorkerState {
                offer: worker.offer.clone(),
                busy: worker.busy().min(worker.offer.slots),
                draining: worker.draining,
            })
            .collect();
        workers.sort_by(|one, other| one.offer.name.cmp(&other.offer.name));
        let pools = self.pools.values().filter(|pool| pool.operations > 0);
        let pools = pools.map(|pool| PoolState {
            requirement: pool.requirement.clone(),
            demand: pool.demand,
            queued: pool.queue.len(),
            executing: pool.operations - pool.queue.len(),
            oldest_wait: (pool.queue.oldest())
                .and_then(|seq| self.operations.get(&seq))
                .map_or_else(Default::default, |oldest| oldest.age(now.since_start)),
            slots: pool.slots,
        });
        Snapshot {
            queued,
            executing,
            completed,
            workers,
            pools: pools.collect(),
            granted: self.granted,
            waited: self.waited,
        }
    }
}
