//! Between messages of [`crate::proto`] and the words of the scheduler.
//!
//! What comes is judged once, here: a message that says nothing sensible is none, and whoever sent it is left.

mod read;
mod write;

pub(super) use read::{Garbled, Read, read};
pub(super) use write::{Write, id, outcome_bytes};

#[cfg(test)]
mod tests;
