//! A member as the gossip library knows it.

use std::net::SocketAddr;

use foca::Identity;
use serde::{Deserialize, Serialize};

use crate::MemberId;

/// The most bytes of a name: some twenty members fit a packet even if all are called that long a name.
pub(crate) const MAX_NAME_BYTES: usize = 128;

/// The largest generation that is believed: milliseconds until the year 10889. A step always fits above it.
pub(crate) const MAX_GENERATION: u64 = 1 << 48;

/// An id that can be a member's: it has a name, and addresses that a packet can be sent to.
///
/// A gossip address is one member's: of two that claim it, the newer generation wins. Two members of one name at
/// different addresses are two to the library, so that both are probed; [`Gossip::live`](super::Gossip::live) tells
/// them apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "MemberId", into = "MemberId")]
pub(crate) struct Node(MemberId);

/// An id cannot be a member's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unsound {
    /// By its name.
    #[error("a node name has between 1 and {MAX_NAME_BYTES} bytes, all of them printable")]
    Name,
    /// By its generation.
    #[error("a generation is above 0 and at most {MAX_GENERATION}")]
    Generation,
    /// By an address.
    #[error("{0} cannot be told to others: it needs an address of one host, and a port")]
    Address(SocketAddr),
}

impl Node {
    /// The id.
    pub(crate) const fn id(&self) -> &MemberId {
        &self.0
    }

    /// The same node in a newer generation.
    pub(crate) fn renewed(&self, generation: u64) -> Self {
        Self(MemberId { generation: generation.min(MAX_GENERATION + 1), ..self.0.clone() })
    }
}

impl TryFrom<MemberId> for Node {
    type Error = Unsound;

    fn try_from(id: MemberId) -> Result<Self, Unsound> {
        if id.name.is_empty()
            || id.name.len() > MAX_NAME_BYTES
            || id.name.chars().any(char::is_control)
        {
            return Err(Unsound::Name);
        }
        if id.generation == 0 || id.generation > MAX_GENERATION {
            return Err(Unsound::Generation);
        }
        for address in [id.gossip, id.port] {
            if address.ip().is_unspecified() || address.ip().is_multicast() || address.port() == 0 {
                return Err(Unsound::Address(address));
            }
        }
        Ok(Self(id))
    }
}

impl From<Node> for MemberId {
    fn from(node: Node) -> Self {
        node.0
    }
}

impl Identity for Node {
    type Addr = SocketAddr;

    /// Never by itself: [`Gossip`](super::Gossip) takes new generations, within its bounds.
    fn renew(&self) -> Option<Self> {
        None
    }

    fn addr(&self) -> SocketAddr {
        self.0.gossip
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        let rank = |id: &MemberId| (id.generation, id.name.clone(), id.port);
        rank(&self.0) > rank(&adversary.0)
    }
}
