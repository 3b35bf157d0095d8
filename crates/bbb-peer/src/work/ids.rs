//! Names for operations, and what clocks show: from outside, so that a simulation repeats.

use std::{fmt, time::SystemTime};

use bbb_digest::{Digest, Function};
use bbb_scheduler::OperationId;

/// Where random numbers and the time of day come from.
pub trait Ids: Send + Sync + fmt::Debug + 'static {
    /// A number that nobody guesses.
    fn random(&self) -> u128;

    /// What the clock shows.
    fn wall(&self) -> SystemTime;
}

/// Those of the system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemIds;

impl Ids for SystemIds {
    fn random(&self) -> u128 {
        rand::random()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// How many bits of an operation's name are random.
const RANDOM_BITS: u32 = 96;

/// What stands for a node in the names of operations that it accepted. Two nodes may share it, as rarely as that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag(u32);

impl Tag {
    pub(super) fn of_node(name: &str) -> Self {
        let digest = Digest::of(Function::Sha256, name.as_bytes());
        Self(digest.hash().iter().take(4).fold(0, |tag, byte| tag << 8 | u32::from(*byte)))
    }

    /// That of the node that accepted an operation.
    pub(super) const fn of_operation(id: OperationId) -> Self {
        Self((id.0 >> RANDOM_BITS) as u32)
    }

    /// A name for an operation of this node.
    pub(super) const fn name(self, random: u128) -> OperationId {
        let random = random & ((1 << RANDOM_BITS) - 1);
        OperationId((self.0 as u128) << RANDOM_BITS | random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_its_node() {
        let (a, b) = (Tag::of_node("a"), Tag::of_node("b"));
        assert_ne!(a, b);
        let id = a.name(u128::MAX - 4);
        assert_eq!(Tag::of_operation(id), a);
        assert_ne!(id, a.name(u128::MAX - 5));
    }
}
