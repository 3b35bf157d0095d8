//! The figures of gossip, and why they are what they are.
//!
//! They suit a network within a building or a region: a killed node is gone for everyone within 5 s, and nobody flaps
//! where a fifth of all packets is lost and each takes 100 ms. Both are seen in the simulation (`sim.rs`).

use std::{num::NonZero, time::Duration};

use foca::{Config, PeriodicParams};

use super::packet::MAX_PACKET_BYTES;

/// How often the library probes a member. Neighbours notice a death sooner; this finds what they miss, such as the death
/// of neighbours of each other.
const PROBE_PERIOD: Duration = Duration::from_millis(1_000);

/// How long its answer may take before others are asked to probe it too: more than a round trip of 200 ms. Their four
/// trips, 400 ms of delay at worst, still end within the period.
const PROBE_ROUND_TRIP: Duration = Duration::from_millis(300);

/// How many others are asked, and how many members are told at once of a refutation, a new generation, a farewell.
const FAN_OUT: NonZero<usize> = NonZero::new(4).unwrap();

/// How long a suspect has to speak up. It is asked in each [`ROUND`], so that it misses its chance only if
/// fifteen questions or their answers are lost, and the gossip about it too.
const SUSPICION: Duration = Duration::from_millis(3_000);

/// How often news is passed on while there is some, and to how many.
const NEWS_EVERY: Duration = Duration::from_millis(200);
const NEWS_TO: NonZero<usize> = NonZero::new(3).unwrap();

/// How many times a node passes on a piece of news. Lost ones are made up for by [`FEED_EVERY`].
const NEWS_TIMES: NonZero<u8> = NonZero::new(12).unwrap();

/// How often a member is asked whom it knows. What got lost is learnt so.
const FEED_EVERY: Duration = Duration::from_secs(5);

/// How long a member that went is remembered: stale news of it does not bring it back meanwhile.
const FORGET_GONE_AFTER: Duration = Duration::from_secs(600);

/// How often suspects are asked and strangers greeted.
pub(super) const ROUND: Duration = Duration::from_millis(200);

/// The library's settings.
pub(super) fn config() -> Config {
    Config {
        probe_period: PROBE_PERIOD,
        probe_rtt: PROBE_ROUND_TRIP,
        num_indirect_probes: FAN_OUT,
        max_transmissions: NEWS_TIMES,
        suspect_to_down_after: SUSPICION,
        remove_down_after: Some(FORGET_GONE_AFTER),
        // A byte for the packet's kind.
        max_packet_size: const { NonZero::new(MAX_PACKET_BYTES - 1).unwrap() },
        notify_down_members: true,
        periodic_announce: Some(PeriodicParams {
            frequency: FEED_EVERY,
            num_members: NonZero::<usize>::MIN,
        }),
        // Strangers are greeted by us: also while there is no member at all, and ever more rarely.
        periodic_announce_to_down_members: None,
        periodic_gossip: Some(PeriodicParams { frequency: NEWS_EVERY, num_members: NEWS_TO }),
    }
}
