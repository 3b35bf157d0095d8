//! Blobs fetched from servers of every kind.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod environment;
mod hostile;
mod proxies;
mod redirects;
mod remembered;
mod resumed;
#[path = "../rig/mod.rs"]
mod rig;
mod secrets;
mod slow;
mod tls;
mod turns;

const LOOPBACK: &[&str] = &["127.0.0.1"];

/// More than goes through memory at once.
fn big() -> Vec<u8> {
    (0..3_000_000_u32).map(|number| ((number.wrapping_mul(7919)) >> 8) as u8).collect()
}
