//! From the body of a big object to the blob, a checked chunk at a time.
//!
//! Nothing is given out before the hash of its chunk was found right; of a whole blob, the last piece is
//! held back until the hash of all of it is. Pure work, no waiting; whoever calls it does so off the
//! reactor.

use std::{collections::VecDeque, io, mem, sync::Arc};

use bbb_digest::{Digest, Hasher};
use bytes::Bytes;
use zstd::stream::raw::{Decoder, InBuffer, Operation as _, OutBuffer};

use crate::{Encoding, zstd as codec};

use super::{
    fetch::Fetch,
    object::{Damage, Index, chunk_hash},
};

/// How much is decoded at a time.
const PIECE_BYTES: usize = 128 << 10;

/// No byte of a zstd stream decodes to anything later than this behind what was decoded before it (the
/// largest block, RFC 8878).
const MAX_BLOCK_BYTES: u64 = 128 << 10;

/// What an unpacker gives.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pulled {
    /// It needs more of the body.
    Hungry,
    /// Checked bytes, in the form that was asked for.
    Piece(Bytes),
    /// That was all.
    End,
}

/// A part of a big object's body on its way to a blob.
pub(super) struct Unpacker {
    digest: Digest,
    index: Arc<Index>,
    form: Encoding,
    input: VecDeque<Fetch>,
    input_ended: bool,
    decoder: Option<Decoder<'static>>,
    between_frames: bool,
    output_waits: bool,
    /// How many decoded bytes are yet to be skipped before the first chunk begins.
    skip: u64,
    /// Where the chunk begins that is next to be checked, decoded.
    at: u64,
    /// Where the last chunk ends that is asked for.
    end: u64,
    chunk: Vec<u8>,
    /// The hash of the whole blob, if all of it is asked for.
    whole: Option<Hasher>,
    passing: VecDeque<Passing>,
    is_wrong_as_a_whole: bool,
}

/// Encoded bytes that may go out when the blob is checked up to `covers`.
struct Passing {
    bytes: Bytes,
    covers: u64,
}

impl Unpacker {
    /// Unpacks all chunks between `at` and `end`, which are decoded offsets of chunks, or the end. The body
    /// is fed from the segment that [`Index::segment_before`] names. In the form of frames, which only a
    /// whole blob can have, they are given as they are stored.
    pub(super) fn new(
        digest: Digest,
        index: Arc<Index>,
        at: u64,
        end: u64,
        form: Encoding,
    ) -> io::Result<Self> {
        let (decoder, skip) = match index.encoding {
            Encoding::Identity => (None, 0),
            Encoding::Zstd => (Some(codec::decoder()?), at - index.segment_before(at).decoded_end),
        };
        let is_whole = at == 0 && end == index.size_bytes;
        Ok(Self {
            whole: is_whole.then(|| Hasher::new(digest.function(), index.size_bytes)),
            digest,
            index,
            form,
            input: VecDeque::new(),
            input_ended: false,
            decoder,
            between_frames: true,
            output_waits: false,
            skip,
            at,
            end,
            chunk: Vec::new(),
            passing: VecDeque::new(),
            is_wrong_as_a_whole: false,
        })
    }

    /// Up to where the blob was checked, decoded.
    pub(super) const fn checked(&self) -> u64 {
        self.at
    }

    /// Whether all chunks are what the index says, but the blob is another one: to read it again is of no
    /// use.
    pub(super) const fn is_wrong_as_a_whole(&self) -> bool {
        self.is_wrong_as_a_whole
    }

    /// Takes in what comes next of the body.
    pub(super) fn feed(&mut self, fetch: Fetch) {
        self.input.push_back(fetch);
    }

    /// All that was to come of the body has come.
    pub(super) fn end_input(&mut self) {
        self.input_ended = true;
    }

    /// Whether it can do nothing without more input. Costs nothing, unlike [`Unpacker::pull`].
    pub(super) fn is_hungry(&self) -> bool {
        self.input.is_empty() && !self.input_ended && !self.output_waits && !self.is_checked()
    }

    fn is_checked(&self) -> bool {
        self.at == self.end
    }

    /// Works until there is something to give.
    pub(super) fn pull(&mut self) -> Result<Pulled, Damage> {
        loop {
            if let Some(piece) = self.passed() {
                return Ok(Pulled::Piece(piece));
            }
            if self.is_checked() {
                return self.finish();
            }
            let Some(chunk) = self.next_chunk()? else {
                return match self.input_ended {
                    true => Err(Damage::new("ends before the blob does")),
                    false => Ok(Pulled::Hungry),
                };
            };
            if let Some(piece) = self.check(chunk)? {
                return Ok(Pulled::Piece(piece));
            }
        }
    }

    /// Checks a chunk, and gives what may go out by that.
    fn check(&mut self, chunk: Bytes) -> Result<Option<Bytes>, Damage> {
        let which = (self.at >> self.index.chunk_log) as usize;
        if self.index.chunks.get(which) != Some(&chunk_hash(&chunk)) {
            return Err(Damage::new(format!("has other bytes in chunk {which}")).of_bytes(&chunk));
        }
        self.at += chunk.len() as u64;
        if let Some(whole) = &mut self.whole {
            whole.update(&chunk);
        }
        if self.is_checked()
            && let Some(whole) = self.whole.take()
        {
            let found = whole.finish();
            if found != self.digest {
                self.is_wrong_as_a_whole = true;
                return Err(Damage::new(format!("holds {found}")));
            }
        }
        Ok((self.form == Encoding::Identity).then_some(chunk))
    }

    /// The next chunk, if enough has come for it.
    fn next_chunk(&mut self) -> Result<Option<Bytes>, Damage> {
        let want = (self.end - self.at).min(self.index.chunk_bytes()) as usize;
        match self.decoder {
            None => Ok(self.cut_chunk(want)),
            Some(_) => self.decode_chunk(want),
        }
    }

    /// The next bytes as they came; copied only where a chunk came in two pieces.
    fn cut_chunk(&mut self, want: usize) -> Option<Bytes> {
        while let Some(front) = self.input.front() {
            let came = front.bytes.len();
            if self.chunk.is_empty() && came >= want {
                return Some(self.take_front(want));
            }
            let len = came.min(want - self.chunk.len());
            let bytes = self.take_front(len);
            self.chunk.extend_from_slice(&bytes);
            if self.chunk.len() == want {
                return Some(mem::take(&mut self.chunk).into());
            }
        }
        None
    }

    fn take_front(&mut self, len: usize) -> Bytes {
        let Some(front) = self.input.front_mut() else { return Bytes::new() };
        let bytes = front.bytes.split_to(len);
        if front.bytes.is_empty() {
            self.input.pop_front();
        }
        bytes
    }

    fn decode_chunk(&mut self, want: usize) -> Result<Option<Bytes>, Damage> {
        while !self.input.is_empty() || self.output_waits {
            self.decode_some(want)?;
            if self.chunk.len() == want {
                return Ok(Some(mem::take(&mut self.chunk).into()));
            }
        }
        Ok(None)
    }

    /// Decodes a little into the chunk, which is to be `want` bytes long, or into nothing while there are
    /// bytes to skip.
    fn decode_some(&mut self, want: usize) -> Result<(), Damage> {
        let Some(decoder) = &mut self.decoder else { return Ok(()) };
        let front = self.input.front().map_or(&[][..], |front| &front.bytes);
        // All that came and all the room there is: a whole frame is decoded in one go, without a window.
        let mut input = InBuffer::around(front);
        let filled = self.chunk.len();
        let room = match self.skip {
            0 => want - filled,
            skip => skip.min(want as u64) as usize,
        };
        self.chunk.resize(filled + room, 0);
        let mut out = OutBuffer::around(&mut self.chunk[filled..]);
        let hint =
            decoder.run(&mut input, &mut out).map_err(|error| Damage::new(error.to_string()))?;
        let (taken, decoded) = (input.pos(), out.pos());
        self.between_frames = hint == 0;
        self.output_waits = decoded == room && !self.between_frames;
        match self.skip {
            0 => self.chunk.truncate(filled + decoded),
            _ => {
                self.skip -= decoded as u64;
                self.chunk.truncate(filled);
            }
        }
        if taken > 0 {
            let bytes = self.take_front(taken);
            if self.form == Encoding::Zstd {
                let decoded = self.at + self.chunk.len() as u64;
                let covers = (decoded + MAX_BLOCK_BYTES).min(self.end);
                self.passing.push_back(Passing { bytes, covers });
            }
        }
        Ok(())
    }

    /// Stored frames that may go out: all but the last of them, which waits for the end.
    pub(super) fn passed(&mut self) -> Option<Bytes> {
        let may_go = self.passing.front().is_some_and(|front| front.covers <= self.at);
        let is_last = self.is_checked() && self.passing.len() == 1;
        if !may_go || is_last {
            return None;
        }
        self.passing.pop_front().map(|passing| passing.bytes)
    }

    /// What is left when all chunks are checked: of stored frames, those that hold nothing more.
    fn finish(&mut self) -> Result<Pulled, Damage> {
        if self.form == Encoding::Identity {
            return Ok(Pulled::End);
        }
        while !self.input.is_empty() {
            let Some(decoder) = &mut self.decoder else { break };
            let front = self.input.front().map_or(&[][..], |front| &front.bytes);
            let mut input = InBuffer::around(&front[..front.len().min(PIECE_BYTES)]);
            let mut nothing = [0; 1];
            let mut out = OutBuffer::around(&mut nothing[..]);
            let hint = decoder
                .run(&mut input, &mut out)
                .map_err(|error| Damage::new(error.to_string()))?;
            let (taken, decoded) = (input.pos(), out.pos());
            self.between_frames = hint == 0;
            if decoded > 0 || taken == 0 {
                return Err(Damage::new("holds more than the blob"));
            }
            let bytes = self.take_front(taken);
            self.passing.push_back(Passing { bytes, covers: self.at });
            if self.passing.len() > 1
                && let Some(piece) = self.passed()
            {
                return Ok(Pulled::Piece(piece));
            }
        }
        match (self.input_ended, self.between_frames) {
            (false, _) => Ok(Pulled::Hungry),
            (true, false) => Err(Damage::new("ends within a zstd frame")),
            (true, true) => match self.passing.pop_front() {
                Some(next) => Ok(Pulled::Piece(next.bytes)),
                None => Ok(Pulled::End),
            },
        }
    }
}
