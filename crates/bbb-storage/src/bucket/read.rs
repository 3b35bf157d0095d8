//! Reading of blobs. What is small is fetched, decoded and hashed as a whole; what is big is streamed in
//! checked chunks, wherever the read begins.
//!
//! Bytes that are not right are asked for once more: they may have been changed on their way. If they
//! are wrong again the object is quarantined. The read that found it fails as unavailable, for nobody
//! knows; the next ones find nothing, so that the blob is uploaded again.

use std::{
    io,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bbb_digest::Digest;
use bytes::Bytes;
use futures::{StreamExt as _, stream, stream::BoxStream};
use object_store::{ObjectMeta, path::Path};

use crate::{Blob, Content, Encoding, Error, Result, Wanted, zstd};

use super::{
    Bucket, blocking,
    existence::Id,
    fetch::{Lost, Ranges},
    keys::Kind,
    object::{
        self, Damage, HEAD_LEN, INDEX_GUESS_BYTES, Index, MAX_INDEX_BYTES, SMALL_BYTES,
        max_encoded_bytes,
    },
    quarantine::{Doubt, Doubts},
    retry::Failure,
    store::{Fetched, Part},
    unpack::{Pulled, Unpacker},
};

/// Up to this size a blob is hashed and decoded where it arrives: half a millisecond's work at the most.
const MAX_INLINE_BYTES: u64 = 128 << 10;

/// How often an object may change under one reader.
const MAX_CHANGES: u32 = 8;

/// A blob and where it lies.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) bucket: Arc<Bucket>,
    pub(super) digest: Digest,
    pub(super) key: Path,
    pub(super) id: Id,
}

impl Place {
    /// Reads the blob or a part of it.
    pub(super) async fn read(self, wanted: Wanted) -> Result<Blob> {
        match self.digest.size_bytes() {
            0..=SMALL_BYTES => self.read_small(wanted).await,
            _ => self.read_big(wanted).await,
        }
    }

    async fn read_small(&self, wanted: Wanted) -> Result<Blob> {
        let size_bytes = self.digest.size_bytes();
        let limit_bytes = HEAD_LEN + max_encoded_bytes(size_bytes);
        let _taken = self.bucket.budget.reads.take(limit_bytes + size_bytes).await?;
        let mut doubts = Doubts::default();
        loop {
            let fetched = self.fetch(Part::All, limit_bytes).await?;
            let (digest, bytes) = (self.digest, fetched.bytes.clone());
            let wants_frames = wanted.is_all() && wanted.prefer == Encoding::Zstd;
            let check = move || check_small(digest, &bytes, wants_frames);
            let checked = match size_bytes {
                0..=MAX_INLINE_BYTES => check(),
                _ => blocking("checking a blob", move || Ok(check())).await?,
            };
            match checked {
                Ok((encoding, bytes)) => {
                    if !self.bucket.used(Kind::Blob, self.id, &fetched.meta) {
                        return Err(Error::Missing(self.digest));
                    }
                    let within = wanted.within(size_bytes);
                    let bytes = match encoding {
                        Encoding::Identity => {
                            bytes.slice(within.start as usize..within.end as usize)
                        }
                        Encoding::Zstd => bytes,
                    };
                    return Ok(Blob { size_bytes, encoding, content: Content::Bytes(bytes) });
                }
                Err(damage) => {
                    let damage = damage.of_bytes(&fetched.bytes);
                    self.doubt(doubts.note(&damage), &damage, &fetched.meta).await?;
                }
            }
        }
    }

    async fn read_big(self, wanted: Wanted) -> Result<Blob> {
        let size_bytes = self.digest.size_bytes();
        let within = wanted.within(size_bytes);
        let (mut index, mut meta) = self.index().await?;
        if self.bucket.is_aging(Kind::Blob, &meta) {
            // Before, since a renewed object is another one to the server, and this one may take long.
            if !self.bucket.hold(Kind::Blob, &meta).await? {
                return Err(Error::Missing(self.digest));
            }
            (index, meta) = self.index().await?;
        }
        if !self.bucket.used(Kind::Blob, self.id, &meta) {
            return Err(Error::Missing(self.digest));
        }
        let is_frames =
            wanted.is_all() && wanted.prefer == Encoding::Zstd && index.encoding == Encoding::Zstd;
        let form = if is_frames { Encoding::Zstd } else { Encoding::Identity };
        let content = match within.is_empty() {
            true => Content::Bytes(Bytes::new()),
            false => Content::Stream(Reader::new(self, &index, meta, within, form)?.into_stream()),
        };
        Ok(Blob { size_bytes, encoding: form, content })
    }

    /// Reads the index of a big blob's object.
    async fn index(&self) -> Result<(Arc<Index>, ObjectMeta)> {
        let mut doubts = Doubts::default();
        let mut guess = INDEX_GUESS_BYTES;
        loop {
            let _taken = self.bucket.budget.reads.take(guess).await?;
            let Fetched { bytes, meta } = self.fetch(Part::End(guess), guess).await?;
            let parsed = match Index::len_by_end(&bytes) {
                Ok(len) if len > bytes.len() as u64 && guess < MAX_INDEX_BYTES => {
                    guess = MAX_INDEX_BYTES;
                    continue;
                }
                Ok(_) => Index::parse(self.digest, &bytes, meta.size),
                Err(damage) => Err(damage),
            };
            match parsed {
                Ok(index) => return Ok((Arc::new(index), meta)),
                Err(damage) => {
                    let damage = damage.of_bytes(&bytes);
                    self.doubt(doubts.note(&damage), &damage, &meta).await?;
                }
            }
        }
    }

    async fn fetch(&self, part: Part, limit_bytes: u64) -> Result<Fetched> {
        match self.bucket.store.get(&self.key, part, limit_bytes, None).await {
            Ok(fetched) => Ok(fetched),
            Err(failure) => Err(self.error(failure).await),
        }
    }

    async fn error(&self, failure: Failure) -> Error {
        match failure {
            Failure::Missing => {
                self.bucket.existence.gone(self.id);
                match self.bucket.believe_miss().await {
                    Ok(()) => Error::Missing(self.digest),
                    Err(error) => error,
                }
            }
            other => other.into_error("reading", self.digest),
        }
    }

    /// What follows from a read that gave wrong bytes: fine if it is worth another one, else how it fails.
    async fn doubt(&self, doubt: Doubt, damage: &Damage, meta: &ObjectMeta) -> Result<()> {
        match doubt {
            Doubt::ReadAgain => {
                tracing::debug!(key = %self.key, %damage, "wrong bytes from the bucket: once more");
                return Ok(());
            }
            Doubt::GiveUp => {
                tracing::warn!(key = %self.key, %damage, "wrong bytes from the bucket, other ones each time");
            }
            Doubt::Quarantine => self.bucket.quarantine(&self.key, damage, meta).await,
        }
        Err(damaged(self.digest, damage))
    }
}

fn damaged(digest: Digest, damage: &Damage) -> Error {
    let source = io::Error::new(io::ErrorKind::InvalidData, damage.clone());
    Error::unavailable(format!("the object of {digest} in the bucket is damaged"), source)
}

/// The checked bytes of a small blob's object, decoded unless frames are wanted and there.
pub(super) fn check_small(
    digest: Digest,
    object: &Bytes,
    wants_frames: bool,
) -> Result<(Encoding, Bytes), Damage> {
    let encoding = object::parse_head(object)?;
    let body = object.slice(HEAD_LEN as usize..);
    let decoded = match encoding {
        Encoding::Identity => body.clone(),
        Encoding::Zstd => zstd::decode_bytes(&body, digest.size_bytes() as usize)
            .map_err(|error| Damage::new(error.to_string()))?,
    };
    if decoded.len() as u64 != digest.size_bytes() {
        return Err(Damage::new(format!("holds {} bytes", decoded.len())));
    }
    let found = Digest::of(digest.function(), &decoded);
    if found != digest {
        return Err(Damage::new(format!("holds {found}")));
    }
    match (encoding, wants_frames) {
        (Encoding::Zstd, true) => Ok((Encoding::Zstd, body)),
        _ => Ok((Encoding::Identity, decoded)),
    }
}

/// A big blob, or a part of it, on its way to whoever reads it.
struct Reader {
    place: Place,
    meta: ObjectMeta,
    wanted: Range<u64>,
    form: Encoding,
    ranges: Ranges,
    /// Shared with the blocking thread that is at work for this reader, if one is.
    unpacker: Arc<Mutex<Unpacker>>,
    /// What is thought of the chunk at `doubted`.
    doubts: Doubts,
    doubted: u64,
    changes: u32,
}

impl Reader {
    fn new(
        place: Place,
        index: &Arc<Index>,
        meta: ObjectMeta,
        wanted: Range<u64>,
        form: Encoding,
    ) -> Result<Self> {
        let (ranges, unpacker) = plan(&place, index, &meta, &wanted, form)?;
        let (doubts, doubted, changes) = (Doubts::default(), 0, 0);
        Ok(Self { place, meta, wanted, form, ranges, unpacker, doubts, doubted, changes })
    }

    fn into_stream(self) -> BoxStream<'static, Result<Bytes>> {
        stream::try_unfold(self, |mut reader| async move {
            Ok(reader.next().await?.map(|piece| (piece, reader)))
        })
        .boxed()
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            let (passed, is_hungry) = {
                let mut unpacker = self.unpacker();
                (unpacker.passed(), unpacker.is_hungry())
            };
            if passed.is_some() {
                return Ok(passed);
            }
            if is_hungry {
                self.feed().await?;
                continue;
            }
            match self.pull().await? {
                Ok(Pulled::Piece(piece)) => {
                    if let Some(piece) = self.trim(piece) {
                        return Ok(Some(piece));
                    }
                }
                Ok(Pulled::End) => return Ok(None),
                Ok(Pulled::Hungry) => self.feed().await?,
                Err(damage) => self.doubt(damage).await?,
            }
        }
    }

    /// Takes what comes next of the body.
    async fn feed(&mut self) -> Result<()> {
        match self.ranges.next().await {
            Some(Ok(fetch)) => self.unpacker().feed(fetch),
            None => self.unpacker().end_input(),
            // Another node wrote the same blob, perhaps in another form.
            Some(Err(Lost::Bucket(Failure::Condition))) => self.follow_change().await?,
            Some(Err(Lost::Bucket(failure))) => return Err(self.place.error(failure).await),
            Some(Err(Lost::Memory(error))) => return Err(error),
        }
        Ok(())
    }

    /// Works on what came, off the reactor, while more comes.
    async fn pull(&mut self) -> Result<Result<Pulled, Damage>> {
        let unpacker = Arc::clone(&self.unpacker);
        let work = blocking("checking a blob", move || {
            Ok(unpacker.lock().unwrap_or_else(PoisonError::into_inner).pull())
        });
        self.ranges.while_reading(work).await
    }

    /// Of a chunk, what was asked for.
    fn trim(&self, piece: Bytes) -> Option<Bytes> {
        if self.form == Encoding::Zstd {
            return Some(piece);
        }
        let len = piece.len() as u64;
        let begins = self.unpacker().checked() - len;
        let from = self.wanted.start.saturating_sub(begins).min(len);
        let to = self.wanted.end.saturating_sub(begins).min(len);
        (from < to).then(|| piece.slice(from as usize..to as usize))
    }

    /// After wrong bytes: reads on from the chunk that is next, if that is worth another read.
    async fn doubt(&mut self, damage: Damage) -> Result<()> {
        let (at, is_final) = {
            let unpacker = self.unpacker();
            (unpacker.checked(), unpacker.is_wrong_as_a_whole())
        };
        if self.form == Encoding::Zstd && !is_final {
            self.examine(at).await?;
            return Err(damaged(self.place.digest, &damage));
        }
        if self.doubted != at {
            (self.doubted, self.doubts) = (at, Doubts::default());
        }
        let doubt = match is_final {
            true => Doubt::Quarantine,
            false => self.doubts.note(&damage),
        };
        self.place.doubt(doubt, &damage, &self.meta).await?;
        self.read_on(at).await
    }

    /// Frames cannot be taken up in the middle. Whether the object is to blame for wrong ones shows when the
    /// chunk is read by itself.
    async fn examine(&mut self, at: u64) -> Result<()> {
        let (index, meta) = self.place.index().await?;
        let chunk = at..(at + 1).min(index.size_bytes);
        if !chunk.is_empty() {
            let mut reader =
                Self::new(self.place.clone(), &index, meta, chunk, Encoding::Identity)?;
            while Box::pin(reader.next()).await?.is_some() {}
        }
        Ok(())
    }

    async fn follow_change(&mut self) -> Result<()> {
        self.changes += 1;
        if self.changes > MAX_CHANGES || self.form == Encoding::Zstd {
            let source = io::Error::other(Failure::Condition);
            return Err(Error::unavailable(format!("reading {}", self.place.digest), source));
        }
        let at = self.unpacker().checked();
        self.read_on(at).await
    }

    /// Begins anew, with the object as it is now, at a chunk.
    async fn read_on(&mut self, at: u64) -> Result<()> {
        let (index, meta) = self.place.index().await?;
        let wanted = at.max(self.wanted.start)..self.wanted.end;
        (self.ranges, self.unpacker) = plan(&self.place, &index, &meta, &wanted, self.form)?;
        self.meta = meta;
        Ok(())
    }

    fn unpacker(&self) -> MutexGuard<'_, Unpacker> {
        self.unpacker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What of the body is to be read for a part of the blob, and what unpacks it.
fn plan(
    place: &Place,
    index: &Arc<Index>,
    meta: &ObjectMeta,
    wanted: &Range<u64>,
    form: Encoding,
) -> Result<(Ranges, Arc<Mutex<Unpacker>>)> {
    let chunk_bytes = index.chunk_bytes();
    let from = wanted.start - wanted.start % chunk_bytes;
    let to = wanted.end.next_multiple_of(chunk_bytes).min(index.size_bytes);
    let begin = match index.encoding {
        Encoding::Identity => from,
        Encoding::Zstd => index.segment_before(from).encoded_end,
    };
    let body = HEAD_LEN + begin..HEAD_LEN + index.encoded_end(to);
    let unpacker = Unpacker::new(place.digest, Arc::clone(index), from, to, form)
        .map_err(|error| Error::unavailable("making a decoder", error))?;
    let Bucket { store, budget, .. } = &*place.bucket;
    let ranges = Ranges::new(store, budget, &place.key, meta.e_tag.clone(), body);
    Ok((ranges, Arc::new(Mutex::new(unpacker))))
}
