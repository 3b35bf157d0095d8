//! A pool: the operations that ask for the same, and the workers that offer it.

use std::{collections::BTreeSet, fmt::Write as _, time::Duration};

use super::{WorkerId, queue::Queue, timers::Due};
use crate::{Platform, WorkerOffer};

/// Names a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PoolId(pub(crate) u64);

/// The order in which free workers are taken: those that did not fail lately, then the least busy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Load {
    pub(crate) failures: u32,
    /// Busy slots per 65,536 slots.
    pub(crate) busy: u64,
    pub(crate) worker: WorkerId,
}

#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) requirement: Platform,
    pub(crate) queue: Queue,
    /// Workers that match and have a free slot.
    pub(crate) free: BTreeSet<Load>,
    /// Workers that match and take tasks.
    pub(crate) members: usize,
    /// The slots of the members.
    pub(crate) slots: u64,
    /// Operations that have not ended.
    pub(crate) operations: usize,
    /// When all that waits is refused, since there is no worker for it.
    pub(crate) refuses_at: Option<Duration>,
    pub(crate) due: Due,
}

impl Pool {
    pub(crate) fn new(requirement: Platform) -> Self {
        Self {
            requirement,
            queue: Queue::default(),
            free: BTreeSet::new(),
            members: 0,
            slots: 0,
            operations: 0,
            refuses_at: None,
            due: Due::default(),
        }
    }
}

/// Whether a worker that offers `offered` may run what asks for `requirement`: it offers every pair.
pub(crate) fn matches(requirement: &Platform, offered: &Platform) -> bool {
    requirement.iter().all(|pair| offered.iter().any(|other| other == pair))
}

/// Why no worker can run what asks for `requirement`: the nearest worker, and what differs.
pub(crate) fn explain<'a>(
    requirement: &Platform,
    offers: impl Iterator<Item = &'a WorkerOffer>,
) -> String {
    let differing = |offer: &WorkerOffer| {
        requirement.iter().filter(|pair| offer.platform.iter().all(|other| other != *pair)).count()
    };
    let asked = shown(requirement.iter());
    let Some(nearest) = offers.min_by_key(|offer| differing(offer)) else {
        return format!(
            "no worker is attached to run an action that asks for {asked}; start nodes with --worker_slots"
        );
    };
    let mut text = format!("no worker offers {asked}; the nearest is {}, but", nearest.name);
    let wrong = requirement
        .iter()
        .filter(|pair| nearest.platform.iter().all(|other| other != *pair))
        .take(MAX_NAMED);
    for (index, (name, value)) in wrong.enumerate() {
        let comma = if index > 0 { "," } else { "" };
        let has = nearest.platform.iter().filter(|(other, _)| *other == name).map(|(_, has)| has);
        let has: Vec<_> = has.take(MAX_NAMED).collect();
        // Writing to a String cannot fail.
        let _ = match has.is_empty() {
            true => write!(text, "{comma} it has no {name} where {value:?} is asked for"),
            false => {
                write!(text, "{comma} its {name} is {} instead of {value:?}", has.join(" or "))
            }
        };
    }
    if differing(nearest) == 0 {
        text.push_str(" it takes no further tasks");
    }
    text
}

/// How many properties are named in an explanation.
const MAX_NAMED: usize = 10;

fn shown<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let pairs: Vec<_> =
        pairs.take(MAX_NAMED).map(|(name, value)| format!("{name}={value}")).collect();
    match pairs.is_empty() {
        true => "nothing particular".to_owned(),
        false => pairs.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(pairs: &[(&str, &str)]) -> Platform {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn offer(name: &str, pairs: &[(&str, &str)]) -> WorkerOffer {
        WorkerOffer { platform: platform(pairs), ..WorkerOffer::of(name, 1) }
    }

    #[test]
    fn every_pair_must_be_offered() {
        let offered = platform(&[("Arch", "x86"), ("OS", "linux"), ("OS", "posix")]);
        assert!(matches(&platform(&[]), &offered));
        assert!(matches(&platform(&[("OS", "linux"), ("OS", "posix")]), &offered));
        assert!(!matches(&platform(&[("OS", "Linux")]), &offered));
        assert!(!matches(&platform(&[("Arch", "x86"), ("gpu", "1")]), &offered));
    }

    #[test]
    fn the_nearest_worker_is_named_with_what_differs() {
        let offers = [offer("far", &[]), offer("near", &[("Arch", "arm"), ("OS", "linux")])];
        let wanted = platform(&[("Arch", "x86"), ("OS", "linux")]);
        let text = explain(&wanted, offers.iter());
        assert_eq!(
            text,
            "no worker offers Arch=x86, OS=linux; the nearest is near, but its Arch is arm instead of \"x86\""
        );
        assert!(explain(&wanted, [].iter()).contains("--worker_slots"));
    }
}
