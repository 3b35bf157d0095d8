//! Digests of what is sent and read back, in the form that goes over the wire.

use bbb_digest::{Function, Hasher};
use bbb_reapi::{ToProto as _, function_code, proto::reapi};

/// A digest as it goes over the wire: lower-case hexadecimal hash and size in bytes.
pub(crate) type Digest = reapi::Digest;

/// The function of this name, for the command line.
pub(crate) fn parse_function(name: &str) -> Result<Function, String> {
    Function::from_name(name).ok_or_else(|| {
        let names: Vec<_> = Function::ALL.iter().map(|function| function.name()).collect();
        format!("there are {}", names.join(", "))
    })
}

/// What requests need of a digest function.
pub(crate) trait OnTheWire {
    /// The number of this function in the Remote Execution API.
    fn wire(self) -> i32;

    /// The segment that resource names must carry, for functions that the length of the hash does not tell.
    fn resource_segment(self) -> String;

    /// The digest of `data`.
    fn digest(self, data: &[u8]) -> Digest;
}

impl OnTheWire for Function {
    fn wire(self) -> i32 {
        function_code(self).into()
    }

    fn resource_segment(self) -> String {
        if self.is_inferred() { String::new() } else { format!("{self}/") }
    }

    fn digest(self, data: &[u8]) -> Digest {
        bbb_digest::Digest::of(self, data).to_proto()
    }
}

/// The digest of everything that a hasher took in.
pub(crate) fn finish(hasher: Hasher) -> Digest {
    hasher.finish().to_proto()
}
