//! Who owns what: rendezvous hashing (Thaler and Ravishankar, 1998).
//!
//! Each member has a score for each key, and those with the highest own it: when a member comes or goes, only
//! its own share moves.

use crate::{ClusterView, MemberId};

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
        for member in self.members().iter().filter(|member| !member.properties.is_leaving) {
            let mut scored = Some((score(seed(&member.id.name), key), &member.id));
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
fn seed(name: &str) -> u64 {
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
