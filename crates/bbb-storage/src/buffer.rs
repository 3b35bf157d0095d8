//! Buffers that files are read into.
//!
//! Those for large parts are used again and again: fresh memory of that size has to be cleared, and costs the
//! kernel a fault for each of its pages. No more than [`MAX_SPARE`] of them wait for their next use.

use std::{
    ops::{Deref, DerefMut},
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;

use crate::READ_CHUNK_BYTES;

/// How many buffers wait for their next use, at most: 8 MiB in all.
const MAX_SPARE: usize = 16;

const SIZE_BYTES: usize = READ_CHUNK_BYTES as usize;

/// Parts below this size, in bytes, get memory of their own: in a large buffer they would keep far more than
/// they are for as long as anyone holds them.
const OWN_BELOW_BYTES: usize = SIZE_BYTES / 2;

/// The last one given back is the first to be taken, since the processor's caches still know it.
static SPARE: Mutex<Vec<Box<[u8]>>> = Mutex::new(Vec::new());

/// Memory to be filled with `len` bytes. What stands in it before is of no meaning.
pub(crate) struct Buffer {
    memory: Box<[u8]>,
    len: usize,
}

impl Buffer {
    /// A buffer of `len` bytes.
    pub(crate) fn take(len: usize) -> Self {
        let is_shared = (OWN_BELOW_BYTES..=SIZE_BYTES).contains(&len);
        let spare =
            is_shared.then(|| SPARE.lock().unwrap_or_else(PoisonError::into_inner).pop()).flatten();
        let size = if is_shared { SIZE_BYTES } else { len };
        Self { memory: spare.unwrap_or_else(|| vec![0; size].into_boxed_slice()), len }
    }

    /// What it was filled with. The memory comes back when nobody holds a part of that any more.
    pub(crate) fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.memory.len() != SIZE_BYTES {
            return;
        }
        let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < MAX_SPARE {
            spare.push(std::mem::take(&mut self.memory));
        }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_has_the_size_that_was_asked_for_and_few_wait_for_use() {
        for len in [0, 1, OWN_BELOW_BYTES - 1, OWN_BELOW_BYTES, SIZE_BYTES, SIZE_BYTES + 1] {
            let mut buffer = Buffer::take(len);
            buffer.fill(7);
            assert_eq!(buffer.into_bytes(), vec![7; len]);
        }
        let taken: Vec<_> = (0..2 * MAX_SPARE).map(|_| Buffer::take(SIZE_BYTES)).collect();
        drop(taken);
        assert!(SPARE.lock().unwrap().len() <= MAX_SPARE);
    }

    #[test]
    fn memory_is_not_used_again_while_someone_holds_a_part() {
        let mut buffer = Buffer::take(SIZE_BYTES);
        buffer.fill(1);
        let part = buffer.into_bytes().slice(10..20);
        for _ in 0..2 * MAX_SPARE {
            Buffer::take(SIZE_BYTES).fill(2);
        }
        assert_eq!(part, [1; 10][..]);
    }
}
