//! What the `buildbuildbuild` binary is made of, so that tests can use it within their own process.

pub mod flags;
pub mod greeting;
mod memory;
pub mod node;
