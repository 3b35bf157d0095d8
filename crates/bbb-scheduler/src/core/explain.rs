//! Why an operation cannot run anywhere, for people.

use std::fmt::{self, Write as _};

use crate::{Demand, Platform, WorkerOffer};

/// How many properties are named in an explanation.
const MAX_NAMED: usize = 10;

/// How much of each name and value is told, in bytes: clients make them as long as they like, and what is told is kept, and sent to all who ask.
const MAX_TOLD_BYTES: usize = 200;

/// Why no worker can run what asks for this: the nearest worker, and what differs.
pub(super) fn explain<'a>(
    requirement: &Platform,
    demand: Demand,
    offers: impl Iterator<Item = &'a WorkerOffer>,
) -> String {
    let asked = shown(requirement, demand);
    let differing = |offer: &&WorkerOffer| {
        wrong(requirement, offer).count() + short_of(demand, offer.capacity).count()
    };
    let Some(nearest) = offers.min_by_key(differing) else {
        return format!(
            "no worker is attached to run an action that asks for {asked}; start nodes with --worker_slots"
        );
    };
    let mut text = format!("no worker offers {asked}; the nearest is {}, but", nearest.name);
    let before = text.len();
    // Writing to a String cannot fail.
    for (name, value) in wrong(requirement, nearest).take(MAX_NAMED) {
        let own = nearest.platform.iter().filter(|(other, _)| *other == name);
        let has: Vec<_> = own.map(|(_, has)| told(has)).take(MAX_NAMED).collect();
        let (name, value) = (told(name), told(value));
        let comma = if text.len() > before { "," } else { "" };
        let _ = match has.is_empty() {
            true => write!(text, "{comma} it has no {name} where {value:?} is asked for"),
            false => {
                write!(text, "{comma} its {name} is {} instead of {value:?}", has.join(" or "))
            }
        };
    }
    for (has, wanted) in short_of(demand, nearest.capacity) {
        let comma = if text.len() > before { "," } else { "" };
        let _ = write!(text, "{comma} it has {has} where {wanted} is asked for");
    }
    if text.len() == before {
        text.push_str(" it takes no further tasks");
    }
    text
}

/// What takes a part of a worker, in the words of the properties that ask for it.
#[derive(Clone, Copy)]
enum Amount {
    Millicpus(u64),
    MemoryBytes(u64),
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Millicpus(millis) if millis % 1000 == 0 => write!(f, "cpus={}", millis / 1000),
            Self::Millicpus(millis) => write!(f, "cpus={}", millis as f64 / 1000.0),
            Self::MemoryBytes(bytes) if bytes < 1 << 30 => {
                write!(f, "memory={:.0}MiB", (bytes as f64 / f64::from(1 << 20)).ceil())
            }
            Self::MemoryBytes(bytes) => {
                write!(f, "memory={:.1}GiB", bytes as f64 / f64::from(1 << 30))
            }
        }
    }
}

/// The properties that a worker does not offer.
fn wrong<'a>(
    requirement: &'a Platform,
    offer: &'a WorkerOffer,
) -> impl Iterator<Item = (&'a str, &'a str)> {
    requirement.iter().filter(|pair| offer.platform.iter().all(|other| other != *pair))
}

/// What there is less of than is asked for.
fn short_of(demand: Demand, capacity: Demand) -> impl Iterator<Item = (Amount, Amount)> {
    let cpus = (Amount::Millicpus(capacity.millicpus), Amount::Millicpus(demand.millicpus));
    let memory =
        (Amount::MemoryBytes(capacity.memory_bytes), Amount::MemoryBytes(demand.memory_bytes));
    let short =
        [demand.millicpus > capacity.millicpus, demand.memory_bytes > capacity.memory_bytes];
    [cpus, memory].into_iter().zip(short).filter(|(_, short)| *short).map(|(amounts, _)| amounts)
}

fn shown(requirement: &Platform, demand: Demand) -> String {
    let pairs = requirement.iter().take(MAX_NAMED);
    let pairs = pairs.map(|(name, value)| format!("{}={}", told(name), told(value)));
    let cpus = (demand.millicpus > 0).then(|| Amount::Millicpus(demand.millicpus).to_string());
    let memory =
        (demand.memory_bytes > 0).then(|| Amount::MemoryBytes(demand.memory_bytes).to_string());
    let all: Vec<_> = pairs.chain(cpus).chain(memory).collect();
    match all.is_empty() {
        true => "nothing particular".to_owned(),
        false => all.join(", "),
    }
}

/// As much of a name or value as is told.
fn told(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_TOLD_BYTES)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(pairs: &[(&str, &str)]) -> Platform {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn offer(name: &str, pairs: &[(&str, &str)], millicpus: u64) -> WorkerOffer {
        let capacity = Demand { millicpus, memory_bytes: 1 << 30 };
        WorkerOffer { platform: platform(pairs), capacity, ..WorkerOffer::of(name, 1) }
    }

    #[test]
    fn the_nearest_worker_is_named_with_what_differs() {
        let offers =
            [offer("far", &[], 4000), offer("near", &[("Arch", "arm"), ("OS", "linux")], 4000)];
        let wanted = platform(&[("Arch", "x86"), ("OS", "linux")]);
        assert_eq!(
            explain(&wanted, Demand::default(), offers.iter()),
            "no worker offers Arch=x86, OS=linux; the nearest is near, but its Arch is arm instead of \"x86\""
        );
        assert!(explain(&wanted, Demand::default(), [].iter()).contains("--worker_slots"));
    }

    #[test]
    fn what_is_told_is_short_whatever_is_asked_for() {
        let long = "ü\u{1}".repeat(1 << 20);
        let names: Vec<_> = (0..20).map(|index| format!("{index}{long}")).collect();
        let asked: Vec<_> = names.iter().map(|name| (name.as_str(), long.as_str())).collect();
        for offers in [Vec::new(), vec![offer("near", &asked[..1], 1)], vec![offer("far", &[], 1)]]
        {
            let why = explain(&platform(&asked), Demand::default(), offers.iter());
            assert!(why.len() < 32 << 10, "{}", why.len());
        }
    }

    #[test]
    fn what_is_too_little_is_named() {
        let offers = [offer("small", &[], 1000), offer("large", &[], 4000)];
        let memory = Demand { millicpus: 2500, memory_bytes: 3 << 29 };
        assert_eq!(
            explain(&Platform::default(), memory, offers.iter()),
            "no worker offers cpus=2.5, memory=1.5GiB; the nearest is large, but it has memory=1.0GiB where memory=1.5GiB is asked for"
        );
        let both = Demand { millicpus: 8000, memory_bytes: 2 << 30 };
        assert!(explain(&platform(&[("gpu", "1")]), both, offers.iter()).ends_with(
            "it has no gpu where \"1\" is asked for, it has cpus=1 where cpus=8 is asked for, \
                 it has memory=1.0GiB where memory=2.0GiB is asked for"
        ));
    }
}
