//! Work that nodes share: whichever node accepts an action, one scheduler for all has a free slot anywhere run it.
//!
//! The seam is [`Work`]: what a node's work looks like to another node. The node itself offers it, and so does the way to it
//! over the wire, or over a simulated one; [`Reach`] leads to that of any member.

mod reach;

pub use reach::{
    Answer, Ends, Found, FromScheduler, Question, Reach, ToScheduler, Work, WorkError,
};
