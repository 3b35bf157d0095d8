//! Objects that somebody else made: for the fuzz target `object`, and for random bytes in plain tests.

use std::sync::Arc;

use bbb_digest::{Digest, Function};
use bytes::Bytes;
use object_store::path::Path;

use crate::{Encoding, zstd};

use super::{
    fetch::Fetch,
    object::{Index, SMALL_BYTES, chunk_hash, decode_result, parse_head},
    read::check_small,
    unpack::{Pulled, Unpacker},
};

/// Any bytes are the object of a blob, or are refused; they are never other bytes.
pub fn any_object(blob: &[u8], object: &[u8]) {
    let digest = Digest::of(Function::Sha256, blob);
    let object = Bytes::copy_from_slice(object);
    for wants_frames in [true, false] {
        match check_small(digest, &object, wants_frames) {
            Ok((Encoding::Identity, bytes)) => assert_eq!(bytes, blob),
            Ok((Encoding::Zstd, frames)) => {
                assert!(wants_frames && parse_head(&object) == Ok(Encoding::Zstd));
                assert_eq!(zstd::decode_bytes(&frames, blob.len()).ok().as_deref(), Some(blob));
            }
            Err(_) => {}
        }
    }
    let _ = Index::parse(digest, &object, object.len() as u64);
    let _ = decode_result(&Path::from("v1/00/ac/!/sha256/00-0"), &object);
}

/// Any index that is one at all unpacks any body to checked chunks in their order, or finds it damaged.
pub fn any_index(size_bytes: u64, index: &[u8], body: &[u8], cut: usize) {
    let size_bytes = SMALL_BYTES + size_bytes % SMALL_BYTES;
    let Some((rest, payload)) = index.split_at_checked(8) else { return };
    let Some(index) = Index::from_payload(size_bytes, payload, rest) else { return };
    let index = Arc::new(index);
    let digest = Digest::of(Function::Sha256, body);
    for form in [Encoding::Identity, index.encoding] {
        let Ok(mut unpacker) = Unpacker::new(digest, Arc::clone(&index), 0, size_bytes, form)
        else {
            return;
        };
        for piece in body.chunks(cut.max(1)) {
            unpacker.feed(Fetch { bytes: Bytes::copy_from_slice(piece), _taken: None });
        }
        unpacker.end_input();
        let mut given = 0;
        // Damage ends it.
        while let Ok(pulled) = unpacker.pull() {
            match pulled {
                Pulled::Piece(piece) if form == Encoding::Identity => {
                    let which = (given / index.chunk_bytes()) as usize;
                    assert_eq!(index.chunks.get(which), Some(&chunk_hash(&piece)));
                    given += piece.len() as u64;
                }
                Pulled::Piece(_) => {}
                Pulled::Hungry => panic!("hungry after the end"),
                Pulled::End => break,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::bucket::{object::head, pack::Packer};

    proptest! {
        #[test]
        fn objects_that_are_changed_somewhere_are_refused(
            blob in prop::collection::vec(0_u8..4, 1..5000),
            compress: bool,
            at: prop::sample::Index,
            flip in 1_u8..,
        ) {
            let digest = Digest::of(Function::Sha256, &blob);
            let mut object = Vec::new();
            let mut packer = Packer::new(digest, Encoding::Identity, compress).unwrap();
            packer.feed(&blob, &mut object).unwrap();
            packer.finish(&mut object).unwrap();
            prop_assert!(check_small(digest, &object.clone().into(), false).is_ok());
            any_object(&blob, &object);
            let at = at.index(object.len());
            object[at] ^= flip;
            any_object(&blob, &object);
            any_object(&blob, &object[..at]);
        }

        #[test]
        fn any_bytes_will_do(blob: Vec<u8>, mut bytes: Vec<u8>, size: u64, cut in 1_usize..5000) {
            any_object(&blob, &bytes);
            bytes.splice(0..0, head(Encoding::Zstd));
            any_object(&blob, &bytes);
            for letter in [b'i', b'z'] {
                let index = [&[1, 0, 0, 0, 20, letter, 0, 0], &bytes[..]].concat();
                any_index(size, &index, &blob, cut);
            }
        }
    }
}
