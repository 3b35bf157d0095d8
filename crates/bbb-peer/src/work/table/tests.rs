use bbb_digest::{Digest, Function, InstanceName};
use bbb_scheduler::{End, Progress};

use super::*;

const A: OperationId = OperationId(0xa);
const B: OperationId = OperationId(0xb);

fn submission(name: &str) -> Submission {
    let action = Digest::of(Function::Sha256, name.as_bytes());
    Submission::of(ActionKey { instance: InstanceName::default(), action })
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn table() -> Table {
    Table::new(TableLimits::default())
}

/// A table with a stream to a scheduler, that has accepted `a` and said so.
fn accepted() -> Table {
    let mut table = table();
    table.connected(at(0));
    assert_eq!(table.accept(SystemTime::UNIX_EPOCH, A, submission("a")), Ok(A));
    assert_eq!(said(&mut table), ["submit a"]);
    table.take_effects();
    table
}

/// All that is to be said, in words.
fn said(table: &mut Table) -> Vec<String> {
    let next = || table.next_message(|name| name != "gone");
    std::iter::from_fn(next).map(|message| words(&message)).collect()
}

fn words(message: &ToScheduler) -> String {
    match message {
        ToScheduler::Alive => "alive".into(),
        ToScheduler::Submit(submission) => {
            let known = submission.known.as_ref().unwrap();
            let held = known.held_by.as_ref().map(|worker| format!(" held by {worker}"));
            let story = known.attempts.iter().map(|attempt| format!(", {attempt}"));
            let id = known.id.0;
            format!("submit {id:x}{}{}", held.unwrap_or_default(), story.collect::<String>())
        }
        ToScheduler::Watch(id) => format!("watch {:x}", id.0),
        ToScheduler::Unwatch(id) => format!("unwatch {:x}", id.0),
        ToScheduler::Cancel(id) => format!("cancel {:x}", id.0),
        ToScheduler::Forget(id) => format!("forget {:x}", id.0),
    }
}

fn state(id: OperationId, stage: Stage) -> Arc<OperationState> {
    let key = Arc::new(submission("a").key);
    let queued_at = SystemTime::UNIX_EPOCH;
    Arc::new(OperationState { id, key, invocation: "".into(), priority: 0, queued_at, stage })
}

fn executing(id: OperationId, worker: &str, attempt: u32) -> Arc<OperationState> {
    let since = SystemTime::UNIX_EPOCH;
    let progress = Progress::Running;
    state(
        id,
        Stage::Executing { worker: worker.into(), progress, attempt, since, attempt_id: None },
    )
}

fn ended(id: OperationId, outcome: &'static str) -> Arc<OperationState> {
    let end = End::Decided(outcome.into());
    state(id, Stage::Completed { at: SystemTime::UNIX_EPOCH, end })
}

fn tell(table: &mut Table, seconds: u64, id: OperationId, state: &Arc<OperationState>) {
    table.heard(at(seconds), FromScheduler::State(id, Arc::clone(state)));
}

#[test]
fn what_has_not_ended_is_handed_in_to_each_scheduler_that_comes() {
    let mut table = accepted();
    table.accept(SystemTime::UNIX_EPOCH, B, submission("b")).unwrap();
    tell(&mut table, 1, A, &executing(A, "w", 1));
    table.disconnected();
    assert!(!table.has_something_to_say());
    // B was never said; A is waited for where it ran.
    table.connected(at(2));
    assert_eq!(said(&mut table), ["submit a held by w", "submit b"]);
    tell(&mut table, 3, A, &executing(A, "gone", 2));
    tell(&mut table, 3, B, &ended(B, "done"));
    table.connected(at(4));
    assert_eq!(said(&mut table), ["submit a, worker w did not finish it"]);
    tell(&mut table, 5, A, &ended(A, "done"));
    table.connected(at(6));
    assert!(said(&mut table).is_empty());
    assert_eq!(table.counts(), Counts { unfinished: 0, ended: 2 });
}

#[test]
fn equal_work_joins_and_makes_it_more_urgent() {
    let mut table = accepted();
    let again = submission("a");
    assert_eq!(table.accept(SystemTime::UNIX_EPOCH, B, again.clone()), Ok(A));
    assert!(said(&mut table).is_empty());
    let urgent = Submission { priority: -5, ..again.clone() };
    assert_eq!(table.accept(SystemTime::UNIX_EPOCH, B, urgent), Ok(A));
    match table.next_message(|_| true) {
        Some(ToScheduler::Submit(submission)) => assert_eq!(submission.priority, -5),
        other => panic!("{other:?}"),
    }
    let c = OperationId(0xc);
    let alone = Submission { mergeable: false, ..again.clone() };
    assert_eq!(table.accept(SystemTime::UNIX_EPOCH, B, alone), Ok(B));
    tell(&mut table, 1, A, &ended(A, "done"));
    assert_eq!(table.accept(SystemTime::UNIX_EPOCH, c, again.clone()), Ok(c));
    // Nobody joins what is about to end.
    table.cancel(c);
    let d = OperationId(0xd);
    assert_eq!(table.accept(SystemTime::UNIX_EPOCH, d, again), Ok(d));
}

#[test]
fn a_client_keeps_the_name_that_it_was_given() {
    let mut table = accepted();
    tell(&mut table, 1, A, &executing(B, "w", 1));
    assert_eq!(table.take_effects(), [Effect::Publish(executing(A, "w", 1))]);
}

#[test]
fn what_nobody_watches_is_told_and_let_go() {
    let mut table = accepted();
    table.unwatched(at(1), A);
    assert_eq!(said(&mut table), ["unwatch a"]);
    table.look(at(2), A).unwrap();
    assert_eq!(said(&mut table), ["watch a"]);
    table.unwatched(at(3), A);
    table.look(at(3), A).unwrap();
    assert!(said(&mut table).is_empty(), "nothing has changed");
    table.unwatched(at(3), A);
    table.connected(at(4));
    assert_eq!(said(&mut table), ["submit a", "unwatch a"]);
    table.tick(at(62));
    assert_eq!(table.counts().unfinished, 1);
    table.tick(at(63));
    assert_eq!(table.counts().unfinished, 0);
    assert_eq!(table.take_effects(), [Effect::Forget(A)]);
    assert_eq!(table.next_deadline(), None);
}

#[test]
fn what_was_wished_is_said_again_to_the_next_scheduler() {
    let mut table = accepted();
    assert!(table.cancel(A) && table.forget(A));
    assert_eq!(said(&mut table), ["cancel a", "forget a"]);
    table.connected(at(1));
    assert_eq!(said(&mut table), ["submit a", "cancel a", "forget a"]);
    tell(&mut table, 2, A, &ended(A, ""));
    let effects = table.take_effects();
    assert_eq!(effects, [Effect::Publish(ended(A, "")), Effect::Forget(A)]);
    assert!(!table.cancel(A) && !table.forget(A));
}

#[test]
fn what_is_refused_is_handed_in_later_and_rests_for_longer_each_time() {
    let mut table = accepted();
    let mut now = at(1);
    for rest_ms in [500, 1000, 2000, 4000, 8000, 10_000, 10_000] {
        table.heard(now, FromScheduler::Refused(A, "full".into()));
        assert!(said(&mut table).is_empty());
        let due = table.next_deadline().unwrap();
        assert_eq!((due - now).as_millis(), rest_ms);
        now = due;
        table.tick(now);
        assert_eq!(said(&mut table), ["submit a"]);
    }
    // What the scheduler has lost counts alike.
    tell(&mut table, 50, A, &executing(A, "w", 1));
    table.heard(at(51), FromScheduler::Unknown(A));
    table.tick(at(52));
    assert_eq!(said(&mut table), ["submit a held by w"]);
}

#[test]
fn what_is_not_known_is_looked_for() {
    let mut table = table();
    table.connected(at(0));
    table.look(at(1), A).unwrap();
    assert_eq!(said(&mut table), ["watch a"]);
    tell(&mut table, 2, A, &executing(A, "w", 1));
    assert_eq!(table.take_effects(), [Effect::Publish(executing(A, "w", 1))]);
    // It is another node's: a scheduler that has lost it makes this one ask there.
    table.heard(at(10), FromScheduler::Unknown(A));
    assert_eq!(table.take_effects(), [Effect::Ask(A)]);
    let submission = Some(Box::new(submission("a")));
    let found = Found { state: executing(A, "w", 1), submission };
    table.answered(at(11), A, Some(found), true);
    assert_eq!(said(&mut table), ["submit a held by w"]);
    assert!(table.found(A).is_some());
}

#[test]
fn what_only_a_lost_node_knew_is_given_up_soon() {
    let mut table = table();
    table.connected(at(0));
    table.look(at(0), A).unwrap();
    said(&mut table);
    table.heard(at(0), FromScheduler::Unknown(A));
    table.answered(at(0), A, None, false);
    assert_eq!(table.take_effects(), [Effect::Ask(A)], "a worker may bring it");
    table.tick(at(1));
    assert_eq!(said(&mut table), ["watch a"]);
    table.heard(at(1), FromScheduler::Unknown(A));
    table.answered(at(1), A, None, false);
    assert_eq!(table.take_effects(), [Effect::Ask(A), Effect::Forget(A)]);
}

#[test]
fn what_nobody_knows_is_given_up_once_the_scheduler_has_settled() {
    let mut table = table();
    table.connected(at(0));
    table.look(at(1), A).unwrap();
    said(&mut table);
    table.heard(at(1), FromScheduler::Unknown(A));
    table.answered(at(1), A, None, true);
    assert_eq!(table.take_effects(), [Effect::Ask(A)], "the scheduler is new");
    table.tick(at(2));
    assert_eq!(said(&mut table), ["watch a"]);
    table.heard(at(6), FromScheduler::Unknown(A));
    table.answered(at(6), A, None, true);
    assert_eq!(table.take_effects(), [Effect::Ask(A), Effect::Forget(A)]);
    assert!(table.by_id.is_empty() && table.sought == 0);
    // Without a scheduler it is given up as well, but nobody can say that there is none.
    table.disconnected();
    table.look(at(10), B).unwrap();
    table.tick(at(20));
    assert_eq!(table.take_effects(), [Effect::GiveUp(B), Effect::Forget(B)]);
}

#[test]
fn bounds_are_kept() {
    let limits = TableLimits { unfinished: 2, sought: 1, ended: 2, ended_bytes: 8 };
    let mut table = Table::new(limits);
    let accept = |table: &mut Table, id: u128| {
        let id = OperationId(id);
        table.accept(SystemTime::UNIX_EPOCH, id, submission(&id.to_string()))
    };
    table.look(at(0), A).unwrap();
    assert!(table.look(at(0), B).is_err(), "one is looked for");
    accept(&mut table, 1).unwrap();
    accept(&mut table, 2).unwrap();
    assert!(accept(&mut table, 3).is_err());
    table.heard(at(0), FromScheduler::Unknown(A));
    table.answered(at(9), A, None, true);
    table.tick(at(10));
    assert!(table.look(at(10), B).is_err(), "it would be one more");
    for (id, bytes) in [(1, "four"), (2, "four"), (3, "four"), (4, "ninebytes")] {
        if id > 2 {
            accept(&mut table, id).unwrap();
        }
        tell(&mut table, 10, OperationId(id), &ended(OperationId(id), bytes));
        let left: Vec<u128> =
            table.entries.values().filter(|entry| entry.is_ended()).map(|e| e.id.0).collect();
        match id {
            1 => assert_eq!(left, [1]),
            2 => assert_eq!(left, [1, 2]),
            3 => assert_eq!(left, [2, 3]),
            _ => assert!(left.is_empty(), "it is larger than all"),
        }
    }
    assert_eq!((table.ended_bytes, table.counts()), (0, Counts::default()));
    accept(&mut table, 5).unwrap();
    tell(&mut table, 11, OperationId(5), &ended(OperationId(5), "x"));
    table.tick(at(311));
    assert_eq!(table.counts(), Counts::default());
}
