//! From the bytes of a blob to those of its object, a piece at a time: what comes is decoded where it is
//! encoded, hashed, cut into chunks, and given out as it is to be stored.
//!
//! Pure work, no waiting; whoever calls it does so off the reactor.

use std::{io, mem};

use bbb_digest::{Digest, Hasher};
use bytes::Bytes;
use zstd::stream::raw::{Decoder, InBuffer, Operation as _, OutBuffer};

use crate::{Encoding, Error, Result, zstd as codec};

use super::object::{
    self, ChunkHash, Index, SMALL_BYTES, Segment, chunk_hash, chunk_log, max_encoded_bytes,
};

/// How many decoded bytes are made at a time.
const PIECE_BYTES: usize = 128 << 10;

/// A blob is stored as it is unless what it begins with gets smaller by one part of so many.
const WORTHWHILE: usize = 32;

/// How much of a blob is looked at for that.
const SAMPLE_BYTES: usize = 128 << 10;

/// A blob on its way into an object.
pub(super) struct Packer {
    digest: Digest,
    hasher: Hasher,
    chunk_bytes: usize,
    /// The decoded bytes of the chunk that is not full yet.
    chunk: Vec<u8>,
    chunks: Vec<ChunkHash>,
    segments: Vec<Segment>,
    /// How many bytes of the body were given.
    body_bytes: u64,
    form: Form,
}

enum Form {
    /// Bytes come as they are; whether they are compressed shows with the first chunk.
    Undecided,
    /// Bytes come as they are, and are stored so.
    Identity,
    /// Bytes come as they are, and each chunk is stored as a frame.
    Compressed,
    /// Frames come, and are stored as they are.
    Frames(Frames),
}

struct Frames {
    decoder: Decoder<'static>,
    /// Whether the decoder stands between frames, where a stream may end.
    between: bool,
    buffer: Vec<u8>,
}

impl Packer {
    /// A packer of a blob whose bytes come in this encoding, and may be compressed.
    pub(super) fn new(digest: Digest, encoding: Encoding, compress: bool) -> Result<Self> {
        let form = match (encoding, compress) {
            (Encoding::Identity, true) => Form::Undecided,
            (Encoding::Identity, false) => Form::Identity,
            (Encoding::Zstd, _) => Form::Frames(Frames::new(digest)?),
        };
        let chunk_bytes = match digest.size_bytes() {
            0..=SMALL_BYTES => SMALL_BYTES,
            size_bytes => 1 << chunk_log(size_bytes),
        };
        Ok(Self {
            digest,
            hasher: Hasher::new(digest.function(), digest.size_bytes()),
            chunk_bytes: chunk_bytes as usize,
            chunk: Vec::new(),
            chunks: Vec::new(),
            segments: Vec::new(),
            body_bytes: 0,
            form,
        })
    }

    /// Takes in what comes next, and puts what is to be stored of it behind `out`.
    pub(super) fn feed(&mut self, mut piece: &[u8], out: &mut Vec<u8>) -> Result<()> {
        if let Form::Frames(_) = self.form {
            return self.feed_frames(piece, out);
        }
        self.take(piece.len())?;
        self.hasher.update(piece);
        while !piece.is_empty() {
            let (now, rest) = piece.split_at(piece.len().min(self.chunk_bytes - self.chunk.len()));
            self.chunk.extend_from_slice(now);
            piece = rest;
            if self.chunk.len() == self.chunk_bytes {
                self.store_chunk(out)?;
            }
        }
        Ok(())
    }

    /// Ends the object: the last chunk and the index. The blob is what its digest says, or this fails.
    pub(super) fn finish(mut self, out: &mut Vec<u8>) -> Result<()> {
        let digest = self.digest;
        if let Form::Frames(Frames { between: false, .. }) = self.form {
            let what = "ends within a zstd frame".to_owned();
            return Err(Error::Unreadable { digest, what });
        }
        if self.is_small() && self.body_bytes > max_encoded_bytes(digest.size_bytes()) {
            // Odd frames, longer than what they hold: the blob is stored as if it had come as it is.
            self.form = Form::Undecided;
            self.body_bytes = 0;
            out.clear();
        }
        if !self.chunk.is_empty() {
            self.store_chunk(out)?;
        }
        let found = mem::replace(&mut self.hasher, Hasher::new(digest.function(), 0)).finish();
        if found != digest {
            return Err(Error::Mismatch { expected: digest, found: found.to_string() });
        }
        if !self.is_small() {
            out.extend_from_slice(&self.index().encode(digest));
        }
        Ok(())
    }

    /// Whether the blob is one chunk, with no index.
    const fn is_small(&self) -> bool {
        self.digest.size_bytes() <= SMALL_BYTES
    }

    fn index(self) -> Index {
        let encoding = match self.form {
            Form::Undecided | Form::Identity => Encoding::Identity,
            Form::Compressed | Form::Frames(_) => Encoding::Zstd,
        };
        let mut segments = self.segments;
        // Frames that decode to nothing, such as an index of somebody else's, belong to the last segment.
        if let Some(last) = segments.last_mut() {
            last.encoded_end = self.body_bytes;
            last.decoded_end = self.digest.size_bytes();
        }
        Index {
            encoding,
            size_bytes: self.digest.size_bytes(),
            chunk_log: self.chunk_bytes.trailing_zeros(),
            chunks: self.chunks,
            segments,
        }
    }

    /// Sees to it that no more bytes come than the digest says.
    fn take(&self, more: usize) -> Result<()> {
        let expected = self.digest;
        match self.hasher.size_bytes() + more as u64 > expected.size_bytes() {
            true => {
                let found = format!("more than {} bytes", expected.size_bytes());
                Err(Error::Mismatch { expected, found })
            }
            false => Ok(()),
        }
    }

    /// Hashes the chunk that is full, and stores it unless its bytes are stored already as they came.
    fn store_chunk(&mut self, out: &mut Vec<u8>) -> Result<()> {
        if self.is_small() && matches!(self.form, Form::Frames(_)) {
            // It is all of the blob, and kept: whether its frames are odd shows at the end.
            return Ok(());
        }
        if !self.is_small() {
            self.chunks.push(chunk_hash(&self.chunk));
        }
        let broken = |error| Error::unavailable("compressing a blob", error);
        match self.form {
            Form::Frames(_) => {}
            Form::Identity => self.store_identity(out),
            Form::Compressed => {
                let frame = codec::encode_bytes(&self.chunk).map_err(broken)?;
                self.store_frame(&frame, out);
            }
            Form::Undecided => match first_frame(&self.chunk).map_err(broken)? {
                Some(frame) => {
                    self.form = Form::Compressed;
                    self.store_frame(&frame, out);
                }
                None => {
                    self.form = Form::Identity;
                    self.store_identity(out);
                }
            },
        }
        self.chunk.clear();
        Ok(())
    }

    fn store_identity(&mut self, out: &mut Vec<u8>) {
        self.begin(Encoding::Identity, out);
        out.extend_from_slice(&self.chunk);
        self.body_bytes += self.chunk.len() as u64;
    }

    fn store_frame(&mut self, frame: &[u8], out: &mut Vec<u8>) {
        self.begin(Encoding::Zstd, out);
        out.extend_from_slice(frame);
        self.body_bytes += frame.len() as u64;
        let before = self.segments.last().map_or(0, |segment| segment.decoded_end);
        let decoded_end = before + self.chunk.len() as u64;
        self.segments.push(Segment { encoded_end: self.body_bytes, decoded_end });
    }

    fn begin(&self, encoding: Encoding, out: &mut Vec<u8>) {
        if self.body_bytes == 0 {
            out.extend_from_slice(&object::head(encoding));
        }
    }

    /// Decodes frames, and stores them as they are.
    fn feed_frames(&mut self, mut piece: &[u8], out: &mut Vec<u8>) -> Result<()> {
        if !piece.is_empty() {
            self.begin(Encoding::Zstd, out);
        }
        let mut output_waits = false;
        while !piece.is_empty() || output_waits {
            let Form::Frames(frames) = &mut self.form else { return Ok(()) };
            let mut buffer = mem::take(&mut frames.buffer);
            let step = frames.step(piece, &mut buffer);
            let (taken, decoded) = step.map_err(|error| unreadable(self.digest, &error))?;
            output_waits = decoded == buffer.len() && !frames.between;
            out.extend_from_slice(&piece[..taken]);
            piece = &piece[taken..];
            self.body_bytes += taken as u64;
            self.take(decoded)?;
            self.hasher.update(&buffer[..decoded]);
            self.chunk_frames(&buffer[..decoded], out)?;
            self.end_frame(buffer)?;
        }
        Ok(())
    }

    fn chunk_frames(&mut self, mut decoded: &[u8], out: &mut Vec<u8>) -> Result<()> {
        while !decoded.is_empty() {
            let (now, rest) =
                decoded.split_at(decoded.len().min(self.chunk_bytes - self.chunk.len()));
            self.chunk.extend_from_slice(now);
            decoded = rest;
            if self.chunk.len() == self.chunk_bytes {
                self.store_chunk(out)?;
            }
        }
        Ok(())
    }

    /// Notes the end of a segment where a frame has ended and the segment is long enough to be worth it.
    fn end_frame(&mut self, buffer: Vec<u8>) -> Result<()> {
        let Form::Frames(frames) = &mut self.form else { return Ok(()) };
        frames.buffer = buffer;
        let decoded_end = self.hasher.size_bytes();
        let before = self.segments.last().map_or(0, |segment| segment.decoded_end);
        let is_long = decoded_end - before >= self.chunk_bytes as u64;
        let is_last = decoded_end == self.digest.size_bytes() && decoded_end > before;
        if frames.between && (is_long || is_last) {
            self.segments.push(Segment { encoded_end: self.body_bytes, decoded_end });
        }
        // Frames that hold nothing could go on for ever.
        match self.body_bytes > 2 * max_encoded_bytes(self.digest.size_bytes()) {
            true => {
                let error = io::Error::other("is far longer than what it holds");
                Err(unreadable(self.digest, &error))
            }
            false => Ok(()),
        }
    }
}

impl Frames {
    fn new(digest: Digest) -> Result<Self> {
        let decoder = codec::decoder().map_err(|error| unreadable(digest, &error))?;
        Ok(Self { decoder, between: true, buffer: vec![0; PIECE_BYTES] })
    }

    /// Decodes a little: how many bytes it took, and how many it gave.
    fn step(&mut self, piece: &[u8], buffer: &mut [u8]) -> io::Result<(usize, usize)> {
        let mut input = InBuffer::around(&piece[..piece.len().min(PIECE_BYTES)]);
        let mut out = OutBuffer::around(buffer);
        self.between = self.decoder.run(&mut input, &mut out)? == 0;
        Ok((input.pos(), out.pos()))
    }
}

/// The frame of a blob's first chunk, if it pays to compress what begins so.
fn first_frame(chunk: &[u8]) -> io::Result<Option<Bytes>> {
    let pays = |from: &[u8], to: &[u8]| to.len() + to.len() / WORTHWHILE < from.len();
    if let Some((sample, _)) = chunk.split_at_checked(SAMPLE_BYTES)
        && !pays(sample, &codec::encode_bytes(sample)?)
    {
        return Ok(None);
    }
    let frame = codec::encode_bytes(chunk)?;
    Ok(pays(chunk, &frame).then_some(frame))
}

fn unreadable(digest: Digest, error: &io::Error) -> Error {
    Error::Unreadable { digest, what: error.to_string() }
}

#[cfg(test)]
mod tests {
    use bbb_digest::Function;

    use crate::{bucket::read::check_small, conformance};

    use super::*;

    #[test]
    fn frames_that_are_far_longer_than_what_they_hold_are_not_kept() {
        for len in [10_000, SMALL_BYTES as usize - 1, SMALL_BYTES as usize] {
            let bytes = Bytes::from(conformance::data(len));
            let digest = Digest::of(Function::Sha256, &bytes);
            let skippable = [&[0x50, 0x2a, 0x4d, 0x18][..], &(len as u32 / 2).to_le_bytes()];
            let padding = [&skippable.concat()[..], &vec![0; len / 2]].concat();
            let frames = [&codec::encode_bytes(&bytes).unwrap()[..], &padding].concat();
            let (mut object, mut packer) =
                (Vec::new(), Packer::new(digest, Encoding::Zstd, true).unwrap());
            for piece in frames.chunks(100_000) {
                packer.feed(piece, &mut object).unwrap();
            }
            packer.finish(&mut object).unwrap();
            let stored = check_small(digest, &object.into(), true).unwrap();
            assert!(stored == (Encoding::Identity, bytes), "{len}");
        }
    }
}
