//! The `buildbuildbuild` binary.

fn main() {}
