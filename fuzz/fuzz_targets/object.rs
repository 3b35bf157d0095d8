//! Any bytes are the object of a blob in a bucket, or are refused; they never give other bytes.
#![no_main]

use bbb_storage::conformance::hostile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u64, u16, &[u8], &[u8])| {
    let (size_bytes, cut, one, other) = input;
    hostile::any_object(one, other);
    hostile::any_index(size_bytes, one, other, usize::from(cut) + 1);
});
