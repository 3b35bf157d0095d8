//! What a packet of gossip holds: a first byte that names its kind, and the rest.
//!
//! Most are the library's own; two kinds of ours add what it lacks: how to meet a node of which no more than an address
//! is known, and how to ask a suspect directly. Packets are sealed further out: who made them has a key of the
//! cluster, and still no bytes make a reader panic.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::identity::Node;

/// The most bytes of a packet before it is sealed. With its seal and headers it fits the smallest packet that every
/// IPv6 link carries whole, 1,280 bytes, so that no tunnel breaks it into pieces.
pub(crate) const MAX_PACKET_BYTES: usize = 1_120;

const SWIM: u8 = 0;
const HELLO: u8 = 1;
const SUSPECTED: u8 = 2;

/// A packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Packet<'a> {
    /// Of the library.
    Swim(&'a [u8]),
    /// A node presents itself to an address.
    Hello(Hello),
    /// A node asks another whether it still lives.
    Suspected(Suspected),
}

/// A node presents itself to an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// Who it is.
    pub(crate) from: Node,
    /// What it knows of whoever is at that address.
    pub(crate) known: Option<Known>,
    /// Whether it asks for a hello back.
    pub(crate) wants_answer: bool,
}

/// What a node knows of another's address: the newest generation that it saw there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Known {
    /// The address.
    pub(crate) gossip: SocketAddr,
    /// The generation.
    pub(crate) generation: u64,
    /// Whether it is taken for gone, so that only a newer one can be a member.
    pub(crate) is_down: bool,
}

/// A node asks another whether it still lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Suspected {
    /// Who asks.
    pub(crate) from: Node,
    /// Who is suspected.
    pub(crate) who: Node,
    /// The incarnation of it that is suspected: the answer has to be of a later one.
    pub(crate) incarnation: u16,
}

impl<'a> Packet<'a> {
    /// Reads a packet; nothing if it is none.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        if bytes.len() > MAX_PACKET_BYTES {
            return None;
        }
        let (&kind, rest) = bytes.split_first()?;
        match kind {
            SWIM => Some(Self::Swim(rest)),
            HELLO => whole(rest).map(Self::Hello),
            SUSPECTED => whole(rest).map(Self::Suspected),
            _ => None,
        }
    }

    /// Its bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Swim(swim) => [&[SWIM], *swim].concat(),
            Self::Hello(hello) => tagged(HELLO, hello),
            Self::Suspected(suspected) => tagged(SUSPECTED, suspected),
        }
    }
}

/// Reads a value that takes up all bytes.
fn whole<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Some(value),
        Ok(_) | Err(_) => None,
    }
}

/// A value's bytes after the byte of its kind.
fn tagged(kind: u8, value: &impl Serialize) -> Vec<u8> {
    // Plain structs into a growing buffer: there is nothing that could fail. A packet of a kind alone would be refused.
    postcard::to_extend(value, vec![kind]).unwrap_or_default()
}
