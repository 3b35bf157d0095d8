use std::net::SocketAddr;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn id(name: &str, generation: u64) -> MemberId {
    let address = SocketAddr::from(([10, 0, 0, 1], 7946));
    MemberId { name: name.into(), generation, gossip: address, port: address }
}

fn unreachable() -> Result<Properties, IntroduceError> {
    Err(IntroduceError::Unreachable("no answer".into()))
}

fn refused() -> Result<Properties, IntroduceError> {
    Err(IntroduceError::Refused("another bucket".to_owned()))
}

fn names(admission: &Admission) -> Vec<String> {
    admission.members().map(|member| member.id.name.to_string()).collect()
}

/// One that lives and was asked once.
fn asked(outcome: Result<Properties, IntroduceError>) -> Admission {
    let mut admission = Admission::default();
    admission.set_live(&[id("a", 1)], SECOND);
    assert_eq!(admission.take_due(SECOND), [id("a", 1)]);
    assert!(admission.take_due(SECOND).is_empty(), "once is enough");
    admission.introduced(&id("a", 1), outcome, SECOND, 0.5);
    admission
}

#[test]
fn who_was_introduced_is_a_member_until_it_is_gone() {
    let mut admission = asked(Ok(Properties::default()));
    assert_eq!(names(&admission), ["a"]);
    assert_eq!(admission.next_due(), Some(6 * SECOND));
    // Another generation is another node.
    admission.set_live(&[id("a", 2)], 2 * SECOND);
    assert!(names(&admission).is_empty());
    assert_eq!(admission.take_due(2 * SECOND), [id("a", 2)]);
    admission.introduced(&id("a", 1), Ok(Properties::default()), 2 * SECOND, 0.5);
    assert!(names(&admission).is_empty(), "the answer of the old one came too late");
}

#[test]
fn who_does_not_answer_is_asked_ever_more_rarely() {
    let mut admission = asked(unreachable());
    let mut asked = 0;
    for tenth in 10..610 {
        let now = SECOND * tenth / 10;
        for id in admission.take_due(now) {
            asked += 1;
            admission.introduced(&id, unreachable(), now, 0.5);
        }
    }
    assert!((14..20).contains(&asked), "{asked}");
    assert!(names(&admission).is_empty());
}

#[test]
fn a_member_that_does_not_answer_is_kept_for_a_while() {
    let mut admission = asked(Ok(Properties::default()));
    let mut dropped = None;
    for tenth in 10..610 {
        let now = SECOND * tenth / 10;
        for id in admission.take_due(now) {
            admission.introduced(&id, unreachable(), now, 0.5);
        }
        // That it asks for introductions itself is not enough.
        admission.heard(&id("a", 1), Properties::default(), now);
        if names(&admission).is_empty() {
            dropped.get_or_insert(now);
        }
    }
    let dropped = dropped.expect("it is dropped");
    assert!(dropped >= 31 * SECOND && dropped <= 37 * SECOND, "{dropped:?}");
    admission.ask_all(70 * SECOND);
    let due = admission.take_due(70 * SECOND);
    admission.introduced(&due[0], Ok(Properties::default()), 70 * SECOND, 0.5);
    assert_eq!(names(&admission), ["a"], "and taken back");
}

#[test]
fn who_is_refused_is_out_at_once_and_asked_again_later() {
    let mut admission = asked(Ok(Properties::default()));
    admission.ask_all(2 * SECOND);
    assert_eq!(admission.take_due(2 * SECOND).len(), 1);
    admission.introduced(&id("a", 1), refused(), 2 * SECOND, 0.5);
    assert!(names(&admission).is_empty());
    assert_eq!(admission.next_due(), Some(32 * SECOND));
}

#[test]
fn what_a_member_says_unasked_counts_and_what_a_stranger_says_has_it_asked() {
    let leaving = Properties { is_leaving: true, ..Properties::default() };
    let mut admission = asked(Ok(Properties::default()));
    admission.heard(&id("a", 1), leaving.clone(), 2 * SECOND);
    assert!(admission.members().next().unwrap().properties.is_leaving);

    let mut admission = asked(refused());
    admission.heard(&id("a", 1), leaving.clone(), 2 * SECOND);
    assert!(names(&admission).is_empty(), "its word alone makes it no member");
    assert_eq!(admission.take_due(2 * SECOND), [id("a", 1)]);
    admission.heard(&id("nobody", 1), leaving, 2 * SECOND);
    assert_eq!(admission.next_due(), None);
}

#[test]
fn what_comes_up_while_a_node_is_asked_is_told_right_after() {
    let mut admission = asked(Ok(Properties::default()));
    admission.ask_all(2 * SECOND);
    assert_eq!(admission.take_due(2 * SECOND), [id("a", 1)]);
    // What it is being told does not hold this yet.
    admission.ask_all(3 * SECOND);
    assert!(admission.take_due(3 * SECOND).is_empty());
    for (now, due) in [(3 * SECOND, 3 * SECOND), (4 * SECOND, 9 * SECOND)] {
        admission.introduced(&id("a", 1), Ok(Properties::default()), now, 0.5);
        assert_eq!(admission.next_due(), Some(due));
        admission.take_due(due);
    }
}

#[test]
fn introductions_are_bounded() {
    let mut admission = Admission::default();
    let live: Vec<MemberId> = (0..100).map(|number| id(&format!("node-{number}"), 1)).collect();
    admission.set_live(&live, SECOND);
    let first = admission.take_due(SECOND);
    assert_eq!(first.len(), MAX_INTRODUCTIONS);
    assert_eq!(admission.next_due(), None);
    for id in &first[..10] {
        admission.introduced(id, Ok(Properties::default()), SECOND, 0.0);
    }
    assert_eq!(admission.take_due(SECOND).len(), 10);
}
