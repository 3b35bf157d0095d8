//! Decides which worker runs which action: a pure core and its driver.
//!
//! The room knows nothing of messages, files or commands: a result is bytes to it.

mod words;

pub use words::{ActionKey, OperationId, Outcome, Platform, Progress, Task};
