//! Tasks with owners and names, their shutdown order, and signals.
//!
//! Every background task of a node belongs to a [`TaskGroup`]; groups are shut down in the order in
//! which `node.rs` names them. A task that panics is logged and stops its group, so that a half-dead
//! node does not go on looking alive: whoever waits on [`TaskGroup::failed`] learns of it.
//!
//! The room knows nothing of what the tasks do.

mod group;
mod signals;

pub use group::{Stop, TaskGroup};
pub use signals::{Signals, SignalsError};
