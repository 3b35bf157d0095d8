//! Reading a blob from another node, and from the bucket what that node does not give to its end.

use std::{ops::Range, time::Duration};

use bbb_cluster::MemberId;
use bbb_digest::Digest;
use bbb_reapi::{BlobResource, Compressor, proto::bytestream::ReadRequest};
use bbb_storage::{Blob, Content, Encoding, Result, Wanted};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream, stream::BoxStream};
use prost::Message;
use tonic::Code;

use crate::{
    CallError, Peer,
    call::{Incoming, Side, Turns, WaitsFor},
    stats::add,
};

use super::Bucketed;

/// The path of the call.
pub(crate) const READ: &str = "/google.bytestream.ByteStream/Read";

/// A `google.bytestream.ReadResponse` whose bytes are not copied.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Piece {
    /// The next bytes.
    #[prost(bytes = "bytes", tag = "10")]
    pub(crate) data: Bytes,
}

/// What came of asking a node for a blob.
#[derive(Debug)]
pub(super) enum Asked {
    /// Here it is.
    Given(Blob),
    /// The node does not have it; an owner's word is the bucket's.
    Missing,
    /// The node was not reached, or not in time: another may have it.
    Lost,
    /// The node has met a fault: only the bucket can tell.
    Failed,
}

impl Bucketed {
    /// Asks an owner for a blob, or a part of it. What it breaks off goes on from the bucket.
    pub(super) async fn ask_owner(
        &self,
        owner: &MemberId,
        digest: Digest,
        wanted: Wanted,
    ) -> Asked {
        let peer = self.tier.peer(owner);
        match peer.enter(WaitsFor::Bucket) {
            Ok(turns) => {
                self.ask(&peer, turns, Side::Whole, digest, wanted, self.bounds().owner_first_byte)
                    .await
            }
            // It is slow where it has to ask the bucket; that can be asked from here. If it is not well at all, that shows.
            Err(_) => match self.ask_near(owner, digest, wanted).await {
                Asked::Missing => Asked::Failed,
                asked => asked,
            },
        }
    }

    /// Asks a node for a blob that is on its disk, or a part of it.
    pub(super) async fn ask_near(
        &self,
        holder: &MemberId,
        digest: Digest,
        wanted: Wanted,
    ) -> Asked {
        let peer = self.tier.peer(holder);
        match peer.enter(WaitsFor::Node) {
            Ok(turns) => {
                self.ask(&peer, turns, Side::Near, digest, wanted, self.bounds().near_first_byte)
                    .await
            }
            Err(_) => {
                add(&self.tier.counters.stepped_over, 1);
                Asked::Lost
            }
        }
    }

    async fn ask(
        &self,
        peer: &Peer,
        turns: Turns,
        side: Side,
        digest: Digest,
        wanted: Wanted,
        within: Duration,
    ) -> Asked {
        let counters = &self.tier.counters;
        add(&counters.reads, 1);
        let asked = peer.open(turns, side, READ, self.request(digest, wanted), within).await;
        match asked {
            Ok((first, incoming)) => {
                add(&counters.hits, 1);
                let first = first.map_or_else(Bytes::new, |piece: Piece| piece.data);
                Asked::Given(self.blob(first, incoming, digest, wanted))
            }
            Err(CallError::Refused(status)) if status.code() == Code::NotFound => {
                add(&counters.misses, 1);
                Asked::Missing
            }
            Err(error @ CallError::Refused(_)) => {
                tracing::debug!(?peer, %digest, %error, "a peer cannot give a blob");
                Asked::Failed
            }
            // It lives, so that it is the bucket that it waits for; nobody else would have less to wait.
            Err(error @ CallError::Late(_)) if side == Side::Whole => {
                tracing::debug!(?peer, %digest, %error, "an owner waits too long for the bucket");
                Asked::Failed
            }
            Err(error) => {
                tracing::debug!(?peer, %digest, %error, "a peer does not give a blob");
                Asked::Lost
            }
        }
    }

    fn request(&self, digest: Digest, wanted: Wanted) -> ReadRequest {
        let (instance, compressor) = (self.instance.clone(), Compressor::Identity);
        let resource = BlobResource { instance, compressor, digest };
        let (range, size_bytes) = (wanted.within(digest.size_bytes()), digest.size_bytes());
        // No limit means all there is: so that nothing is asked for at the end.
        let (offset, limit) = match (range.is_empty(), range.end == size_bytes) {
            (true, _) => (size_bytes, 0),
            (false, true) => (range.start, 0),
            (false, false) => (range.start, range.end - range.start),
        };
        // Sizes are at most 1 TiB, so they fit.
        let (read_offset, read_limit) = (offset as i64, limit as i64);
        ReadRequest { resource_name: resource.to_string(), read_offset, read_limit }
    }

    /// What is coming in, as a blob: in one piece if it came so.
    fn blob(
        &self,
        first: Bytes,
        incoming: Incoming<Piece>,
        digest: Digest,
        wanted: Wanted,
    ) -> Blob {
        add(&self.tier.counters.bytes, first.len() as u64);
        let (size_bytes, range) = (digest.size_bytes(), wanted.within(digest.size_bytes()));
        let content = if first.len() as u64 == range.end - range.start {
            Content::Bytes(first)
        } else {
            let far = self.clone();
            Content::Stream(Following { far, digest, incoming, range, rest: None }.stream(first))
        };
        Blob { size_bytes, encoding: Encoding::Identity, content }
    }
}

/// A blob that is coming in from a node.
struct Following {
    far: Bucketed,
    digest: Digest,
    incoming: Incoming<Piece>,
    /// What is still to come.
    range: Range<u64>,
    /// Where it comes from when the node broke off.
    rest: Option<BoxStream<'static, Result<Bytes>>>,
}

impl Following {
    fn stream(mut self, first: Bytes) -> BoxStream<'static, Result<Bytes>> {
        let first = self.taken(first);
        let rest = stream::try_unfold(self, |mut following| async move {
            Ok(following.next().await?.map(|piece| (piece, following)))
        });
        stream::once(async { Ok(first) }).chain(rest).boxed()
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(rest) = &mut self.rest {
                return rest.try_next().await;
            }
            if self.range.is_empty() {
                return Ok(None);
            }
            match self.incoming.next(self.far.bounds().idle).await {
                Ok(Some(piece)) if piece.data.is_empty() => {}
                Ok(Some(piece)) => {
                    add(&self.far.tier.counters.bytes, piece.data.len() as u64);
                    return Ok(Some(self.taken(piece.data)));
                }
                Ok(None) => self.go_on("it ends before its time".to_owned()).await?,
                Err(error) => self.go_on(error.to_string()).await?,
            }
        }
    }

    /// Goes on with what the bucket has.
    async fn go_on(&mut self, why: String) -> Result<()> {
        let (digest, offset) = (self.digest, self.range.start);
        tracing::debug!(%digest, offset, why, "a peer breaks off, going on from the bucket");
        add(&self.far.tier.counters.resumed, 1);
        let part = Wanted::part(offset, Some(self.range.end - offset));
        self.rest = Some(self.far.bucket.get(digest, part).await?.into_stream());
        Ok(())
    }

    /// Notes what has come; no more of it than was to come.
    fn taken(&mut self, mut piece: Bytes) -> Bytes {
        let left = self.range.end - self.range.start;
        piece.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        self.range.start += piece.len() as u64;
        piece
    }
}
