//! What must hold of any bytes that reach the ports of a cluster: the fuzz targets check it, and the tests here with
//! random input on every run.

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

pub use crate::discovery::{check_contact, check_entry_name};
use crate::{
    KeyRing, MemberId, Purpose, Refusal, Sealer,
    gossip::{Gossip, Node},
};

/// When the packets of the checks are sealed and opened.
fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

/// What is done to a packet on its way: bytes are changed, cut off, and put at its end.
#[derive(Clone, Debug, Default)]
pub struct Damage<'a> {
    /// A place, modulo the packet's length, and what is changed there.
    pub change: Option<(usize, u8)>,
    /// How many bytes are cut off, modulo the packet's length and one.
    pub cut: usize,
    /// What is put at the end.
    pub more: &'a [u8],
}

/// Any bytes are refused, whether they come as they are or behind a header that is right.
///
/// # Panics
/// If they open.
pub fn check_packet(bytes: &[u8]) {
    for ring in [KeyRing::open("hostile"), KeyRing::open("other")] {
        for purpose in [Purpose::Gossip, Purpose::BucketList] {
            let sealer = Sealer::new(&ring, purpose);
            assert!(sealer.open(now(), bytes).is_err(), "nobody sealed it");
            let mut headed = sealer.seal(now(), b"")[..12].to_vec();
            headed.extend_from_slice(bytes);
            let opened = sealer.open(now(), &headed);
            assert!(matches!(opened, Err(Refusal::NotOurs | Refusal::Forged)), "{opened:?}");
        }
    }
}

/// A packet opens as what it was, once; a damaged one does not, and does the right one no harm.
///
/// # Panics
/// If a damaged packet opens, or the right one does not.
pub fn check_damage(payload: &[u8], damage: &Damage<'_>) {
    let ring = KeyRing::open("hostile");
    let (from, to) = (Sealer::new(&ring, Purpose::Udp), Sealer::new(&ring, Purpose::Udp));
    let packet = from.seal(now(), payload);
    assert_eq!(packet.len(), payload.len() + Sealer::OVERHEAD_BYTES);
    let mut damaged = packet.clone();
    if let Some((at, with)) = damage.change {
        let at = at % damaged.len();
        damaged[at] ^= with;
    }
    damaged.truncate(damaged.len() - damage.cut % (damaged.len() + 1));
    damaged.extend_from_slice(damage.more);
    if damaged != packet {
        assert!(to.open(now(), &damaged).is_err(), "it was changed");
    }
    let opened = to.open(now(), &packet);
    assert!(opened.is_ok_and(|opened| opened.payload == payload), "it is as it was");
    assert_eq!(to.open(now(), &packet), Err(Refusal::Replayed));
}

/// Any bytes that some node of the cluster sends as a packet of gossip are answered within bounds.
///
/// # Panics
/// If more is answered than few packets, or a tick that follows fails.
pub fn check_gossip(bytes: &[u8]) {
    let port = SocketAddr::from(([10, 0, 0, 1], 7946));
    let me = MemberId { name: "me".into(), generation: 1, gossip: port, port };
    let Ok(me) = Node::try_from(me) else { return };
    let mut gossip = Gossip::new(me, 1, Duration::ZERO);
    gossip.receive(port, bytes, Duration::ZERO);
    gossip.tick(Duration::from_secs(1));
    assert!(gossip.take_outbox().len() < 32);
    assert_eq!(&*gossip.me().name, "me");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            check_packet(&bytes);
        }

        #[test]
        fn any_damage_is_noticed(
            payload in prop::collection::vec(any::<u8>(), 0..300),
            change in any::<Option<(usize, u8)>>(),
            cut in prop_oneof![3 => Just(0), 1 => any::<usize>()],
            more in prop::collection::vec(any::<u8>(), 0..4),
        ) {
            check_damage(&payload, &Damage { change, cut, more: &more });
        }
    }

    #[test]
    fn each_bit_counts() {
        for bit in 0..(5 + Sealer::OVERHEAD_BYTES) * 8 {
            let change = Some((bit / 8, 1 << (bit % 8)));
            check_damage(b"hello", &Damage { change, ..Damage::default() });
        }
    }
}
