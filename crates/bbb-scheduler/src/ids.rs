//! What a scheduler takes from outside beside events: names for operations, and what clocks show.

use std::{fmt, time::SystemTime};

use crate::OperationId;

/// Where a scheduler takes names and the time of day from. How long things last it asks the runtime.
pub trait Ids: Send + Sync + fmt::Debug + 'static {
    /// A name that no operation has, and that nobody guesses.
    fn operation(&self) -> OperationId;

    /// What clocks show, for display.
    fn wall(&self) -> SystemTime;
}

/// Names by chance, and the clock of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct OwnIds;

impl Ids for OwnIds {
    fn operation(&self) -> OperationId {
        OperationId(uuid::Uuid::new_v4().as_u128())
    }

    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }
}
