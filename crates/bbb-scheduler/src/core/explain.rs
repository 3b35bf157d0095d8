//! Why an operation cannot run anywhere, for people.

use std::fmt::Write as _;

use crate::{Platform, WorkerOffer};

/// Why no worker can run what asks for `requirement`: the nearest worker, and what differs.
pub(super) fn explain<'a>(
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
