//! Buffers that files are read into. They are used again, since to get fresh memory from the kernel and to
//! clear it costs as much as to read a cached file.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use crate::READ_CHUNK_BYTES;

/// How many buffers are kept for the next reads.
const MAX_FREE: usize = 16;

static FREE: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// Up to [`READ_CHUNK_BYTES`] of memory; what stands in it is of no meaning at first.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    len: usize,
}

impl Buffer {
    /// A buffer of `len` bytes; none if that is more than there are in one.
    pub(crate) fn of(len: u64) -> Option<Self> {
        let len = usize::try_from(len).ok().filter(|_| len <= READ_CHUNK_BYTES)?;
        let free = FREE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let bytes = free.unwrap_or_else(|| vec![0; READ_CHUNK_BYTES as usize]);
        Some(Self { bytes, len })
    }

    /// The bytes to be shared. The buffer is used again once nobody has them any more.
    pub(crate) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < MAX_FREE {
            free.push(bytes);
        }
    }
}
