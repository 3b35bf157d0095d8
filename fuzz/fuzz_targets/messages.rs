//! Any bytes are a directory, a tree, a command or an action, or are refused.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| bbb_reapi::hostile::check_message(bytes));
