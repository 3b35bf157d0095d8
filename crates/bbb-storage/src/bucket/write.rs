//! Writing of blobs. What is small is gathered, checked and sent in one piece. What is big goes out in
//! parts while it still comes in; it becomes visible only when its hash was found right.

use std::{
    fs::File,
    future::Future,
    io,
    os::unix::fs::FileExt as _,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use futures::{
    FutureExt as _, StreamExt as _,
    future::BoxFuture,
    stream::{self, BoxStream, FuturesUnordered},
};
use object_store::{PutPayload, multipart::PartId};
use tokio::task;

use crate::{Encoding, Error, HashedFile, Result, Source, SourceContent};

use super::{
    blocking,
    budget::Taken,
    keys::Kind,
    object::{HEAD_LEN, SMALL_BYTES, max_encoded_bytes},
    pack::Packer,
    parts::Upload,
    read::Place,
    retry::Failure,
};

/// How much of a source is worked on at a time.
const STEP_BYTES: usize = 1 << 20;

/// The size of a part, unless the blob is so big that there would be too many.
const PART_BYTES: u64 = 8 << 20;

/// S3 takes 10,000 parts; with an index, and frames longer than what they hold, a few more are needed than
/// the size says.
const MAX_PARTS: u64 = 9_000;

/// Up to this size a blob is packed where it arrives: half a millisecond's work at the most.
const MAX_INLINE_BYTES: u64 = 64 << 10;

/// How many parts of one blob are on their way at once.
const MAX_PARTS_SENDING: usize = 3;

impl Place {
    /// Stores the blob.
    pub(super) async fn write(&self, source: Source) -> Result<()> {
        if let SourceContent::File(file) = &source.content
            && file.digest() != self.digest
        {
            let found = file.digest().to_string();
            return Err(Error::Mismatch { expected: self.digest, found });
        }
        if self.bucket.existence.is_known(self.id) {
            return Ok(());
        }
        let is_small = self.digest.size_bytes() <= SMALL_BYTES;
        // For a big blob a look costs less than to send it again.
        if !is_small && self.bucket.exists(self.key.clone(), self.id).await? {
            return Ok(());
        }
        let feed = self.feed_of(source).await?;
        match is_small {
            true => self.write_small(feed).await?,
            false => self.write_big(feed).await?,
        }
        self.bucket.existence.wrote(self.id);
        Ok(())
    }

    async fn feed_of(&self, source: Source) -> Result<Feed> {
        let pieces = match source.content {
            SourceContent::Bytes(bytes) => stream::once(async { Ok(bytes) }).boxed(),
            SourceContent::Stream(stream) => stream,
            SourceContent::File(file) => file_stream(&file)
                .await
                .map_err(|error| Error::unavailable(format!("reading {}", self.digest), error))?,
        };
        let packer = Packer::new(self.digest, source.encoding, self.bucket.settings.compress)?;
        let limit_bytes = match source.encoding {
            // One more shows that it is too long.
            Encoding::Identity => self.digest.size_bytes() + 1,
            Encoding::Zstd => 2 * max_encoded_bytes(self.digest.size_bytes()) + 1,
        };
        let packer = Arc::new(Mutex::new(Some(packer)));
        Ok(Feed { place: self.clone(), pieces, came: Bytes::new(), packer, rest: limit_bytes })
    }

    async fn write_small(&self, mut feed: Feed) -> Result<()> {
        let size_bytes = self.digest.size_bytes();
        let longest = HEAD_LEN + max_encoded_bytes(size_bytes);
        let _taken = self.bucket.budget.writes.take(size_bytes + longest).await?;
        let mut object = Vec::new();
        while let Some(step) = feed.gather().await? {
            object = feed.pack(step, object).await?;
        }
        object = feed.finish(object).await?;
        let put = self.bucket.put(Kind::Blob, &self.key, PutPayload::from(object)).await;
        put.map_err(|failure| self.write_error(failure))
    }

    async fn write_big(&self, mut feed: Feed) -> Result<()> {
        let size_bytes = self.digest.size_bytes();
        let part_bytes = PART_BYTES.max(size_bytes.div_ceil(MAX_PARTS).next_multiple_of(1 << 20));
        let mut parts = Parts::new(self.clone(), part_bytes);
        let mut part = parts.next_part().await?;
        loop {
            let gathered = parts.while_sending(feed.gather()).await?;
            let Some(step) = gathered else { break };
            part.bytes = parts.while_sending(feed.pack(step, part.bytes)).await?;
            part = parts.send_full(part).await?;
        }
        part.bytes = parts.while_sending(feed.finish(part.bytes)).await?;
        part = parts.send_full(part).await?;
        parts.finish(part).await
    }

    fn write_error(&self, failure: Failure) -> Error {
        failure.into_error("writing", self.digest)
    }
}

/// What comes in, and what makes an object of it.
struct Feed {
    place: Place,
    pieces: BoxStream<'static, io::Result<Bytes>>,
    /// What came last and is not worked on yet.
    came: Bytes,
    /// Shared with the blocking thread that is at work, if one is. None after the end.
    packer: Arc<Mutex<Option<Packer>>>,
    /// How many bytes may come yet.
    rest: u64,
}

impl Feed {
    /// The next pieces, about as much as is worked on at a time. None at the end.
    async fn gather(&mut self) -> Result<Option<Vec<Bytes>>> {
        let (mut pieces, mut gathered) = (Vec::new(), 0);
        while gathered < STEP_BYTES && self.rest > 0 {
            if self.came.is_empty() {
                let Some(piece) = self.pieces.next().await else { break };
                let digest = self.place.digest;
                self.came = piece.map_err(|source| Error::BrokenOff { digest, source })?;
            }
            // One piece may be the whole of a big blob.
            let most = self.rest.min((STEP_BYTES - gathered) as u64) as usize;
            let piece = self.came.split_to(self.came.len().min(most));
            self.rest -= piece.len() as u64;
            gathered += piece.len();
            if !piece.is_empty() {
                pieces.push(piece);
            }
        }
        Ok((!pieces.is_empty()).then_some(pieces))
    }

    /// Puts what is to be stored of the pieces behind the object.
    fn pack(
        &self,
        pieces: Vec<Bytes>,
        object: Vec<u8>,
    ) -> impl Future<Output = Result<Vec<u8>>> + use<> {
        self.work(object, move |packer, object| match packer {
            Some(packer) => pieces.iter().try_for_each(|piece| packer.feed(piece, object)),
            None => Ok(()),
        })
    }

    /// Ends the object if the blob is what it should be.
    fn finish(&self, object: Vec<u8>) -> impl Future<Output = Result<Vec<u8>>> + use<> {
        self.work(object, |packer, object| match packer.take() {
            Some(packer) => packer.finish(object),
            None => Ok(()),
        })
    }

    /// Has the packer work on the object, off the reactor if it is more than a little.
    fn work<W>(
        &self,
        mut object: Vec<u8>,
        work: W,
    ) -> impl Future<Output = Result<Vec<u8>>> + use<W>
    where
        W: FnOnce(&mut Option<Packer>, &mut Vec<u8>) -> Result<()> + Send + 'static,
    {
        let packer = Arc::clone(&self.packer);
        let is_little = self.place.digest.size_bytes() <= MAX_INLINE_BYTES;
        let work = move || {
            let mut packer = packer.lock().unwrap_or_else(PoisonError::into_inner);
            work(&mut packer, &mut object).map(|()| object)
        };
        async move {
            match is_little {
                true => work(),
                false => blocking("packing a blob", work).await,
            }
        }
    }
}

/// The parts of a big blob.
struct Parts {
    place: Place,
    part_bytes: u64,
    /// Dropped before the upload, so that nothing is sent any more when that is aborted.
    sending: FuturesUnordered<BoxFuture<'static, Sent>>,
    /// Begun when the first part is full: what is smaller goes in one piece.
    upload: Option<Upload>,
    sent: Vec<(usize, Option<PartId>)>,
    object_bytes: u64,
}

type Sent = Result<(usize, Option<PartId>), Failure>;

/// A part in the making, and the memory that it takes.
struct Part {
    bytes: Vec<u8>,
    taken: Taken,
}

impl Parts {
    fn new(place: Place, part_bytes: u64) -> Self {
        let (sending, upload, sent) = (FuturesUnordered::new(), None, Vec::new());
        Self { place, part_bytes, sending, upload, sent, object_bytes: 0 }
    }

    /// Does other work, and goes on sending meanwhile.
    async fn while_sending<T>(&mut self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let mut work = pin!(work);
        loop {
            if self.sending.is_empty() {
                return work.await;
            }
            tokio::select! {
                done = &mut work => return done,
                Some(sent) = self.sending.next() => self.note(sent)?,
            }
        }
    }

    fn note(&mut self, sent: Sent) -> Result<()> {
        self.sent.push(sent.map_err(|failure| self.place.write_error(failure))?);
        Ok(())
    }

    /// Room for a part. Whoever asks holds no part that is not on its way.
    async fn next_part(&mut self) -> Result<Part> {
        let (bucket, part_bytes) = (Arc::clone(&self.place.bucket), self.part_bytes);
        let taken = self.while_sending(bucket.budget.parts.take(part_bytes)).await?;
        Ok(Part { bytes: Vec::new(), taken })
    }

    /// Sends parts as long as there are whole ones, and gives the one that is not.
    async fn send_full(&mut self, mut part: Part) -> Result<Part> {
        while part.bytes.len() as u64 >= self.part_bytes {
            let rest = part.bytes.split_off(self.part_bytes as usize);
            self.send(part).await?;
            part = self.next_part().await?;
            part.bytes = rest;
        }
        Ok(part)
    }

    async fn send(&mut self, part: Part) -> Result<()> {
        while self.sending.len() >= MAX_PARTS_SENDING
            && let Some(sent) = self.sending.next().await
        {
            self.note(sent)?;
        }
        let Part { bytes, taken } = part;
        self.object_bytes += bytes.len() as u64;
        let Place { bucket, key, .. } = &self.place;
        let upload = match &mut self.upload {
            Some(upload) => upload,
            None => {
                let begun = Upload::begin(&bucket.store, key, &bucket.group).await;
                self.upload.insert(begun.map_err(|failure| self.place.write_error(failure))?)
            }
        };
        let sending = upload.send(bytes.into());
        let sending = async move {
            let sent = sending.await;
            drop(taken);
            sent
        };
        self.sending.push(sending.boxed());
        Ok(())
    }

    /// Sends the last part, and makes an object of all of them.
    async fn finish(mut self, part: Part) -> Result<()> {
        if self.upload.is_none() {
            let Part { bytes, taken: _taken } = part;
            let Place { bucket, key, .. } = &self.place;
            let put = bucket.put(Kind::Blob, key, PutPayload::from(bytes)).await;
            return put.map_err(|failure| self.place.write_error(failure));
        }
        if !part.bytes.is_empty() {
            self.send(part).await?;
        }
        while let Some(sent) = self.sending.next().await {
            self.note(sent)?;
        }
        self.sent.sort_by_key(|(at, _)| *at);
        let parts = self.sent.drain(..).map(|(_, id)| id).collect();
        match self.upload.take() {
            Some(upload) => {
                let Place { bucket, key, .. } = &self.place;
                let complete = upload
                    .complete(parts, self.object_bytes, |meta| bucket.is_fresh(Kind::Blob, meta));
                let kept = match bucket.keep(Kind::Blob, key, complete).await {
                    Ok(true) => Ok(()),
                    // Its source is used up: whoever sent it is to send it again.
                    Ok(false) => Err(Failure::unknown("the collector took it for an old one")),
                    Err(failure) => Err(failure),
                };
                kept.map_err(|failure| self.place.write_error(failure))
            }
            None => Ok(()),
        }
    }
}

/// The bytes of a file, read off the reactor.
async fn file_stream(file: &HashedFile) -> io::Result<BoxStream<'static, io::Result<Bytes>>> {
    let path = file.path().to_owned();
    let open = task::spawn_blocking(move || File::open(path));
    let file = Arc::new(open.await.map_err(io::Error::other)??);
    let pieces = stream::try_unfold((file, 0), |(file, offset)| async move {
        let from = Arc::clone(&file);
        let read = task::spawn_blocking(move || {
            let mut piece = vec![0; STEP_BYTES];
            let count = from.read_at(&mut piece, offset)?;
            piece.truncate(count);
            Ok::<_, io::Error>(Bytes::from(piece))
        });
        let piece = read.await.map_err(io::Error::other)??;
        let offset = offset + piece.len() as u64;
        Ok((!piece.is_empty()).then_some((piece, (file, offset))))
    });
    Ok(pieces.boxed())
}
