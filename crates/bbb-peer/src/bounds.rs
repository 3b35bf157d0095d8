//! How long another node is waited for: all bounds in one table.

use std::time::Duration;

/// How long this node waits for others.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Until a connection is accepted. The first packet is sent again after a second (RFC 6298), if it is lost.
    pub connect: Duration,
    /// Until the other node has proven itself after that.
    pub handshake: Duration,
    /// Until a node that owes an answer and says nothing is asked whether it lives. That is what tells a node that is
    /// gone from one that waits for its bucket.
    pub ping_after: Duration,
    /// Until it has to have said so.
    pub ping: Duration,
    /// Until an owner gives the first bytes of a blob. It may have to wait for the bucket.
    pub owner_first_byte: Duration,
    /// Until a node gives the first bytes of what is on its disk.
    pub near_first_byte: Duration,
    /// Between two pieces of a blob.
    pub idle: Duration,
    /// Until an owner says what is missing. It may have to look for each of the blobs in the bucket.
    pub existence: Duration,
    /// Until an owner gives a result, or takes one. It may have to wait for the bucket.
    pub result: Duration,
    /// Until an owner says who holds a blob.
    pub locate: Duration,
    /// Until an owner has taken a batch of hints.
    pub hold: Duration,
    /// Until a write is acknowledged though owners have not taken its hints.
    pub tell: Duration,
    /// Until an owner tells what came of the fetch of an asset, once that must be over.
    pub fetched: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connect: Duration::from_millis(2_500),
            handshake: Duration::from_secs(2),
            ping_after: Duration::from_secs(1),
            ping: Duration::from_secs(2),
            owner_first_byte: Duration::from_secs(5),
            near_first_byte: Duration::from_secs(1),
            idle: Duration::from_secs(5),
            existence: Duration::from_secs(10),
            result: Duration::from_secs(5),
            locate: Duration::from_millis(500),
            hold: Duration::from_secs(1),
            tell: Duration::from_millis(200),
            fetched: Duration::from_secs(10),
        }
    }
}

impl Bounds {
    /// The same, so many times as long: for machines that are busier than any node should be.
    #[must_use]
    pub fn times(self, factor: u32) -> Self {
        Self {
            connect: self.connect * factor,
            handshake: self.handshake * factor,
            ping_after: self.ping_after * factor,
            ping: self.ping * factor,
            owner_first_byte: self.owner_first_byte * factor,
            near_first_byte: self.near_first_byte * factor,
            idle: self.idle * factor,
            existence: self.existence * factor,
            result: self.result * factor,
            locate: self.locate * factor,
            hold: self.hold * factor,
            tell: self.tell * factor,
            fetched: self.fetched * factor,
        }
    }
}
