//! The slots of a worker: takes tasks from a scheduler as they come and has an executor do them.
//!
//! Tasks outlive connections: what runs goes on when the scheduler is lost, and is brought to the next one. One task
//! owns the table of them and does nothing that could block or wait, so that a worker whose executors hang is still
//! heard, and one that is not heard does not run at all.

mod connection;
mod ended;
mod table;

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use bbb_lifecycle::{Stop, TaskGroup};
use bbb_scheduler::{Dispatch, Outcome, Task, WorkerOffer};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{self, Instant, MissedTickBehavior},
};

use crate::{
    Executor, Report,
    executor::Said,
    slots::{
        connection::{Connection, News},
        table::{Effect, RunId, Table},
    },
};

/// How long the end of a task waits for what is left of it to be gone. Longer than anything takes to be
/// killed; the scheduler gives a worker up that does not stop a revoked task in such a time.
const LINGER: Duration = Duration::from_secs(30);

/// How often the table looks at what has a time.
const TICK_EVERY: Duration = Duration::from_secs(1);

/// How long running tasks may take to end when the worker stops, unless it is told otherwise.
const DRAIN: Duration = Duration::from_secs(5 * 60);

/// How many tasks a worker with so many slots best takes beyond them.
///
/// Inputs of the next tasks come down while slots are busy, which hides the transfer where it takes at most half as long
/// as the command; more would keep tasks from workers that become free sooner, and inputs on the disk for nothing. More
/// transfers at a time than a few fill any network.
pub const fn usual_prefetch(slots: u32) -> u32 {
    const MOST: u32 = 8;
    let half = slots.div_ceil(2);
    if half < MOST { half } else { MOST }
}

/// The slots of a worker.
pub struct Slots {
    offer: WorkerOffer,
    dispatch: Arc<dyn Dispatch>,
    executor: Arc<dyn Executor>,
    drain: Duration,
}

impl Slots {
    /// Slots as `offer` has them, for whoever `dispatch` leads to.
    pub fn new(
        offer: WorkerOffer,
        dispatch: Arc<dyn Dispatch>,
        executor: Arc<dyn Executor>,
    ) -> Self {
        Self { offer, dispatch, executor, drain: DRAIN }
    }

    /// Sets how long running tasks may take to end when the worker stops.
    #[must_use]
    pub fn draining_for(mut self, drain: Duration) -> Self {
        self.drain = drain;
        self
    }

    /// Starts to take tasks; each becomes a task of `tasks`. When that is asked to stop, no further one is taken,
    /// those whose commands have not begun are given back, and the others are done. What is not done by the time to
    /// drain is killed and given back too.
    pub fn start(self, tasks: &TaskGroup) {
        let (events, said) = mpsc::unbounded_channel();
        let worker = Worker {
            table: Table::new(&self.offer),
            connection: Connection::new(self.dispatch, self.offer),
            executor: self.executor,
            drain: self.drain,
            controls: HashMap::new(),
            tasks: tasks.clone(),
            events,
        };
        tasks.spawn("slots", worker.run(said, tasks.stop()));
    }
}

impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slots").field("offer", &self.offer).finish_non_exhaustive()
    }
}

/// What comes from the execution of a task.
#[derive(Debug)]
enum Event {
    Said(Said),
    /// Nothing of it is left.
    Ended(Outcome),
}

/// What an execution needs to know of the worker.
struct Execution {
    id: RunId,
    events: mpsc::UnboundedSender<(RunId, Event)>,
    has_turn: watch::Receiver<bool>,
    /// Resolves when the execution is to be stopped.
    stopped: oneshot::Receiver<()>,
}

/// What steers an execution.
struct Control {
    turn: watch::Sender<bool>,
    stop: Option<oneshot::Sender<()>>,
}

/// The owner of the table.
struct Worker {
    table: Table,
    connection: Connection,
    executor: Arc<dyn Executor>,
    drain: Duration,
    controls: HashMap<RunId, Control>,
    tasks: TaskGroup,
    /// Its length is bounded by what executions have to say, and their number by the places of the worker.
    events: mpsc::UnboundedSender<(RunId, Event)>,
}

/// How far the worker is with leaving.
#[derive(Clone, Copy, Debug)]
enum Leaving {
    No,
    /// What runs may go on until then.
    Drains(Instant),
    /// All was given back; what is left of it may take until then to be gone.
    Cut(Instant),
}

impl Worker {
    async fn run(mut self, mut said: mpsc::UnboundedReceiver<(RunId, Event)>, stop: Stop) {
        let mut ticks = time::interval(TICK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut leaving = Leaving::No;
        loop {
            tokio::select! {
                biased;
                () = stop.requested(), if matches!(leaving, Leaving::No) => {
                    self.table.drain();
                    leaving = Leaving::Drains(Instant::now() + self.drain);
                }
                news = self.connection.next() => self.hear(news),
                Some((id, event)) = said.recv() => self.note(id, event),
                _ = ticks.tick() => self.table.tick(Instant::now()),
                () = leaving.over() => match leaving {
                    Leaving::Cut(_) => break,
                    Leaving::No | Leaving::Drains(_) => {
                        self.table.cut();
                        leaving = Leaving::Cut(Instant::now() + LINGER + TICK_EVERY);
                    }
                },
            }
            self.apply();
            if self.table.is_drained() {
                break;
            }
        }
    }

    fn hear(&mut self, news: News) {
        match news {
            News::Due => self.connection.attach(self.table.holdings()),
            News::Attached => self.table.attached(),
            News::Order(order) => self.table.order(Instant::now(), order),
            News::Lost => {
                tracing::debug!("scheduler is gone");
                self.table.lost(Instant::now());
            }
        }
    }

    fn note(&mut self, id: RunId, event: Event) {
        let now = Instant::now();
        match event {
            Event::Said(said) => self.table.said(now, id, said),
            Event::Ended(outcome) => {
                self.controls.remove(&id);
                self.table.ended(now, id, outcome);
            }
        }
    }

    /// Does what the table decided.
    fn apply(&mut self) {
        for effect in self.table.take_effects() {
            match effect {
                Effect::Start(id, task) => self.execute(id, *task),
                Effect::Turn(id) => {
                    if let Some(control) = self.controls.get(&id) {
                        control.turn.send_replace(true);
                    }
                }
                Effect::Stop(id) => {
                    if let Some(control) = self.controls.get_mut(&id) {
                        // To drop it tells as much.
                        control.stop = None;
                    }
                }
                Effect::Report(report) => {
                    if !self.connection.report(report) {
                        tracing::debug!("the scheduler does not hear this worker");
                        self.connection.hang_up();
                        self.table.lost(Instant::now());
                    }
                }
            }
        }
    }

    fn execute(&mut self, id: RunId, task: Task) {
        let (turn, has_turn) = watch::channel(false);
        let (stop, stopped) = oneshot::channel();
        self.controls.insert(id, Control { turn, stop: Some(stop) });
        let (executor, events) = (Arc::clone(&self.executor), self.events.clone());
        self.tasks.spawn("action", async move {
            execute(&*executor, task, Execution { id, events, has_turn, stopped }).await;
        });
    }
}

/// Does one task, or stops with it. It has ended when nothing of it is left, so that no further one takes its slot
/// before.
async fn execute(executor: &dyn Executor, task: Task, execution: Execution) {
    let Execution { id, events, has_turn, stopped } = execution;
    let mut end = End { id, events: events.clone(), outcome: None };
    // Every clone of the report has this sender, so the receiver tells when none is left.
    let (alive, mut gone) = mpsc::channel::<()>(1);
    let tell = move |said| {
        let _alive = &alive;
        // A worker that is gone has stopped all.
        let _ = events.send((id, Event::Said(said)));
    };
    tokio::select! {
        biased;
        outcome = executor.execute(task, Report::in_turn(tell, has_turn)) => {
            end.outcome = Some(outcome);
        }
        _ = stopped => end.outcome = Some(Outcome::Failed("task was stopped".into())),
    }
    if time::timeout(LINGER, gone.recv()).await.is_err() {
        tracing::warn!(?id, "something of a task lives on after its end");
    }
}

/// Tells the end of a task whatever happens, a panic too, so that no lease stays held for nothing.
struct End {
    id: RunId,
    events: mpsc::UnboundedSender<(RunId, Event)>,
    outcome: Option<Outcome>,
}

impl Drop for End {
    fn drop(&mut self) {
        let outcome = self.outcome.take();
        let outcome = outcome.unwrap_or_else(|| Outcome::Failed("worker broke off".into()));
        let _ = self.events.send((self.id, Event::Ended(outcome)));
    }
}

impl Leaving {
    /// Resolves when the time of what the worker is at is over.
    async fn over(self) {
        match self {
            Self::No => std::future::pending().await,
            Self::Drains(until) | Self::Cut(until) => time::sleep_until(until).await,
        }
    }
}
