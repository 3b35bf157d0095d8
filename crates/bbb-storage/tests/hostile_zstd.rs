//! The fuzz target of this crate with random bytes, on every run of the tests.

use std::io;

use bbb_storage::zstd;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, executor::block_on, stream};
use proptest::prelude::*;

/// Enough to see a difference, not so much that a frame of zeros fills the memory.
const MAX_DECODED_BYTES: usize = 1 << 20;

fn decode(bytes: &[u8], cut: usize) -> io::Result<Vec<u8>> {
    let pieces: Vec<io::Result<Bytes>> =
        bytes.chunks(cut).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    let mut decoded = zstd::decode(stream::iter(pieces).boxed(), |error: io::Error| error);
    let mut all = Vec::new();
    while let Some(piece) = block_on(decoded.try_next())? {
        all.extend_from_slice(&piece);
        if all.len() > MAX_DECODED_BYTES {
            break;
        }
    }
    Ok(all)
}

proptest! {
    #[test]
    fn any_bytes_are_frames_or_refused(bytes: Vec<u8>, cut in 1usize..20) {
        prop_assert_eq!(decode(&bytes, cut).ok(), decode(&bytes, bytes.len().max(1)).ok());
        let _ = zstd::decode_bytes(&bytes, 1000);
    }

    #[test]
    fn damaged_frames_are_refused_or_read(
        data: Vec<u8>, at: prop::sample::Index, bit in 0u8..8, cut in 1usize..20,
    ) {
        let mut bytes = zstd::encode_bytes(&data).expect("there is memory").to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        // A frame that comes whole is also held against the size in its header where its last block is empty,
        // one that comes in pieces is not: what is decoded is the same, and its digest is checked either way.
        if let (Ok(pieces), Ok(whole)) = (decode(&bytes, cut), decode(&bytes, bytes.len())) {
            prop_assert_eq!(pieces, whole);
        }
    }
}

#[test]
fn a_window_that_would_take_too_much_memory_is_refused() {
    // An empty frame whose header asks for a window of so many bytes as a power of two.
    let frame = |log: u8| [0x28, 0xb5, 0x2f, 0xfd, 0, (log - 10) << 3, 1, 0, 0];
    assert_eq!(decode(&frame(25), 4).expect("it is a frame"), b"");
    assert!(decode(&frame(26), 4).is_err());
}
