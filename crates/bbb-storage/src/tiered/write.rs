//! Writing: to both tiers at once, while the bytes come in. What far says counts.

use std::{fs::File, io, os::unix::fs::FileExt as _, sync::Arc};

use bbb_digest::Digest;
use bytes::Bytes;
use futures::{StreamExt as _, stream, stream::BoxStream};
use tokio::{sync::mpsc, task};

use crate::{Encoding, Error, HashedFile, READ_CHUNK_BYTES, Result, Source, SourceContent};

use super::{blobs::Blobs, fetch::SMALL_BYTES};

/// How many pieces of a stream wait for each tier at the most.
const PIPE_PIECES: usize = 2;

type Pieces = BoxStream<'static, io::Result<Bytes>>;

impl Blobs {
    /// Stores a blob in both tiers. Done when far is; trouble near fails nothing.
    pub(super) async fn write(&self, digest: Digest, source: Source) -> Result<()> {
        let Source { encoding, content } = source;
        match content {
            SourceContent::Bytes(bytes) => {
                let source = |bytes| Source { encoding, content: SourceContent::Bytes(bytes) };
                let near = self.write_near(digest, source(bytes.clone()));
                let (stored, ()) = tokio::join!(self.far.put(digest, source(bytes)), near);
                stored
            }
            SourceContent::Stream(stream) => self.write_stream(digest, encoding, stream).await,
            SourceContent::File(file) => self.write_file(digest, file).await,
        }
    }

    async fn write_stream(&self, digest: Digest, encoding: Encoding, input: Pieces) -> Result<()> {
        let source = |stream| Source { encoding, content: SourceContent::Stream(stream) };
        let ((near_end, near), (far_end, far)) = (pipe(), pipe());
        let near = self.write_near(digest, source(near));
        let far = self.far.put(digest, source(far));
        let pour = pour(input, near_end, far_end);
        tokio::pin!(near, pour, far);
        let (mut is_near_done, mut is_poured) = (false, false);
        let stored = loop {
            tokio::select! {
                stored = &mut far => break stored,
                () = &mut near, if !is_near_done => is_near_done = true,
                () = &mut pour, if !is_poured => is_poured = true,
            }
        };
        // Far may have had it before all came; then near keeps nothing.
        if stored.is_ok() && is_poured && !is_near_done {
            near.await;
        }
        stored
    }

    /// Stores a file, which near makes its own if it can; far reads it from where it was opened before.
    async fn write_file(&self, digest: Digest, file: HashedFile) -> Result<()> {
        if file.digest() != digest {
            let found = file.digest().to_string();
            return Err(Error::Mismatch { expected: digest, found });
        }
        let path = file.path().to_owned();
        let failed = move |error| Error::unavailable(format!("reading {}", path.display()), error);
        let path = file.path().to_owned();
        let opened = task::spawn_blocking(move || {
            let opened = crate::disk::open_stored(&path)?;
            match digest.size_bytes() <= SMALL_BYTES {
                true => read(&opened, 0, digest.size_bytes()).map(SourceContent::Bytes),
                false => Ok(SourceContent::Stream(pieces(opened, digest.size_bytes()))),
            }
        });
        let content = opened.await.map_err(io::Error::other).flatten().map_err(failed)?;
        self.write_near(digest, file.into()).await;
        self.far.put(digest, Source { encoding: Encoding::Identity, content }).await
    }

    async fn write_near(&self, digest: Digest, source: Source) {
        match self.near.put(digest, source).await {
            Ok(()) => {}
            Err(error @ Error::Unavailable { .. }) => {
                tracing::warn!(%digest, %error, "cannot keep a blob near");
            }
            // Full, or bad, which far says too.
            Err(error) => tracing::debug!(%digest, %error, "not kept near"),
        }
    }
}

fn pipe() -> (mpsc::Sender<io::Result<Bytes>>, Pieces) {
    let (sender, mut receiver) = mpsc::channel(PIPE_PIECES);
    (sender, stream::poll_fn(move |context| receiver.poll_recv(context)).boxed())
}

/// Pours a stream into both pipes, in step with the slower one, until far's has no reader any more.
async fn pour(
    mut input: Pieces,
    near: mpsc::Sender<io::Result<Bytes>>,
    far: mpsc::Sender<io::Result<Bytes>>,
) {
    while let Some(piece) = input.next().await {
        let copy = match &piece {
            Ok(bytes) => Ok(bytes.clone()),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        };
        // Near may have it already, or have failed.
        let _ = near.send(copy).await;
        if far.send(piece).await.is_err() {
            return;
        }
    }
}

/// The bytes of an open file, read off the reactor.
fn pieces(file: File, size_bytes: u64) -> Pieces {
    let file = Arc::new(file);
    stream::try_unfold(0, move |start| {
        let file = Arc::clone(&file);
        async move {
            if start >= size_bytes {
                return Ok(None);
            }
            let end = size_bytes.min(start + READ_CHUNK_BYTES);
            let piece = task::spawn_blocking(move || read(&file, start, end));
            Ok(Some((piece.await.map_err(io::Error::other)??, end)))
        }
    })
    .boxed()
}

fn read(file: &File, start: u64, end: u64) -> io::Result<Bytes> {
    let mut bytes = vec![0; (end - start) as usize];
    file.read_exact_at(&mut bytes, start)?;
    Ok(bytes.into())
}
