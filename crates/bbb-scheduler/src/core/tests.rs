//! Scripts of events against what the core promises.

mod room;
mod takeover;
mod world;

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};
use world::{World, decided, platform, submission};

use super::{
    limits::{
        AGED_EVERY, FINISHED_KEPT_FOR, LOST_AFTER, MAX_ATTEMPTS, PATIENCE, RETURN_GRACE,
        UNWATCHED_GRACE,
    },
    *,
};
use crate::{
    Demand, End, Failure, FromWorker, InputPart, Outcome, Progress, Staged, Submission, WorkerOffer,
};

const LIMITS: Limits = Limits { unfinished: 40, finished: 10, finished_bytes: 20, workers: 5 };

/// One thing that happens. Numbers pick among what there is.
#[derive(Clone, Debug)]
enum Step {
    Submit { key: u8, priority: i32, build: u8, asks: u8, cpus: u8, mergeable: bool, named: bool },
    Resubmit(u8),
    FailOver,
    Cancel(u8),
    Forget(u8),
    Watched(u8, bool),
    Join { slots: u32, offers: u8, cpus: u8, prefetch: u32 },
    AnswerRecall(u8),
    Leave(u8),
    Kill(u8),
    Return(u8),
    DoneAway(u8, bool),
    GiveBack(u8),
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
        8 => (0..30u8, -2..3i32, 0..4u8, 0..4u8, 0..4u8, any::<bool>(), any::<bool>()).prop_map(
            |(key, priority, build, asks, cpus, mergeable, named)|
                Step::Submit { key, priority, build, asks, cpus, mergeable, named }
        ),
        4 => any::<u8>().prop_map(Step::Resubmit),
        1 => Just(Step::FailOver),
        1 => any::<u8>().prop_map(Step::Cancel),
        1 => any::<u8>().prop_map(Step::Forget),
        1 => (any::<u8>(), any::<bool>()).prop_map(|(which, watched)| Step::Watched(which, watched)),
        3 => (0..4u32, 0..4u8, 0..5u8, 0..3u32).prop_map(
            |(slots, offers, cpus, prefetch)| Step::Join { slots, offers, cpus, prefetch }
        ),
        2 => any::<u8>().prop_map(Step::AnswerRecall),
        1 => any::<u8>().prop_map(Step::Leave),
        1 => any::<u8>().prop_map(Step::Kill),
        3 => any::<u8>().prop_map(Step::Return),
        2 => (any::<u8>(), any::<bool>()).prop_map(|(which, good)| Step::DoneAway(which, good)),
        1 => any::<u8>().prop_map(Step::GiveBack),
        4 => any::<u8>().prop_map(Step::Alive),
        1 => any::<u8>().prop_map(Step::Drain),
        2 => (any::<u8>(), progress).prop_map(|(which, progress)| Step::Progress(which, progress)),
        8 => (any::<u8>(), prop::bool::weighted(0.8)).prop_map(|(which, good)| Step::Done(which, good)),
        4 => (0..3000u16).prop_map(Step::Wait),
    ]
}

/// Lets one thing happen.
fn play(world: &mut World, step: Step) {
    match step {
        Step::Submit { key, priority, build, asks, cpus, mergeable, named } => {
            let requirement = platform(asks);
            // An action asks for the same each time.
            let submission = submission(key ^ (asks << 6), priority, build);
            let demand = self::cpus(cpus);
            let inputs = [InputPart { key: (key % 5).into(), bytes: 1000 }].into();
            let submission = Submission { requirement, demand, mergeable, inputs, ..submission };
            match named {
                true => world.submit_known(submission),
                false => world.submit(submission),
            };
        }
        Step::Resubmit(which) => {
            // Also what has been heard of: an answer may be lost.
            let open = world.accepted.iter().filter(|(_, accepted)| !accepted.has_ended());
            let open: Vec<_> = open.map(|(id, _)| *id).collect();
            if let Some(id) = open.get(usize::from(which) % open.len().max(1)) {
                world.resubmit(*id);
            }
        }
        Step::FailOver => world.fail_over(),
        Step::Cancel(which) => {
            if let Some(id) = world.nth_operation(which) {
                world.core.cancel(world.now(), id, "test");
            }
        }
        Step::Forget(which) => {
            if let Some(id) = world.nth_operation(which) {
                world.core.forget(world.now(), id);
            }
        }
        Step::Watched(which, watched) => {
            if let Some(id) = world.nth_operation(which) {
                world.core.watched(world.now(), id, watched);
            }
        }
        Step::Join { slots, offers, cpus, prefetch } => {
            let offer = WorkerOffer {
                platform: platform(offers),
                capacity: self::cpus(cpus),
                prefetch,
                ..world.worker(slots)
            };
            world.join_as(offer);
        }
        Step::Return(which) => drop(world.return_worker(which.into())),
        Step::Wait(ms) => world.wait(Duration::from_millis(ms.into())),
        worker => play_worker(world, worker),
    }
    world.settle();
}

/// Lets one thing happen to a worker.
fn play_worker(world: &mut World, step: Step) {
    match step {
        Step::DoneAway(which, good) => {
            let tasks = world.away.iter_mut().flat_map(|peer| &mut peer.tasks);
            if let Some(carried) = tasks.filter(|task| task.ended.is_none()).nth(which.into()) {
                carried.ended = Some(outcome(good));
            }
        }
        Step::Leave(which) | Step::Kill(which) | Step::Alive(which) | Step::Drain(which) => {
            let Some(id) = world.nth_worker(which) else { return };
            match step {
                Step::Leave(_) => world.leave(id),
                Step::Kill(_) => world.kill(id),
                Step::Alive(_) => world.hear(id, FromWorker::Alive),
                _ => world.hear(id, FromWorker::Draining),
            }
        }
        Step::Progress(which, progress) => {
            let Some((worker, lease)) = world.nth_held(which) else { return };
            if !world.has_turn(worker, lease) {
                return;
            }
            let staged = Staged { needed_bytes: 1000, fetched_bytes: u64::from(which) * 4 };
            world.hear(worker, FromWorker::Staged(lease, staged));
            let carried = world.carried(worker, lease);
            carried.progress = carried.progress.max(progress);
            world.hear(worker, FromWorker::Progress(lease, progress));
        }
        Step::Done(which, good) => {
            if let Some((worker, lease)) = world.nth_held(which) {
                world.done(worker, lease, outcome(good));
            }
        }
        Step::GiveBack(which) => {
            if let Some((worker, lease)) = world.nth_held(which) {
                world.give_back(worker, lease);
            }
        }
        Step::AnswerRecall(which) => {
            let recalled: Vec<_> = (world.peers.iter())
                .flat_map(|(id, peer)| peer.tasks.iter().map(|carried| (*id, carried)))
                .filter(|(_, carried)| carried.recalled && carried.progress == Progress::Fetching)
                .map(|(id, carried)| (id, carried.lease))
                .collect();
            if let Some((worker, lease)) = recalled.get(usize::from(which) % recalled.len().max(1))
            {
                world.give_back(*worker, *lease);
            }
        }
        other => unreachable!("{other:?} is no worker's"),
    }
}

fn cpus(cpus: u8) -> Demand {
    Demand { millicpus: u64::from(cpus) * 1000, memory_bytes: 0 }
}

fn outcome(good: bool) -> Outcome {
    if good { decided() } else { Outcome::Failed("bad".into()) }
}

proptest! {
    #[test]
    fn whatever_happens_the_promises_hold(steps in vec(step(), 1..200)) {
        let mut world = World::new(LIMITS);
        for step in steps {
            play(&mut world, step);
        }
        world.finish();
        for (id, accepted) in &world.accepted {
            prop_assert!(accepted.has_ended(), "{id} has not ended: {accepted:?}");
        }
        world.wait(FINISHED_KEPT_FOR + UNWATCHED_GRACE);
        prop_assert!(world.core.operations.is_empty());
        prop_assert!(world.core.mergeable.is_empty() && world.core.decided.is_empty());
        prop_assert!(world.core.by_id.is_empty() && world.core.awaited.is_empty());
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
        let worker = world.join(slots, 0);
        let mut running: BTreeMap<OperationId, u8> = BTreeMap::new();
        let mut order = Vec::new();
        let mut taken = 0;
        for which in ends {
            for (_, id) in std::mem::take(&mut world.granted) {
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
            running.remove(&world.carried(worker, key.1).task.operation);
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
        let (_, lease) = world.nth_held(0).expect("it was granted");
        assert_eq!(world.carried(worker, lease).task.attempt as usize, attempt);
        world.kill(worker);
        world.wait(RETURN_GRACE);
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
    assert!(world.held().is_empty(), "it rests");
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
    assert_eq!(world.peers.len(), 2);
    for _ in 0..2 * LOST_AFTER.as_secs() {
        world.wait(Duration::from_secs(1));
        world.hear(first, FromWorker::Alive);
    }
    assert!(world.peers.contains_key(&first) && !world.peers.contains_key(&second));
}

#[test]
fn load_is_kept_even() {
    let mut world = World::new(Limits::default());
    world.join(4, 0);
    world.join(2, 0);
    for key in 0..3 {
        world.submit(submission(key, 0, 0));
    }
    let on = |id| world.peers[&WorkerId(id)].tasks.len();
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
    assert_eq!(world.granted[0].1, second);
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
