//! Frames from far to one reader, as they are stored there: decoded on the way to be checked and kept near.
//!
//! Who would encode what it reads as zstd anyway is given large blobs so if they come so. It is its own
//! fetch, at the reader's pace and gone with it, so that a slow reader holds up nobody else. There is one
//! for each blob at a time; whoever else wants the blob meanwhile shares an ordinary fetch.

use std::{collections::VecDeque, future::Future, io, pin::Pin};

use bbb_digest::{Digest, Hasher};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream, stream::BoxStream};
use tokio::sync::mpsc;

use crate::{Blob, Content, Encoding, Error, Result, Wanted, disk::Growing, zstd};

use super::{
    blobs::Blobs,
    fetch::{HELD_BACK_BYTES, Turn, next_pieces},
    read::{damaged, hash},
};

/// How many pieces wait to be decoded.
const PIPE_PIECES: usize = 1;

impl Blobs {
    /// Reads a whole blob from far in the form in which it is there.
    pub(super) async fn pass(&self, digest: Digest, turn: Turn) -> Result<Blob> {
        let blob = self.far.get(digest, Wanted::ALL_ZSTD).await?;
        let Blob { size_bytes, encoding, .. } = blob;
        // What is stored otherwise passes in the same way.
        let frames = Blob { encoding: Encoding::Identity, ..blob }.into_stream();
        let growing = match self.disk.grow(&self.instance, digest).await {
            Ok(growing) => Some(growing),
            Err(error) => {
                tracing::debug!(%digest, %error, "not kept near");
                None
            }
        };
        let (to_decoder, mut pieces) = mpsc::channel(PIPE_PIECES);
        let pieces = stream::poll_fn(move |context| pieces.poll_recv(context)).map(Ok).boxed();
        let decoded = match encoding {
            Encoding::Identity => pieces,
            Encoding::Zstd => {
                zstd::decode(pieces, |error| Error::unavailable("decoding a blob", error))
            }
        };
        let passing = Passing {
            frames,
            to_decoder: Some(to_decoder),
            kept: Box::pin(keep(digest, decoded, growing)),
            held: VecDeque::new(),
            _turn: turn,
        };
        let stream = stream::try_unfold(passing, |mut passing| async move {
            Ok(passing.next().await?.map(|piece| (piece, passing)))
        });
        Ok(Blob { size_bytes, encoding, content: Content::Stream(stream.boxed()) })
    }
}

/// Frames on their way to a reader.
struct Passing {
    frames: BoxStream<'static, Result<Bytes>>,
    /// None once all frames came and were found to be right.
    to_decoder: Option<mpsc::Sender<Bytes>>,
    /// What checks and keeps them; moves on only while the reader reads.
    kept: Pin<Box<dyn Future<Output = Result<()>> + Send>>,
    /// What the reader gets only when more came, or all was right.
    held: VecDeque<Bytes>,
    _turn: Turn,
}

impl Passing {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        while let Some(to_decoder) = &self.to_decoder {
            let came = tokio::select! {
                came = self.frames.try_next() => came?,
                // Without an error it cannot end before all came.
                ended = &mut self.kept => return Err(ended.err().unwrap_or_else(ended_early)),
            };
            let Some(piece) = came else {
                self.to_decoder = None;
                (&mut self.kept).await?;
                break;
            };
            tokio::select! {
                sent = to_decoder.send(piece.clone()) => sent.map_err(|_| ended_early())?,
                ended = &mut self.kept => return Err(ended.err().unwrap_or_else(ended_early)),
            }
            self.held.push_back(piece);
            if self.held.iter().skip(1).map(Bytes::len).sum::<usize>() as u64 >= HELD_BACK_BYTES {
                break;
            }
        }
        Ok(self.held.pop_front())
    }
}

/// Hashes what comes, and keeps it near if there is room and it is right.
async fn keep(
    digest: Digest,
    mut decoded: BoxStream<'static, Result<Bytes>>,
    mut growing: Option<Growing>,
) -> Result<()> {
    let mut hasher = Hasher::new(digest.function(), digest.size_bytes());
    while let Some(pieces) = next_pieces(&mut decoded).await? {
        for piece in &pieces {
            hasher = hash(hasher, piece.clone()).await?;
        }
        if hasher.size_bytes() > digest.size_bytes() {
            return Err(damaged(digest, format!("at least {} bytes", hasher.size_bytes())));
        }
        if let Some(file) = growing.take() {
            growing = match file.append(pieces).await {
                Ok(file) => Some(file),
                Err(error) => {
                    tracing::warn!(%digest, %error, "cannot keep a blob near");
                    None
                }
            };
        }
    }
    let found = hasher.finish();
    if found != digest {
        return Err(damaged(digest, found.to_string()));
    }
    if let Some(file) = growing
        && let Err(error) = file.finish().await
    {
        tracing::warn!(%digest, %error, "cannot keep a blob near");
    }
    Ok(())
}

fn ended_early() -> Error {
    let source = io::Error::new(io::ErrorKind::UnexpectedEof, "its frames end too soon");
    Error::unavailable("decoding a blob", source)
}
