//! Any text is a resource name that can be printed and read again, or is refused.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|name: &str| bbb_reapi::hostile::check_resource_name(name));
