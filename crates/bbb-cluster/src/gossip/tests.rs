//! The parts of gossip, each for itself.

use std::net::SocketAddr;

use foca::{Identity as _, State};
use proptest::prelude::*;

use super::{
    identity::{MAX_GENERATION, MAX_NAME_BYTES},
    *,
};

const SECOND: Duration = Duration::from_secs(1);

fn address(last: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, (last >> 8) as u8, last as u8], 7946))
}

fn id(name: &str, generation: u64) -> MemberId {
    MemberId { name: name.into(), generation, gossip: address(1), port: address(2) }
}

fn node(name: &str, generation: u64) -> Node {
    Node::try_from(id(name, generation)).unwrap()
}

#[test]
fn an_id_that_cannot_be_reached_or_named_is_refused() {
    assert!(Node::try_from(id("a", 1)).is_ok());
    assert_eq!(Node::try_from(id("", 1)), Err(Unsound::Name));
    assert_eq!(Node::try_from(id("a\n", 1)), Err(Unsound::Name));
    assert_eq!(Node::try_from(id(&"a".repeat(MAX_NAME_BYTES + 1), 1)), Err(Unsound::Name));
    assert_eq!(Node::try_from(id("a", 0)), Err(Unsound::Generation));
    assert_eq!(Node::try_from(id("a", MAX_GENERATION + 1)), Err(Unsound::Generation));
    for wrong in ["0.0.0.0:1", "[::]:1", "10.0.0.1:0", "224.0.0.1:1"] {
        let wrong: SocketAddr = wrong.parse().unwrap();
        assert_eq!(
            Node::try_from(MemberId { gossip: wrong, ..id("a", 1) }),
            Err(Unsound::Address(wrong))
        );
        assert_eq!(
            Node::try_from(MemberId { port: wrong, ..id("a", 1) }),
            Err(Unsound::Address(wrong))
        );
    }
}

#[test]
fn the_newer_generation_wins_and_there_is_always_a_winner() {
    let (old, new) = (node("b", 1), node("a", 2));
    assert!(new.win_addr_conflict(&old) && !old.win_addr_conflict(&new));
    let other = node("c", 2);
    assert!(other.win_addr_conflict(&new) && !new.win_addr_conflict(&other));
    assert!(old.renewed(9).win_addr_conflict(&new));
    assert_eq!(old.renewed(u64::MAX).id().generation, MAX_GENERATION + 1, "and is refused then");
}

#[test]
fn packets_are_read_as_they_were_written() {
    let known = Some(Known { gossip: address(1), generation: 3, is_down: true });
    let packets = [
        Packet::Swim(b"swim"),
        Packet::Hello(Hello { from: node("a", 1), known, wants_answer: true }),
        Packet::Hello(Hello {
            from: node(&"n".repeat(MAX_NAME_BYTES), 1),
            known: None,
            wants_answer: false,
        }),
        Packet::Suspected(Suspected { from: node("a", 1), who: node("b", 2), incarnation: 7 }),
    ];
    for packet in packets {
        let bytes = packet.encode();
        assert_eq!(Packet::parse(&bytes), Some(packet.clone()));
        if !matches!(packet, Packet::Swim(_)) {
            for short in 0..bytes.len() {
                assert_eq!(Packet::parse(&bytes[..short]), None);
            }
            assert_eq!(Packet::parse(&[bytes, vec![0]].concat()), None, "and nothing more");
        }
    }
    assert_eq!(Packet::parse(&[0; MAX_PACKET_BYTES + 1]), None);
}

proptest! {
    #[test]
    fn no_bytes_make_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..1_300)) {
        crate::hostile::check_gossip(&bytes);
    }
}

#[test]
fn a_found_address_is_greeted_for_some_seconds() {
    let mut strangers = Strangers::default();
    strangers.found(address(1), SECOND);
    let mut greeted = 0;
    for tenth in 10..200 {
        let now = SECOND * tenth / 10;
        // Who found it finds it again and again: it is not greeted more often for that.
        if tenth < 20 {
            strangers.found(address(1), now);
        }
        greeted += strangers.take_due(now).len();
    }
    assert_eq!(greeted, 10);
    assert!(strangers.take_due(SECOND * 10_000).is_empty());
}

#[test]
fn a_member_that_went_is_greeted_ever_more_rarely_for_hours() {
    let mut strangers = Strangers::default();
    strangers.gone(address(1), Duration::ZERO);
    let mut greeted = [0; 8];
    for second in 0..8 * 3_600 {
        greeted[second / 3_600] += strangers.take_due(SECOND * second as u32).len();
    }
    assert!(greeted[0] > 150 && greeted[0] < 500, "{greeted:?}");
    assert!(greeted[5] >= 59 && greeted[5] <= 61, "{greeted:?}");
    assert_eq!(greeted[6..], [0, 0]);
}

#[test]
fn strangers_are_bounded_and_all_get_their_turn() {
    let mut strangers = Strangers::default();
    for number in 0..5_000 {
        strangers.found(address(number), Duration::from_millis(u64::from(number) / 10));
    }
    let mut greeted = std::collections::BTreeSet::new();
    for round in 0..100 {
        let due = strangers.take_due(SECOND + Duration::from_millis(round * 10));
        assert!(due.len() <= 16);
        greeted.extend(due);
    }
    assert_eq!(greeted.len(), 512);
    assert!(greeted.contains(&address(4_999)));
}

#[test]
fn new_generations_are_bounded() {
    let mut renewals = Renewals::new(SECOND);
    let taken = (0..100).filter(|_| renewals.allow(SECOND * 60)).count();
    assert_eq!(taken, 8);
    assert!(!renewals.allow(SECOND * 64));
    assert!(renewals.allow(SECOND * 65));
    assert!(!renewals.allow(SECOND * 66));
    assert_eq!((0..100).filter(|_| renewals.allow(SECOND * 10_000)).count(), 8);
}

#[test]
fn two_that_make_each_other_renew_do_not_do_so_for_ever() {
    let mut gossip = Gossip::new(node("me", 1), 1, SECOND);
    let from = Node::try_from(MemberId { gossip: address(9), ..id("other", 1) }).unwrap();
    for _ in 0..1_000 {
        // It claims to have seen a newer generation each time.
        let known = Some(Known {
            gossip: address(1),
            generation: gossip.me().generation + 5,
            is_down: false,
        });
        let hello = Packet::Hello(Hello { from: from.clone(), known, wants_answer: true });
        gossip.receive(address(9), &hello.encode(), SECOND * 2);
    }
    // The first one tells that a second has passed.
    assert_eq!(gossip.me().generation, 1_002 + 7 * 6);
}

#[test]
fn numbers_at_their_ends_do_no_harm() {
    let mut gossip = Gossip::new(node("me", 1), 1, SECOND);
    let from =
        Node::try_from(MemberId { gossip: address(9), ..id("other", MAX_GENERATION) }).unwrap();
    for generation in [u64::MAX, MAX_GENERATION] {
        let known = Some(Known { gossip: address(1), generation, is_down: true });
        let hello = Packet::Hello(Hello { from: from.clone(), known, wants_answer: true });
        gossip.receive(address(9), &hello.encode(), SECOND * 2);
    }
    assert_eq!(gossip.me().generation, 1, "there is none above");
    let who = node("me", 1);
    let last = Packet::Suspected(Suspected { from, who, incarnation: u16::MAX });
    gossip.receive(address(9), &last.encode(), SECOND * 2);
    assert_eq!(gossip.me().generation, 1_002, "no incarnation is left, but generations are");
}

#[test]
fn silence_of_a_neighbour_is_told_and_its_answer_takes_it_back() {
    let mut neighbours = Neighbours::new(Duration::ZERO);
    let (me, other) = (node("me", 1), node("other", 1));
    let at = |tenth: u32| SECOND * tenth / 10;
    assert_eq!(
        neighbours.take_due(&me, std::iter::once(&other), at(0)),
        std::slice::from_ref(&other)
    );
    let alive = |_: &Node| Some((State::Alive, 3));
    let suspect = |_: &Node| Some((State::Suspect, 3));
    assert!(neighbours.judge(alive, at(11)).is_empty());
    assert_eq!(neighbours.judge(alive, at(12))[0].state(), State::Suspect);
    assert!(neighbours.judge(suspect, at(31)).is_empty());
    assert_eq!(neighbours.judge(suspect, at(32))[0].state(), State::Down);
    neighbours.heard(&other, at(33));
    assert!(neighbours.judge(suspect, at(34)).is_empty());
    assert_eq!(neighbours.judge(alive, at(45))[0].state(), State::Suspect);
    // It refuted that to others: it has its time once more.
    let refuted = |_: &Node| Some((State::Alive, 4));
    assert_eq!(neighbours.judge(refuted, at(60))[0].incarnation(), 4);
    neighbours.pardon(at(61));
    assert!(neighbours.judge(refuted, at(62)).is_empty());
}
