//! The bucket tier: blobs and results as objects of an S3-compatible bucket.

#[allow(dead_code, reason = "what reads and writes the bucket comes next")]
mod keys;
#[allow(dead_code, reason = "what reads and writes the bucket comes next")]
mod lifetime;
