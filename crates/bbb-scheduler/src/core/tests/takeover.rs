//! What runs is taken up and not run twice.

use std::collections::BTreeSet;

use proptest::{collection::vec, prelude::*};

use super::super::{
    limits::{HANDED_IN_GRACE, LOST_AFTER, MAX_NAMES, RETURN_GRACE, UNWATCHED_GRACE},
    *,
};
use super::world::{World, decided, submission};
use crate::{FromWorker, Known, Outcome, Progress, Stage, Submission, WorkerOffer};

proptest! {
    /// Another scheduler begins; workers and clients come to it in any order, all of them in time.
    #[test]
    fn what_was_reported_in_time_is_not_run_twice(
        work in vec((0..12u8, -1..2i32, 0..3u8, any::<bool>()), 1..20),
        slots in vec((1..4u32, 0..3u32), 1..4),
        ends in vec((any::<u8>(), any::<bool>()), 0..6),
        order in vec((any::<u8>(), 0..80u64), 60),
    ) {
        let mut world = World::new(Limits::default());
        for (slots, prefetch) in slots {
            let offer = WorkerOffer { prefetch, ..world.worker(slots) };
            world.join_as(offer);
        }
        for (key, priority, build, mergeable) in work {
            world.submit_known(Submission { mergeable, ..submission(key, priority, build) });
        }
        world.fail_over();
        world.granted.clear();
        let held: BTreeSet<_> = (world.accepted.iter())
            .filter(|(_, accepted)| matches!(accepted.stage(), Some(Stage::Executing { .. })))
            .map(|(id, _)| *id)
            .collect();
        let mut order = order.into_iter();
        for (which, good) in ends {
            let tasks = world.away.iter_mut().flat_map(|peer| &mut peer.tasks);
            if let Some(carried) = tasks.filter(|task| task.ended.is_none()).nth(which.into()) {
                // A failure is a reason to try again.
                carried.ended = good.then(decided);
            }
        }
        loop {
            let missing = world.to_hand_in();
            let (workers, count) = (world.away.len(), world.away.len() + missing.len());
            if count == 0 {
                break;
            }
            let (which, later) = order.next().unwrap_or((0, 0));
            match usize::from(which) % count {
                which if which < workers => drop(world.return_worker(which)),
                which => world.resubmit(missing[which - workers]),
            }
            world.wait(Duration::from_millis(later));
        }
        world.finish();
        let mut granted = BTreeSet::new();
        for (_, id) in &world.granted {
            prop_assert!(!held.contains(id), "{} is run twice", id);
            prop_assert!(granted.insert(*id), "{} is run twice", id);
        }
        prop_assert!(world.accepted.values().all(|accepted| accepted.has_ended()));
    }
}

fn named(id: u128, held_by: Option<&str>, submission: Submission) -> Submission {
    let known = Known {
        id: OperationId(id),
        queued_at: SystemTime::UNIX_EPOCH,
        held_by: held_by.map(Arc::from),
        attempts: Vec::new(),
    };
    Submission { known: Some(Box::new(known)), ..submission }
}

#[test]
fn handing_in_twice_is_once() {
    let mut world = World::new(Limits::default());
    let id = world.submit_known(submission(1, 0, 0)).unwrap();
    world.resubmit(id);
    let unshared = Submission { mergeable: false, ..submission(1, 0, 0) };
    let other = world.submit_known(unshared).unwrap();
    world.resubmit(other);
    assert_eq!(world.core.counts(), (2, 0, 0));
}

#[test]
fn equal_work_has_one_operation_and_all_names() {
    let mut world = World::new(Limits::default());
    let long = Submission { timeout: Duration::from_secs(600), ..submission(1, 0, 0) };
    let ids: Vec<_> =
        (0..2 * MAX_NAMES).map(|_| world.submit_known(long.clone()).unwrap()).collect();
    assert_eq!(world.core.counts(), (1, 0, 0));
    assert_eq!(world.known.len(), MAX_NAMES, "later ones are told another name");
    // One that loses interest ends nothing.
    world.core.watched(world.now(), ids[0], false);
    world.core.forget(world.now(), ids[1]);
    let worker = world.join(1, 0);
    for _ in 0..2 * UNWATCHED_GRACE.as_secs() {
        world.hear(worker, FromWorker::Alive);
        world.wait(Duration::from_secs(1));
    }
    let (_, lease) = world.nth_held(0).unwrap();
    world.done(worker, lease, decided());
    assert_eq!(world.granted.len(), 1);
    for id in ids {
        assert!(world.end(id).is_some(), "each sees the end");
    }
    assert_eq!(world.known.len(), MAX_NAMES - 1, "one was forgotten");
}

#[test]
fn a_worker_whose_connection_broke_comes_back_with_its_task() {
    let mut world = World::new(Limits::default());
    let id = world.submit(submission(1, 0, 0)).unwrap();
    let worker = world.join(1, 0);
    let (_, lease) = world.nth_held(0).unwrap();
    world.carried(worker, lease).progress = Progress::Running;
    world.hear(worker, FromWorker::Progress(lease, Progress::Running));
    let shown = Arc::clone(&world.known[&id]);
    world.join(4, 0);
    world.leave(worker);
    world.wait(RETURN_GRACE / 2);
    assert_eq!(world.known[&id], shown, "nobody need see that");
    let worker = world.return_worker(0).unwrap();
    world.wait(2 * RETURN_GRACE - Duration::from_secs(1));
    let (_, lease) = world.nth_held(0).unwrap();
    world.done(worker, lease, decided());
    assert!(world.end(id).is_some());
    assert_eq!(world.granted.len(), 1);
}

#[test]
fn a_worker_that_does_not_come_back_in_time_has_lost_its_task() {
    let mut world = World::new(Limits::default());
    let id = world.submit(submission(1, 0, 0)).unwrap();
    let worker = world.join(1, 0);
    let other = world.join(1, 0);
    world.leave(worker);
    world.wait(RETURN_GRACE);
    assert_eq!(world.granted, [(worker, id), (other, id)]);
    let (_, lease) = world.nth_held(0).unwrap();
    assert_eq!(world.carried(other, lease).task.attempt, 2);
    let late = world.return_worker(0).unwrap();
    assert!(world.peers[&late].tasks.is_empty(), "it is told to stop");
    // What has ended meanwhile counts, whoever did it, and stops the other.
    world.away = vec![world.peers[&other].clone()];
    world.away[0].offer.name = "third".into();
    world.away[0].tasks[0].ended = Some(decided());
    world.away[0].tasks[0].lease = Lease(0);
    world.return_worker(0);
    assert!(world.end(id).is_some());
    assert!(world.carried(other, lease).revoked);
}

#[test]
fn a_worker_that_comes_back_without_its_task_has_lost_it() {
    let mut world = World::new(Limits::default());
    let id = world.submit(submission(1, 0, 0)).unwrap();
    let worker = world.join(1, 0);
    // It began anew, before its old connection was found to be broken.
    let mut anew = world.peers[&worker].clone();
    anew.tasks.clear();
    let anew = world.attach(anew);
    assert!(!world.peers.contains_key(&worker));
    assert_eq!(world.granted, [(worker, id), (anew, id)]);
    let (_, lease) = world.nth_held(0).unwrap();
    assert_eq!(world.carried(anew, lease).task.attempt, 2);
}

#[test]
fn another_scheduler_takes_up_what_runs() {
    let mut world = World::new(Limits::default());
    let (runs, ended, waits) = (
        world.submit_known(submission(1, 0, 0)).unwrap(),
        world.submit_known(submission(2, 0, 0)).unwrap(),
        world.submit_known(submission(3, 0, 0)).unwrap(),
    );
    let joined = world.submit_known(submission(2, 0, 1)).unwrap();
    world.join(2, 0);
    world.granted.clear();
    world.fail_over();
    world.away[0].tasks[1].ended = Some(decided());
    // One is handed in before the worker comes, the others after.
    world.resubmit(runs);
    assert!(matches!(world.known[&runs].stage, Stage::Executing { .. }));
    world.wait(HANDED_IN_GRACE / 2);
    let worker = world.return_worker(0).unwrap();
    for id in [ended, joined, waits] {
        world.resubmit(id);
    }
    assert_eq!(world.granted, [(worker, waits)], "nothing else is run again");
    assert!(world.known[&ended].stage.is_completed());
    world.finish();
    assert!([runs, ended, joined, waits].iter().all(|id| world.end(*id).is_some()));
}

#[test]
fn a_worker_that_was_not_heard_may_still_bring_what_waits() {
    let mut world = World::new(Limits::default());
    let id = world.submit(submission(1, 0, 0)).unwrap();
    let worker = world.join(1, 0);
    world.wait(LOST_AFTER);
    assert!(world.peers.is_empty());
    assert!(matches!(world.known[&id].stage, Stage::Queued(_)));
    let again = world.return_worker(0).unwrap();
    assert_eq!(world.granted, [(worker, id)], "it was kept");
    assert_eq!(world.peers[&again].tasks.len(), 1);
}

#[test]
fn age_and_attempts_count_on() {
    let mut world = World::new(Limits::default());
    world.at = Duration::from_secs(100);
    let tried = Known {
        id: OperationId(77),
        queued_at: SystemTime::UNIX_EPOCH,
        held_by: Some("gone".into()),
        attempts: vec!["lost".into(); 9],
    };
    let submission = Submission { known: Some(Box::new(tried)), ..submission(1, 0, 0) };
    world.core.submit(world.now(), OperationId(77), submission).unwrap();
    world.settle();
    let worker = world.join(1, 0);
    assert!(world.granted.is_empty(), "the worker that has it may come");
    world.wait(HANDED_IN_GRACE - Duration::from_millis(1));
    world.hear(worker, FromWorker::Alive);
    assert!(world.granted.is_empty());
    world.wait(Duration::from_millis(1));
    let (_, lease) = world.nth_held(0).unwrap();
    assert_eq!(world.carried(worker, lease).task.queued_at, SystemTime::UNIX_EPOCH);
    assert_eq!(world.carried(worker, lease).task.attempt, 4);
    world.done(worker, lease, Outcome::Failed("bad".into()));
    assert!(world.known[&OperationId(77)].stage.is_completed(), "no further attempt is made");
}

#[test]
fn a_worker_that_is_here_and_did_not_bring_it_is_not_waited_for() {
    let mut world = World::new(Limits::default());
    let worker = world.join(1, 0);
    let submission = named(77, Some("w1"), submission(1, 0, 0));
    world.core.submit(world.now(), OperationId(77), submission).unwrap();
    world.settle();
    assert_eq!(world.granted, [(worker, OperationId(77))]);
}

#[test]
fn what_is_given_back_is_no_attempt() {
    let mut world = World::new(Limits::default());
    world.submit(submission(1, 0, 0)).unwrap();
    let worker = world.join(1, 0);
    world.hear(worker, FromWorker::Draining);
    let other = world.join(1, 0);
    let (_, lease) = world.nth_held(0).unwrap();
    world.give_back(worker, lease);
    let (holder, lease) = world.nth_held(0).unwrap();
    assert_eq!(holder, other);
    assert_eq!(world.carried(other, lease).task.attempt, 1);
}
