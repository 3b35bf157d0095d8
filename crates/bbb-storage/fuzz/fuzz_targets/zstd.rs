//! Any bytes are zstd frames or are refused, however they are cut.
#![no_main]

use std::io;

use bbb_storage::zstd;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, executor::block_on, stream};
use libfuzzer_sys::fuzz_target;

/// Enough to see a difference, not so much that a frame of zeros fills the memory.
const MAX_DECODED_BYTES: usize = 1 << 20;

fuzz_target!(|input: (u8, &[u8])| {
    let (cut, bytes) = input;
    let pieces: Vec<io::Result<Bytes>> =
        bytes.chunks(usize::from(cut) + 1).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    let mut decoded = zstd::decode(stream::iter(pieces).boxed(), |error: io::Error| error);
    let mut count = 0;
    while let Ok(Some(piece)) = block_on(decoded.try_next()) {
        count += piece.len();
        if count > MAX_DECODED_BYTES {
            break;
        }
    }
    let _ = zstd::decode_bytes(bytes, 1000);
});
