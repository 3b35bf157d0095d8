//! Who is in a cluster.

use std::{collections::BTreeMap, fmt, net::SocketAddr, sync::Arc};

use serde::{Deserialize, Serialize};

/// What gossip carries of a node: who it is and where it can be reached. All else is asked of the node itself.
///
/// A node that starts again is another one: its generation is larger, and wins.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MemberId {
    /// The node's name.
    pub name: Arc<str>,
    /// When the node started: milliseconds of the Unix time, larger at each start.
    pub generation: u64,
    /// Where its gossip is reached.
    pub gossip: SocketAddr,
    /// Where other nodes and clients reach its port.
    pub port: SocketAddr,
}

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.name, self.gossip)
    }
}

/// What a node says of itself when it is asked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Properties {
    /// The version of its program.
    pub version: String,
    /// How many actions it runs at a time.
    pub slots: u32,
    /// What its workers offer.
    pub platform: BTreeMap<String, String>,
    /// Whether it is about to leave: it owns nothing any more and takes no work.
    pub is_leaving: bool,
    /// How busy it is.
    pub load: Load,
}

/// How busy a node is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Actions that run.
    pub running: u32,
    /// Actions that wait for a slot.
    pub queued: u32,
    /// The system's load average over a minute, for each processor.
    pub per_processor: f32,
    /// Bytes that the node's local store holds.
    pub stored_bytes: u64,
}

/// A node of the cluster, this one or another.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Who it is.
    pub id: MemberId,
    /// What it said of itself last.
    pub properties: Properties,
}
