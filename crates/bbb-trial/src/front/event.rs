//! What a front says.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

/// Hears what a front does.
pub type Tell = Arc<dyn Fn(Event) + Send + Sync>;

/// Something that a front did, or saw.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A client's connection goes to a node.
    Carried {
        /// Where the client is.
        client: SocketAddr,
        /// The node's name.
        node: Arc<str>,
    },
    /// A node was not given a connection, for it did not answer at once.
    SteppedOver {
        /// The node's name.
        node: Arc<str>,
    },
    /// No node answers: a client's connection was closed.
    NoNode {
        /// Where the client is.
        client: SocketAddr,
    },
    /// A connection was closed, for its node is silent.
    Closed {
        /// Where the client is.
        client: SocketAddr,
        /// The node's name.
        node: Arc<str>,
    },
    /// A node does not answer any more.
    Down {
        /// The node's name.
        node: Arc<str>,
        /// How long it has not.
        silent: Duration,
    },
    /// A node answers again, or for the first time.
    Up {
        /// The node's name.
        node: Arc<str>,
    },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Carried { client, node } => write!(f, "{client} goes to {node}"),
            Self::SteppedOver { node } => write!(f, "{node} is stepped over"),
            Self::NoNode { client } => write!(f, "{client} is sent away: no node answers"),
            Self::Closed { client, node } => write!(f, "{client} is cut from {node}"),
            Self::Down { node, silent } => {
                write!(f, "{node} is down, silent for {:.1} s", silent.as_secs_f64())
            }
            Self::Up { node } => write!(f, "{node} is up"),
        }
    }
}
