//! Scripts of events against what the core promises.

use std::collections::{BTreeMap, BTreeSet};

use bbb_digest::{Digest, Function, InstanceName};
use bytes::Bytes;
use proptest::{collection::vec, prelude::*};

use super::{
    limits::{AGED_EVERY, FINISHED_KEPT_FOR, LOST_AFTER, MAX_ATTEMPTS, PATIENCE, UNWATCHED_GRACE},
    *,
};
use crate::{End, Failure, FromWorker, Outcome, Progress, Stage, Submission, Task, WorkerOffer};

const LIMITS: Limits = Limits { unfinished: 40, finished: 10, finished_bytes: 20, workers: 5 };

/// One thing that happens. Numbers pick among what there is.
#[derive(Clone, Debug)]
enum Step {
    Submit { key: u8, priority: i32, build: u8, asks: u8, mergeable: bool },
    Cancel(u8),
    Forget(u8),
    Watched(u8, bool),
    Join { slots: u32, offers: u8 },
    Leave(u8),
    Alive(u8),
    Drain(u8),
    Progress(u8, Progress),
    Done(u8, bool),
    Wait(u16),
}

fn step() -> impl Strategy<Value = Step> {
    let progress =
        prop_oneof![Just(Progress::Fetching), Just(Progress::Running), Just(Progress::Uploading)];
    prop_oneof![
        8 => (0..30u8, -2..3i32, 0..4u8, 0..4u8, any::<bool>()).prop_map(
            |(key, priority, build, asks, mergeable)| Step::Submit { key, priority, build, asks, mergeable }
        ),
        1 => any::<u8>().prop_map(Step::Cancel),
        1 => any::<u8>().prop_map(Step::Forget),
        1 => (any::<u8>(), any::<bool>()).prop_map(|(which, watched)| Step::Watched(which, watched)),
        3 => (0..4u32, 0..4u8).prop_map(|(slots, offers)| Step::Join { slots, offers }),
        1 => any::<u8>().prop_map(Step::Leave),
        4 => any::<u8>().prop_map(Step::Alive),
        1 => any::<u8>().prop_map(Step::Drain),
        2 => (any::<u8>(), progress).prop_map(|(which, progress)| Step::Progress(which, progress)),
        8 => (any::<u8>(), prop::bool::weighted(0.8)).prop_map(|(which, good)| Step::Done(which, good)),
        4 => (0..3000u16).prop_map(Step::Wait),
    ]
}

/// Properties as bits: bit 0 and bit 1 are two names.
fn platform(bits: u8) -> Platform {
    let names = ["a", "b"].into_iter().enumerate();
    let set = names.filter(|(index, _)| bits & (1 << index) != 0);
    set.map(|(_, name)| (name.to_owned(), "1".to_owned())).collect()
}

fn submission(key: u8, priority: i32, build: u8) -> Submission {
    Submission {
        timeout: Duration::from_secs(1),
        priority,
        invocation: format!("build {build}").into(),
        ..Submission::of(ActionKey {
            instance: InstanceName::default(),
            action: Digest::of(Function::Sha256, &[key]),
        })
    }
}

fn decided() -> Outcome {
    Outcome::Decided(Bytes::from_static(b"done"))
}

/// A grant as a worker sees it.
#[derive(Debug)]
struct Held {
    task: Task,
    revoked: bool,
}

/// The world around a core, which checks each effect.
struct World {
    core: Core,
    at: Duration,
    last: u128,
    last_worker: u64,
    slots: BTreeMap<WorkerId, u32>,
    held: BTreeMap<(WorkerId, Lease), Held>,
    known: BTreeMap<OperationId, Arc<OperationState>>,
    accepted: BTreeSet<OperationId>,
    ended: BTreeSet<OperationId>,
    greatest_lease: Lease,
}

impl World {
    fn new(limits: Limits) -> Self {
        Self {
            core: Core::new(limits),
            at: Duration::ZERO,
            last: 0,
            last_worker: 0,
            slots: BTreeMap::new(),
            held: BTreeMap::new(),
            known: BTreeMap::new(),
            accepted: BTreeSet::new(),
            ended: BTreeSet::new(),
            greatest_lease: Lease(0),
        }
    }

    fn now(&self) -> Now {
        Now { since_start: self.at, wall: SystemTime::UNIX_EPOCH + self.at }
    }

    fn submit(&mut self, submission: Submission) -> Option<OperationId> {
        self.last += 1;
        let submitted = self.core.submit(self.now(), OperationId(self.last), submission);
        self.accepted.extend(submitted.ok());
        self.settle();
        submitted.ok()
    }

    fn join(&mut self, slots: u32, offers: u8) -> WorkerId {
        self.last_worker += 1;
        let id = WorkerId(self.last_worker);
        let offer = WorkerOffer {
            platform: platform(offers),
            ..WorkerOffer::of(format!("w{}", id.0), slots)
        };
        if self.core.join_worker(self.now(), id, offer).is_ok() {
            self.slots.insert(id, slots);
        }
        self.settle();
        id
    }

    fn leave(&mut self, id: WorkerId) {
        self.slots.remove(&id);
        self.held.retain(|(worker, _), _| *worker != id);
        self.core.leave_worker(self.now(), id);
        self.settle();
    }

    fn hear(&mut self, id: WorkerId, what: FromWorker) {
        self.core.hear(self.now(), id, what);
        self.settle();
    }

    fn done(&mut self, worker: WorkerId, lease: Lease, outcome: Outcome) {
        self.held.remove(&(worker, lease));
        self.hear(worker, FromWorker::Done(lease, outcome));
    }

    fn wait(&mut self, span: Duration) {
        // As the driver does: at each deadline, and at least once in a second.
        let end = self.at + span;
        while self.at < end {
            let next = self.core.next_deadline().unwrap_or(end).max(self.at);
            self.at = next.min(self.at + Duration::from_secs(1)).min(end);
            self.core.tick(self.now());
            self.settle();
            if next <= self.at && self.core.next_deadline().is_some_and(|next| next <= self.at) {
                panic!("a deadline stays in the past");
            }
        }
    }

    fn settle(&mut self) {
        for effect in self.core.take_effects() {
            self.check(effect);
        }
        self.check_core();
    }

    fn check(&mut self, effect: Effect) {
        match effect {
            Effect::Tell(worker, ToWorker::Run(lease, task)) => {
                assert!(lease > self.greatest_lease, "a lease was used twice");
                self.greatest_lease = lease;
                let twice = |held: &&Held| held.task.operation == task.operation && !held.revoked;
                assert!(self.held.values().find(twice).is_none(), "leased twice: {task:?}");
                self.held.insert((worker, lease), Held { task: *task, revoked: false });
                let busy = self.held.keys().filter(|(other, _)| *other == worker).count();
                // A worker that just joins is not among the known ones yet.
                let slots = self.slots.get(&worker).copied().unwrap_or(4) as usize;
                assert!(busy <= slots, "{worker:?} is oversubscribed");
            }
            Effect::Tell(worker, ToWorker::Revoke(lease)) => {
                let held = self.held.get_mut(&(worker, lease)).expect("revoked, so held");
                assert!(!held.revoked, "revoked twice");
                held.revoked = true;
            }
            Effect::Tell(_, told) => panic!("told {told:?}"),
            Effect::Dismiss(id) => {
                self.slots.remove(&id);
                self.held.retain(|(worker, _), _| *worker != id);
            }
            Effect::Publish(state) => {
                assert!(!self.ended.contains(&state.id), "shown after its end");
                if state.stage.is_completed() {
                    self.ended.insert(state.id);
                    let stopped = |held: &Held| held.task.operation != state.id || held.revoked;
                    // A revocation of what ended elsewhere comes right behind.
                    let running = self.held.values().filter(|held| !stopped(held)).count();
                    assert!(running <= 1);
                }
                self.known.insert(state.id, state);
            }
            Effect::Forget(id) => {
                assert!(self.ended.contains(&id), "forgotten before its end");
                assert!(self.known.remove(&id).is_some(), "forgotten twice");
            }
        }
    }

    /// What the core knows agrees with itself, and is within its bounds.
    fn check_core(&self) {
        let core = &self.core;
        let limits = core.limits;
        let (queued, executing, finished) = core.counts();
        assert!(queued + executing <= limits.unfinished && core.workers.len() <= limits.workers);
        assert!(finished <= limits.finished);
        assert!(core.finished_bytes <= limits.finished_bytes || finished == 1);
        assert!(core.idle_pools.len() <= limits::MAX_IDLE_POOLS);
        assert_eq!(core.by_id.len(), core.operations.len());
        assert_eq!(self.known.len(), core.operations.len());
        let waiting: usize = core.pools.values().map(|pool| pool.queue.len()).sum();
        assert_eq!(waiting, queued);
        let unfinished: usize = core.pools.values().map(|pool| pool.operations).sum();
        assert_eq!(unfinished, queued + executing);
        for (id, pool) in &core.pools {
            assert!(
                pool.queue.len() == 0 || pool.free.is_empty(),
                "a slot is idle, yet work waits"
            );
            assert!(pool.members > 0 || pool.queue.len() == 0 || pool.refuses_at.is_some());
            let members = core.workers.values().filter(|worker| worker.pools.contains(id));
            assert_eq!(members.count(), pool.members);
        }
        let valid = self.held.values().filter(|held| !held.revoked).count();
        assert_eq!(valid, executing);
    }

    fn nth_operation(&self, which: u8) -> Option<OperationId> {
        let count = self.known.len().max(1);
        self.known.keys().nth(usize::from(which) % count).copied()
    }

    fn nth_worker(&self, which: u8) -> Option<WorkerId> {
        let count = self.slots.len().max(1);
        self.slots.keys().nth(usize::from(which) % count).copied()
    }

    fn nth_held(&self, which: u8) -> Option<(WorkerId, Lease)> {
        let count = self.held.len().max(1);
        self.held.keys().nth(usize::from(which) % count).copied()
    }

    fn play(&mut self, step: Step) {
        match step {
            Step::Submit { key, priority, build, asks, mergeable } => {
                let requirement = platform(asks);
                // An action asks for the same each time.
                let submission = submission(key ^ (asks << 6), priority, build);
                self.submit(Submission { requirement, mergeable, ..submission });
            }
            Step::Cancel(which) => {
                if let Some(id) = self.nth_operation(which) {
                    self.core.cancel(self.now(), id, "test");
                }
            }
            Step::Forget(which) => {
                if let Some(id) = self.nth_operation(which) {
                    self.core.forget(self.now(), id);
                }
            }
            Step::Watched(which, watched) => {
                if let Some(id) = self.nth_operation(which) {
                    self.core.watched(self.now(), id, watched);
                }
            }
            Step::Join { slots, offers } => drop(self.join(slots, offers)),
            Step::Leave(which) => {
                if let Some(id) = self.nth_worker(which) {
                    self.leave(id);
                }
            }
            Step::Alive(which) => {
                if let Some(id) = self.nth_worker(which) {
                    self.hear(id, FromWorker::Alive);
                }
            }
            Step::Drain(which) => {
                if let Some(id) = self.nth_worker(which) {
                    self.hear(id, FromWorker::Draining);
                }
            }
            Step::Progress(which, progress) => {
                if let Some((worker, lease)) = self.nth_held(which) {
                    self.hear(worker, FromWorker::Progress(lease, progress));
                }
            }
            Step::Done(which, good) => {
                if let Some((worker, lease)) = self.nth_held(which) {
                    let outcome = if good { decided() } else { Outcome::Failed("bad".into()) };
                    self.done(worker, lease, outcome);
                }
            }
            Step::Wait(ms) => self.wait(Duration::from_millis(ms.into())),
        }
        self.settle();
    }

    /// Lets all workers live and finish what they have, for a while.
    fn finish(&mut self) {
        for _ in 0..200 {
            for (worker, lease) in self.held.keys().copied().collect::<Vec<_>>() {
                self.done(worker, lease, decided());
            }
            for worker in self.slots.keys().copied().collect::<Vec<_>>() {
                self.hear(worker, FromWorker::Alive);
            }
            self.wait(Duration::from_millis(500));
        }
    }

    fn end(&self, id: OperationId) -> Option<&End> {
        match &self.known.get(&id)?.stage {
            Stage::Completed { end, .. } => Some(end),
            _ => None,
        }
    }
}

proptest! {
    #[test]
    fn whatever_happens_the_promises_hold(steps in vec(step(), 1..200)) {
        let mut world = World::new(LIMITS);
        for step in steps {
            world.play(step);
        }
        world.finish();
        prop_assert_eq!(&world.accepted, &world.ended, "every operation ends");
        world.wait(FINISHED_KEPT_FOR);
        prop_assert!(world.core.operations.is_empty());
        prop_assert!(world.core.mergeable.is_empty());
    }

    /// One worker, so that what it takes next can be told by looking at everything that waits.
    #[test]
    fn the_order_is_priority_then_fairness_then_age(
        work in vec((-3..3i32, 0..5u8, 0..50_000u64), 1..60),
        slots in 1..5u32,
        ends in vec(any::<u8>(), 60),
    ) {
        let mut world = World::new(Limits::default());
        let busy = world.join(0, 0);
        let mut waiting = BTreeMap::new();
        for (key, (priority, build, later)) in work.into_iter().enumerate() {
            world.hear(busy, FromWorker::Alive);
            let id = world.submit(submission(key as u8, priority, build)).unwrap();
            waiting.insert(id, (priority, build, world.at));
            // So that there is something to wait for while the queue has no worker.
            world.at += Duration::from_millis(later / 60);
        }
        world.held.clear();
        let worker = world.join(slots, 0);
        let mut running: BTreeMap<OperationId, u8> = BTreeMap::new();
        let mut order = Vec::new();
        let mut taken = 0;
        for which in ends {
            let granted: BTreeMap<Lease, OperationId> = world
                .held
                .iter()
                .filter(|(_, held)| !running.contains_key(&held.task.operation))
                .map(|((_, lease), held)| (*lease, held.task.operation))
                .collect();
            for id in granted.into_values() {
                let count = |build: u8| running.values().filter(|other| **other == build).count();
                let urgent = waiting.iter().min_by_key(|(id, (priority, build, _))| {
                    (*priority, count(*build), **id)
                });
                let oldest = waiting.first_key_value().unwrap();
                let aged = taken % AGED_EVERY == AGED_EVERY - 1
                    && oldest.1.2 + PATIENCE <= world.at;
                let expected = if aged { *oldest.0 } else { *urgent.unwrap().0 };
                prop_assert_eq!(id, expected);
                running.insert(id, waiting.remove(&id).unwrap().1);
                order.push(id);
                taken += 1;
            }
            let Some(key) = world.nth_held(which) else { break };
            running.remove(&world.held[&key].task.operation);
            world.done(worker, key.1, decided());
        }
    }
}

#[test]
fn what_waits_long_is_taken_although_others_are_more_urgent() {
    let mut world = World::new(Limits::default());
    let worker = world.join(1, 0);
    let mut key = 0;
    for _ in 0..3 {
        key += 1;
        world.submit(submission(key, 0, 0));
    }
    let low = world.submit(submission(255, 50, 1)).unwrap();
    let mut taken = 0;
    while world.end(low).is_none() {
        key += 1;
        world.submit(submission(key, 0, 0));
        world.wait(Duration::from_secs(1));
        let (_, lease) = world.nth_held(0).unwrap();
        world.done(worker, lease, decided());
        taken += 1;
        assert!(taken < 100, "it starves");
    }
    assert!(taken as u64 >= PATIENCE.as_secs());
}

#[test]
fn an_action_that_costs_workers_is_refused_with_the_story() {
    let mut world = World::new(Limits::default());
    let id = world.submit(submission(1, 0, 0)).unwrap();
    for attempt in 1..=MAX_ATTEMPTS {
        let worker = world.join(1, 0);
        let held = world.held.values().next().expect("it was granted");
        assert_eq!(held.task.attempt as usize, attempt);
        world.leave(worker);
    }
    match world.end(id) {
        Some(End::Failed(Failure::Attempts(story))) => {
            assert_eq!(story.0.len(), MAX_ATTEMPTS);
            assert!(story.to_string().contains("attempt 2: worker w2 was lost"), "{story}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_worker_that_fails_rests_and_others_are_preferred() {
    let mut world = World::new(Limits::default());
    let bad = world.join(4, 0);
    let id = world.submit(submission(1, 0, 0)).unwrap();
    let (_, lease) = world.nth_held(0).unwrap();
    world.done(bad, lease, Outcome::Failed("disk is full".into()));
    assert!(world.held.is_empty(), "it rests");
    let good = world.join(1, 0);
    let (worker, lease) = world.nth_held(0).unwrap();
    assert_eq!(worker, good);
    world.done(worker, lease, decided());
    assert!(matches!(world.end(id), Some(End::Decided(_))));
}

#[test]
fn silence_of_all_is_ours_and_silence_of_one_is_its_own() {
    let mut world = World::new(Limits::default());
    let (first, second) = (world.join(1, 0), world.join(1, 0));
    // This process was stopped: nothing came, no tick either.
    world.at += Duration::from_secs(60);
    world.core.tick(world.now());
    world.settle();
    assert_eq!(world.slots.len(), 2);
    for _ in 0..2 * LOST_AFTER.as_secs() {
        world.wait(Duration::from_secs(1));
        world.hear(first, FromWorker::Alive);
    }
    assert!(world.slots.contains_key(&first) && !world.slots.contains_key(&second));
}

#[test]
fn load_is_kept_even() {
    let mut world = World::new(Limits::default());
    world.join(4, 0);
    world.join(2, 0);
    for key in 0..3 {
        world.submit(submission(key, 0, 0));
    }
    let on = |id| world.held.keys().filter(|(worker, _)| *worker == WorkerId(id)).count();
    assert_eq!((on(1), on(2)), (2, 1));
}

#[test]
fn joining_raises_the_priority() {
    let mut world = World::new(Limits::default());
    let first = world.submit(submission(1, 0, 0)).unwrap();
    let second = world.submit(submission(2, 7, 0)).unwrap();
    assert_eq!(world.submit(submission(2, -7, 1)), Some(second));
    assert_eq!(world.known[&second].priority, -7);
    world.join(1, 0);
    assert_eq!(world.held.values().next().unwrap().task.operation, second);
    assert!(world.end(first).is_none());
}

#[test]
fn unwatched_work_ends_unless_its_watcher_comes_back() {
    let mut world = World::new(Limits::default());
    let (gone, back) =
        (world.submit(submission(1, 0, 0)).unwrap(), world.submit(submission(2, 0, 0)).unwrap());
    let worker = world.join(2, 0);
    for id in [gone, back] {
        world.core.watched(world.now(), id, false);
    }
    for second in 0..UNWATCHED_GRACE.as_secs() + 1 {
        world.wait(Duration::from_secs(1));
        world.hear(worker, FromWorker::Alive);
        if second == 30 {
            world.core.watched(world.now(), back, true);
        }
    }
    assert!(matches!(world.end(gone), Some(End::Failed(Failure::Cancelled(_)))));
    assert!(world.end(back).is_none());
}
