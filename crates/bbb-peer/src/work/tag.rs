//! What stands for a node in the names of the operations that it accepted.

use bbb_digest::{Digest, Function};
use bbb_scheduler::OperationId;

/// How many bits of an operation's name are random.
const RANDOM_BITS: u32 = 96;

/// What stands for a node. That two have the same is rare and does no harm: an operation is then not found at one of them.
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

    /// A name for an operation of this node, made of one that nobody guesses.
    pub(super) const fn name(self, OperationId(random): OperationId) -> OperationId {
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
        let id = a.name(OperationId(u128::MAX - 4));
        assert_eq!(Tag::of_operation(id), a);
        assert_ne!(id, a.name(OperationId(u128::MAX - 5)));
    }
}
