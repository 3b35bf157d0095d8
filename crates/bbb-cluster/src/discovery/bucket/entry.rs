//! The names of entries, and what is to be done about them.

use std::{
    collections::HashMap,
    fmt::Write as _,
    time::{Duration, SystemTime},
};

use object_store::{ObjectMeta, path::Path};
use sha2::{Digest as _, Sha256};

use crate::{ClusterView, MemberId};

/// Entries that were not written again for so long are of nodes that are gone.
pub(super) const STALE: Duration = Duration::from_secs(2 * 60);
/// Entries that were not written again for so long are removed by whoever sees them.
pub(super) const DOOMED: Duration = Duration::from_secs(10 * 60);
/// The largest object that can be an entry.
pub(super) const MAX_ENTRY_BYTES: u64 = 1024;
/// How much of a node's name stands in the name of its entry, for people who look into the bucket.
const MAX_STEM_CHARS: usize = 48;
/// A number in the name of an entry, in hexadecimal digits.
const NUMBER_DIGITS: usize = 16;

/// The name of an entry: `STEM.NODE.GENERATION`, which of its node's name shows what can be shown, and tells names and
/// generations apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EntryName {
    stem: String,
    /// Of the node's name.
    hash: u64,
    generation: u64,
}

impl EntryName {
    /// That of a node.
    pub(super) fn of(name: &str, generation: u64) -> Self {
        let safe = |c: char| if is_plain(c) { c } else { '_' };
        let [a, b, c, d, e, f, g, h, ..]: [u8; 32] = Sha256::digest(name.as_bytes()).into();
        Self {
            stem: name.chars().map(safe).take(MAX_STEM_CHARS).collect(),
            hash: u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            generation,
        }
    }

    /// That of a member.
    fn of_member(id: &MemberId) -> Self {
        Self::of(&id.name, id.generation)
    }

    /// From the key of an object, if it is one of ours.
    pub(super) fn parse(prefix: &Path, key: &Path) -> Option<Self> {
        let mut parts = key.prefix_match(prefix)?;
        let (name, None) = (parts.next()?, parts.next()) else { return None };
        let mut numbers = name.as_ref().rsplitn(3, '.');
        let mut number = || {
            let digits = numbers.next().filter(|digits| digits.len() == NUMBER_DIGITS)?;
            // Of the writings of a number only one is ours.
            let number = u64::from_str_radix(digits, 16).ok()?;
            (format!("{number:016x}") == digits).then_some(number)
        };
        let (generation, hash) = (number()?, number()?);
        let stem = numbers.next()?;
        let is_ours =
            !stem.is_empty() && stem.len() <= MAX_STEM_CHARS && stem.chars().all(is_plain);
        is_ours.then(|| Self { stem: stem.to_owned(), hash, generation })
    }

    /// The key of its object.
    pub(super) fn key(&self, prefix: &Path) -> Path {
        let mut name = self.stem.clone();
        // Writing to a string cannot fail.
        let _ = write!(name, ".{:016x}.{:016x}", self.hash, self.generation);
        prefix.clone().join(name)
    }
}

/// What names of entries are made of besides their numbers, so that every store takes them as they are.
const fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '_'
}

/// What is to be done after a listing.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Chores {
    /// Entries of nodes that are not known.
    pub(super) unknown: Vec<Path>,
    /// Entries of nodes that have been gone for long.
    pub(super) doomed: Vec<Path>,
}

/// What is to be done about the objects that were listed under `prefix`.
///
/// How old they are is told by the bucket's clock alone: against this node's own entry, which is not older than a
/// pause, or where that is not among them, against the youngest. Objects that are no entries are nobody's business.
pub(super) fn chores(prefix: &Path, listed: &[ObjectMeta], view: &ClusterView) -> Chores {
    let entries = listed.iter().filter(|meta| meta.size <= MAX_ENTRY_BYTES);
    let entries: Vec<(EntryName, &ObjectMeta)> = entries
        .filter_map(|meta| Some((EntryName::parse(prefix, &meta.location)?, meta)))
        .collect();
    let me = EntryName::of_member(view.me());
    let own = entries.iter().find(|(name, _)| *name == me);
    let Some((_, reference)) =
        own.or_else(|| entries.iter().max_by_key(|(_, meta)| meta.last_modified))
    else {
        return Chores::default();
    };
    let now = SystemTime::from(reference.last_modified);
    let age = |meta: &ObjectMeta| now.duration_since(meta.last_modified.into()).unwrap_or_default();
    let known = latest(view.members().iter().map(|member| EntryName::of_member(&member.id)));
    let fresh =
        latest(entries.iter().filter(|(_, meta)| age(meta) <= STALE).map(|(name, _)| name.clone()));
    let mut chores = Chores::default();
    for (name, meta) in entries.iter().filter(|(name, _)| *name != me) {
        let is_news = known.get(&name.hash).is_none_or(|known| name.generation > *known);
        if age(meta) > DOOMED {
            chores.doomed.push(meta.location.clone());
        } else if age(meta) <= STALE && is_news && fresh.get(&name.hash) == Some(&name.generation) {
            chores.unknown.push(meta.location.clone());
        }
    }
    chores
}

/// The largest generation of each node: the smaller ones are of the same node, before it started again.
fn latest(names: impl Iterator<Item = EntryName>) -> HashMap<u64, u64> {
    let mut latest = HashMap::new();
    for EntryName { hash, generation, .. } in names {
        let known = latest.entry(hash).or_insert(generation);
        *known = generation.max(*known);
    }
    latest
}

/// What must hold of any key in the bucket: it is that of an entry, as an entry of this name would be written, or none.
///
/// # Panics
/// If it does not.
#[cfg(any(test, feature = "hostile"))]
pub fn check_entry_name(text: &str) {
    let prefix = Path::from("members/0badcafe");
    for key in [Path::from(text), prefix.clone().join(text)] {
        if let Some(name) = EntryName::parse(&prefix, &key) {
            assert_eq!(name.key(&prefix), key);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Member, Properties};

    fn prefix() -> Path {
        Path::from("members/0badcafe")
    }

    fn view(members: &[(&str, u64)]) -> ClusterView {
        let member = |(name, generation): &(&str, u64)| Member {
            id: MemberId {
                name: (*name).into(),
                generation: *generation,
                gossip: "127.0.0.1:1".parse().unwrap(),
                port: "127.0.0.1:2".parse().unwrap(),
            },
            properties: Properties::default(),
        };
        ClusterView::new(member(&members[0]), members[1..].iter().map(member))
    }

    /// An object that was written so many seconds before some moment.
    fn object(key: Path, age: u64) -> ObjectMeta {
        let moment = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000);
        let last_modified = (moment - Duration::from_secs(age)).into();
        ObjectMeta { location: key, last_modified, size: 200, e_tag: None, version: None }
    }

    fn entry(name: &str, generation: u64, age: u64) -> ObjectMeta {
        object(EntryName::of(name, generation).key(&prefix()), age)
    }

    /// The chores of `me` who knows `others`, as (unknown, doomed).
    fn of(others: &[(&str, u64)], listed: &[ObjectMeta]) -> (Vec<Path>, Vec<Path>) {
        let view = view(&[&[("me", 5)], others].concat());
        let Chores { unknown, doomed } = chores(&prefix(), listed, &view);
        (unknown, doomed)
    }

    #[test]
    fn reads_whom_it_does_not_know_and_removes_whom_nobody_knows_any_more() {
        let [me, known, new, old, gone] =
            [("me", 0), ("known", 9), ("new", 120), ("old", 121), ("gone", 601)]
                .map(|(n, age)| entry(n, 5, age));
        let listed = [me, known, new.clone(), old, gone.clone()];
        assert_eq!(of(&[("known", 5)], &listed), (vec![new.location], vec![gone.location]));
    }

    #[test]
    fn the_clock_is_that_of_the_bucket() {
        let keys =
            |entries: &[ObjectMeta]| entries.iter().map(|meta| meta.location.clone()).collect();
        let (me, other) = (entry("me", 5, 10_000), vec![entry("other", 5, 10_100)]);
        let other_keys: Vec<Path> = keys(&other);
        assert_eq!(of(&[], &other).0, other_keys, "as the youngest says");
        assert_eq!(of(&[], &[other, vec![me]].concat()).0, other_keys, "as its own entry says");
        let own_is_old = [entry("me", 5, 5_000), entry("ahead", 5, 0)];
        assert_eq!(
            of(&[], &own_is_old),
            (keys(&own_is_old[1..]), vec![]),
            "it could not be written lately"
        );
    }

    #[test]
    fn of_a_node_the_latest_start_counts() {
        let [first, second, third] =
            [(6, 30), (7, 10), (8, 300)].map(|(start, age)| entry("a", start, age));
        let expected = vec![second.location.clone()];
        let listed = [entry("me", 5, 0), first, second, third];
        assert_eq!(of(&[], &listed).0, expected);
        assert_eq!(of(&[("a", 6)], &listed).0, expected);
        assert_eq!(of(&[("a", 7)], &listed).0, []);
    }

    #[test]
    fn leaves_foreign_objects_alone() {
        let name = EntryName::of("a", 5).key(&prefix()).filename().unwrap().to_owned();
        let (deep, beside) =
            (prefix().join("deep").join(name.as_str()), Path::from("members").join(name.as_str()));
        let (shouted, cut, kept) = (name.to_uppercase(), &name[1..], format!("{name}.bak"));
        let mut foreign: Vec<ObjectMeta> = ["readme.txt", "", "a.b.c", &shouted, cut, &kept]
            .map(|name| object(prefix().join(name), 100_000))
            .to_vec();
        foreign.extend([object(deep, 100_000), object(beside, 100_000), object(prefix(), 100_000)]);
        foreign.push(ObjectMeta { size: MAX_ENTRY_BYTES + 1, ..entry("b", 5, 100_000) });
        foreign.push(entry("me", 5, 0));
        assert_eq!(of(&[], &foreign), (vec![], vec![]));
        assert_eq!(of(&[], &[]), (vec![], vec![]));
    }

    proptest! {
        #[test]
        fn any_name_makes_a_plain_key_that_is_its_own(name in "\\PC{1,80}", other in "\\PC{1,80}", start: u64) {
            let entry = EntryName::of(&name, start);
            let key = entry.key(&prefix());
            prop_assert_eq!(EntryName::parse(&prefix(), &key), Some(entry.clone()));
            let plain = |c: char| is_plain(c) || c == '.';
            prop_assert!(key.filename().is_some_and(|name| name.len() <= 82 && name.chars().all(plain)), "{}", key);
            prop_assert!(name == other || EntryName::of(&other, start) != entry);
        }

        #[test]
        fn any_key_is_that_of_an_entry_or_not(text in "[a-f._%\\PC]{0,12}.[0-9a-f]{16}.[0-9a-fA-F+]{15,17}") {
            check_entry_name(&text);
        }

        #[test]
        fn any_listing_is_taken(names in prop::collection::vec(("\\PC{0,60}", 0u64..2_000), 0..20)) {
            let listed: Vec<_> = names.iter().map(|(name, age)| object(Path::from(name.as_str()), *age)).collect();
            let _ = of(&[], &listed);
        }
    }
}
