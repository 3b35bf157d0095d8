//! Any text is a resource name that can be printed and read again, or is refused.
#![no_main]

use bbb_reapi::Resource;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|name: &str| {
    if let Ok(Resource::Blob(blob)) = Resource::parse(name) {
        assert_eq!(Resource::parse(&blob.to_string()), Ok(Resource::Blob(blob)));
    }
});
