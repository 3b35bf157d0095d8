//! The seal around what ways to meet send and leave behind.

use std::{error::Error, time::SystemTime};

/// Seals and opens with the keys of a cluster.
pub trait Envelope: Send + Sync {
    /// Seals `bytes` at `now`.
    fn seal(&self, now: SystemTime, bytes: &[u8]) -> Vec<u8>;

    /// Opens what another node has sealed.
    ///
    /// # Errors
    /// Why it was not sealed by a node of this cluster, or not lately.
    fn open(&self, now: SystemTime, sealed: &[u8])
    -> Result<Vec<u8>, Box<dyn Error + Send + Sync>>;
}
