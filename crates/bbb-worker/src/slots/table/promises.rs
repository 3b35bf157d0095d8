//! Scripts of whatever can happen to a table, in any order: its promises hold.

use std::time::SystemTime;

use bbb_digest::{Digest, Function};
use bbb_scheduler::{ActionKey, AttemptId, Submission};
use proptest::prelude::*;

use super::*;

const SLOTS: u32 = 2;
const PREFETCH: u32 = 2;

#[derive(Clone, Copy, Debug)]
enum Step {
    Grant,
    Recall(usize),
    Revoke(usize),
    Ready(usize),
    Progress(usize, Progress),
    End(usize, bool),
    /// The link ends, if there is one.
    Lose,
    /// A scheduler takes the worker on, and answers each holding: keeps it where the bit is set.
    Attach(u64),
    Tick(u64),
    Drain,
    Cut,
}

fn step() -> impl Strategy<Value = Step> {
    let progress =
        prop_oneof![Just(Progress::Fetching), Just(Progress::Running), Just(Progress::Uploading)];
    prop_oneof![
        8 => Just(Step::Grant),
        2 => any::<usize>().prop_map(Step::Recall),
        2 => any::<usize>().prop_map(Step::Revoke),
        8 => any::<usize>().prop_map(Step::Ready),
        4 => (any::<usize>(), progress).prop_map(|(which, progress)| Step::Progress(which, progress)),
        8 => (any::<usize>(), any::<bool>()).prop_map(|(which, good)| Step::End(which, good)),
        2 => Just(Step::Lose),
        3 => any::<u64>().prop_map(Step::Attach),
        2 => (0..40_u64).prop_map(Step::Tick),
        1 => Just(Step::Drain),
        1 => Just(Step::Cut),
    ]
}

/// An execution as its executor sees it.
#[derive(Clone, Copy, Debug, Default)]
struct Execution {
    operation: u128,
    is_ready: bool,
    has_turn: bool,
    has_left: bool,
    is_stopped: bool,
}

/// The world around a table: one scheduler at a time, and executors.
struct World {
    table: Table,
    now: Instant,
    is_attached: bool,
    last: u64,
    /// Leases that have not ended.
    leases: BTreeMap<Lease, u128>,
    executions: BTreeMap<RunId, Execution>,
}

impl World {
    fn new() -> Self {
        let offer = WorkerOffer { prefetch: PREFETCH, ..WorkerOffer::of("w", SLOTS) };
        Self {
            table: Table::new(&offer),
            now: Instant::now(),
            is_attached: false,
            last: 0,
            leases: BTreeMap::new(),
            executions: BTreeMap::new(),
        }
    }

    fn lease(&self, which: usize) -> Option<Lease> {
        let count = self.leases.len().max(1);
        self.leases.keys().nth(which % count).copied()
    }

    fn run(&self, which: usize) -> Option<RunId> {
        let count = self.executions.len().max(1);
        self.executions.keys().nth(which % count).copied()
    }

    fn order(&mut self, order: ToWorker) {
        if self.is_attached {
            self.table.order(self.now, order);
            self.check();
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Grant if self.is_attached && self.leases.len() < (SLOTS + PREFETCH) as usize => {
                self.last += 1;
                self.leases.insert(Lease(self.last), self.last.into());
                let task = Box::new(task(self.last.into()));
                self.order(ToWorker::Run(Lease(self.last), task));
            }
            Step::Grant => {}
            Step::Recall(which) => {
                if let Some(lease) = self.lease(which) {
                    self.order(ToWorker::Recall(lease));
                }
            }
            Step::Revoke(which) => {
                if let Some(lease) = self.lease(which) {
                    self.order(ToWorker::Revoke(lease));
                }
            }
            Step::Ready(which) => {
                let Some(id) = self.run(which) else { return };
                self.executions.get_mut(&id).unwrap().is_ready = true;
                self.table.said(self.now, id, Said::Ready);
            }
            Step::Progress(which, progress) => {
                let Some(id) = self.run(which) else { return };
                let execution = self.executions.get_mut(&id).unwrap();
                if progress > Progress::Fetching && !execution.has_turn {
                    return;
                }
                execution.has_left |= progress == Progress::Uploading;
                self.table.said(self.now, id, Said::Progress(progress));
            }
            Step::End(which, good) => {
                let Some(id) = self.run(which) else { return };
                self.executions.remove(&id);
                self.table.ended(self.now, id, outcome(good));
            }
            Step::Lose if self.is_attached => {
                self.is_attached = false;
                self.leases.clear();
                self.table.lost(self.now);
            }
            Step::Lose => {}
            Step::Attach(keep) if !self.is_attached => self.attach(keep),
            Step::Attach(_) => {}
            Step::Tick(secs) => {
                self.now += Duration::from_secs(secs);
                self.table.tick(self.now);
            }
            Step::Drain => self.table.drain(),
            Step::Cut => self.table.cut(),
        }
        self.check();
    }

    fn attach(&mut self, keep: u64) {
        let holdings = self.table.holdings();
        self.is_attached = true;
        self.table.attached();
        self.check();
        for (index, holding) in holdings.into_iter().enumerate() {
            let operation = holding.task.operation;
            let room = self.leases.len() < (SLOTS + PREFETCH) as usize;
            if room && keep >> (index % 64) & 1 == 1 {
                self.last += 1;
                self.leases.insert(Lease(self.last), operation.0);
                self.order(ToWorker::Keep(Lease(self.last), operation));
            } else {
                self.order(ToWorker::Abandon(operation));
            }
        }
    }

    /// Does what the table wants, and looks whether it may want that.
    fn check(&mut self) {
        for effect in self.table.take_effects() {
            match effect {
                Effect::Start(id, task) => {
                    let operation = task.operation.0;
                    let twice = self.executions.values();
                    let mut twice = twice.filter(|other| !other.is_stopped);
                    assert!(twice.all(|other| other.operation != operation), "run twice");
                    let new = Execution { operation, ..Execution::default() };
                    assert!(self.executions.insert(id, new).is_none());
                }
                Effect::Turn(id) => {
                    let execution = self.executions.get_mut(&id).unwrap();
                    assert!(execution.is_ready && !execution.has_turn && !execution.is_stopped);
                    execution.has_turn = true;
                }
                Effect::Stop(id) => {
                    let execution = self.executions.get_mut(&id).unwrap();
                    assert!(!std::mem::replace(&mut execution.is_stopped, true), "stopped twice");
                }
                Effect::Report(report) => {
                    assert!(self.is_attached, "{report:?} is told to nobody");
                    match report {
                        FromWorker::Done(lease, _) | FromWorker::Returned(lease) => {
                            assert!(self.leases.remove(&lease).is_some(), "{lease:?} ended twice");
                        }
                        FromWorker::Progress(lease, _) | FromWorker::Staged(lease, _) => {
                            assert!(self.leases.contains_key(&lease), "{lease:?} has ended");
                        }
                        FromWorker::Alive | FromWorker::Draining => {}
                    }
                }
            }
        }
        let in_slots = |run: &&Execution| run.has_turn && !run.has_left;
        let in_slots = self.executions.values().filter(in_slots).count();
        assert!(in_slots <= SLOTS as usize, "more commands than slots");
        let waits = |run: &Execution| run.is_ready && !run.has_turn && !run.is_stopped;
        let all_free = in_slots < SLOTS as usize;
        assert!(
            !all_free || !self.executions.values().any(waits),
            "a slot is free for one that waits"
        );
        // What no scheduler can see is brought or being stopped; what goes on is either leased or brought.
        let brought = self.table.holdings();
        for run in self.executions.values().filter(|run| !run.is_stopped) {
            let is_leased = self.leases.values().any(|operation| *operation == run.operation);
            let is_brought =
                brought.iter().any(|holding| holding.task.operation.0 == run.operation);
            assert!(is_leased != is_brought, "{run:?}: leased {is_leased}, brought {is_brought}");
        }
    }
}

fn outcome(good: bool) -> Outcome {
    match good {
        true => Outcome::Decided(bytes::Bytes::from_static(b"done")),
        false => Outcome::Failed("no".into()),
    }
}

fn task(operation: u128) -> Task {
    Task {
        operation: OperationId(operation),
        submission: Submission::of(ActionKey {
            instance: Default::default(),
            action: Digest::of(Function::Sha256, &operation.to_be_bytes()),
        }),
        queued_at: SystemTime::UNIX_EPOCH,
        attempt: 1,
        attempt_id: AttemptId(operation),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_promises_hold(steps in prop::collection::vec(step(), 0..120)) {
        let mut world = World::new();
        for step in steps {
            world.take(step);
        }
        // All ends: then nothing is held for nothing.
        world.take(Step::Attach(u64::MAX));
        while !world.executions.is_empty() {
            world.take(Step::End(0, true));
        }
        assert_eq!(world.leases, BTreeMap::new());
        world.take(Step::Lose);
        world.take(Step::Tick(121));
        assert_eq!(world.table.holdings(), []);
        world.take(Step::Drain);
        assert!(world.table.is_drained());
    }
}
