//! Whole nodes of the real binary that run actions: what they say at their start, and that flags do what they say.

#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a rig for tests; clippy sees tests only by their attribute"
)]

mod flags;
mod greeting;
mod rig;
