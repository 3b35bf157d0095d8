//! Fetches an action's inputs, runs it and stores its outputs.
//!
//! The room knows nothing of who asked, of queues, or of other workers.

mod executor;

pub use executor::{Executor, Report};
