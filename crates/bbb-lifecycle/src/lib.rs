//! Tasks with owners and names, their shutdown order, and signals.
//!
//! Every background task of a node belongs to a [`TaskGroup`]; groups are shut down in the order in
//! which `node.rs` names them. A task that panics is logged and stops its group, so that a half-dead
//! node does not go on looking alive: whoever waits on [`TaskGroup::failed`] learns of it.
//!
//! In simulations the tasks of each node are a [`Process`], which can be stopped and killed.
//!
//! The room knows nothing of what the tasks do.

mod group;
mod process;
mod signals;

pub use group::{Stop, TaskGroup};
pub use process::{Process, Turns};
pub use signals::{Signals, SignalsError};
