use std::{fmt, future::Future, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt as _;
use tokio::{sync::watch, task::AbortHandle, time};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument as _;

use crate::Process;

/// The owner of some tasks.
#[derive(Clone)]
pub struct TaskGroup {
    name: &'static str,
    tracker: TaskTracker,
    stop: Stop,
    failed: Arc<watch::Sender<Option<String>>>,
}

/// The word to stop, as tasks of a group hear it. Cancelling requests is not its business: their
/// futures are dropped.
#[derive(Clone, Debug, Default)]
pub struct Stop(CancellationToken);

impl Stop {
    /// Resolves when the group is asked to stop.
    pub async fn requested(&self) {
        self.0.cancelled().await;
    }

    /// Does something until the group is asked to stop; none if that came first.
    pub async fn until_requested<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            done = work => Some(done),
            () = self.requested() => None,
        }
    }

    /// Whether the group was asked to stop.
    pub fn is_requested(&self) -> bool {
        self.0.is_cancelled()
    }
}

impl TaskGroup {
    /// An empty group.
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            tracker: TaskTracker::new(),
            stop: Stop::default(),
            failed: Arc::new(watch::Sender::new(None)),
        }
    }

    /// Starts a task that the group owns. Its name stands in the span of all that it logs.
    pub fn spawn<F>(&self, name: &'static str, task: F) -> AbortHandle
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let group = self.name;
        let failed = Arc::clone(&self.failed);
        let stop = self.stop.clone();
        let guarded = async move {
            if AssertUnwindSafe(task).catch_unwind().await.is_err() {
                tracing::error!("task panicked");
                let story = format!("task {group}/{name} panicked");
                if let Some(process) = Process::current() {
                    process.panicked(story.clone());
                }
                failed.send_replace(Some(story));
                stop.0.cancel();
            }
        };
        let span = tracing::info_span!("task", group, name);
        let task = guarded.instrument(span);
        match Process::current() {
            None => self.tracker.spawn(task),
            Some(process) => self.tracker.spawn(process.within(task)),
        }
        .abort_handle()
    }

    /// The word to stop, for tasks of this group.
    pub fn stop(&self) -> Stop {
        self.stop.clone()
    }

    /// How many tasks run.
    pub fn len(&self) -> usize {
        self.tracker.len()
    }

    /// Whether no task runs.
    pub fn is_empty(&self) -> bool {
        self.tracker.is_empty()
    }

    /// Resolves with the story when a task of this group has panicked; pends for ever otherwise.
    pub async fn failed(&self) -> String {
        let mut failed = self.failed.subscribe();
        // The sender lives in `self`, so the wait can only end with a story.
        let story = failed.wait_for(Option::is_some).await.map(|story| story.clone());
        match story {
            Ok(story) => story.unwrap_or_default(),
            Err(_) => std::future::pending().await,
        }
    }

    /// Asks all tasks to stop and waits until they have, at most `grace` long.
    ///
    /// Returns how many still ran when the grace was over.
    pub async fn shut_down(&self, grace: Duration) -> usize {
        self.stop.0.cancel();
        self.tracker.close();
        if time::timeout(grace, self.tracker.wait()).await.is_err() {
            tracing::warn!(group = self.name, left = self.len(), "tasks outlived their grace");
        }
        self.len()
    }
}

impl fmt::Debug for TaskGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskGroup").field("name", &self.name).field("tasks", &self.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waits_for_its_tasks() {
        let group = TaskGroup::new("test");
        let stop = group.stop();
        group.spawn("waiter", async move { stop.requested().await });
        assert_eq!(group.len(), 1);
        assert_eq!(group.shut_down(Duration::from_secs(60)).await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn says_what_did_not_stop() {
        let group = TaskGroup::new("test");
        group.spawn("deaf", std::future::pending());
        assert_eq!(group.shut_down(Duration::from_secs(1)).await, 1);
    }

    #[tokio::test]
    async fn a_panic_stops_the_group_with_its_story() {
        let group = TaskGroup::new("test");
        group.spawn("bad", async { panic!("on purpose") });
        assert_eq!(group.failed().await, "task test/bad panicked");
        assert!(group.stop().is_requested());
    }
}
