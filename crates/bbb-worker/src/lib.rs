//! Fetches an action's inputs, runs it and stores its outputs.
//!
//! The seam is [`Executor`]; [`Local`] is the one that runs actions here, and [`Slots`] brings it tasks. A
//! task goes through stages, each a type of its own that the next one takes by value: `Lease` (read and
//! checked, `fetch`), `Prepared` (staged, `stage`), `Ran` (`run`), and the `Outcome` (`collect`, `upload`,
//! `outcome`).
//!
//! Promises: a command finds exactly its inputs and its environment; whatever it does to its inputs harms
//! nothing but itself; a result is cached only after its blobs are durable, and only a good one; every phase
//! has a deadline; what it writes is bounded; nothing of an action is left behind, unless it is kept for people on request.
//!
//! The room knows nothing of who asked, of queues, or of other workers.

mod apart;
mod bases;
mod cleanup;
mod collect;
mod error;
mod executor;
mod fetch;
mod fill;
mod inputs;
mod kept;
mod ladder;
mod layer;
mod local;
mod outcome;
mod place;
mod renewal;
mod room;
mod run;
mod scratch;
#[cfg(test)]
mod seeds;
mod slots;
mod stage;
mod times;
mod upload;
mod usage;

pub use executor::{Executor, Report, Said};
pub use ladder::{Ladder, Rung};
pub use local::{Keep, Local, Settings};
pub use slots::{Slots, usual_prefetch};
