//! What actions write while they run: counted against the limit of the store in whose folder they do it, and bounded.
//!
//! One [`Watch`] looks at the file system as long as anything runs, and measures the folders of actions that run for more than a moment.
//! What they take is room in the store, for which blobs go that were used least. Where none can be had, or the file system
//! is full although it should not be, the action that wrote most is ended, so that the node and all others go on.
//!
//! Promises: an action that ends within a second pays one entry in a table; measuring takes a twentieth of a core at the most, a fifth
//! while the file system fills up, and memory that does not depend on what is there; room is given back when the folder has been emptied.
//!
//! What an action writes between two looks is not bounded, nor does anyone here see what has no name any more. It refuses to
//! know what outputs are, and how commands are ended.

mod claim;
mod excess;
mod measure;
mod pace;
mod watch;

pub(crate) use claim::Claim;
pub(crate) use excess::Excess;
pub(crate) use measure::measure_alone;
pub(crate) use watch::{Watch, Watched};

/// The number of an action that is watched, never given twice.
type Number = u64;
