use std::collections::HashSet;

use proptest::prelude::*;

use super::{
    replay::{MAX_SENDERS, WINDOW},
    *,
};
use crate::SecretKey;

const A: &str = "Zm9vYmFyIGlzIG5vdCBhIGtleSwgYnV0IHRoaXM/Xx8=";
const B: &str = "8c2f0e51b7d94a6638f1c5027be9ad34";

fn ring(name: &str, keys: &[&str]) -> KeyRing {
    if keys.is_empty() {
        return KeyRing::open(name);
    }
    let keys: Vec<SecretKey> = keys.iter().map(|key| key.parse().unwrap()).collect();
    KeyRing::new(name, &keys).unwrap()
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

/// What comes of a packet from one ring to another.
fn sent(from: &KeyRing, to: &KeyRing) -> Result<Vec<u8>, Refusal> {
    let packet = Sealer::new(from, Purpose::Gossip).seal(now(), b"hello");
    Sealer::new(to, Purpose::Gossip).open(now(), &packet).map(|opened| opened.payload)
}

#[test]
fn who_opens_what() {
    let ok = || Ok(b"hello".to_vec());
    for (from, to, expected) in [
        (&[][..], &[][..], ok()),
        (&[A], &[A], ok()),
        (&[A], &[B], Err(Refusal::OtherKey)),
        (&[], &[A], Err(Refusal::SenderHasNoKey)),
        (&[A], &[], Err(Refusal::WeHaveNoKey)),
    ] {
        assert_eq!(sent(&ring("x", from), &ring("x", to)), expected, "{from:?} to {to:?}");
        assert_eq!(sent(&ring("x", from), &ring("y", to)), Err(Refusal::OtherCluster));
    }
}

/// The documented order of a rotation: at each step, nodes of it and of the step before understand each other.
#[test]
fn keys_are_changed_while_all_nodes_talk() {
    let steps = [ring("x", &[A]), ring("x", &[A, B]), ring("x", &[B, A]), ring("x", &[B])];
    for step in steps.windows(2) {
        for (from, to) in [(0, 1), (1, 0), (0, 0), (1, 1)] {
            assert!(sent(&step[from], &step[to]).is_ok(), "{:?}", [&step[from], &step[to]]);
        }
    }
    assert_eq!(sent(&steps[2], &steps[0]), Err(Refusal::OtherKey), "a step was left out");
}

#[test]
fn purposes_are_apart() {
    let ring = ring("x", &[A]);
    let packet = Sealer::new(&ring, Purpose::Gossip).seal(now(), b"hello");
    for purpose in [Purpose::Udp, Purpose::BucketList] {
        assert_eq!(Sealer::new(&ring, purpose).open(now(), &packet), Err(Refusal::Forged));
    }
}

#[test]
fn what_is_opened_says_who_and_when() {
    let ring = ring("x", &[A]);
    let (one, other) = (Sealer::new(&ring, Purpose::Udp), Sealer::new(&ring, Purpose::Udp));
    let opened = other.open(now(), &one.seal(now(), b"hello")).unwrap();
    assert_eq!((opened.boot, opened.sealed), (one.boot(), now()));
    assert_ne!(one.boot(), other.boot());
}

#[test]
fn clocks_may_be_a_little_apart() {
    let ring = ring("x", &[A]);
    let minutes = Duration::from_mins;
    let opened = |purpose, sealed| {
        let packet = Sealer::new(&ring, purpose).seal(sealed, b"");
        Sealer::new(&ring, purpose).open(now(), &packet).map(|_| ())
    };
    for (purpose, max_age) in [(Purpose::Gossip, minutes(2)), (Purpose::BucketList, minutes(10))] {
        let late = max_age + Duration::from_secs(1);
        assert_eq!(opened(purpose, now() - max_age), Ok(()));
        assert_eq!(opened(purpose, now() - late), Err(Refusal::Late { by: late }));
        assert_eq!(opened(purpose, now() + minutes(2)), Ok(()));
        let refusal = opened(purpose, now() + minutes(3)).unwrap_err();
        assert_eq!(refusal, Refusal::Early { by: minutes(3) });
        assert!(refusal.to_string().contains("180 s: set the clocks"), "{refusal}");
    }
    assert!(matches!(opened(Purpose::Gossip, UNIX_EPOCH), Err(Refusal::Late { .. })));
}

#[test]
fn entries_of_the_list_are_read_over_and_over() {
    let sealer = Sealer::new(&ring("x", &[A]), Purpose::BucketList);
    let entry = sealer.seal(now(), b"hello");
    for _ in 0..3 {
        assert_eq!(sealer.open(now(), &entry).unwrap().payload, b"hello");
    }
    assert_eq!(sealer.replays.lock().unwrap().len(), 0);
}

#[test]
fn refusals_say_what_to_do() {
    let mut other = Sealer::new(&ring("x", &[]), Purpose::Udp).seal(now(), b"");
    other[3] = 2;
    let refusal = Sealer::new(&ring("x", &[]), Purpose::Udp).open(now(), &other).unwrap_err();
    assert_eq!(refusal, Refusal::OtherVersion { version: 2 });
    assert!(Refusal::OtherKey.to_string().contains("--secret_key"));
    for noise in [Refusal::OtherCluster, Refusal::NotOurs, Refusal::Replayed] {
        assert!(noise.is_noise());
    }
    assert!(!Refusal::OtherKey.is_noise() && !Refusal::Forged.is_noise());
}

#[test]
fn packets_too_far_behind_are_refused() {
    let mut replays = Replays::default();
    assert!(replays.admit(1, 0, 0));
    assert!(replays.admit(1, WINDOW, 0));
    assert!(!replays.admit(1, 0, 0));
    assert!(replays.admit(1, 1, 0), "just within the window");
    assert!(replays.admit(1, u64::MAX, 0), "a leap");
    assert!(!replays.admit(1, u64::MAX, 0));
    assert!(replays.admit(1, u64::MAX - WINDOW + 1, 0));
    assert!(!replays.admit(1, u64::MAX - WINDOW, 0));
}

#[test]
fn dropping_a_sender_admits_nothing_again() {
    let mut replays = Replays::default();
    let senders = MAX_SENDERS as u64 + 100;
    for boot in 0..senders {
        assert!(replays.admit(boot, 0, 1_000 + boot));
    }
    assert_eq!(replays.len(), MAX_SENDERS);
    for boot in 0..senders {
        assert!(!replays.admit(boot, 0, 1_000 + boot), "{boot}");
    }
    assert!(replays.admit(0, 1, 1_000 + senders), "who was dropped may come again");
    assert!(!replays.admit(senders, 0, 1_000), "younger than who was dropped? nobody can tell");
}

proptest! {
    /// Against a model that remembers everything.
    #[test]
    fn nothing_is_admitted_twice(
        packets in prop::collection::vec((0..4_u64, 0..3_000_u64), 1..400),
    ) {
        let mut replays = Replays::default();
        let (mut admitted, mut highest) = (HashSet::new(), [None; 4]);
        for (boot, counter) in packets {
            let highest = &mut highest[boot as usize];
            let is_in_reach = highest.is_none_or(|highest| counter + WINDOW > highest);
            let expected = is_in_reach && !admitted.contains(&(boot, counter));
            prop_assert_eq!(replays.admit(boot, counter, counter), expected);
            if expected {
                admitted.insert((boot, counter));
                *highest = (*highest).max(Some(counter));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn packets_may_come_in_any_order(order in Just((0..200_usize).collect::<Vec<_>>()).prop_shuffle()) {
        let ring = KeyRing::open("x");
        let (from, to) = (Sealer::new(&ring, Purpose::Gossip), Sealer::new(&ring, Purpose::Gossip));
        let packets: Vec<_> = (0..200).map(|_| from.seal(now(), b"")).collect();
        for expected in [None, Some(Refusal::Replayed)] {
            for &at in &order {
                prop_assert_eq!(to.open(now(), &packets[at]).err(), expected);
            }
        }
    }
}

#[test]
#[ignore = "a measurement: prints microseconds"]
fn costs() {
    let ring = ring("x", &[A]);
    let (from, to) = (Sealer::new(&ring, Purpose::Gossip), Sealer::new(&ring, Purpose::Gossip));
    let payload = [7; 1_300];
    let begun = std::time::Instant::now();
    let packets: Vec<_> = (0..20_000).map(|_| from.seal(now(), &payload)).collect();
    let sealed = begun.elapsed() / 20_000;
    let begun = std::time::Instant::now();
    assert!(packets.iter().all(|packet| to.open(now(), packet).is_ok()));
    let opened = begun.elapsed() / 20_000;
    let begun = std::time::Instant::now();
    assert!(packets.iter().all(|packet| to.open(now(), &packet[1..]).is_err()));
    println!("seal {sealed:?}, open {opened:?}, refuse garbage {:?}", begun.elapsed() / 20_000);
}
