//! Reading of blobs that are not near: from a fetch while it goes on, or straight from far.

use std::{io, ops::Range, sync::Arc};

use bbb_digest::{Digest, Hasher};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream, stream::BoxStream};
use tokio::sync::watch;

use crate::{
    Blob, Cas, Content, Encoding, Error, PinnedFile, READ_CHUNK_BYTES, Result, Wanted,
    checked::hash,
};

use super::fetch::{HELD_BACK_BYTES, Landed, Progress};

/// A reader of a fetch. The fetch goes on as long as there is one.
pub(super) struct Reader {
    pub(super) progress: watch::Receiver<Progress>,
    /// Whether it came when the fetch had begun already.
    pub(super) is_late: bool,
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
        let wants_frames = wanted.prefer == Encoding::Zstd && wanted.is_all();
        let (encoding, content) = match first {
            Progress::Here(Landed::Memory { frames: Some(frames), .. }) if wants_frames => {
                (Encoding::Zstd, Content::Bytes(frames))
            }
            Progress::Here(Landed::Memory { bytes, .. }) => {
                let part = bytes.slice(range.start as usize..range.end as usize);
                (Encoding::Identity, Content::Bytes(part))
            }
            Progress::Here(Landed::File { mut file, .. }) => {
                file.range = range;
                (Encoding::Identity, Content::File(file))
            }
            Progress::Growing { frames: Some(_), .. } if wants_frames => {
                (Encoding::Zstd, Content::Stream(self.follow(Form::Frames)))
            }
            Progress::NoRoom => return straight(&self.far, self.digest, wanted).await,
            Progress::Failed(error) => return Err(error.again()),
            Progress::Asked | Progress::Growing { .. } => {
                (Encoding::Identity, Content::Stream(self.follow(Form::Decoded(range))))
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
            Progress::Here(Landed::File { .. }) => Ok(true),
            Progress::NoRoom => Ok(false),
            Progress::Failed(error) => Err(error.again()),
            Progress::Asked | Progress::Growing { .. } => Err(self.broken_off()),
        }
    }

    /// The bytes as they come in.
    fn follow(self, form: Form) -> BoxStream<'static, Result<Bytes>> {
        let (at, rest) = (if let Form::Decoded(range) = &form { range.start } else { 0 }, None);
        let following = Following { reader: self, form, at, rest };
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

/// What of a fetch is followed.
enum Form {
    /// A range of the blob.
    Decoded(Range<u64>),
    /// All of the frames that it comes in.
    Frames,
}

/// A fetch that is being read.
struct Following {
    reader: Reader,
    form: Form,
    /// What was read so far ends here.
    at: u64,
    /// Where the rest comes from once the near tier has failed half-way.
    rest: Option<BoxStream<'static, Result<Bytes>>>,
}

/// How far a file can be read, and whether that is all that is wanted of it.
struct Readable {
    file: PinnedFile,
    end: u64,
    is_end: bool,
}

impl Following {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(rest) = &mut self.rest {
                return rest.try_next().await;
            }
            let (form, at) = (&self.form, self.at);
            let has_more = |progress: &Progress| match progress {
                Progress::Asked => false,
                Progress::Growing { .. } => readable(form, progress)
                    .is_none_or(|readable| readable.end > at || readable.is_end),
                Progress::Here(_) | Progress::NoRoom | Progress::Failed(_) => true,
            };
            let progress = self.reader.until(has_more).await?;
            if let Some(Readable { file, end, is_end }) = readable(form, &progress) {
                if at >= end && is_end {
                    return Ok(None);
                }
                let end = end.min(at + READ_CHUNK_BYTES);
                let piece = file.read(at..end).await?;
                self.at = end;
                return Ok(Some(piece));
            }
            match (progress, form) {
                (Progress::Failed(error), _) => return Err(error.again()),
                (_, Form::Decoded(range)) => {
                    let Reader { far, digest, .. } = &self.reader;
                    let part = Wanted::part(at, Some(range.end - at));
                    self.rest = Some(straight(far, *digest, part).await?.into_stream());
                }
                (_, Form::Frames) => {
                    let source = io::Error::other("the near tier has no room for its frames");
                    return Err(Error::unavailable("fetching a blob", source));
                }
            }
        }
    }
}

/// What of a form is in a file by now; nothing if it is in none.
fn readable(form: &Form, progress: &Progress) -> Option<Readable> {
    let (file, end, is_end) = match (form, progress) {
        (Form::Decoded(range), Progress::Growing { file, readable_bytes, .. }) => {
            (file, range.end.min(*readable_bytes), range.end <= *readable_bytes)
        }
        (Form::Decoded(range), Progress::Here(Landed::File { file, .. })) => {
            (file, range.end, true)
        }
        (Form::Frames, Progress::Growing { frames: Some(file), .. }) => {
            (file, file.range.end.saturating_sub(HELD_BACK_BYTES), false)
        }
        (Form::Frames, Progress::Here(Landed::File { frames: Some(file), .. })) => {
            (file, file.range.end, true)
        }
        _ => return None,
    };
    Some(Readable { file: file.clone(), end, is_end })
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

fn damaged(digest: Digest, found: String) -> Error {
    tracing::warn!(%digest, found, "the far tier gives other bytes");
    let source = io::Error::new(io::ErrorKind::InvalidData, format!("found {found}"));
    Error::unavailable(format!("reading {digest}: it is damaged"), source)
}
