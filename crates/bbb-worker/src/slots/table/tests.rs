use std::time::SystemTime;

use bbb_digest::{Digest, Function};
use bbb_scheduler::{ActionKey, AttemptId, Submission};
use bytes::Bytes;

use super::*;

const MIB: u64 = 1 << 20;

/// A table, the time, and what it wants done.
struct Script {
    table: Table,
    now: Instant,
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

fn decided() -> Outcome {
    Outcome::Decided(Bytes::from_static(b"done"))
}

fn failed() -> Outcome {
    Outcome::Failed("no".into())
}

impl Script {
    fn new(slots: u32, prefetch: u32) -> Self {
        let capacity = Demand { millicpus: 4000, memory_bytes: 8 * MIB };
        let offer = WorkerOffer { prefetch, capacity, ..WorkerOffer::of("w", slots) };
        let mut table = Table::new(&offer);
        table.attached();
        Self { table, now: Instant::now() }
    }

    /// An order, and what comes of it.
    fn order(&mut self, order: ToWorker) -> Vec<Effect> {
        self.table.order(self.now, order);
        self.table.take_effects()
    }

    /// A grant; the execution that it started.
    fn run(&mut self, lease: u64, task: Task) -> RunId {
        let effects = self.order(ToWorker::Run(Lease(lease), Box::new(task)));
        match &effects[..] {
            [Effect::Start(id, _)] => *id,
            other => panic!("{other:?}"),
        }
    }

    fn ready(&mut self, id: RunId) -> Vec<Effect> {
        self.table.said(self.now, id, Said::Ready);
        self.table.take_effects()
    }

    fn progress(&mut self, id: RunId, progress: Progress) -> Vec<Effect> {
        self.table.said(self.now, id, Said::Progress(progress));
        self.table.take_effects()
    }

    fn end(&mut self, id: RunId, outcome: Outcome) -> Vec<Effect> {
        self.table.ended(self.now, id, outcome);
        self.table.take_effects()
    }

    fn lost(&mut self) {
        self.table.lost(self.now);
        assert_eq!(self.table.take_effects(), []);
    }

    fn after(&mut self, time: Duration) -> Vec<Effect> {
        self.now += time;
        self.table.tick(self.now);
        self.table.take_effects()
    }

    /// What is brought to the next scheduler: operations and states.
    fn brought(&self) -> Vec<(u128, HoldingState)> {
        let holdings = self.table.holdings();
        holdings.into_iter().map(|holding| (holding.task.operation.0, holding.state)).collect()
    }
}

fn done(lease: u64, outcome: Outcome) -> Vec<Effect> {
    vec![Effect::Report(FromWorker::Done(Lease(lease), outcome))]
}

fn returned(lease: u64) -> Vec<Effect> {
    vec![Effect::Report(FromWorker::Returned(Lease(lease)))]
}

#[test]
fn slots_are_given_in_the_order_in_which_tasks_came() {
    let mut script = Script::new(1, 2);
    let [one, two, three] = [1, 2, 3].map(|n| script.run(n, task(n.into())));
    assert_eq!(script.ready(three), [Effect::Turn(three)]);
    assert_eq!(script.ready(two), []);
    assert_eq!(script.ready(one), []);
    // The next command runs while outputs are stored.
    let effects = script.progress(three, Progress::Uploading);
    let told = FromWorker::Progress(Lease(3), Progress::Uploading);
    assert_eq!(effects, [Effect::Report(told), Effect::Turn(one)]);
    assert_eq!(script.end(three, decided()), done(3, decided()));
    let effects = script.end(one, failed());
    assert_eq!(effects[0], Effect::Turn(two));
    assert_eq!(effects[1..], done(1, failed()));
}

#[test]
fn commands_together_take_no_more_than_there_is_and_a_big_one_is_not_overtaken() {
    let mut script = Script::new(4, 4);
    let demanding = |n: u64, memory_bytes| {
        let mut task = task(n.into());
        task.submission.demand.memory_bytes = memory_bytes;
        task
    };
    let small = script.run(1, demanding(1, 2 * MIB));
    assert_eq!(script.ready(small), [Effect::Turn(small)]);
    let big = script.run(2, demanding(2, 7 * MIB));
    assert_eq!(script.ready(big), []);
    let next = script.run(3, demanding(3, MIB));
    assert_eq!(script.ready(next), []);
    let effects = script.end(small, failed());
    assert_eq!(effects[..2], [Effect::Turn(big), Effect::Turn(next)]);
    // More than there is at all runs alone rather than never.
    let huge = script.run(4, demanding(4, 100 * MIB));
    assert_eq!(script.ready(huge), []);
    script.end(big, failed());
    assert_eq!(script.end(next, failed())[0], Effect::Turn(huge));
}

#[test]
fn a_recall_counts_until_the_turn_has_come() {
    let mut script = Script::new(1, 1);
    let (one, two) = (script.run(1, task(1)), script.run(2, task(2)));
    script.ready(one);
    assert_eq!(script.order(ToWorker::Recall(Lease(1))), []);
    assert_eq!(script.order(ToWorker::Recall(Lease(2))), [Effect::Stop(two)]);
    // Too late to be ready.
    assert_eq!(script.ready(two), []);
    assert_eq!(script.end(two, failed()), returned(2));
    assert_eq!(script.order(ToWorker::Recall(Lease(2))), []);
    script.progress(one, Progress::Running);
    assert_eq!(script.end(one, decided()), done(1, decided()));
}

#[test]
fn what_runs_is_brought_to_the_next_scheduler_and_goes_on() {
    let mut script = Script::new(2, 0);
    let (one, two) = (script.run(1, task(1)), script.run(2, task(2)));
    script.ready(one);
    script.lost();
    script.progress(one, Progress::Running);
    let mut brought = script.brought();
    brought.sort_by_key(|(operation, _)| *operation);
    let held = |progress| HoldingState::Held(progress);
    assert_eq!(brought, [(1, held(Progress::Running)), (2, held(Progress::Fetching))]);
    script.table.attached();
    let kept = script.order(ToWorker::Keep(Lease(10), OperationId(1)));
    let told = FromWorker::Progress(Lease(10), Progress::Running);
    assert_eq!(kept, [Effect::Report(told)]);
    assert_eq!(script.order(ToWorker::Abandon(OperationId(2))), [Effect::Stop(two)]);
    assert_eq!(script.end(two, failed()), []);
    // The old leases mean nothing any more.
    assert_eq!(script.order(ToWorker::Revoke(Lease(1))), []);
    assert_eq!(script.end(one, decided()), done(10, decided()));
}

#[test]
fn what_ended_unheard_is_brought_until_a_scheduler_knows_it() {
    let mut script = Script::new(3, 0);
    let [one, two, three] = [1, 2, 3].map(|n| script.run(n, task(n.into())));
    // One is told a moment before the end of the scheduler, the others to nobody.
    script.end(one, decided());
    script.lost();
    assert_eq!(script.end(two, decided()), []);
    assert_eq!(script.end(three, failed()), []);
    assert_eq!(script.brought().len(), 3);
    assert!(script.brought().contains(&(3, HoldingState::Ended(failed()))));
    script.table.attached();
    script.order(ToWorker::Abandon(OperationId(1)));
    script.order(ToWorker::Abandon(OperationId(3)));
    let kept = script.order(ToWorker::Keep(Lease(10), OperationId(2)));
    assert_eq!(kept, done(10, decided()));
    assert_eq!(script.brought(), [(2, HoldingState::Ended(decided()))]);
    script.after(Duration::from_secs(11));
    assert_eq!(script.brought(), []);
}

#[test]
fn what_no_scheduler_claims_is_stopped_after_a_minute_and_forgotten_after_two() {
    let mut script = Script::new(2, 0);
    let (one, two) = (script.run(1, task(1)), script.run(2, task(2)));
    script.lost();
    script.end(one, decided());
    assert_eq!(script.after(ORPHANED_AFTER - Duration::from_secs(1)), []);
    assert_eq!(script.after(Duration::from_secs(1)), [Effect::Stop(two)]);
    assert_eq!(script.brought(), [(1, HoldingState::Ended(decided()))]);
    script.table.attached();
    // It cannot be had any more, though some of it may still live.
    assert_eq!(script.order(ToWorker::Keep(Lease(9), OperationId(2))), returned(9));
    assert_eq!(script.end(two, failed()), []);
    script.after(Duration::from_secs(61));
    assert_eq!(script.brought(), []);
}

#[test]
fn a_task_that_comes_again_is_taken_up_and_not_run_twice() {
    let mut script = Script::new(1, 0);
    let one = script.run(1, task(1));
    script.lost();
    script.table.attached();
    assert_eq!(script.order(ToWorker::Run(Lease(5), Box::new(task(1)))), []);
    // What is told of the holding no longer means it.
    assert_eq!(script.order(ToWorker::Abandon(OperationId(1))), []);
    assert_eq!(script.end(one, decided()), done(5, decided()));
}

#[test]
fn more_than_there_are_places_for_goes_back_at_once() {
    let mut script = Script::new(1, 1);
    script.run(1, task(1));
    script.run(2, task(2));
    let third = script.order(ToWorker::Run(Lease(3), Box::new(task(3))));
    assert_eq!(third, returned(3));
}

#[test]
fn a_revoked_task_keeps_its_slot_until_nothing_is_left_of_it() {
    let mut script = Script::new(1, 1);
    let (one, two) = (script.run(1, task(1)), script.run(2, task(2)));
    script.ready(one);
    assert_eq!(script.ready(two), []);
    assert_eq!(script.order(ToWorker::Revoke(Lease(1))), [Effect::Stop(one)]);
    assert_eq!(script.order(ToWorker::Revoke(Lease(1))), []);
    let effects = script.end(one, failed());
    assert_eq!(effects[0], Effect::Turn(two));
    assert_eq!(effects[1..], done(1, failed()));
    assert_eq!(script.brought(), []);
}

#[test]
fn a_worker_that_leaves_gives_back_what_has_not_begun_and_in_the_end_all() {
    let mut script = Script::new(1, 1);
    let (one, two) = (script.run(1, task(1)), script.run(2, task(2)));
    script.ready(one);
    script.table.drain();
    let effects = script.table.take_effects();
    assert_eq!(effects, [Effect::Report(FromWorker::Draining), Effect::Stop(two)]);
    assert_eq!(script.end(two, failed()), returned(2));
    assert_eq!(script.order(ToWorker::Run(Lease(3), Box::new(task(3)))), returned(3));
    assert!(!script.table.is_drained());
    script.table.cut();
    assert_eq!(script.table.take_effects(), [Effect::Stop(one)]);
    assert_eq!(script.end(one, failed()), returned(1));
    assert!(script.table.is_drained());
}

#[test]
fn a_worker_that_leaves_without_a_scheduler_stays_until_it_could_tell() {
    let mut script = Script::new(1, 0);
    let one = script.run(1, task(1));
    script.ready(one);
    script.lost();
    script.table.drain();
    assert_eq!(script.end(one, decided()), []);
    assert!(!script.table.is_drained());
    script.table.attached();
    assert_eq!(script.table.take_effects(), [Effect::Report(FromWorker::Draining)]);
    script.order(ToWorker::Abandon(OperationId(1)));
    assert!(script.table.is_drained());
}

#[test]
fn a_task_that_waits_too_long_for_its_turn_goes_back() {
    let mut script = Script::new(1, 1);
    let (one, two) = (script.run(1, task(1)), script.run(2, task(2)));
    script.ready(one);
    script.ready(two);
    assert_eq!(script.after(LONGEST_WAIT), [Effect::Stop(two)]);
    assert_eq!(script.end(two, failed()), returned(2));
}

#[test]
fn what_staging_took_is_told_once_to_whoever_claims_the_task() {
    let mut script = Script::new(1, 0);
    let one = script.run(1, task(1));
    script.lost();
    let staged = Staged { needed_bytes: 7, fetched_bytes: 3 };
    script.table.said(script.now, one, Said::Staged(staged));
    script.table.attached();
    let kept = script.order(ToWorker::Keep(Lease(2), OperationId(1)));
    assert_eq!(kept, [Effect::Report(FromWorker::Staged(Lease(2), staged))]);
}

#[test]
fn outcomes_are_kept_within_bounds() {
    let mut ended = Ended::default();
    let now = Instant::now();
    let outcome = Outcome::Decided(vec![0; 3 << 20].into());
    for operation in 0..3 {
        ended.untold(now, task(operation), outcome.clone());
        assert_eq!(ended.holdings().count(), 1);
    }
    for operation in 0..5000 {
        ended.untold(now, task(operation), failed());
    }
    assert_eq!(ended.holdings().count(), 1024);
}
