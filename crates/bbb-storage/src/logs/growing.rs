//! A log that grows on this node, as all see it who look at it.

use std::{path::PathBuf, sync::Arc};

use tokio::{sync::watch, time::Instant};

use super::written::Writer;

/// Where the file of a log stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Growth {
    /// More may come.
    Growing,
    /// It has ended, with so many bytes in all.
    Ended(u64),
    /// Nothing will come after so many bytes, though more was written.
    Cut(u64),
}

impl Growth {
    pub(super) const fn end(self) -> Option<u64> {
        match self {
            Self::Growing => None,
            Self::Ended(len) | Self::Cut(len) => Some(len),
        }
    }
}

/// A log that grows.
pub(super) struct Growing {
    pub(super) path: PathBuf,
    pub(super) began: Instant,
    pub(super) growth: watch::Sender<Growth>,
    /// None if it is an action that writes it.
    pub(super) writer: Option<Writer>,
}

impl Growing {
    pub(super) fn new(path: PathBuf, writer: Option<Writer>) -> Arc<Self> {
        let (growth, _) = watch::channel(Growth::Growing);
        Arc::new(Self { path, began: Instant::now(), growth, writer })
    }

    pub(super) fn is_growing(&self) -> bool {
        *self.growth.borrow() == Growth::Growing
    }
}
