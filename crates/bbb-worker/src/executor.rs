use std::{fmt, future, sync::Arc};

use async_trait::async_trait;
use bbb_scheduler::{Outcome, Progress, Staged, Task};
use tokio::sync::watch;

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
pub struct Report {
    tell: Arc<dyn Fn(Said) + Send + Sync>,
    turn: Option<watch::Receiver<bool>>,
}

/// What an executor says of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// It has come so far.
    Progress(Progress),
    /// Its inputs are all there, which took so much.
    Staged(Staged),
    /// It wants a slot for its command.
    Ready,
}

impl Report {
    /// Reports progress to `tell`, which must not block; the turn is always the task's.
    pub fn to(tell: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        let tell = move |said| match said {
            Said::Progress(progress) => tell(progress),
            Said::Staged(_) | Said::Ready => {}
        };
        Self { tell: Arc::new(tell), turn: None }
    }

    /// Reports to `tell`, which must not block. The turn is the task's once `turn` says so.
    pub fn in_turn(
        tell: impl Fn(Said) + Send + Sync + 'static,
        turn: watch::Receiver<bool>,
    ) -> Self {
        Self { tell: Arc::new(tell), turn: Some(turn) }
    }

    /// The task has come so far.
    pub fn progress(&self, progress: Progress) {
        (self.tell)(Said::Progress(progress));
    }

    /// The inputs are all there.
    pub fn staged(&self, staged: Staged) {
        (self.tell)(Said::Staged(staged));
    }

    /// Waits for a slot, before the command is run. The slot is free again when the executor tells that it is
    /// [`Progress::Uploading`], for then the command has ended, or when the task has ended.
    pub async fn turn(&self) {
        let Some(mut turn) = self.turn.clone() else { return };
        (self.tell)(Said::Ready);
        if turn.wait_for(|has_come| *has_come).await.is_err() {
            // Whoever gives turns is gone; so will this be.
            future::pending::<()>().await;
        }
    }
}

impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Report")
    }
}
