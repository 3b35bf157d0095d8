//! Decides which worker runs which action: a pure core and its driver.
//!
//! The seam is [`Dispatch`]: whoever has work submits it and watches; a worker attaches and gets a
//! [`WorkerLink`].
//!
//! The room knows nothing of messages, files or commands: a result is bytes to it.

pub mod core;
mod dispatch;
mod driver;
mod ids;
mod link;
mod operation;
pub mod steering;
mod words;

pub use dispatch::{
    Dispatch, DispatchError, Filter, Listing, Page, PoolState, Snapshot, StageKind, Watch, Watched,
    WorkerState,
};
pub use driver::Scheduler;
pub use ids::{Ids, OwnIds};
pub use link::{HEARTBEAT_EVERY, LOST_AFTER_BEATS, SchedulerEnd, WorkerLink};
pub use operation::{End, Failure, OperationState, Place, Stage, Story};
pub use words::{
    ActionKey, AttemptId, Demand, FromWorker, Holding, HoldingState, InputPart, Known, Lease,
    MAX_INPUT_PARTS, MAX_SLOTS, OperationId, Outcome, PRIORITIES, Platform, Progress, Staged,
    Submission, Task, ToWorker, WorkerOffer,
};
