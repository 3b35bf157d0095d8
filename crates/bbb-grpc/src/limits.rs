//! What bounds the memory that clients can take.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tonic::Status;

use crate::status;

/// The largest message that is taken, in bytes: the 4 MiB that gRPC's libraries take unless told
/// otherwise, and room for what stands beside the data of a blob.
pub const MAX_MESSAGE_BYTES: usize = (4 << 20) + (64 << 10);

/// The largest message that is sent, in bytes: what gRPC's libraries take unless told otherwise.
pub const MAX_REPLY_BYTES: usize = 4 << 20;

/// How many bytes of blobs a batch may hold in all, as it is announced. A batch of empty or tiny blobs
/// carries some 100 bytes beside each; the room up to [`MAX_REPLY_BYTES`] lets 5,000 of them through.
pub const MAX_BATCH_BYTES: u64 = (4 << 20) - (512 << 10);

/// The largest message of the services that carry no data, in bytes.
pub const MAX_SMALL_MESSAGE_BYTES: usize = 64 << 10;

/// How long a request waits for memory before it is told to come back.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// The unit in which memory is counted, in bytes.
const UNIT_BYTES: u64 = 1 << 10;

/// The memory that requests share. Each reserves what it needs before it reads on; who comes first is
/// served first.
#[derive(Clone, Debug)]
pub struct Budget {
    units: Arc<Semaphore>,
    total_units: u32,
}

/// RESOURCE_EXHAUSTED.
pub(crate) fn too_many_wait() -> Status {
    status::exhausted("memory", "too many requests wait for memory: try again")
}

/// Memory that is reserved until this is dropped.
#[derive(Debug)]
pub struct Reservation {
    permit: Option<OwnedSemaphorePermit>,
}

impl Reservation {
    /// The reservation of nothing.
    pub fn none() -> Self {
        Self { permit: None }
    }

    /// Gives back all but so many bytes.
    pub fn shrink_to(&mut self, bytes: u64) {
        if let Some(permit) = &mut self.permit {
            let units = usize::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(usize::MAX);
            drop(permit.split(permit.num_permits().saturating_sub(units)));
        }
    }

    /// The same bytes, which hold this until the last part of them is dropped: until it is sent, where they are sent.
    pub fn holding(self, bytes: Vec<u8>) -> Bytes {
        Bytes::from_owner(Held { bytes, _memory: self })
    }
}

/// Bytes with their memory.
struct Held {
    bytes: Vec<u8>,
    _memory: Reservation,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Budget {
    /// A budget of so many bytes.
    pub fn new(bytes: u64) -> Self {
        let total_units = u32::try_from(bytes / UNIT_BYTES).unwrap_or(u32::MAX).max(1);
        Self { units: Arc::new(Semaphore::new(total_units as usize)), total_units }
    }

    /// Reserves memory as soon as there is some. More than all there is counts as all there is.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED if none becomes free in time.
    pub async fn reserve(&self, bytes: u64) -> Result<Reservation, Status> {
        // What is small is part of what any call costs.
        if bytes <= UNIT_BYTES {
            return Ok(Reservation::none());
        }
        let units = self.units_of(bytes);
        let permit = timeout(MAX_WAIT, Arc::clone(&self.units).acquire_many_owned(units)).await;
        match permit {
            Ok(Ok(permit)) => Ok(Reservation { permit: Some(permit) }),
            Ok(Err(_)) | Err(_) => Err(too_many_wait()),
        }
    }

    /// Reserves memory if there is some now.
    pub fn try_reserve(&self, bytes: u64) -> Option<Reservation> {
        if bytes <= UNIT_BYTES {
            return Some(Reservation::none());
        }
        let permit = Arc::clone(&self.units).try_acquire_many_owned(self.units_of(bytes));
        permit.ok().map(|permit| Reservation { permit: Some(permit) })
    }

    /// More than all there is counts as all there is.
    fn units_of(&self, bytes: u64) -> u32 {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX);
        units.min(self.total_units)
    }

    /// How many bytes are free.
    pub fn free_bytes(&self) -> u64 {
        self.units.available_permits() as u64 * UNIT_BYTES
    }
}

/// Where the calls of one connection wait for memory: what comes of them lies in its window. When it fills that, nothing
/// comes any more of those that have their memory, and none of it becomes free. So those that wait may have a part of it;
/// there is always a place for one.
#[derive(Clone, Debug)]
pub(crate) struct Lobby(Budget);

/// Calls that wait may take so small a part of the window of their connection.
const LOBBY_PART: u64 = 2;

impl Lobby {
    /// The lobby of a connection with this window.
    pub(crate) fn of_window(window_bytes: u64) -> Self {
        Self(Budget::new(window_bytes / LOBBY_PART))
    }

    /// A place for a call of which so many bytes may come, if there is one.
    pub(crate) fn place(&self, bytes: u64) -> Option<Reservation> {
        self.0.try_reserve(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_reserved_is_not_given_twice() {
        let budget = Budget::new(10 << 10);
        let first = budget.reserve(8 << 10).await.unwrap();
        assert_eq!(budget.free_bytes(), 2 << 10);
        let refused = budget.reserve(4 << 10).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        drop(first);
        let mut shrunk = budget.reserve(9 << 10).await.unwrap();
        shrunk.shrink_to(3 << 10);
        shrunk.shrink_to(5 << 10);
        assert_eq!(budget.free_bytes(), 7 << 10);
        let mut held = shrunk.holding(vec![7; 3 << 10]);
        let part = held.split_off(1 << 10);
        drop(held);
        assert_eq!(budget.free_bytes(), 7 << 10);
        drop(part);
        assert!(budget.reserve(u64::MAX).await.is_ok());
        assert_eq!(budget.free_bytes(), 10 << 10);
    }
}
