//! Blobs that no server has seen before, made at no cost per blob.
//!
//! A blob is a body that many share (a slice of one pool) and a tail of its own. The hash of the body is computed
//! once; each blob only adds its tail. The same trick gives zstd frames: the compressed body, then the tail as a raw
//! block (RFC 8878, section 3.1.1.2).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{BufMut, Bytes, BytesMut};
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};

use bbb_digest::{Function, Hasher};

use crate::digest::{self, Digest, OnTheWire as _};
use crate::failure::Failure;

/// Bytes of a tail: 16 of this session, 8 of a counter, in text so that a small blob can be looked at.
pub(crate) const TAIL_BYTES: usize = 32;
/// In half-compressible data random runs of this length take turns with runs of zeros.
const RUN_BYTES: usize = 4096;

/// What a blob is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Texture {
    /// Random: does not compress.
    Random,
    /// Compresses to about half.
    Half,
}

/// A blob: its digest and its bytes in two parts.
#[derive(Clone, Debug)]
pub(crate) struct Blob {
    /// Hash and size of both parts together.
    pub(crate) digest: Digest,
    /// Body and tail; either may be empty.
    pub(crate) parts: [Bytes; 2],
}

impl Blob {
    /// A blob of one piece.
    pub(crate) fn whole(function: Function, data: impl Into<Bytes>) -> Self {
        let data = data.into();
        Self { digest: function.digest(&data), parts: [data, Bytes::new()] }
    }

    /// Size in bytes.
    pub(crate) fn len(&self) -> usize {
        self.parts.iter().map(Bytes::len).sum()
    }

    /// Both parts copied into one.
    pub(crate) fn to_vec(&self) -> Vec<u8> {
        self.parts.concat()
    }

    /// Refuses `bytes` unless they are what stands at `offset` of this blob.
    ///
    /// # Errors
    /// [`Failure::Wrong`] for other bytes, or more than the blob has.
    pub(crate) fn expect_at(&self, offset: usize, bytes: &[u8]) -> Result<(), Failure> {
        let [body, tail] = &self.parts;
        let from_body = body.len().saturating_sub(offset).min(bytes.len());
        let (first, second) = bytes.split_at(from_body);
        let body_end = offset.saturating_add(from_body).min(body.len());
        let tail_start = offset.saturating_sub(body.len());
        let matches = body[body_end - from_body..body_end] == *first
            && tail.get(tail_start..tail_start.saturating_add(second.len())) == Some(second);
        if matches {
            return Ok(());
        }
        Err(Failure::wrong(format!(
            "bytes at {offset} of {}/{} differ from what was written",
            self.digest.hash, self.digest.size_bytes
        )))
    }
}

/// Where the bytes of all blobs of a session come from.
#[derive(Debug)]
pub(crate) struct Source {
    session: u64,
    fresh: AtomicU64,
    pools: Mutex<[Bytes; 2]>,
    function: Function,
}

impl Source {
    /// A source whose blobs differ from those of every other session.
    pub(crate) fn new(function: Function) -> Self {
        let (session, _) = uuid::Uuid::new_v4().as_u64_pair();
        Self { session, fresh: AtomicU64::new(0), pools: Mutex::default(), function }
    }

    /// The digest function of the session.
    pub(crate) fn function(&self) -> Function {
        self.function
    }

    /// Text of [`TAIL_BYTES`] bytes that was never given before.
    pub(crate) fn fresh(&self) -> [u8; TAIL_BYTES] {
        let mut text = [0; TAIL_BYTES];
        let count = self.fresh.fetch_add(1, Ordering::Relaxed);
        let line = format!("{:016x}{count:015x}\n", self.session);
        text.copy_from_slice(&line.as_bytes()[..TAIL_BYTES]);
        text
    }

    /// A small blob that was never given before: one line of text.
    pub(crate) fn fresh_blob(&self) -> Blob {
        Blob::whole(self.function, Bytes::copy_from_slice(&self.fresh()))
    }

    /// The first `size` bytes of the pool of a texture, which grows as needed.
    fn pool(&self, texture: Texture, size: usize) -> Bytes {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let pool = &mut pools[usize::from(texture == Texture::Half)];
        if pool.len() < size {
            *pool = fill(self.session, texture, size);
        }
        pool.slice(..size)
    }

    /// A mould for blobs of `size` bytes (at least [`TAIL_BYTES`]).
    pub(crate) fn mould(self: &Arc<Self>, texture: Texture, size: usize) -> Mould {
        let body = self.pool(texture, size.max(TAIL_BYTES) - TAIL_BYTES);
        let mut hasher = Hasher::new(self.function, size.max(TAIL_BYTES) as u64);
        hasher.update(&body);
        Mould { source: Arc::clone(self), body, hasher }
    }
}

/// `size` bytes of a texture; the same for the same session.
fn fill(session: u64, texture: Texture, size: usize) -> Bytes {
    let mut random = SmallRng::seed_from_u64(session);
    let mut bytes = BytesMut::zeroed(size);
    match texture {
        Texture::Random => random.fill_bytes(&mut bytes),
        Texture::Half => {
            bytes.chunks_mut(RUN_BYTES).step_by(2).for_each(|run| random.fill_bytes(run));
            // Zeros alone would be a gift to the decoder: give each run of them a few landmarks.
            bytes.chunks_mut(RUN_BYTES).skip(1).step_by(2).for_each(|run| {
                run.iter_mut().step_by(64).for_each(|byte| *byte = random.random_range(0..4));
            });
        }
    }
    bytes.freeze()
}

/// Makes blobs of one size that differ in their tails.
#[derive(Clone)]
pub(crate) struct Mould {
    source: Arc<Source>,
    body: Bytes,
    hasher: Hasher,
}

impl Mould {
    /// A blob that was never given before.
    pub(crate) fn blob(&self) -> Blob {
        let tail = Bytes::copy_from_slice(&self.source.fresh());
        let mut hasher = self.hasher.clone();
        hasher.update(&tail);
        let digest = digest::finish(hasher);
        Blob { digest, parts: [self.body.clone(), tail] }
    }

    /// A compressor of this mould's blobs.
    ///
    /// # Errors
    /// [`Failure::Wrong`] when zstd fails.
    pub(crate) fn frames(&self) -> Result<Frames, Failure> {
        let mut encoder =
            zstd::Encoder::new(Vec::new(), FRAME_LEVEL).map_err(|e| Failure::connection(&e))?;
        let written = std::io::Write::write_all(&mut encoder, &self.body)
            .and_then(|()| std::io::Write::flush(&mut encoder));
        written.map_err(|error| Failure::connection(&error))?;
        Ok(Frames { open: Bytes::from(encoder.get_ref().clone()) })
    }
}

/// Level at which bodies are compressed.
const FRAME_LEVEL: i32 = 1;

/// Turns blobs of one mould into zstd frames.
#[derive(Clone, Debug)]
pub(crate) struct Frames {
    /// A frame of the body that still waits for its last block.
    open: Bytes,
}

impl Frames {
    /// The compressed form of `blob`: one frame, in two parts.
    pub(crate) fn compress(&self, blob: &Blob) -> [Bytes; 2] {
        /// Block header: last block (bit 0), type raw (bits 1 and 2 are zero), size above.
        const LAST_RAW: u32 = 1;
        let tail = &blob.parts[1];
        let header = LAST_RAW | ((tail.len() as u32) << 3);
        let mut last = BytesMut::with_capacity(3 + tail.len());
        last.put_uint_le(u64::from(header), 3);
        last.extend_from_slice(tail);
        [self.open.clone(), last.freeze()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source() -> Arc<Source> {
        Arc::new(Source::new(Function::Sha256))
    }

    #[test]
    fn digests_are_those_of_the_bytes() {
        for size in [32, 33, 1024, 100_000] {
            let blob = source().mould(Texture::Random, size).blob();
            assert_eq!(blob.len(), size);
            assert_eq!(Function::Sha256.digest(&blob.to_vec()), blob.digest);
        }
    }

    #[test]
    fn blobs_of_a_mould_differ() {
        let mould = source().mould(Texture::Random, 64);
        assert_ne!(mould.blob().digest, mould.blob().digest);
    }

    #[test]
    fn frames_decompress_to_their_blobs() {
        let mould = source().mould(Texture::Half, 1 << 20);
        let frames = mould.frames().unwrap();
        for _ in 0..2 {
            let blob = mould.blob();
            let frame = frames.compress(&blob).concat();
            assert!((400_000..700_000).contains(&frame.len()), "{} bytes", frame.len());
            assert_eq!(zstd::decode_all(frame.as_slice()).unwrap(), blob.to_vec());
        }
    }

    #[test]
    fn other_bytes_are_noticed() {
        let blob = source().mould(Texture::Random, 100).blob();
        let bytes = blob.to_vec();
        for start in 0..=100 {
            for end in start..=100 {
                blob.expect_at(start, &bytes[start..end]).unwrap();
            }
        }
        let mut damaged = bytes.clone();
        damaged[99] ^= 1;
        assert!(blob.expect_at(0, &damaged).is_err());
        assert!(blob.expect_at(50, &damaged[50..]).is_err());
        assert!(blob.expect_at(0, &[bytes, vec![0]].concat()).is_err());
        assert!(blob.expect_at(101, &[0]).is_err());
    }
}
