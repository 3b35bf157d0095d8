//! Work that nodes share: whichever node accepts an action, one scheduler for all has a free slot anywhere run it.
//!
//! The seam is [`Work`]: what a node's work looks like to another node. The node itself offers it ([`ClusterDispatch`]), and so
//! does the way to it over the wire, or over a simulated one; [`Reach`] leads to that of any member.
//!
//! Three parts meet in [`ClusterDispatch`]: what this node knows of operations that it accepted (`table`, driven by
//! `accepting`), the scheduler while it is here (`terms`, with `serving` for each node that hands operations in), and the
//! stream of the worker (`carrying`). All else brings it over the wire: `remote` asks, `service` answers.
//!
//! Promises: an accepted operation is handed in to each scheduler that comes until it has ended, and its clients see that it
//! goes on; whoever falls silent is left within seconds; every table, channel and retry is bounded.

mod accepting;
mod batches;
mod carrying;
mod dispatch;
mod entry;
mod reach;
mod remote;
mod service;
mod serving;
mod table;
mod tag;
mod terms;
mod wire;

pub use dispatch::{ClusterDispatch, WorkSettings};
pub use reach::{
    Answer, Ends, Found, FromScheduler, Question, Reach, ToScheduler, Work, WorkError,
};
pub use remote::PeerReach;
pub use service::{WorkServer, WorkService};
pub use table::{Counts, TableLimits};
pub use terms::MakeScheduler;

#[cfg(test)]
mod tests;
