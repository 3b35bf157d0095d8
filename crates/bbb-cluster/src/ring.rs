//! Who owns what: rendezvous hashing (Thaler and Ravishankar, 1998).
//!
//! Each member has a score for each key, and those with the highest own it: when a member comes or goes, only
//! its own share moves.

use crate::{ClusterView, Member, MemberId};

/// How many owners a key has: the first one serves it, the second one was or will be the first when another
/// member comes or goes.
pub const OWNERS: usize = 2;

impl ClusterView {
    /// The owners of a key, best first: those members with the highest scores that are not about to leave. Fewer
    /// than [`OWNERS`] if there are no more.
    ///
    /// `key` has to be evenly spread, like a digest's hash; its first eight bytes count, or all of a shorter one.
    pub fn owners(&self, key: &[u8]) -> [Option<&MemberId>; OWNERS] {
        let mut word = [0; 8];
        for (to, from) in word.iter_mut().zip(key) {
            *to = *from;
        }
        let key = u64::from_le_bytes(word);
        let mut best: [Option<(u64, &MemberId)>; OWNERS] = [None; OWNERS];
        let stay = |(member, _): &(&Member, &u64)| !member.properties.is_leaving;
        for (member, seed) in self.members().iter().zip(&*self.seeds).filter(stay) {
            let mut scored = Some((score(*seed, key), &member.id));
            for place in &mut best {
                if scored > *place {
                    std::mem::swap(place, &mut scored);
                }
            }
        }
        best.map(|scored| scored.map(|(_, id)| id))
    }
}

/// What stands for a member in its scores: FNV-1a of its name. It stays where it is when it starts again, since what it
/// holds does too.
pub(crate) fn seed(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The score of a member for a key: the finalizer of SplitMix64 over both.
const fn score(seed: u64, key: u64) -> u64 {
    let mut mixed = seed ^ key;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, net::SocketAddr};

    use proptest::prelude::*;

    use super::*;
    use crate::Properties;

    /// Enough that chance alone moves a share of ten by less than a twentieth of it.
    const KEYS: u64 = 20_000;

    fn member(name: &str, is_leaving: bool) -> Member {
        let address = SocketAddr::from(([10, 0, 0, 1], 7946));
        let id = MemberId { name: name.into(), generation: 1, gossip: address, port: address };
        Member { id, properties: Properties { is_leaving, ..Properties::default() } }
    }

    fn view<'a>(names: impl IntoIterator<Item = &'a str>) -> ClusterView {
        let mut members = names.into_iter().map(|name| member(name, false));
        let me = members.next().unwrap();
        ClusterView::new(me, members)
    }

    /// Keys as evenly spread as hashes.
    fn keys() -> impl Iterator<Item = [u8; 32]> {
        (0..KEYS).map(|number| {
            let mut key = [7; 32];
            key[..8].copy_from_slice(&score(number, 0x5eed).to_le_bytes());
            key
        })
    }

    fn owners<'a>(view: &'a ClusterView, key: &[u8]) -> Vec<&'a str> {
        view.owners(key).into_iter().flatten().map(|id| &*id.name).collect()
    }

    #[test]
    fn each_member_owns_its_share() {
        for count in [2, 3, 10, 50] {
            let names: Vec<String> = (0..count).map(|number| format!("node-{number}")).collect();
            let view = view(names.iter().map(String::as_str));
            for place in 0..OWNERS {
                let mut shares: BTreeMap<&str, u64> = BTreeMap::new();
                for key in keys() {
                    *shares.entry(owners(&view, &key)[place]).or_default() += 1;
                }
                let fair = KEYS / count;
                assert_eq!(shares.len() as u64, count);
                for (name, share) in shares {
                    assert!(
                        share > fair * 8 / 10 && share < fair * 12 / 10,
                        "{name} of {count}: {share}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_second_owners_of_a_member_are_spread_too() {
        // When it goes, its load is shared by all others, and does not fall on one.
        let view = view(["a", "b", "c", "d", "e"]);
        let mut heirs: BTreeMap<&str, u64> = BTreeMap::new();
        for key in keys() {
            if let [first, second] = owners(&view, &key)[..]
                && first == "a"
            {
                *heirs.entry(second).or_default() += 1;
            }
        }
        let fair = KEYS / 5 / 4;
        assert_eq!(heirs.len(), 4);
        assert!(heirs.values().all(|share| *share > fair * 8 / 10), "{heirs:?}");
    }

    #[test]
    fn all_see_the_same_owners() {
        let (a, b) = (view(["a", "b", "c"]), view(["c", "b", "a"]));
        assert!(keys().all(|key| owners(&a, &key) == owners(&b, &key)));
    }

    #[test]
    fn a_lone_node_owns_all_and_a_key_may_be_short() {
        assert_eq!(owners(&view(["a"]), b""), ["a"]);
        assert_eq!(view(["a"]).owners(b"key")[1], None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

        #[test]
        fn only_the_share_of_who_comes_or_goes_moves(
            names in prop::collection::btree_set("[a-z0-9-]{1,20}", 2..12),
            at in any::<prop::sample::Index>(),
        ) {
            let all = view(names.iter().map(String::as_str));
            let one = names.iter().nth(at.index(names.len())).unwrap();
            let rest = view(names.iter().filter(|name| *name != one).map(String::as_str));
            for key in keys().take(500) {
                let (with, without) = (owners(&all, &key), owners(&rest, &key));
                if with[0] == one {
                    prop_assert_eq!(with[1], without[0], "who comes second takes over");
                } else {
                    prop_assert_eq!(with[0], without[0]);
                }
            }
        }

        #[test]
        fn who_is_about_to_leave_owns_nothing(
            names in prop::collection::btree_set("[a-z0-9-]{1,20}", 2..12),
            at in any::<prop::sample::Index>(),
        ) {
            let one = at.index(names.len());
            let mut members = names.iter().enumerate().map(|(number, name)| member(name, number == one));
            let leaving = ClusterView::new(members.next().unwrap(), members);
            let rest = view(names.iter().enumerate().filter(|(at, _)| *at != one).map(|(_, name)| name.as_str()));
            for key in keys().take(500) {
                prop_assert_eq!(owners(&leaving, &key), owners(&rest, &key));
            }
        }
    }
}
