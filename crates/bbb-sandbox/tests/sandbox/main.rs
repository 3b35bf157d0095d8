//! Runs hostile and odd commands for real, with namespaces and without, as whoever runs the tests and, if that is
//! root, once more as a user without privileges (`unprivileged`).

#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a rig for tests; clippy sees tests only by their attribute"
)]

mod ending;
mod limits;
mod rig;
mod running;
mod unprivileged;
mod walls;
