//! When something has to be looked at again: one time per thing, exactly removable.

use std::{collections::BTreeSet, time::Duration};

use super::{WorkerId, pool::PoolId, queue::Seq};

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    Operation(Seq),
    Worker(WorkerId),
    Pool(PoolId),
}

/// All times, soonest first. Whoever sets one remembers it, and changes it with [`Timers::set`].
#[derive(Debug, Default)]
pub(crate) struct Timers(BTreeSet<(u64, Subject)>);

/// The time that is set for one subject, if one is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Due(Option<u64>);

impl Timers {
    /// Sets the time of a subject in place of the one in `due`.
    pub(crate) fn set(&mut self, subject: Subject, due: &mut Due, at: Option<Duration>) {
        let at = at.map(|at| u64::try_from(at.as_nanos()).unwrap_or(u64::MAX));
        if due.0 == at {
            return;
        }
        if let Some(old) = due.0 {
            self.0.remove(&(old, subject));
        }
        if let Some(new) = at {
            self.0.insert((new, subject));
        }
        due.0 = at;
    }

    /// The next subject whose time has come. Its time stays until it is set anew.
    pub(crate) fn expired(&self, now: Duration) -> Option<Subject> {
        let &(at, subject) = self.0.first()?;
        (Duration::from_nanos(at) <= now).then_some(subject)
    }

    /// The soonest time.
    pub(crate) fn next(&self) -> Option<Duration> {
        self.0.first().map(|&(at, _)| Duration::from_nanos(at))
    }
}
