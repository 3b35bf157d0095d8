//! Processes that are simulated: many of them in a real one, to be stopped, continued and killed like any.
//!
//! What a task of a process starts through a [`TaskGroup`](crate::TaskGroup) belongs to that process too. It promises
//! that no line of a process that is stopped or killed is run, except the destructors of what a killed one held: as a
//! kernel does, they close its connections. Outside of simulations there is no process, and this costs one look at a
//! thread-local variable for each task that is started.
//!
//! It promises too that tasks take their [`Turns`] in the same order each time, on a runtime of one thread: those that
//! are woken by the same things are run in the order in which they were started. The runtime alone does not: its watch
//! channels wake whoever waits in an order by chance.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fmt, future, mem,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

thread_local! {
    /// The process whose code runs on this thread now.
    static CURRENT: RefCell<Option<Process>> = const { RefCell::new(None) };
}

/// The order of the tasks of all processes of a simulation. Cheap to clone.
#[derive(Clone, Default)]
pub struct Turns(Arc<Mutex<Order>>);

#[derive(Default)]
struct Order {
    last_task: u64,
    /// Tasks that were woken, and how they are run.
    waiting: BTreeMap<u64, Waker>,
    /// Those of them whose turn has come.
    called: BTreeSet<u64>,
    caller: Option<Waker>,
}

impl Turns {
    /// Calls the tasks as long as it is polled. Must itself be a task of the runtime, which polls first in, first out: so
    /// it is polled when all have registered who were woken by those it called before.
    pub async fn call(&self) {
        future::poll_fn(|context| {
            let mut order = self.order();
            order.caller = Some(context.waker().clone());
            let waiting = mem::take(&mut order.waiting);
            order.called.extend(waiting.keys());
            drop(order);
            waiting.into_values().for_each(Waker::wake);
            Poll::<()>::Pending
        })
        .await;
    }

    /// Whether it is the turn of a task. If not, it is woken when it is.
    fn is_called(&self, task: u64, waker: &Waker) -> bool {
        let mut order = self.order();
        if order.called.remove(&task) {
            return true;
        }
        order.waiting.insert(task, waker.clone());
        let caller = order.caller.clone();
        drop(order);
        if let Some(caller) = caller {
            caller.wake();
        }
        false
    }

    fn start(&self) -> u64 {
        let mut order = self.order();
        order.last_task += 1;
        order.last_task
    }

    fn end(&self, task: u64) {
        let mut order = self.order();
        order.waiting.remove(&task);
        order.called.remove(&task);
    }

    fn order(&self) -> MutexGuard<'_, Order> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Turns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turns").finish_non_exhaustive()
    }
}

/// A simulated process. Cheap to clone.
#[derive(Clone)]
pub struct Process {
    turns: Turns,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    status: Status,
    /// How each task is woken, by its number: in an order that is the same each time.
    tasks: BTreeMap<u64, Waker>,
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
    pub fn new(turns: &Turns) -> Self {
        Self { turns: turns.clone(), state: Arc::default() }
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
        let number = self.turns.start();
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
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
        if !this.process.turns.is_called(this.number, context.waker()) {
            return Poll::Pending;
        }
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
        self.process.turns.end(self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU32, Ordering},
        time::Duration,
    };

    use tokio::{sync::watch, time};

    use super::*;
    use crate::TaskGroup;

    /// A process whose tasks have their turns.
    fn process() -> Process {
        let turns = Turns::default();
        let process = Process::new(&turns);
        TaskGroup::new("turns").spawn("turns", async move { turns.call().await });
        process
    }

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
        let process = process();
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
        let process = process();
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

    #[tokio::test(start_paused = true)]
    async fn who_is_woken_at_once_runs_in_order() {
        let (process, group) = (process(), TaskGroup::new("test"));
        let (news, ran) = (watch::Sender::new(0), Arc::new(Mutex::new(Vec::new())));
        process.enter(|| {
            for task in 0..100 {
                let (mut news, ran) = (news.subscribe(), Arc::clone(&ran));
                group.spawn("listener", async move {
                    news.changed().await.unwrap();
                    ran.lock().unwrap().push(task);
                });
            }
        });
        time::sleep(Duration::from_secs(1)).await;
        news.send_replace(1);
        time::sleep(Duration::from_secs(1)).await;
        assert_eq!(*ran.lock().unwrap(), (0..100).collect::<Vec<_>>());
    }
}
