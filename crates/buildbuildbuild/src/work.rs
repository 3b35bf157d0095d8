//! The work of a node as it is shown: by the page `/cluster`, by `/metrics`, and to other nodes as load.
//!
//! A number of the whole cluster comes from the node that schedules, and from no other, so that sums over nodes are right.

use std::sync::Arc;

use bbb_peer::work::ClusterDispatch;
use bbb_scheduler::{Dispatch, Scheduler, Snapshot};

/// What stands behind the seam to the scheduler.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    /// A node that stays alone has a scheduler of its own.
    Alone(Arc<Scheduler>),
    /// A cluster has one for all nodes.
    Shared(Arc<ClusterDispatch>),
}

/// The part of the work that is this node's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OwnWork {
    /// Slots that are busy.
    pub(crate) busy_slots: u32,
    /// Operations that were accepted here and have not ended.
    pub(crate) accepted: usize,
}

impl Work {
    /// Where work is handed in.
    pub(crate) fn dispatch(&self) -> Arc<dyn Dispatch> {
        match self {
            Self::Alone(scheduler) => Arc::clone(scheduler) as Arc<dyn Dispatch>,
            Self::Shared(dispatch) => Arc::clone(dispatch) as Arc<dyn Dispatch>,
        }
    }

    /// What this node does itself. Nothing once it stops.
    pub(crate) async fn own(&self) -> OwnWork {
        match self {
            Self::Alone(scheduler) => {
                let snapshot = scheduler.snapshot().await.unwrap_or_default();
                let slots =
                    snapshot.workers.iter().map(|worker| worker.busy.min(worker.offer.slots));
                let accepted = snapshot.queued + snapshot.executing;
                OwnWork { busy_slots: slots.sum(), accepted }
            }
            Self::Shared(dispatch) => {
                let counts = dispatch.counts().await.unwrap_or_default();
                OwnWork { busy_slots: dispatch.busy_slots(), accepted: counts.unfinished }
            }
        }
    }

    /// The scheduler's state, if it is here.
    pub(crate) async fn scheduled_here(&self) -> Option<Snapshot> {
        let scheduler = match self {
            Self::Alone(scheduler) => Arc::clone(scheduler),
            Self::Shared(dispatch) => dispatch.local_scheduler()?,
        };
        scheduler.snapshot().await.ok()
    }
}
