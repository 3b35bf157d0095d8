//! Runs actions for real: a disk store, a sandbox with namespaces and one without, and the worker on top.

#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a rig for tests; clippy sees tests only by their attribute"
)]

mod bases;
mod endings;
mod figures;
mod full;
mod hostile;
mod inputs;
mod links;
mod outputs;
mod renewal;
mod rig;
mod scratch;
mod slots;
mod unprivileged;
