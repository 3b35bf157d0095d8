//! The bounds of the core: how many of everything, and how long each phase may last.

use std::time::Duration;

use crate::Progress;

/// How many things a scheduler keeps. Times are constants; these differ with the machine.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Operations that have not ended. Past that submissions are refused.
    pub unfinished: usize,
    /// Operations that have ended. Past that the oldest are forgotten.
    pub finished: usize,
    /// Bytes of the outcomes of operations that have ended. Past that the oldest are forgotten.
    pub finished_bytes: usize,
    /// Workers. Past that they are refused.
    pub workers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { unfinished: 2_000_000, finished: 10_000, finished_bytes: 64 << 20, workers: 20_000 }
    }
}

/// How often an action is tried before it is refused.
pub(crate) const MAX_ATTEMPTS: usize = 4;

/// The longest part of a worker's reason that is kept, in bytes.
pub(crate) const MAX_REASON_LEN: usize = 1024;

/// How many names an operation has at the most. Who hands in the same after that is told another name.
pub(crate) const MAX_NAMES: usize = 32;

/// How many pools there are at the most: each is looked at when a worker that serves it has a free slot.
pub(crate) const MAX_POOLS: usize = 1024;

/// How long a worker whose connection broke is waited for, with what it had.
pub(crate) const RETURN_GRACE: Duration = Duration::from_secs(2);

/// How long the worker is waited for that is said to have an operation which is handed in. It has to notice that its
/// scheduler is gone.
pub(crate) const HANDED_IN_GRACE: Duration = Duration::from_secs(4);

/// How many tasks a worker has at the most beyond its slots.
pub(crate) const MAX_PREFETCH: u32 = 64;

/// How often an operation is called back from workers that have not begun it. After that it waits where it is.
pub(crate) const MAX_RECALLS: u8 = 4;

/// How many queues without operations are kept for the next one that asks for the same.
pub(crate) const MAX_IDLE_POOLS: usize = 64;

/// A worker that was not heard for so long is lost: three heartbeats and some leeway.
pub(crate) const LOST_AFTER: Duration = Duration::from_secs(4);

/// When no event came for so long, not even a tick, this process was stopped and not the workers.
pub(crate) const STALLED_AFTER: Duration = Duration::from_secs(2);

/// How long a worker may take to end a task that was taken back. A worker that does not is given up.
pub(crate) const REVOKE_GRACE: Duration = Duration::from_secs(30);

/// How long a worker rests after its first failure in a row; twice as long after each further one.
pub(crate) const FIRST_REST: Duration = Duration::from_millis(500);

/// The longest rest of a worker.
pub(crate) const LONGEST_REST: Duration = Duration::from_secs(10);

/// How long an operation waits for a kind of worker that was never there: nodes may be starting.
pub(crate) const UNSATISFIABLE_GRACE: Duration = Duration::from_secs(5);

/// For how long a scheduler that has just begun refuses nothing: workers may be coming over from another.
pub(crate) const BEGINNING: Duration = Duration::from_secs(8);

/// An operation that was queued so long before it was handed in comes from another scheduler, where it was not refused.
pub(crate) const QUEUED_ELSEWHERE: Duration = Duration::from_secs(2);

/// How long an operation waits for a kind of worker that was there: nodes may be restarting.
pub(crate) const LOST_POOL_GRACE: Duration = Duration::from_secs(30);

/// How long an operation may wait for a slot at all.
pub(crate) const MAX_QUEUED_FOR: Duration = Duration::from_secs(24 * 3600);

/// How long an operation goes on when nobody watches it.
pub(crate) const UNWATCHED_GRACE: Duration = Duration::from_secs(60);

/// How long an operation stays known after its end.
pub(crate) const FINISHED_KEPT_FOR: Duration = Duration::from_secs(300);

/// An operation that has waited for so long is taken out of turn by [`AGED_EVERY`].
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Every so many tasks a worker takes the operation that has waited longest, if it has waited for
/// [`PATIENCE`], whatever is more urgent: so nothing starves, and urgent work keeps the larger part.
pub(crate) const AGED_EVERY: u64 = 4;

/// How much busier than the least busy one a worker may be and yet be preferred for the inputs that it has: a quarter of
/// its slots, in the unit of a load.
pub(crate) const BUSIER: u64 = 65_536 / 4;

/// How often an operation that waits is told its place, in a short queue.
pub(crate) const PLACE_EVERY: Duration = Duration::from_secs(10);

/// How many places are told in a second at the most; in a long queue each is told less often.
pub(crate) const PLACES_PER_SECOND: u64 = 1000;

/// How far a place is counted within one build's part of the queue; beyond that it is estimated.
pub(crate) const PLACE_COUNTED: usize = 100;

/// How long fetching or uploading may last.
const TRANSFER_LIMIT: Duration = Duration::from_secs(1800);

/// What the command may take beyond its timeout, to be started and killed.
const RUN_GRACE: Duration = Duration::from_secs(60);

/// How long a task with this timeout may stay in a phase before it is taken from its worker.
pub(crate) fn phase_limit(progress: Progress, timeout: Duration) -> Duration {
    match progress {
        Progress::Fetching | Progress::Uploading => TRANSFER_LIMIT,
        Progress::Running => timeout.saturating_add(RUN_GRACE),
    }
}
