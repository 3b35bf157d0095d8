//! The workloads: every row of the benchmark, with its usual concurrencies and bounds.

mod action_cache;
mod bytestream;
mod capabilities;
mod cas;
mod execution;
mod through;
mod tree;

use std::sync::Arc;

use crate::args::Args;
use crate::drive::Workload;
use crate::payload::Source;
use crate::target::Offers;

/// What a server must offer for a row to make sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Nothing but a gRPC stack: also measured on our bare server.
    Bare,
    /// Execution; our bare server spawns the command of actions that do nothing, and no more.
    Spawn,
    /// A store.
    Store,
    /// A store that speaks zstd.
    Zstd,
    /// An action cache that clients may write.
    Results,
    /// Execution.
    Execution,
    /// Another node of the same cluster.
    Through,
    /// Another node, and an action cache that clients may write.
    ThroughResults,
}

impl Needs {
    /// Whether our bare server can be measured with it.
    pub(crate) const fn met_by_bare(self) -> bool {
        matches!(self, Self::Bare | Self::Spawn)
    }

    /// Whether `offers` are enough.
    pub(crate) fn met_by(self, offers: Offers) -> bool {
        match self {
            Self::Bare | Self::Store => true,
            Self::Zstd => offers.zstd,
            Self::Results => offers.update_results,
            Self::Execution | Self::Spawn => offers.execution,
            Self::Through => offers.through,
            Self::ThroughResults => offers.through && offers.update_results,
        }
    }
}

/// A row of the benchmark.
pub(crate) struct Row {
    /// Its name.
    pub(crate) name: String,
    /// What one call is.
    pub(crate) about: String,
    /// What the server must offer.
    pub(crate) needs: Needs,
    /// Calls at once, unless the user asks for others.
    pub(crate) concurrency: &'static [u16],
    /// Calls in a run at most, unless the user asks for others.
    pub(crate) calls: u64,
    /// The workload itself.
    pub(crate) workload: Box<dyn Workload>,
}

impl Row {
    fn new(
        name: impl Into<String>,
        about: impl Into<String>,
        workload: impl Workload + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            about: about.into(),
            needs: Needs::Store,
            concurrency: &[1],
            calls: u64::MAX,
            workload: Box::new(workload),
        }
    }

    fn needs(self, needs: Needs) -> Self {
        Self { needs, ..self }
    }

    fn at_once(self, concurrency: &'static [u16]) -> Self {
        Self { concurrency, ..self }
    }

    fn calls(self, calls: u64) -> Self {
        Self { calls, ..self }
    }
}

/// Every row, in the order in which they are run.
pub(crate) fn rows(args: &Args, source: &Arc<Source>) -> Vec<Row> {
    let mut rows = vec![capabilities::row()];
    rows.extend(cas::rows(args, source));
    rows.extend(tree::rows(source));
    rows.extend(bytestream::rows(args, source));
    rows.extend(action_cache::rows(source));
    rows.extend(execution::rows(args, source));
    // Not even offered where nobody speaks of another node.
    if args.through.is_some() || args.list || !args.only.is_empty() {
        rows.extend(through::rows(args, source));
    }
    rows
}
