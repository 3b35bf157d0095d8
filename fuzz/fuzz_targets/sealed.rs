//! Any bytes are refused as a packet of the cluster, and so is any packet that was damaged on its way.
#![no_main]

use bbb_cluster::hostile::{Damage, check_damage, check_packet};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (Option<(usize, u8)>, usize, u8, &[u8])| {
    let (change, cut, more, bytes) = input;
    check_packet(bytes);
    let (more, payload) = bytes.split_at(bytes.len().min(more.into()));
    check_damage(payload, &Damage { change, cut, more });
});
