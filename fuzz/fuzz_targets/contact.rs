//! Any bytes are what a node announces of itself, or nothing; any key in the bucket is that of an entry, or none.
#![no_main]

use bbb_cluster::hostile::{check_contact, check_entry_name};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    check_contact(bytes);
    if let Ok(text) = str::from_utf8(bytes) {
        check_entry_name(text);
    }
});
