//! Digests of what is sent and read back.
//!
//! The only module that knows hash functions, so that they can be had from elsewhere by changing this file alone.
//! It promises an incremental hasher that can be cloned in the middle: blobs that differ only in their last bytes
//! cost one pass over what they share.

use bazel_remote_apis::build::bazel::remote::execution::v2::{
    self as reapi, digest_function::Value,
};
use clap::ValueEnum;
use sha2::Digest as _;

/// A digest as it goes over the wire: lower-case hexadecimal hash and size in bytes.
pub(crate) type Digest = reapi::Digest;

/// Digest functions that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Function {
    /// SHA-256, which every server speaks.
    Sha256,
    /// SHA-1.
    Sha1,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
    /// BLAKE3 with 32 bytes of output.
    Blake3,
}

impl Function {
    /// The number of this function in the Remote Execution API.
    pub(crate) fn wire(self) -> i32 {
        let value = match self {
            Self::Sha256 => Value::Sha256,
            Self::Sha1 => Value::Sha1,
            Self::Sha384 => Value::Sha384,
            Self::Sha512 => Value::Sha512,
            Self::Blake3 => Value::Blake3,
        };
        value.into()
    }

    /// The segment that resource names must carry, for functions that the length of the hash does not tell.
    pub(crate) fn resource_segment(self) -> &'static str {
        match self {
            Self::Blake3 => "blake3/",
            _ => "",
        }
    }

    /// A hasher that has seen nothing.
    pub(crate) fn hasher(self) -> Hasher {
        match self {
            Self::Sha256 => Hasher::Sha256(sha2::Sha256::new()),
            Self::Sha1 => Hasher::Sha1(sha1::Sha1::new()),
            Self::Sha384 => Hasher::Sha384(sha2::Sha384::new()),
            Self::Sha512 => Hasher::Sha512(sha2::Sha512::new()),
            Self::Blake3 => Hasher::Blake3(Box::default()),
        }
    }

    /// The digest of `data`.
    pub(crate) fn digest(self, data: &[u8]) -> Digest {
        let mut hasher = self.hasher();
        hasher.update(data);
        hasher.finish(data.len())
    }
}

/// A hash in the making.
#[derive(Clone)]
pub(crate) enum Hasher {
    Sha256(sha2::Sha256),
    Sha1(sha1::Sha1),
    Sha384(sha2::Sha384),
    Sha512(sha2::Sha512),
    Blake3(Box<blake3::Hasher>),
}

impl Hasher {
    /// Takes in the next bytes.
    pub(crate) fn update(&mut self, data: &[u8]) {
        match self {
            Self::Sha256(h) => h.update(data),
            Self::Sha1(h) => h.update(data),
            Self::Sha384(h) => h.update(data),
            Self::Sha512(h) => h.update(data),
            Self::Blake3(h) => {
                h.update(data);
            }
        }
    }

    /// The digest of everything taken in, which was `size` bytes.
    pub(crate) fn finish(self, size: usize) -> Digest {
        let hash = match self {
            Self::Sha256(h) => hex(&h.finalize()),
            Self::Sha1(h) => hex(&h.finalize()),
            Self::Sha384(h) => hex(&h.finalize()),
            Self::Sha512(h) => hex(&h.finalize()),
            Self::Blake3(h) => hex(h.finalize().as_bytes()),
        };
        Digest { hash, size_bytes: size as i64 }
    }
}

/// `bytes` as lower-case hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_hashes() {
        let empty = |function: Function| function.digest(b"").hash;
        assert_eq!(
            empty(Function::Sha256),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        assert_eq!(empty(Function::Sha1), "da39a3ee5e6b4b0d3255bfef95601890afd80709");
        assert!(empty(Function::Sha384).starts_with("38b060a751ac9638"));
        assert!(empty(Function::Sha512).starts_with("cf83e1357eefb8bd"));
        assert!(empty(Function::Blake3).starts_with("af1349b9f5f9a1a6"));
    }

    #[test]
    fn a_clone_continues_where_it_was_made() {
        for function in Function::value_variants() {
            let mut shared = function.hasher();
            shared.update(b"some ");
            let mut one = shared.clone();
            one.update(b"bytes");
            assert_eq!(one.finish(10), function.digest(b"some bytes"));
        }
    }
}
