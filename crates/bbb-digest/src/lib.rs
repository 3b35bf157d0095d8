//! Digests of blobs, the functions that compute them, and instance names.
//!
//! This is the lowest room of the house. A [`Digest`] is a small `Copy` value that cannot be wrong:
//! its hash has the length of its function and its size is not negative. Whoever holds one needs no
//! further check before using it as a key or as part of a file name.
//!
//! The room knows nothing of messages, files or time.

mod digest;
mod function;
mod hasher;
mod instance;
mod sha256tree;

pub use digest::{Digest, DigestError, MAX_BLOB_SIZE_BYTES};
pub use function::Function;
pub use hasher::Hasher;
pub use instance::{InstanceName, InstanceNameError};
