//! Writing: to both tiers at once, while the bytes come in. What far says counts.
//!
//! A stream that far keeps waiting is taken in by the near tier alone, and far is given the rest from there. Otherwise whoever
//! waits for far would hold up what else its client sends on the same connection, whose window is full of what nobody reads:
//! and that may be the very bytes that those wait for who hold what far has no more of.
//!
//! A stream whose client takes its time is taken in by the near tier alone as well, and far is begun anew when all of it is
//! there. Far sets aside memory for what is to come, and so some slow clients, or clients that went away in the middle,
//! would leave none of it to the others.

use std::{fs::File, io, os::unix::fs::FileExt as _, path::PathBuf, sync::Arc, time::Duration};

use bbb_digest::Digest;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream, stream::BoxStream};
use tokio::{
    sync::{mpsc, oneshot},
    task,
    time::{self, Instant},
};

use crate::{
    Encoding, Error, HashedFile, READ_CHUNK_BYTES, Result, Source, SourceContent, Wanted,
    disk::open_stored,
};

use super::{
    blobs::Blobs,
    fetch::SMALL_BYTES,
    write_back::{Claim, Queue},
};

/// How many pieces of a stream wait for each tier at the most.
const PIPE_PIECES: usize = 2;

/// How long far may keep a stream waiting before the rest of it goes near alone.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long far waits for a client, in all, until so many bytes have come.
const PATIENCE_WITH_CLIENTS: Duration = Duration::from_secs(5);
const STRETCH_BYTES: u64 = 8 << 20;

type Pieces = BoxStream<'static, io::Result<Bytes>>;

impl Blobs {
    /// Stores a blob in both tiers. Done when far is; trouble near fails nothing.
    pub(super) async fn write(&self, digest: Digest, source: Source) -> Result<()> {
        let Source { encoding, content } = source;
        match content {
            SourceContent::Bytes(bytes) => {
                let source = |bytes| Source { encoding, content: SourceContent::Bytes(bytes) };
                let near = self.write_near(digest, source(bytes.clone()));
                let (stored, _) = tokio::join!(self.far.put(digest, source(bytes)), near);
                stored
            }
            SourceContent::Stream(stream) => self.write_stream(digest, encoding, stream).await,
            SourceContent::File(file) => self.write_file(digest, file).await,
        }
    }

    async fn write_stream(&self, digest: Digest, encoding: Encoding, input: Pieces) -> Result<()> {
        match self.write_both(digest, encoding, input).await {
            Written::Far(stored) => stored,
            // Only now, when far holds nothing any more of what it was given first: what it holds it might have no more of.
            Written::Near => self.write_from_near(digest).await,
        }
    }

    async fn write_both(&self, digest: Digest, encoding: Encoding, input: Pieces) -> Written {
        let source = |stream| Source { encoding, content: SourceContent::Stream(stream) };
        let ((near_end, near), (far_end, far)) = (pipe(), pipe());
        let near = self.write_near(digest, source(near));
        let mut far = self.far.put(digest, source(far));
        let (tell, kept) = oneshot::channel();
        let pour = self.pour(digest, encoding, input, Ends { near: near_end, far: far_end, kept });
        tokio::pin!(near, pour);
        let (mut tell, mut trouble_near) = (Some(tell), None);
        let (mut is_near_done, mut is_poured) = (false, false);
        let stored = loop {
            tokio::select! {
                stored = &mut far => break stored,
                kept = &mut near, if !is_near_done => {
                    is_near_done = true;
                    trouble_near = kept.err();
                    // Where there is trouble it is dropped, which tells that.
                    let tell = tell.take().filter(|_| trouble_near.is_none());
                    tell.map(|tell| tell.send(()));
                }
                poured = &mut pour, if !is_poured => match poured {
                    Poured::Done => is_poured = true,
                    Poured::Near => return Written::Near,
                    Poured::Lost => break Err(lost(digest, trouble_near.take())),
                    Poured::Slow(rest) => {
                        drop(far);
                        let (kept, ()) = tokio::join!(near, rest.pour());
                        return match kept {
                            Ok(()) => Written::Near,
                            Err(trouble) => Written::Far(Err(lost(digest, Some(trouble)))),
                        };
                    }
                },
            }
        };
        // Far may have had it before all came; then near keeps nothing.
        if stored.is_ok() && is_poured && !is_near_done {
            let _trouble = near.await;
        }
        Written::Far(stored)
    }

    /// Pours a stream into both pipes, in step with the slower one, until far's has no reader any more. When far keeps it
    /// waiting, near has all of it first.
    async fn pour(&self, digest: Digest, encoding: Encoding, input: Pieces, ends: Ends) -> Poured {
        let Ends { near, far, kept } = ends;
        let (mut given_bytes, mut is_behind) = (0, false);
        let mut input = Timed::new(input);
        while let Some(next) = input.next(&near).await {
            let Ok(piece) = next else { return Poured::Slow(Rest { input: input.input, near }) };
            // Near may have it already, or have failed.
            let is_near = near.send(copy(&piece)).await.is_ok();
            match is_behind {
                true if is_near => continue,
                true => break,
                false => {}
            }
            let len = piece.as_ref().map_or(0, |piece| piece.len() as u64);
            let is_given = match time::timeout(PATIENCE, far.reserve()).await {
                Ok(room) => room.map(|room| room.send(piece)).is_ok(),
                Err(_) if is_near && piece.is_ok() => {
                    is_behind = true;
                    continue;
                }
                Err(_) => far.send(piece).await.is_ok(),
            };
            if !is_given {
                return Poured::Done;
            }
            given_bytes += len;
        }
        drop(near);
        if !is_behind {
            return Poured::Done;
        }
        if kept.await.is_err() {
            return Poured::Lost;
        }
        if encoding != Encoding::Identity {
            // Near has it decoded: what far was given of the frames leads nowhere.
            return Poured::Near;
        }
        let mut rest = match self.near.get(digest, Wanted::part(given_bytes, None)).await {
            Ok(rest) => rest.into_stream(),
            Err(error) => stream::once(async { Err(error) }).boxed(),
        };
        while let Some(piece) = rest.next().await {
            if far.send(piece.map_err(io::Error::other)).await.is_err() {
                break;
            }
        }
        Poured::Done
    }

    /// Stores far what is near.
    pub(super) async fn write_from_near(&self, digest: Digest) -> Result<()> {
        let near = self.near.get(digest, Wanted::ALL).await;
        let near = near.map_err(|error| match error {
            // It was evicted since. That is no answer to who brings it.
            Error::Missing(_) => lost(digest, Some(error)),
            error => error,
        })?;
        let content = SourceContent::Stream(near.into_stream().map_err(io::Error::other).boxed());
        self.far.put(digest, Source { encoding: Encoding::Identity, content }).await
    }

    /// Stores a file, which near makes its own if it can; far reads it from where it was opened before.
    async fn write_file(&self, digest: Digest, file: HashedFile) -> Result<()> {
        if file.digest() != digest {
            let found = file.digest().to_string();
            return Err(Error::Mismatch { expected: digest, found });
        }
        let opened = open(digest, file.path().to_owned()).await.map_err(|error| {
            Error::unavailable(format!("reading {}", file.path().display()), error)
        })?;
        let _trouble = self.write_near(digest, file.into()).await;
        self.far.put(digest, opened).await
    }

    /// Stores a blob near and has it wait to be written far; stores it far at once if that cannot be.
    pub(super) async fn write_later(
        &self,
        queue: &Arc<Queue>,
        digest: Digest,
        source: Source,
    ) -> Result<()> {
        if digest.is_empty() {
            return self.write(digest, source).await;
        }
        let room = match queue.claim(&self.instance, digest) {
            Claim::Room(room) => room,
            Claim::Waits => return Ok(()),
            Claim::Full => return self.write(digest, source).await,
        };
        // What cannot be had twice is not begun where there is no room.
        if self.disk.reserve_file(digest.size_bytes()).await.is_err() {
            queue.rest();
            return self.write(digest, source).await;
        }
        let again: Option<Source> = match &source.content {
            SourceContent::Bytes(bytes) => {
                let content = SourceContent::Bytes(bytes.clone());
                Some(Source { encoding: source.encoding, content })
            }
            SourceContent::File(file) => Some(file.clone().into()),
            SourceContent::Stream(_) => None,
        };
        match self.near.put(digest, source).await {
            Ok(()) => {}
            Err(error @ (Error::Full { .. } | Error::Unavailable { .. })) => {
                tracing::warn!(%digest, %error, "cannot acknowledge near, writing far at once");
                queue.rest();
                return match again {
                    Some(source) => self.write(digest, source).await,
                    None => Err(error),
                };
            }
            Err(error) => return Err(error),
        }
        let Err(error) = queue.add_blob(&self.instance, digest, room).await else { return Ok(()) };
        tracing::warn!(%digest, %error, "cannot have a blob wait, writing far at once");
        queue.rest();
        self.write_from_near(digest).await
    }

    /// Stores a blob near. That it cannot be is told here; it matters only to those who wanted to read it from there.
    async fn write_near(&self, digest: Digest, source: Source) -> Result<()> {
        let kept = self.near.put(digest, source).await;
        match &kept {
            Ok(()) => {}
            Err(error @ Error::Unavailable { .. }) => {
                tracing::warn!(%digest, %error, "cannot keep a blob near");
            }
            // Full, or bad, which far says too.
            Err(error) => tracing::debug!(%digest, %error, "not kept near"),
        }
        kept
    }
}

/// Where a stream is poured to.
struct Ends {
    near: mpsc::Sender<io::Result<Bytes>>,
    far: mpsc::Sender<io::Result<Bytes>>,
    /// Told when near has all of it.
    kept: oneshot::Receiver<()>,
}

/// What came of pouring.
enum Poured {
    /// Far was given all that it wanted.
    Done,
    /// Near has it; far has to be given it from there, from the beginning.
    Near,
    /// Far was to be given it from near, which failed.
    Lost,
    /// The client takes its time: far shall not wait for the rest.
    Slow(Rest),
}

/// Where a stream lies that was to be stored in both tiers.
enum Written {
    /// Far, if it did not fail.
    Far(Result<()>),
    /// Near alone.
    Near,
}

/// What is still to come of a stream, for near alone.
struct Rest {
    input: Pieces,
    near: mpsc::Sender<io::Result<Bytes>>,
}

impl Rest {
    async fn pour(mut self) {
        while let Some(piece) = self.input.next().await
            && self.near.send(piece).await.is_ok()
        {}
    }
}

/// A stream, and how long it is still waited for.
struct Timed {
    input: Pieces,
    patience: Duration,
    /// How many bytes come until it is waited for as long again.
    stretch_bytes: u64,
}

/// The client takes its time, and near takes in what it sends.
struct IsSlow;

impl Timed {
    fn new(input: Pieces) -> Self {
        Self { input, patience: PATIENCE_WITH_CLIENTS, stretch_bytes: STRETCH_BYTES }
    }

    /// The next piece. Where `near` takes none any more it is waited for however long it takes.
    async fn next(
        &mut self,
        near: &mpsc::Sender<io::Result<Bytes>>,
    ) -> Option<Result<io::Result<Bytes>, IsSlow>> {
        let asked = Instant::now();
        let piece = match time::timeout(self.patience, self.input.next()).await {
            Ok(piece) => piece?,
            Err(_) if !near.is_closed() => return Some(Err(IsSlow)),
            Err(_) => self.input.next().await?,
        };
        self.patience = self.patience.saturating_sub(asked.elapsed());
        self.stretch_bytes =
            self.stretch_bytes.saturating_sub(piece.as_ref().map_or(0, |piece| piece.len() as u64));
        if self.stretch_bytes == 0 {
            (self.patience, self.stretch_bytes) = (PATIENCE_WITH_CLIENTS, STRETCH_BYTES);
        }
        Some(Ok(piece))
    }
}

fn copy(piece: &io::Result<Bytes>) -> io::Result<Bytes> {
    match piece {
        Ok(bytes) => Ok(bytes.clone()),
        Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
    }
}

/// Why a write failed when far had come to depend on near.
fn lost(digest: Digest, trouble_near: Option<Error>) -> Error {
    match trouble_near {
        // These are about what came in.
        Some(
            error @ (Error::Mismatch { .. } | Error::Unreadable { .. } | Error::BrokenOff { .. }),
        ) => error,
        trouble => {
            let what = format!("keeping {digest} near, where far is to have it from");
            Error::unavailable(
                what,
                trouble.map_or_else(|| io::Error::other("given up"), io::Error::other),
            )
        }
    }
}

/// Opens a file as the source of a blob: what it gives is what the file held then, whatever becomes of its
/// name. A small one is read at once.
pub(super) async fn open(digest: Digest, path: PathBuf) -> io::Result<Source> {
    let size_bytes = digest.size_bytes();
    let opened = task::spawn_blocking(move || {
        let file = open_stored(&path)?;
        match size_bytes <= SMALL_BYTES {
            true => read(&file, 0, size_bytes).map(SourceContent::Bytes),
            false => Ok(SourceContent::Stream(pieces(file, size_bytes))),
        }
    });
    let content = opened.await.map_err(io::Error::other).flatten()?;
    Ok(Source { encoding: Encoding::Identity, content })
}

fn pipe() -> (mpsc::Sender<io::Result<Bytes>>, Pieces) {
    let (sender, mut receiver) = mpsc::channel(PIPE_PIECES);
    (sender, stream::poll_fn(move |context| receiver.poll_recv(context)).boxed())
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
