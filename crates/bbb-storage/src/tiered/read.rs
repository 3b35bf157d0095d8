//! Reading of blobs that are not near: from a fetch while it goes on, or straight from far.

use std::{io, ops::Range, sync::Arc};

use bbb_digest::{Digest, Hasher};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream, stream::BoxStream};
use tokio::{sync::watch, task};

use crate::{Blob, Cas, Content, Encoding, Error, READ_CHUNK_BYTES, Result, Wanted};

use super::fetch::{Landed, Progress};

/// How many bytes are hashed on the reactor at the most.
const HASH_AT_ONCE_BYTES: usize = 128 << 10;

/// A reader of a fetch. The fetch goes on as long as there is one.
pub(super) struct Reader {
    pub(super) progress: watch::Receiver<Progress>,
    /// Whom to read from if there is no room near.
    pub(super) far: Arc<dyn Cas>,
    pub(super) digest: Digest,
}

impl Reader {
    /// The part that is wanted, as soon as anything of the blob is there.
    pub(super) async fn blob(mut self, wanted: Wanted) -> Result<Blob> {
        let size_bytes = self.digest.size_bytes();
        let range = wanted.within(size_bytes);
        let first = self.until(|progress| !matches!(progress, Progress::Asked)).await?;
        let (encoding, content) = match first {
            Progress::Here(Landed::Memory { frames: Some(frames), .. })
                if wanted.prefer == Encoding::Zstd && wanted.is_all() =>
            {
                (Encoding::Zstd, Content::Bytes(frames))
            }
            Progress::Here(Landed::Memory { bytes, .. }) => {
                let part = bytes.slice(range.start as usize..range.end as usize);
                (Encoding::Identity, Content::Bytes(part))
            }
            Progress::Here(Landed::File(mut file)) => {
                file.range = range;
                (Encoding::Identity, Content::File(file))
            }
            Progress::NoRoom => return straight(&self.far, self.digest, wanted).await,
            Progress::Failed(error) => return Err(error.again()),
            Progress::Asked | Progress::Growing { .. } => {
                (Encoding::Identity, Content::Stream(self.follow(range)))
            }
        };
        Ok(Blob { size_bytes, encoding, content })
    }

    /// Waits until the fetch has ended: whether the blob is near now.
    pub(super) async fn ended(mut self) -> Result<bool> {
        // The fetch lets go of the watch when it has done all that it does.
        while self.progress.changed().await.is_ok() {}
        let last = self.progress.borrow().clone();
        match last {
            Progress::Here(Landed::Memory { is_kept, .. }) => Ok(is_kept),
            Progress::Here(Landed::File(_)) => Ok(true),
            Progress::NoRoom => Ok(false),
            Progress::Failed(error) => Err(error.again()),
            Progress::Asked | Progress::Growing { .. } => Err(self.broken_off()),
        }
    }

    /// The bytes of a range as they come in.
    fn follow(self, range: Range<u64>) -> BoxStream<'static, Result<Bytes>> {
        let following = Following { reader: self, range, rest: None };
        stream::try_unfold(following, |mut following| async move {
            let piece = following.next().await?;
            Ok(piece.map(|piece| (piece, following)))
        })
        .boxed()
    }

    async fn until(&mut self, is_so: impl Fn(&Progress) -> bool) -> Result<Progress> {
        let waited = self.progress.wait_for(|progress| is_so(progress)).await;
        let progress = waited.ok().map(|progress| progress.clone());
        progress.ok_or_else(|| self.broken_off())
    }

    fn broken_off(&self) -> Error {
        let what = format!("fetching {}", self.digest);
        Error::unavailable(what, io::Error::other("the fetch has ended before its time"))
    }
}

/// A range that is being read from a fetch.
struct Following {
    reader: Reader,
    /// What was not read yet.
    range: Range<u64>,
    /// Where it comes from once the near tier has failed half-way.
    rest: Option<BoxStream<'static, Result<Bytes>>>,
}

impl Following {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        if let Some(rest) = &mut self.rest {
            return rest.try_next().await;
        }
        let start = self.range.start;
        if self.range.is_empty() {
            return Ok(None);
        }
        let has_more = |progress: &Progress| match progress {
            Progress::Asked => false,
            Progress::Growing { readable_bytes, .. } => *readable_bytes > start,
            Progress::Here(_) | Progress::NoRoom | Progress::Failed(_) => true,
        };
        let progress = self.reader.until(has_more).await?;
        let (file, readable) = match progress {
            Progress::Growing { file, readable_bytes } => (file, readable_bytes),
            Progress::Here(Landed::File(file)) => (file, self.range.end),
            Progress::Here(Landed::Memory { bytes, .. }) => {
                self.range.start = self.range.end;
                return Ok(Some(bytes.slice(start as usize..self.range.end as usize)));
            }
            Progress::Failed(error) => return Err(error.again()),
            Progress::Asked | Progress::NoRoom => {
                let Reader { far, digest, .. } = &self.reader;
                let part = Wanted::part(start, Some(self.range.end - start));
                let rest = self.rest.insert(straight(far, *digest, part).await?.into_stream());
                return rest.try_next().await;
            }
        };
        let end = self.range.end.min(readable).min(start + READ_CHUNK_BYTES);
        let piece = file.read(start..end).await?;
        self.range.start = end;
        Ok(Some(piece))
    }
}

/// Reads from far without keeping anything near. A whole blob is hashed on its way, and its last piece is
/// given only when it is right; parts are what far says they are.
pub(super) async fn straight(far: &Arc<dyn Cas>, digest: Digest, wanted: Wanted) -> Result<Blob> {
    let is_all = wanted.within(digest.size_bytes()) == (0..digest.size_bytes());
    let prefer = Encoding::Identity;
    let blob = far.get(digest, Wanted { prefer, ..wanted }).await?;
    if !is_all || digest.is_empty() {
        return Ok(blob);
    }
    let content = Content::Stream(checked(digest, blob.into_stream()));
    Ok(Blob { size_bytes: digest.size_bytes(), encoding: Encoding::Identity, content })
}

/// A whole blob's stream that gives its last piece only if the hash of all is right.
fn checked(
    digest: Digest,
    input: BoxStream<'static, Result<Bytes>>,
) -> BoxStream<'static, Result<Bytes>> {
    let hasher = Hasher::new(digest.function(), digest.size_bytes());
    stream::try_unfold(Some((input, hasher)), move |state| async move {
        let Some((mut input, hasher)) = state else { return Ok(None) };
        let Some(piece) = input.try_next().await? else {
            return Err(damaged(digest, hasher.finish().to_string()));
        };
        let hasher = hash(hasher, piece.clone()).await?;
        match hasher.size_bytes() {
            came if came < digest.size_bytes() => Ok(Some((piece, Some((input, hasher))))),
            came if came > digest.size_bytes() => {
                Err(damaged(digest, format!("at least {came} bytes")))
            }
            _ => {
                let found = hasher.finish();
                while let Some(more) = input.try_next().await? {
                    if !more.is_empty() {
                        return Err(damaged(digest, "more bytes".to_owned()));
                    }
                }
                match found == digest {
                    true => Ok(Some((piece, None))),
                    false => Err(damaged(digest, found.to_string())),
                }
            }
        }
    })
    .boxed()
}

pub(super) async fn hash(mut hasher: Hasher, piece: Bytes) -> Result<Hasher> {
    if piece.len() <= HASH_AT_ONCE_BYTES {
        hasher.update(&piece);
        return Ok(hasher);
    }
    let hashed = task::spawn_blocking(move || {
        hasher.update(&piece);
        hasher
    });
    hashed.await.map_err(|error| Error::unavailable("hashing", io::Error::other(error)))
}

pub(super) fn damaged(digest: Digest, found: String) -> Error {
    tracing::warn!(%digest, found, "the far tier gives other bytes");
    let source = io::Error::new(io::ErrorKind::InvalidData, format!("found {found}"));
    Error::unavailable(format!("reading {digest}: it is damaged"), source)
}
