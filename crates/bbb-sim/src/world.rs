//! What all parts of a simulation share: time, chance, the trace, and what was found to be wrong.

use std::{
    fmt, mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use bbb_lifecycle::{Process, TaskGroup, Turns};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::time::Instant;

use crate::trace::Trace;

/// The wall clock of a simulation begins so many seconds after the Unix epoch.
const EPOCH: Duration = Duration::from_secs(1_800_000_000);

/// The world. Cheap to clone.
#[derive(Clone)]
pub(crate) struct World(Arc<Shared>);

struct Shared {
    began: Instant,
    chance: Mutex<StdRng>,
    trace: Mutex<Trace>,
    wrongs: Mutex<Vec<String>>,
    turns: Turns,
    /// What belongs to no node.
    process: Process,
    tasks: TaskGroup,
}

/// Notes an event in the trace.
macro_rules! note {
    ($world:expr, $($event:tt)*) => { $world.note(format_args!($($event)*)) };
}
pub(crate) use note;

impl World {
    pub(crate) fn new(seed: u64, prints: bool) -> Self {
        let (turns, tasks) = (Turns::default(), TaskGroup::new("world"));
        let calling = turns.clone();
        tasks.spawn("turns", async move { calling.call().await });
        Self(Arc::new(Shared {
            began: Instant::now(),
            chance: Mutex::new(StdRng::seed_from_u64(seed)),
            trace: Mutex::new(Trace::new(prints)),
            wrongs: Mutex::default(),
            process: Process::new(&turns),
            turns,
            tasks,
        }))
    }

    /// The time since the beginning.
    pub(crate) fn now(&self) -> Duration {
        self.0.began.elapsed()
    }

    /// The time of day on a clock that is right.
    pub(crate) fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + EPOCH + self.now()
    }

    /// Starts what belongs to no node.
    pub(crate) fn spawn(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        self.0.process.enter(|| drop(self.0.tasks.spawn(name, task)));
    }

    /// A process for a node.
    pub(crate) fn process(&self) -> Process {
        Process::new(&self.0.turns)
    }

    /// The stories of tasks that panicked though they belong to no node.
    pub(crate) fn panics(&self) -> Vec<String> {
        self.0.process.panics()
    }

    pub(crate) fn note(&self, event: fmt::Arguments<'_>) {
        lock(&self.0.trace).note(self.now(), event);
    }

    pub(crate) fn trace(&self) -> MutexGuard<'_, Trace> {
        lock(&self.0.trace)
    }

    /// Something is not as it was promised.
    pub(crate) fn is_wrong(&self, what: String) {
        note!(self, "WRONG {what}");
        lock(&self.0.wrongs).push(what);
    }

    pub(crate) fn has_wrongs(&self) -> bool {
        !lock(&self.0.wrongs).is_empty()
    }

    pub(crate) fn take_wrongs(&self) -> Vec<String> {
        mem::take(&mut lock(&self.0.wrongs))
    }

    /// True once in so many times; never for 0.
    pub(crate) fn one_in(&self, times: u32) -> bool {
        times > 0 && self.chance().random_range(0..times) == 0
    }

    /// A number below this one, which is not 0.
    pub(crate) fn below(&self, bound: usize) -> usize {
        self.chance().random_range(0..bound)
    }

    /// So many milliseconds at least, and fewer than so many.
    pub(crate) fn millis(&self, from: u64, below: u64) -> Duration {
        Duration::from_millis(self.chance().random_range(from..below))
    }

    pub(crate) fn bits(&self) -> u128 {
        self.chance().random()
    }

    fn chance(&self) -> MutexGuard<'_, StdRng> {
        lock(&self.0.chance)
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").finish_non_exhaustive()
    }
}

/// A lock whose holders do not panic.
pub(crate) fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}
