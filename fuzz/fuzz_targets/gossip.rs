//! Any bytes that a node of the cluster sends as gossip are taken within bounds.
#![no_main]

use bbb_cluster::hostile::check_gossip;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|packet: &[u8]| check_gossip(packet));
