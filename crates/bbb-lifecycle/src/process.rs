//! Processes that are simulated: many of them in a real one, to be stopped, continued and killed like any.
//!
//! What a task of a process starts through a [`TaskGroup`](crate::TaskGroup) belongs to that process too. It promises
//! that no line of a process that is stopped or killed is run, except the destructors of what a killed one held: as a
//! kernel does, they close its connections. Outside of simulations there is no process, and this costs one look at a
//! thread-local variable for each task that is started.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fmt, mem,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

thread_local! {
    /// The process whose code runs on this thread now.
    static CURRENT: RefCell<Option<Process>> = const { RefCell::new(None) };
}

/// A simulated process. Cheap to clone.
#[derive(Clone, Default)]
pub struct Process(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    status: Status,
    /// How each task is woken, by its number: in an order that is the same each time.
    tasks: BTreeMap<u64, Waker>,
    last_task: u64,
    panics: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Status {
    #[default]
    Running,
    Stopped,
    Killed,
}

impl Process {
    /// One that runs and has no tasks yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The one whose code calls this, if that is simulated.
    pub fn current() -> Option<Self> {
        CURRENT.with_borrow(Clone::clone)
    }

    /// Does something as this process: what it starts belongs to it.
    pub fn enter<T>(&self, work: impl FnOnce() -> T) -> T {
        let _back = Entered(CURRENT.replace(Some(self.clone())));
        work()
    }

    /// Its tasks are not run until [`resume`](Self::resume), as by SIGSTOP. Time goes on without it.
    pub fn stop(&self) {
        let mut state = self.state();
        if state.status == Status::Running {
            state.status = Status::Stopped;
        }
    }

    /// Its tasks are run again.
    pub fn resume(&self) {
        self.turn(Status::Running, |status| status == Status::Stopped);
    }

    /// Its tasks are never run again, and all that they hold is dropped.
    pub fn kill(&self) {
        self.turn(Status::Killed, |_| true);
    }

    /// Whether it is stopped.
    pub fn is_stopped(&self) -> bool {
        self.state().status == Status::Stopped
    }

    /// Whether it was killed.
    pub fn is_killed(&self) -> bool {
        self.state().status == Status::Killed
    }

    /// How many tasks it has.
    pub fn len(&self) -> usize {
        self.state().tasks.len()
    }

    /// Whether it has no tasks.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The stories of its tasks that panicked.
    pub fn panics(&self) -> Vec<String> {
        self.state().panics.clone()
    }

    pub(crate) fn panicked(&self, story: String) {
        self.state().panics.push(story);
    }

    /// A task as a task of this process.
    pub(crate) fn within<F: Future<Output = ()>>(self, task: F) -> Within<F> {
        let mut state = self.state();
        state.last_task += 1;
        let number = state.last_task;
        drop(state);
        Within { task: Some(Box::pin(task)), process: self, number }
    }

    fn turn(&self, to: Status, if_it: impl FnOnce(Status) -> bool) {
        let mut state = self.state();
        if !if_it(state.status) {
            return;
        }
        state.status = to;
        let tasks: Vec<Waker> = state.tasks.values().cloned().collect();
        drop(state);
        tasks.into_iter().for_each(Waker::wake);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        let (status, tasks) = (state.status, state.tasks.len());
        f.debug_struct("Process").field("status", &status).field("tasks", &tasks).finish()
    }
}

/// Restores what ran before on this thread.
struct Entered(Option<Process>);

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

/// A task that runs only while its process does.
pub(crate) struct Within<F> {
    task: Option<Pin<Box<F>>>,
    process: Process,
    number: u64,
}

impl<F: Future<Output = ()>> Future for Within<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let mut state = this.process.state();
        state.tasks.insert(this.number, context.waker().clone());
        let status = state.status;
        drop(state);
        match (status, &mut this.task) {
            (Status::Stopped, Some(_)) => Poll::Pending,
            (Status::Running, Some(task)) => {
                this.process.clone().enter(|| task.as_mut().poll(context))
            }
            (Status::Killed, _) | (_, None) => {
                let task = mem::take(&mut this.task);
                this.process.enter(|| drop(task));
                Poll::Ready(())
            }
        }
    }
}

impl<F> Drop for Within<F> {
    fn drop(&mut self) {
        let task = mem::take(&mut self.task);
        self.process.enter(|| drop(task));
        self.process.state().tasks.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU32, Ordering},
        time::Duration,
    };

    use tokio::time;

    use super::*;
    use crate::TaskGroup;

    /// A group with a task that counts seconds, in a child that it starts itself.
    fn counting(process: &Process) -> (TaskGroup, Arc<AtomicU32>) {
        let (group, seconds) = (TaskGroup::new("test"), Arc::new(AtomicU32::new(0)));
        let (inner, counted) = (group.clone(), Arc::clone(&seconds));
        process.enter(|| {
            group.spawn("parent", async move {
                inner.spawn("child", async move {
                    loop {
                        time::sleep(Duration::from_secs(1)).await;
                        counted.fetch_add(1, Ordering::Relaxed);
                    }
                });
            });
        });
        (group, seconds)
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_stopped_does_nothing_until_it_goes_on() {
        let process = Process::new();
        let (_group, seconds) = counting(&process);
        time::sleep(Duration::from_millis(2500)).await;
        assert_eq!(seconds.load(Ordering::Relaxed), 2);
        process.stop();
        time::sleep(Duration::from_secs(10)).await;
        assert_eq!(seconds.load(Ordering::Relaxed), 2);
        process.resume();
        time::sleep(Duration::from_millis(1500)).await;
        assert_eq!(seconds.load(Ordering::Relaxed), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_killed_is_dropped_with_all_that_it_started() {
        let process = Process::new();
        let (group, seconds) = counting(&process);
        time::sleep(Duration::from_millis(1500)).await;
        process.stop();
        process.kill();
        assert_eq!(group.shut_down(Duration::from_secs(1)).await, 0);
        assert!(process.is_empty());
        assert_eq!(seconds.load(Ordering::Relaxed), 1);
        process.enter(|| group.spawn("late", async { panic!("it was run") }));
        time::sleep(Duration::from_secs(1)).await;
        assert!(process.panics().is_empty());
    }
}
