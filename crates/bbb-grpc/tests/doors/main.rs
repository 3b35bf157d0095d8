//! The doors as clients see them: real clients over loopback, against stores in memory.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "what supports tests may fail as they do"
)]

mod action_cache;
mod asset;
mod bytestream;
mod cas;
mod certificates;
mod disk;
mod one_port;
mod port;
mod support;
