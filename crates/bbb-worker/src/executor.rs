use std::{fmt, sync::Arc};

use async_trait::async_trait;
use bbb_scheduler::{Outcome, Progress, Task};

/// Runs tasks. Implementers run them here; layers wrap another executor and add one policy.
///
/// `Display` names what it is, for logs.
#[async_trait]
pub trait Executor: Send + Sync + fmt::Debug + fmt::Display + 'static {
    /// Does a task and stores what comes of it.
    ///
    /// Dropping the future cancels the task: its processes are killed and its folder goes away, for as long
    /// as which a clone of `report` is kept.
    async fn execute(&self, task: Task, report: Report) -> Outcome;
}

/// Where an executor tells how far it is. Cheap to clone, never blocks.
///
/// A task's slot is free only when no clone of its report is left: whatever outlives the future of
/// [`Executor::execute`], such as processes that are still being killed, keeps one.
#[derive(Clone)]
pub struct Report(Arc<dyn Fn(Progress) + Send + Sync>);

impl Report {
    /// Reports to `tell`, which must not block.
    pub fn to(tell: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }

    /// The task has come so far.
    pub fn progress(&self, progress: Progress) {
        (self.0)(progress);
    }
}

impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Report")
    }
}
