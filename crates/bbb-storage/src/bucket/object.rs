//! The format of objects: what tells by itself what it holds, whatever the server dropped of its metadata.
//!
//! ```text
//! blob   = head body [index]
//! head   = skippable frame (RFC 8878) of 16 bytes: magic, length 8, "bbb", version '1', encoding 'i' or 'z', 3 zeros
//! body   = the blob as it is ('i'), or zstd frames that decode to it ('z')
//! index  = skippable frame, for blobs of more than [`SMALL_BYTES`]:
//!          the hash of each chunk of the decoded blob (16 bytes of BLAKE3 each),
//!          the end of each segment of the body, encoded and decoded (8 bytes each),
//!          trailer: checksum (32), segments (4), chunk size as a power of two (1), encoding (1), zeros (2),
//!          length of the whole index frame (4), "bbbi"
//! result = magic line, 'i' or 'z', checksum (32), length decoded (4), `ActionResult` (as it is, or as zstd)
//! ```
//!
//! Numbers are little-endian. An object of zstd frames is one zstd stream, head and index included: any
//! decoder reads it. A segment is some whole frames, so that a read begins at the one that it needs; a
//! chunk is what is checked by itself, so that a part of a blob is never given unchecked.

use bbb_digest::Digest;
use bytes::Bytes;
use object_store::path::Path;
use prost::Message as _;

use crate::{ActionResult, Encoding, zstd};

/// Blobs up to this size are read and written whole; larger ones are streamed and have an index.
pub(super) const SMALL_BYTES: u64 = 4 << 20;

/// The length of the head in bytes.
pub(super) const HEAD_LEN: u64 = 16;

/// How much of an object's end is read to find the index: enough for a blob of 2 GiB.
pub(super) const INDEX_GUESS_BYTES: u64 = 64 << 10;

/// The largest index that is read: more than a blob of 1 TiB has.
pub(super) const MAX_INDEX_BYTES: u64 = 8 << 20;

/// The largest result that is read, encoded.
pub(super) const MAX_RESULT_BYTES: u64 = 64 << 20;

const SKIPPABLE: u32 = 0x184D_2A5B;
const HEAD_MAGIC: &[u8; 4] = b"bbb1";
const INDEX_MAGIC: &[u8; 4] = b"bbbi";
const TRAILER_LEN: usize = 48;
const FRAME_HEADER_LEN: usize = 8;

const RESULT_MAGIC: &[u8] = b"bbb result 1\n";
const CHECKSUM_LEN: usize = 32;

/// Smaller results are not worth compressing.
const MIN_COMPRESSED_RESULT_BYTES: usize = 512;

/// What is wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Damage(pub(super) String);

impl Damage {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }

    /// The same, with what tells these bytes from others that are wrong in such a way.
    pub(super) fn of_bytes(self, bytes: &[u8]) -> Self {
        let hash = blake3::hash(bytes).to_hex();
        Self(format!("{} (BLAKE3 {})", self.0, &hash[..16]))
    }
}

/// The hash by which a chunk is checked.
pub(super) type ChunkHash = [u8; 16];

pub(super) fn chunk_hash(chunk: &[u8]) -> ChunkHash {
    let hash = blake3::hash(chunk);
    let mut short = [0; 16];
    short.copy_from_slice(&hash.as_bytes()[..16]);
    short
}

/// The size of the chunks of a blob, as a power of two: 1 MiB, or 16 MiB where that would be too many.
pub(super) const fn chunk_log(size_bytes: u64) -> u32 {
    match size_bytes {
        0..=0x4_0000_0000 => 20,
        _ => 24,
    }
}

/// The head of an object with this encoding.
pub(super) fn head(encoding: Encoding) -> [u8; HEAD_LEN as usize] {
    let mut head = [0; HEAD_LEN as usize];
    head[..4].copy_from_slice(&SKIPPABLE.to_le_bytes());
    head[4..8].copy_from_slice(&8_u32.to_le_bytes());
    head[8..12].copy_from_slice(HEAD_MAGIC);
    head[12] = letter(encoding);
    head
}

/// Reads an object's head.
pub(super) fn parse_head(object: &[u8]) -> Result<Encoding, Damage> {
    let found = object.get(..HEAD_LEN as usize).ok_or_else(|| Damage::new("is too short"))?;
    [Encoding::Identity, Encoding::Zstd]
        .into_iter()
        .find(|encoding| found == head(*encoding))
        .ok_or_else(|| Damage::new("does not begin as an object of ours"))
}

const fn letter(encoding: Encoding) -> u8 {
    match encoding {
        Encoding::Identity => b'i',
        Encoding::Zstd => b'z',
    }
}

const fn encoding_of(letter: u8) -> Option<Encoding> {
    match letter {
        b'i' => Some(Encoding::Identity),
        b'z' => Some(Encoding::Zstd),
        _ => None,
    }
}

/// How long the zstd frames of a blob may be for them to be stored as they came. What encoders make is
/// shorter.
pub(super) const fn max_encoded_bytes(size_bytes: u64) -> u64 {
    size_bytes + size_bytes / 64 + 1024
}

/// Where what lies in the body of a big object, and the hashes that it is checked by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Index {
    /// How the body is encoded.
    pub(super) encoding: Encoding,
    /// The size of the blob, decoded.
    pub(super) size_bytes: u64,
    /// The size of a chunk as a power of two; the last one may be shorter.
    pub(super) chunk_log: u32,
    /// The hash of each chunk.
    pub(super) chunks: Vec<ChunkHash>,
    /// The end of each segment. None for a body that is the blob as it is.
    pub(super) segments: Vec<Segment>,
}

/// Some whole frames of a body, by their ends: in bytes from the beginning of the body, and decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) encoded_end: u64,
    pub(super) decoded_end: u64,
}

impl Index {
    /// The size of a chunk.
    pub(super) const fn chunk_bytes(&self) -> u64 {
        1 << self.chunk_log
    }

    /// The length of the body.
    pub(super) fn body_bytes(&self) -> u64 {
        match self.encoding {
            Encoding::Identity => self.size_bytes,
            Encoding::Zstd => self.segments.last().map_or(0, |segment| segment.encoded_end),
        }
    }

    /// The segment to begin at in order to read from a decoded offset: the end of the one before it.
    pub(super) fn segment_before(&self, decoded: u64) -> Segment {
        let after = self.segments.partition_point(|segment| segment.decoded_end <= decoded);
        after.checked_sub(1).map_or(Segment::default(), |before| self.segments[before])
    }

    /// Where in the body it ends that which decodes to everything before a decoded offset.
    pub(super) fn encoded_end(&self, decoded_end: u64) -> u64 {
        match self.encoding {
            Encoding::Identity => decoded_end,
            Encoding::Zstd => {
                let at = self.segments.partition_point(|segment| segment.decoded_end < decoded_end);
                self.segments.get(at).map_or(self.body_bytes(), |segment| segment.encoded_end)
            }
        }
    }

    /// The index as it stands at the end of the object of a blob.
    pub(super) fn encode(&self, digest: Digest) -> Vec<u8> {
        let len =
            FRAME_HEADER_LEN + self.chunks.len() * 16 + self.segments.len() * 16 + TRAILER_LEN;
        let mut frame = Vec::with_capacity(len);
        frame.extend_from_slice(&SKIPPABLE.to_le_bytes());
        frame.extend_from_slice(&((len - FRAME_HEADER_LEN) as u32).to_le_bytes());
        self.chunks.iter().for_each(|hash| frame.extend_from_slice(hash));
        for segment in &self.segments {
            frame.extend_from_slice(&segment.encoded_end.to_le_bytes());
            frame.extend_from_slice(&segment.decoded_end.to_le_bytes());
        }
        let mut rest = Vec::with_capacity(TRAILER_LEN - CHECKSUM_LEN);
        rest.extend_from_slice(&(self.segments.len() as u32).to_le_bytes());
        rest.extend_from_slice(&[self.chunk_log as u8, letter(self.encoding), 0, 0]);
        rest.extend_from_slice(&(len as u32).to_le_bytes());
        rest.extend_from_slice(INDEX_MAGIC);
        let checksum = index_checksum(digest, &frame[FRAME_HEADER_LEN..], &rest);
        frame.extend_from_slice(checksum.as_bytes());
        frame.extend_from_slice(&rest);
        frame
    }

    /// The length of the whole index frame, by the end of an object.
    pub(super) fn len_by_end(end: &[u8]) -> Result<u64, Damage> {
        let bad = || Damage::new("does not end in an index");
        let trailer = end.len().checked_sub(TRAILER_LEN).map(|at| &end[at..]).ok_or_else(bad)?;
        let len = u64::from(number(&trailer[40..44]));
        let is_plausible = (TRAILER_LEN as u64..=MAX_INDEX_BYTES).contains(&len);
        match trailer.ends_with(INDEX_MAGIC) && is_plausible {
            true => Ok(len),
            false => Err(bad()),
        }
    }

    /// Reads the index of a blob out of the end of its object, which is `object_bytes` long. `end` holds
    /// the whole index frame at least.
    pub(super) fn parse(digest: Digest, end: &[u8], object_bytes: u64) -> Result<Self, Damage> {
        let len = Self::len_by_end(end)?;
        let frame = usize::try_from(len)
            .ok()
            .and_then(|len| end.len().checked_sub(len))
            .map(|at| &end[at..])
            .filter(|frame| frame.len() >= FRAME_HEADER_LEN + TRAILER_LEN)
            .ok_or_else(|| Damage::new("has no room for its index"))?;
        let (payload, trailer) =
            frame[FRAME_HEADER_LEN..].split_at(frame.len() - FRAME_HEADER_LEN - TRAILER_LEN);
        let (checksum, rest) = trailer.split_at(CHECKSUM_LEN);
        if index_checksum(digest, payload, rest).as_bytes() != checksum {
            return Err(Damage::new("has an index with a wrong checksum"));
        }
        let index = Self::from_payload(digest.size_bytes(), payload, rest)
            .ok_or_else(|| Damage::new("has an index that contradicts itself"))?;
        match HEAD_LEN.checked_add(index.body_bytes()).and_then(|bytes| bytes.checked_add(len)) {
            Some(bytes) if bytes == object_bytes => Ok(index),
            _ => Err(Damage::new(format!("has {object_bytes} bytes, not those of its index"))),
        }
    }

    /// What its payload and the end of its trailer say, if they do not contradict each other. Whoever calls
    /// it has seen to the checksum.
    pub(super) fn from_payload(size_bytes: u64, payload: &[u8], rest: &[u8]) -> Option<Self> {
        let (segments, chunk_log) = (number(&rest[..4]) as usize, u32::from(rest[4]));
        let encoding = encoding_of(rest[5])?;
        if !(16..=24).contains(&chunk_log) {
            return None;
        }
        let count = usize::try_from(size_bytes.div_ceil(1 << chunk_log)).ok()?;
        let (hashes, ends) = payload.split_at_checked(count.checked_mul(16)?)?;
        if ends.len() != segments.checked_mul(16)? {
            return None;
        }
        let (hashes, _) = hashes.as_chunks::<16>();
        let (ends, _) = ends.as_chunks::<8>();
        let segments: Vec<Segment> = ends
            .chunks_exact(2)
            .map(|pair| Segment {
                encoded_end: u64::from_le_bytes(pair[0]),
                decoded_end: u64::from_le_bytes(pair[1]),
            })
            .collect();
        let rises = segments.windows(2).all(|pair| {
            pair[0].encoded_end < pair[1].encoded_end && pair[0].decoded_end < pair[1].decoded_end
        });
        let ends_right = match encoding {
            Encoding::Identity => segments.is_empty(),
            Encoding::Zstd => segments.last().is_some_and(|last| last.decoded_end == size_bytes),
        };
        (rises && ends_right).then(|| Self {
            encoding,
            size_bytes,
            chunk_log,
            chunks: hashes.to_vec(),
            segments,
        })
    }
}

fn index_checksum(digest: Digest, payload: &[u8], rest: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_derive_key("buildbuildbuild index in a bucket 1");
    update_with_digest(&mut hasher, digest);
    hasher.update(payload);
    hasher.update(rest);
    hasher.finalize()
}

fn update_with_digest(hasher: &mut blake3::Hasher, digest: Digest) {
    for part in [digest.function().name().as_bytes(), digest.hash()] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.update(&digest.size_bytes().to_le_bytes());
}

/// Four bytes as a number.
fn number(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

/// The object of an action's result, which lies under `key`.
pub(super) fn encode_result(key: &Path, result: &ActionResult, compress: bool) -> Vec<u8> {
    let plain = result.encode_to_vec();
    let compressed = match compress && plain.len() >= MIN_COMPRESSED_RESULT_BYTES {
        true => zstd::encode_bytes(&plain).ok().filter(|encoded| encoded.len() < plain.len()),
        false => None,
    };
    let (encoding, payload) = match &compressed {
        Some(encoded) => (Encoding::Zstd, &encoded[..]),
        None => (Encoding::Identity, &plain[..]),
    };
    let mut rest = (plain.len() as u32).to_le_bytes().to_vec();
    rest.extend_from_slice(payload);
    let checksum = result_checksum(key, letter(encoding), &rest);
    [RESULT_MAGIC, &[letter(encoding)], checksum.as_bytes(), &rest].concat()
}

/// Reads an action's result, which lies under `key`, out of its object.
pub(super) fn decode_result(key: &Path, object: &[u8]) -> Result<ActionResult, Damage> {
    let bad = |what: &str| Damage::new(format!("is no result: {what}"));
    let rest = object.strip_prefix(RESULT_MAGIC).ok_or_else(|| bad("it begins otherwise"))?;
    let (letter, rest) = rest.split_first().ok_or_else(|| bad("it is too short"))?;
    let (checksum, rest) =
        rest.split_at_checked(CHECKSUM_LEN).ok_or_else(|| bad("it is too short"))?;
    if result_checksum(key, *letter, rest).as_bytes() != checksum {
        return Err(bad("its checksum is wrong"));
    }
    let (len, payload) = rest.split_at_checked(4).ok_or_else(|| bad("it is too short"))?;
    let len = number(len);
    let decoded = match encoding_of(*letter) {
        Some(Encoding::Identity) => Bytes::copy_from_slice(payload),
        Some(Encoding::Zstd) if u64::from(len) <= MAX_RESULT_BYTES => {
            zstd::decode_bytes(payload, len as usize).map_err(|error| bad(&error.to_string()))?
        }
        _ => return Err(bad("its encoding is unknown")),
    };
    ActionResult::decode(decoded).map_err(|error| bad(&error.to_string()))
}

fn result_checksum(key: &Path, letter: u8, rest: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_derive_key("buildbuildbuild result in a bucket 1");
    // Without what stands before the version's own part, so that a bucket may be copied elsewhere.
    let place = place(key);
    hasher.update(&(place.len() as u64).to_le_bytes());
    hasher.update(place.as_bytes());
    hasher.update(&[letter]);
    hasher.update(rest);
    hasher.finalize()
}

/// The last four parts of a key: kind, instance, function and digest.
fn place(key: &Path) -> &str {
    let key = key.as_ref();
    key.rmatch_indices('/').nth(3).map_or(key, |(at, _)| &key[at + 1..])
}

#[cfg(test)]
mod tests {
    use bbb_digest::Function;
    use proptest::prelude::*;

    use super::*;

    fn index() -> (Digest, Index, u64) {
        let digest = Digest::from_raw(Function::Sha256, &[7; 32], (5 << 20) + 1).unwrap();
        let segment = |encoded_end, decoded_end| Segment { encoded_end, decoded_end };
        let index = Index {
            encoding: Encoding::Zstd,
            size_bytes: digest.size_bytes(),
            chunk_log: 20,
            chunks: (0..6).map(|at| [at; 16]).collect(),
            segments: vec![segment(1000, 3 << 20), segment(1500, (5 << 20) + 1)],
        };
        let object_bytes = HEAD_LEN + 1500 + index.encode(digest).len() as u64;
        (digest, index, object_bytes)
    }

    #[test]
    fn an_index_is_read_back_only_whole_and_in_its_place() {
        let (digest, index, object_bytes) = index();
        let frame = index.encode(digest);
        let end = [&[1; 99][..], &frame].concat();
        assert_eq!(Index::len_by_end(&end).unwrap(), frame.len() as u64);
        assert_eq!(Index::parse(digest, &end, object_bytes).unwrap(), index);
        assert!(Index::parse(digest, &end, object_bytes + 1).is_err());
        let other = Digest::from_raw(Function::Sha256, &[8; 32], digest.size_bytes()).unwrap();
        assert!(Index::parse(other, &end, object_bytes).is_err());
        for at in FRAME_HEADER_LEN..frame.len() {
            let mut damaged = frame.clone();
            damaged[at] ^= 1;
            assert!(Index::parse(digest, &damaged, object_bytes).is_err(), "byte {at}");
        }
        assert!(Index::parse(digest, &frame[1..], object_bytes).is_err());
    }

    #[test]
    fn an_index_says_where_to_begin_and_where_to_end() {
        let (_, index, _) = index();
        assert_eq!(index.segment_before(0), Segment::default());
        assert_eq!(index.segment_before((3 << 20) - 1), Segment::default());
        assert_eq!(index.segment_before(3 << 20), index.segments[0]);
        assert_eq!(index.encoded_end(1), 1000);
        assert_eq!(index.encoded_end(3 << 20), 1000);
        assert_eq!(index.encoded_end((3 << 20) + 1), 1500);
        assert_eq!(index.body_bytes(), 1500);
    }

    #[test]
    fn heads_tell_the_encoding_and_nothing_else_is_one() {
        for encoding in [Encoding::Identity, Encoding::Zstd] {
            let head = head(encoding);
            assert_eq!(parse_head(&head).unwrap(), encoding);
            // A decoder passes over it.
            assert_eq!(zstd::decode_bytes(&head, 0).unwrap(), Bytes::new());
            assert!(parse_head(&head[..15]).is_err());
            for at in 0..head.len() {
                let mut damaged = head;
                damaged[at] ^= 0x80;
                assert!(parse_head(&damaged).is_err(), "byte {at}");
            }
        }
    }

    #[test]
    fn a_result_is_read_back_only_whole_and_in_its_place() {
        let key = Path::from("p/v1/2c/ac/!/sha256/2c-5");
        for (compress, len) in [(true, 10), (true, 1000), (false, 1000)] {
            let result = ActionResult { stdout_raw: vec![7; len], ..ActionResult::default() };
            let object = encode_result(&key, &result, compress);
            assert_eq!(decode_result(&key, &object).unwrap(), result);
            assert_eq!(object.len() < 500, compress || len < 100);
            let moved = Path::from("elsewhere/v1/2c/ac/!/sha256/2c-5");
            assert_eq!(decode_result(&moved, &object).unwrap(), result);
            for other in ["p/v1/2c/ac/x/sha256/2c-5", "p/v1/2c/ac/!/sha256/2c-6"] {
                assert!(decode_result(&Path::from(other), &object).is_err());
            }
            for at in 0..object.len() {
                let mut damaged = object.clone();
                damaged[at] ^= 1;
                assert!(decode_result(&key, &damaged).is_err(), "byte {at}");
                assert!(decode_result(&key, &object[..at]).is_err(), "cut at {at}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(mut bytes: Vec<u8>, object_bytes: u64, len in 0_u32..200) {
            let (digest, ..) = index();
            let _ = parse_head(&bytes);
            let _ = decode_result(&Path::from("a"), &bytes);
            bytes.extend_from_slice(&len.to_le_bytes());
            bytes.extend_from_slice(INDEX_MAGIC);
            let _ = Index::parse(digest, &bytes, object_bytes);
        }
    }
}
