//! Which tasks a worker has, whatever becomes of its schedulers: events and the time in, effects out.
//!
//! A task that goes on while no scheduler claims it is brought to the next one, and so is what came of a task for as
//! long as no scheduler may have heard of it. Promises: at most as many commands run as there are slots, and together
//! they ask for no more than the worker has to give; slots go to tasks in the order in which they came; what no
//! scheduler claims for [`ORPHANED_AFTER`] is stopped; whatever is leased ends with one report, which follows when
//! nothing of the task is left.
//!
//! It knows no clock, no channel and no executor.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use bbb_scheduler::{
    Demand, FromWorker, Holding, HoldingState, Lease, OperationId, Outcome, Progress, Staged, Task,
    ToWorker, WorkerOffer,
};
use tokio::time::Instant;

use super::ended::Ended;
use crate::executor::Said;

/// How long a task goes on without a scheduler that claims it.
pub(super) const ORPHANED_AFTER: Duration = Duration::from_secs(60);

/// How long a task whose inputs are there waits for its turn before it is given back: less than schedulers allow for
/// fetching, and than inputs should be kept from being evicted for nothing.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(10 * 60);

/// Names one execution of a task; later ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct RunId(u64);

/// What is to be done, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Have an executor do it.
    Start(RunId, Box<Task>),
    /// Let its command run.
    Turn(RunId),
    /// Stop it.
    Stop(RunId),
    /// Tell the scheduler, which there is.
    Report(FromWorker),
}

/// All tasks of a worker.
#[derive(Debug)]
pub(super) struct Table {
    slots: usize,
    places: usize,
    capacity: Demand,
    runs: BTreeMap<RunId, Run>,
    leases: HashMap<Lease, RunId>,
    /// Those that no scheduler claims and that go on.
    unclaimed: BTreeMap<OperationId, RunId>,
    /// Those that wait for a slot.
    waiting: BTreeSet<RunId>,
    in_slots: usize,
    in_use: Demand,
    ended: Ended,
    is_attached: bool,
    is_draining: bool,
    effects: Vec<Effect>,
    last_run: u64,
}

#[derive(Debug)]
struct Run {
    task: Task,
    claim: Claim,
    progress: Progress,
    /// What staging took, until a scheduler was told.
    staged: Option<Staged>,
    stage: Stage,
    fate: Fate,
}

/// Whether a scheduler knows that the worker has a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claim {
    Leased(Lease),
    Unclaimed { since: Instant },
}

/// Where a task stands about slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Staging,
    Waiting {
        since: Instant,
    },
    InSlot,
    /// Its command has ended.
    Left,
}

/// How a task will end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// As its executor says.
    Open,
    /// It is being stopped, for another worker or another time.
    Returned,
    /// It is being stopped, for nobody wants it.
    Stopped,
}

impl Table {
    /// Has no tasks yet.
    pub(super) fn new(offer: &WorkerOffer) -> Self {
        Self {
            slots: offer.slots as usize,
            places: offer.slots.saturating_add(offer.prefetch) as usize,
            capacity: offer.capacity,
            runs: BTreeMap::new(),
            leases: HashMap::new(),
            unclaimed: BTreeMap::new(),
            waiting: BTreeSet::new(),
            in_slots: 0,
            in_use: Demand::default(),
            ended: Ended::default(),
            is_attached: false,
            is_draining: false,
            effects: Vec::new(),
            last_run: 0,
        }
    }

    /// What is to be done since this was last asked.
    pub(super) fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Whether nothing is left for which the worker would have to stay.
    pub(super) fn is_drained(&self) -> bool {
        self.is_draining && self.runs.is_empty() && !self.ended.has_unheard()
    }

    /// What a scheduler is to know when the worker attaches. What came first is told first.
    pub(super) fn holdings(&self) -> Vec<Holding> {
        let held = (self.runs.iter())
            .filter(|(id, run)| self.unclaimed.get(&run.task.operation) == Some(*id))
            .map(|(_, run)| Holding {
                task: run.task.clone(),
                state: HoldingState::Held(run.progress),
            });
        held.chain(self.ended.holdings()).collect()
    }

    /// A scheduler has taken the worker on.
    pub(super) fn attached(&mut self) {
        self.is_attached = true;
        if self.is_draining {
            self.report(FromWorker::Draining);
        }
    }

    /// The scheduler is gone: all leases with it.
    pub(super) fn lost(&mut self, now: Instant) {
        self.is_attached = false;
        self.ended.doubt();
        self.leases.clear();
        for (id, run) in &mut self.runs {
            if let Claim::Leased(_) = run.claim {
                run.claim = Claim::Unclaimed { since: now };
                if run.fate == Fate::Open {
                    self.unclaimed.insert(run.task.operation, *id);
                }
            }
        }
    }

    /// The scheduler wants something.
    pub(super) fn order(&mut self, now: Instant, order: ToWorker) {
        match order {
            ToWorker::Alive => {}
            ToWorker::Run(lease, task) => self.take(lease, *task),
            ToWorker::Keep(lease, operation) => self.keep(now, lease, operation),
            ToWorker::Abandon(operation) => {
                self.ended.heard(operation);
                if let Some(id) = self.unclaimed.remove(&operation) {
                    self.stop(id, Fate::Stopped);
                }
            }
            ToWorker::Recall(lease) => {
                let Some(&id) = self.leases.get(&lease) else { return };
                if self.runs.get(&id).is_some_and(|run| !run.has_begun()) {
                    self.stop(id, Fate::Returned);
                }
            }
            ToWorker::Revoke(lease) => {
                let Some(&id) = self.leases.get(&lease) else { return };
                self.stop(id, Fate::Stopped);
            }
        }
    }

    /// An executor says something of a task.
    pub(super) fn said(&mut self, now: Instant, id: RunId, said: Said) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        match said {
            Said::Progress(progress) => self.progressed(id, progress),
            Said::Staged(staged) => {
                run.staged = Some(staged);
                self.tell_staged(id);
            }
            Said::Ready if run.stage == Stage::Staging && run.fate == Fate::Open => {
                run.stage = Stage::Waiting { since: now };
                self.waiting.insert(id);
                self.give_turns();
            }
            Said::Ready => {}
        }
    }

    /// Nothing of a task is left.
    pub(super) fn ended(&mut self, now: Instant, id: RunId, outcome: Outcome) {
        self.leave_slot(id, Stage::Left);
        let Some(run) = self.runs.remove(&id) else { return };
        if self.unclaimed.get(&run.task.operation) == Some(&id) {
            self.unclaimed.remove(&run.task.operation);
        }
        match (run.claim, run.fate) {
            (Claim::Leased(lease), fate) => {
                self.leases.remove(&lease);
                if fate == Fate::Returned {
                    self.report(FromWorker::Returned(lease));
                } else {
                    self.report(FromWorker::Done(lease, outcome.clone()));
                }
                if fate == Fate::Open {
                    self.ended.told(now, run.task, outcome);
                }
            }
            (Claim::Unclaimed { .. }, Fate::Open) => self.ended.untold(now, run.task, outcome),
            (Claim::Unclaimed { .. }, Fate::Returned | Fate::Stopped) => {}
        }
    }

    /// Takes no further tasks, and gives back those whose commands have not begun.
    pub(super) fn drain(&mut self) {
        if std::mem::replace(&mut self.is_draining, true) {
            return;
        }
        if self.is_attached {
            self.report(FromWorker::Draining);
        }
        self.give_back(|run| !run.has_begun());
    }

    /// Gives back all.
    pub(super) fn cut(&mut self) {
        self.drain();
        self.give_back(|_| true);
    }

    /// Looks at what has a time; to be called about every second.
    pub(super) fn tick(&mut self, now: Instant) {
        self.ended.tick(now);
        let mut late = Vec::new();
        for (id, run) in self.runs.iter().filter(|(_, run)| run.fate == Fate::Open) {
            match (run.claim, run.stage) {
                (Claim::Unclaimed { since }, _) if since + ORPHANED_AFTER <= now => {
                    late.push((*id, Fate::Stopped));
                }
                (_, Stage::Waiting { since }) if since + LONGEST_WAIT <= now => {
                    late.push((*id, Fate::Returned));
                }
                _ => {}
            }
        }
        for (id, fate) in late {
            tracing::warn!(operation = %self.runs[&id].task.operation, ?fate, "task is given up");
            self.stop(id, fate);
        }
    }

    fn take(&mut self, lease: Lease, task: Task) {
        // A scheduler that grants what it did not claim yet means that.
        if let Some(id) = self.unclaimed.remove(&task.operation) {
            return self.claim(id, lease);
        }
        let going_on = self.runs.values().filter(|run| run.fate == Fate::Open).count();
        if self.is_draining || going_on >= self.places {
            return self.report(FromWorker::Returned(lease));
        }
        self.last_run += 1;
        let id = RunId(self.last_run);
        let run = Run {
            task: task.clone(),
            claim: Claim::Leased(lease),
            progress: Progress::Fetching,
            staged: None,
            stage: Stage::Staging,
            fate: Fate::Open,
        };
        self.runs.insert(id, run);
        self.leases.insert(lease, id);
        self.effects.push(Effect::Start(id, Box::new(task)));
    }

    /// What was held when the worker attached goes on under a lease; or it has ended since, or was given up.
    fn keep(&mut self, now: Instant, lease: Lease, operation: OperationId) {
        if let Some(id) = self.unclaimed.remove(&operation) {
            self.claim(id, lease);
        } else if let Some(outcome) = self.ended.tell(now, operation) {
            self.report(FromWorker::Done(lease, outcome));
        } else {
            self.report(FromWorker::Returned(lease));
        }
    }

    fn claim(&mut self, id: RunId, lease: Lease) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        run.claim = Claim::Leased(lease);
        self.leases.insert(lease, id);
        let progress = run.progress;
        if progress > Progress::Fetching {
            self.report(FromWorker::Progress(lease, progress));
        }
        self.tell_staged(id);
    }

    fn progressed(&mut self, id: RunId, progress: Progress) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        // To go back or to stay is nothing to tell, but for the first word of all.
        if run.progress > progress {
            return;
        }
        let is_new = run.progress < progress;
        run.progress = progress;
        if let (true, Claim::Leased(lease)) = (is_new, run.claim) {
            self.report(FromWorker::Progress(lease, progress));
        }
        match progress {
            Progress::Fetching => {}
            // Some executors begin without asking.
            Progress::Running => self.enter_slot(id),
            Progress::Uploading => self.leave_slot(id, Stage::Left),
        }
    }

    fn tell_staged(&mut self, id: RunId) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        if let (Claim::Leased(lease), Some(staged)) = (run.claim, run.staged) {
            run.staged = None;
            self.report(FromWorker::Staged(lease, staged));
        }
    }

    /// Slots in the order in which tasks came: what asks for much waits for it, and nobody overtakes it.
    fn give_turns(&mut self) {
        while self.in_slots < self.slots
            && let Some(&id) = self.waiting.first()
            && let Some(run) = self.runs.get(&id)
            && (self.in_slots == 0 || self.fits(run.task.submission.demand))
        {
            self.enter_slot(id);
            self.effects.push(Effect::Turn(id));
        }
    }

    fn fits(&self, demand: Demand) -> bool {
        let fits =
            |used: u64, asked: u64, all: u64| asked == 0 || used.saturating_add(asked) <= all;
        let (used, all) = (self.in_use, self.capacity);
        fits(used.millicpus, demand.millicpus, all.millicpus)
            && fits(used.memory_bytes, demand.memory_bytes, all.memory_bytes)
    }

    fn enter_slot(&mut self, id: RunId) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        self.waiting.remove(&id);
        if matches!(run.stage, Stage::Staging | Stage::Waiting { .. }) {
            run.stage = Stage::InSlot;
            let demand = run.task.submission.demand;
            self.in_slots += 1;
            self.in_use.millicpus = self.in_use.millicpus.saturating_add(demand.millicpus);
            self.in_use.memory_bytes = self.in_use.memory_bytes.saturating_add(demand.memory_bytes);
        }
    }

    fn leave_slot(&mut self, id: RunId, stage: Stage) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        self.waiting.remove(&id);
        if std::mem::replace(&mut run.stage, stage) == Stage::InSlot {
            let demand = run.task.submission.demand;
            self.in_slots -= 1;
            self.in_use.millicpus = self.in_use.millicpus.saturating_sub(demand.millicpus);
            self.in_use.memory_bytes = self.in_use.memory_bytes.saturating_sub(demand.memory_bytes);
        }
        self.give_turns();
    }

    fn give_back(&mut self, which: impl Fn(&Run) -> bool) {
        let chosen: Vec<_> =
            self.runs.iter().filter(|(_, run)| which(run)).map(|(id, _)| *id).collect();
        for id in chosen {
            self.stop(id, Fate::Returned);
        }
    }

    /// Has a task stopped; what is left of it keeps its slot.
    fn stop(&mut self, id: RunId, fate: Fate) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        if run.fate == Fate::Open {
            self.effects.push(Effect::Stop(id));
        }
        if run.fate != Fate::Stopped {
            run.fate = fate;
        }
        if self.unclaimed.get(&run.task.operation) == Some(&id) {
            self.unclaimed.remove(&run.task.operation);
        }
        self.waiting.remove(&id);
        self.give_turns();
    }

    fn report(&mut self, report: FromWorker) {
        self.effects.push(Effect::Report(report));
    }
}

impl Run {
    fn has_begun(&self) -> bool {
        matches!(self.stage, Stage::InSlot | Stage::Left)
    }
}

#[cfg(test)]
mod promises;
#[cfg(test)]
mod tests;
