//! Any bytes are zstd frames or are refused, and the same however they are cut.
#![no_main]

use std::io;

use bbb_storage::zstd;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, executor::block_on, stream};
use libfuzzer_sys::fuzz_target;

/// Enough to see a difference, not so much that a frame of zeros fills the memory.
const MAX_DECODED_BYTES: usize = 1 << 20;

/// What the bytes decode to when they come in pieces of `cut`, its first [`MAX_DECODED_BYTES`] only.
fn decode(bytes: &[u8], cut: usize) -> Option<Vec<u8>> {
    let pieces: Vec<io::Result<Bytes>> =
        bytes.chunks(cut).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    let mut decoded = zstd::decode(stream::iter(pieces).boxed(), |error: io::Error| error);
    let mut all = Vec::new();
    while let Some(piece) = block_on(decoded.try_next()).ok()? {
        all.extend_from_slice(&piece);
        if all.len() > MAX_DECODED_BYTES {
            all.truncate(MAX_DECODED_BYTES);
            break;
        }
    }
    Some(all)
}

fuzz_target!(|input: (u8, &[u8])| {
    let (cut, bytes) = input;
    let all = decode(bytes, bytes.len().max(1));
    // Past the limit one of them may not have come to the damage that the other has seen.
    if let (Some(all), Some(cut)) = (&all, decode(bytes, usize::from(cut) + 1)) {
        assert_eq!(*all, cut);
    }
    // At once, a frame needs no window, so that some are read which a stream refuses.
    if let (Some(all), Ok(at_once)) = (&all, zstd::decode_bytes(bytes, 1000)) {
        assert_eq!(*all, at_once);
    }
});
