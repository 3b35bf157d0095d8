//! What workers have room for: slots, places beyond them, and what tasks demand.

use super::super::{
    limits::{MAX_RECALLS, PATIENCE},
    *,
};
use super::world::{World, decided, submission};
use crate::{
    Demand, End, Failure, FromWorker, InputPart, Progress, Staged, Submission, WorkerOffer,
};

fn cpus(millicpus: u64) -> Demand {
    Demand { millicpus, memory_bytes: 0 }
}

fn worker(world: &mut World, slots: u32, prefetch: u32) -> WorkerId {
    let offer = world.worker(slots);
    world.join_as(WorkerOffer { prefetch, ..offer })
}

fn sized(world: &mut World, slots: u32, millicpus: u64) -> WorkerId {
    let offer = world.worker(slots);
    world.join_as(WorkerOffer { capacity: cpus(millicpus), ..offer })
}

fn first_of(world: &World, worker: WorkerId) -> Lease {
    world.peers[&worker].tasks[0].lease
}

#[test]
fn what_waits_is_fetched_while_slots_are_busy() {
    let mut world = World::new(Limits::default());
    let (one, two) = (worker(&mut world, 1, 1), worker(&mut world, 1, 1));
    for key in 0..6 {
        world.submit(submission(key, 0, 0));
    }
    let order: Vec<_> = world.granted.iter().map(|(worker, _)| *worker).collect();
    assert_eq!(order, [one, two, one, two], "slots come first, and the rest waits");
    assert_eq!(world.core.counts(), (2, 4, 0));
    let snapshot = world.core.snapshot(world.now());
    assert!(snapshot.workers.iter().all(|worker| worker.busy == 1));
    // It may wait for as long as what is before it takes.
    let second = world.peers[&one].tasks[1].task.operation;
    let first = first_of(&world, one);
    world.hear(one, FromWorker::Progress(first, Progress::Running));
    for _ in 0..50 {
        world.wait(Duration::from_secs(1));
        world.hear(one, FromWorker::Alive);
        world.hear(two, FromWorker::Alive);
    }
    world.done(one, first, decided());
    let lease = first_of(&world, one);
    assert_eq!(world.carried(one, lease).task.operation, second);
    assert_eq!(world.peers[&one].tasks.len(), 2, "its place is taken");
}

/// Two workers, of which the second has a free slot while something waits at the first.
fn uneven() -> (World, WorkerId, WorkerId) {
    let mut world = World::new(Limits::default());
    let (one, two) = (worker(&mut world, 1, 1), worker(&mut world, 1, 1));
    for key in 0..3 {
        world.submit(submission(key, 0, 0));
    }
    let lease = first_of(&world, two);
    world.done(two, lease, decided());
    (world, one, two)
}

#[test]
fn what_waits_at_a_busy_worker_is_called_back_for_a_free_slot() {
    let (mut world, one, two) = uneven();
    let waits = world.peers[&one].tasks[1].clone();
    assert!(waits.recalled && !world.peers[&one].tasks[0].recalled);
    world.give_back(one, waits.lease);
    assert_eq!(world.peers[&two].tasks[0].task.operation, waits.task.operation);
    assert_eq!(world.peers[&two].tasks[0].task.attempt, 1, "that is no attempt");
    assert_eq!(world.granted.len(), 4);
}

#[test]
fn what_has_begun_stays_where_it_is() {
    let (mut world, one, two) = uneven();
    let (first, second) = (world.peers[&one].tasks[0].lease, world.peers[&one].tasks[1].lease);
    // Both cross the recall on their way.
    world.done(one, first, decided());
    world.hear(one, FromWorker::Progress(second, Progress::Running));
    world.done(one, second, decided());
    assert!(world.peers[&two].tasks.is_empty());
    assert_eq!((world.granted.len(), world.core.counts().2), (3, 3));
    // New work goes to the free ones as ever.
    world.submit(submission(9, 0, 0));
    assert_eq!(world.granted.len(), 4);
}

#[test]
fn recalls_are_bounded() {
    let (mut world, one, two) = uneven();
    for key in 100..100 + MAX_RECALLS {
        let waits = world.peers[&one].tasks[1].clone();
        assert!(waits.recalled);
        // Something else takes the free slot before it is back, so that it waits again, and is called again.
        world.submit(submission(key, -1, 0));
        world.give_back(one, waits.lease);
        let lease = first_of(&world, two);
        world.done(two, lease, decided());
    }
    assert!(!world.peers[&one].tasks[1].recalled, "now it stays");
}

#[test]
fn a_worker_takes_no_more_than_it_has() {
    let mut world = World::new(Limits::default());
    let one = sized(&mut world, 4, 4000);
    for (key, demand) in [(0, 3000), (1, 2000), (2, 1000), (3, 0)] {
        world.submit(Submission { demand: cpus(demand), ..submission(key, 0, 0) });
    }
    let taken: Vec<_> =
        world.peers[&one].tasks.iter().map(|task| task.task.submission.demand.millicpus).collect();
    assert_eq!(taken, [3000, 1000, 0]);
    let lease = first_of(&world, one);
    world.done(one, lease, decided());
    assert_eq!(world.peers[&one].tasks.len(), 3);
}

#[test]
fn more_than_anyone_has_is_refused_with_the_reason() {
    let mut world = World::new(Limits::default());
    let one = sized(&mut world, 4, 4000);
    let id = world.submit(Submission { demand: cpus(5000), ..submission(1, 0, 0) }).unwrap();
    for _ in 0..10 {
        world.wait(Duration::from_secs(1));
        world.hear(one, FromWorker::Alive);
    }
    match world.end(id) {
        Some(End::Failed(Failure::Unsatisfiable(why))) => {
            assert!(why.contains("it has cpus=4 where cpus=5 is asked for"), "{why}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_big_does_not_starve_behind_what_is_small() {
    for prefetch in [0, 1] {
        let mut world = World::new(Limits::default());
        let offer = WorkerOffer { prefetch, capacity: cpus(4000), ..WorkerOffer::of("w", 4) };
        let one = world.join_as(offer);
        let mut key = 0;
        let mut small = |world: &mut World| {
            key += 1;
            world.submit(Submission { demand: cpus(1000), ..submission(key, 0, 0) });
        };
        (0..5).for_each(|_| small(&mut world));
        let big = Submission { demand: cpus(4000), ..submission(255, 0, 1) };
        let big = world.submit(big).unwrap();
        while !world.granted.iter().any(|(_, id)| *id == big) {
            world.wait(Duration::from_millis(500));
            world.hear(one, FromWorker::Alive);
            small(&mut world);
            if !world.peers[&one].tasks.is_empty() {
                let lease = first_of(&world, one);
                world.done(one, lease, decided());
            }
            assert!(world.at < PATIENCE + Duration::from_secs(10), "it starves");
        }
        // The rest goes on as before.
        let lease = first_of(&world, one);
        world.done(one, lease, decided());
        assert!(world.peers[&one].tasks.len() >= 4);
    }
}

#[test]
fn a_worker_is_free_again_when_nobody_needs_it_any_more() {
    let mut world = World::new(Limits::default());
    let one = sized(&mut world, 2, 2000);
    let big = Submission { demand: cpus(2000), ..submission(255, 0, 1) };
    world.submit(Submission { demand: cpus(1000), ..submission(0, 0, 0) });
    let big = world.submit(big).unwrap();
    world.at += PATIENCE;
    world.hear(one, FromWorker::Alive);
    for key in 1..6 {
        world.submit(Submission { demand: cpus(1000), ..submission(key, 0, 0) });
        let lease = world.peers[&one].tasks.last().unwrap().lease;
        if key > 1 && world.peers[&one].tasks.len() > 1 {
            world.done(one, lease, decided());
        }
    }
    assert!(world.core.pools.values().any(|pool| pool.reserved.is_some()));
    assert_eq!(world.peers[&one].tasks.len(), 1, "it is kept free");
    world.core.cancel(world.now(), big, "test");
    world.settle();
    world.wait(Duration::from_millis(1));
    assert_eq!(world.peers[&one].tasks.len(), 2);
}

#[test]
fn a_snapshot_tells_what_an_autoscaler_needs() {
    let mut world = World::new(Limits::default());
    let one = sized(&mut world, 1, 1000);
    for (key, demand) in [(0, 1000), (1, 1000), (2, 0), (3, 8000)] {
        world.submit(Submission { demand: cpus(demand), ..submission(key, 0, 0) });
    }
    world.wait(Duration::from_secs(2));
    let snapshot = world.core.snapshot(world.now());
    let pools: Vec<_> = (snapshot.pools.iter())
        .map(|pool| (pool.demand.millicpus, pool.queued, pool.executing, pool.slots))
        .collect();
    assert_eq!(pools, [(1000, 1, 1, 1), (0, 1, 0, 1), (8000, 1, 0, 0)]);
    assert!(snapshot.pools.iter().all(|pool| pool.oldest_wait == Duration::from_secs(2)));
    assert_eq!((snapshot.granted, snapshot.waited), (1, Duration::ZERO));
    let lease = first_of(&world, one);
    world.done(one, lease, decided());
    let snapshot = world.core.snapshot(world.now());
    assert_eq!((snapshot.granted, snapshot.waited), (2, Duration::from_secs(2)));
}

/// Work with one part of so many bytes.
fn with_input(key: u8, part: u64) -> Submission {
    Submission { inputs: [InputPart { key: part, bytes: 1000 }].into(), ..submission(key, 0, 0) }
}

/// The worker that was given the last task, which is done at once, after so many bytes were fetched.
fn run_there(world: &mut World, fetched_bytes: u64) -> WorkerId {
    let (worker, _) = *world.granted.last().unwrap();
    let lease = first_of(world, worker);
    world.hear(worker, FromWorker::Staged(lease, Staged { needed_bytes: 1000, fetched_bytes }));
    world.done(worker, lease, decided());
    worker
}

#[test]
fn a_free_worker_that_has_the_inputs_is_preferred() {
    let mut world = World::new(Limits::default());
    let (one, two) = (worker(&mut world, 4, 0), worker(&mut world, 4, 0));
    world.submit(submission(0, 0, 0));
    world.submit(with_input(1, 7));
    assert_eq!(run_there(&mut world, 1000), two);
    let lease = first_of(&world, one);
    world.done(one, lease, decided());
    // Both are free, and without inputs the first is taken.
    for key in 2..5 {
        world.submit(with_input(key, 7));
        assert_eq!(run_there(&mut world, 0), two);
        world.submit(with_input(key + 10, 8));
        assert_eq!(run_there(&mut world, 1000), one);
    }
    // A worker that is much busier than another is not preferred.
    for key in 20..22 {
        world.submit(with_input(key, 7));
        assert_eq!(world.granted.last().unwrap().0, two);
    }
    world.submit(with_input(22, 7));
    assert_eq!(world.granted.last().unwrap().0, one);
}

#[test]
fn a_worker_that_fetches_what_it_was_believed_to_have_is_believed_no_more() {
    let mut world = World::new(Limits::default());
    let (one, two) = (worker(&mut world, 4, 0), worker(&mut world, 4, 0));
    world.submit(submission(0, 0, 0));
    for part in [7, 8] {
        world.submit(with_input(part as u8, part));
        assert_eq!(run_there(&mut world, 1000), two);
    }
    let lease = first_of(&world, one);
    world.done(one, lease, decided());
    world.submit(with_input(20, 7));
    assert_eq!(run_there(&mut world, 900), two, "it had to fetch nearly all of it again");
    world.submit(with_input(21, 8));
    assert_eq!(world.granted.last().unwrap().0, one, "then the other part may be gone as well");
}
