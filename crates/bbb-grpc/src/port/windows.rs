//! How many bytes each connection may send ahead of being read, so that all of them together stay within a
//! bound.
//!
//! Half of the memory is shared out evenly: each connection that is open has [`MIN_WINDOW_BYTES`] of it, and
//! so much of it decides how many are open at once. The other half goes to those who come first, each taking
//! a part of what is left, up to [`MAX_WINDOW_BYTES`]: a node with few clients gives each the window that a
//! fast upload over a long way needs, one with thousands still serves them all. What a connection took comes
//! back when it ends.
//!
//! A part of the places is for other nodes alone, so that many clients do not part a node from its cluster.
//!
//! Windows are HTTP/2's (RFC 9113, section 5.2); the window of a stream lies within that of its connection.

use std::sync::Arc;

use futures::FutureExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The window that every connection has at least, in bytes.
pub(super) const MIN_WINDOW_BYTES: u64 = 128 << 10;

/// The largest window of a connection, in bytes.
pub(super) const MAX_WINDOW_BYTES: u64 = 16 << 20;

/// How many connections are open at once, however much memory there is.
const MAX_CONNECTIONS: u64 = 4_096;

/// A connection takes at most so small a part of the memory that is left for large windows.
const PART: u64 = 4;

/// The unit in which memory is counted, in bytes.
const UNIT_BYTES: u64 = 1 << 10;

/// Where there are other nodes, one of so many places is for them alone.
const NODES_PART: u64 = 4;

/// Whose connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Clients,
    Nodes,
}

/// The memory that all windows share.
#[derive(Debug)]
pub(super) struct Windows {
    /// For everybody.
    places: Arc<Semaphore>,
    /// Those among them that clients may have.
    client_places: Arc<Semaphore>,
    spare_units: Arc<Semaphore>,
}

/// The window of one connection, until this is dropped.
#[derive(Debug)]
pub(super) struct Window {
    bytes: u32,
    _place: Place,
    _spare: Option<OwnedSemaphorePermit>,
}

/// One of the places.
#[derive(Debug)]
struct Place {
    _of_all: OwnedSemaphorePermit,
    _of_clients: Option<OwnedSemaphorePermit>,
}

impl Window {
    /// Its size in bytes.
    pub(super) fn bytes(&self) -> u32 {
        self.bytes
    }
}

impl Windows {
    /// Windows of `bytes` in all, for clients, and maybe for other nodes too. There is room for one connection of each at
    /// the least.
    pub(super) fn new(bytes: u64, has_nodes: bool) -> Self {
        let places = (bytes / 2 / MIN_WINDOW_BYTES).clamp(1, MAX_CONNECTIONS);
        let for_nodes = if has_nodes { places.div_ceil(NODES_PART) } else { 0 };
        let for_clients = (places - for_nodes).max(1);
        let places = for_clients + for_nodes;
        let spare = bytes.saturating_sub(places * MIN_WINDOW_BYTES) / UNIT_BYTES;
        let spare = spare.min(Semaphore::MAX_PERMITS as u64);
        Self {
            places: Arc::new(Semaphore::new(places as usize)),
            client_places: Arc::new(Semaphore::new(for_clients as usize)),
            spare_units: Arc::new(Semaphore::new(spare as usize)),
        }
    }

    /// A window for a connection, as soon as there is a place for one. None if there never will be.
    pub(super) async fn open(&self, side: Side) -> Option<Window> {
        let of_clients = match side {
            Side::Clients => Some(Arc::clone(&self.client_places).acquire_owned().await.ok()?),
            Side::Nodes => None,
        };
        let of_all = Arc::clone(&self.places).acquire_owned().await.ok()?;
        Some(self.window(Place { _of_all: of_all, _of_clients: of_clients }))
    }

    /// A window for a connection, if there is a place for one now.
    pub(super) fn try_open(&self, side: Side) -> Option<Window> {
        self.open(side).now_or_never().flatten()
    }

    /// The window of a connection that has its place.
    fn window(&self, place: Place) -> Window {
        let free_bytes = self.spare_units.available_permits() as u64 * UNIT_BYTES;
        let wanted = (free_bytes / PART).min(MAX_WINDOW_BYTES - MIN_WINDOW_BYTES) / UNIT_BYTES;
        // Who takes the rest meanwhile leaves this one with the least.
        let spare = match u32::try_from(wanted) {
            Ok(0) | Err(_) => None,
            Ok(units) => Arc::clone(&self.spare_units).try_acquire_many_owned(units).ok(),
        };
        let spare_bytes = spare.as_ref().map_or(0, |spare| spare.num_permits() as u64 * UNIT_BYTES);
        // At most `MAX_WINDOW_BYTES`.
        let bytes = (MIN_WINDOW_BYTES + spare_bytes) as u32;
        Window { bytes, _place: place, _spare: spare }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As many windows as are given without waiting.
    fn open_all(windows: &Windows) -> Vec<Window> {
        std::iter::from_fn(|| windows.try_open(Side::Clients)).collect()
    }

    fn sum(windows: &[Window]) -> u64 {
        windows.iter().map(|window| u64::from(window.bytes())).sum()
    }

    #[test]
    fn few_connections_have_the_largest_window_and_thousands_still_have_one() {
        let windows = Windows::new(1 << 30, false);
        let open = open_all(&windows);
        assert_eq!(open.len(), 4096);
        assert!(open[..24].iter().all(|window| u64::from(window.bytes()) == MAX_WINDOW_BYTES));
        assert!(open.iter().all(|window| u64::from(window.bytes()) >= MIN_WINDOW_BYTES));
        assert!(sum(&open) <= 1 << 30);
    }

    #[test]
    fn what_a_connection_had_comes_back() {
        let windows = Windows::new(2 * MIN_WINDOW_BYTES, false);
        let first = open_all(&windows);
        assert_eq!(first.len(), 1, "the next one waits");
        drop(first);
        assert_eq!(open_all(&windows).len(), 1);
    }

    #[test]
    fn clients_leave_a_part_to_other_nodes() {
        for bytes in [1, 2 * MIN_WINDOW_BYTES, 1 << 20, 1 << 30] {
            let windows = Windows::new(bytes, true);
            let clients = open_all(&windows).len();
            let open: Vec<_> = std::iter::from_fn(|| windows.try_open(Side::Nodes)).collect();
            assert!(open.len() >= 1.max(clients / 4), "{bytes}: {clients} and {}", open.len());
        }
    }

    proptest! {
        #[test]
        fn windows_stay_within_their_memory(bytes in 2 * MIN_WINDOW_BYTES..4 << 30, has_nodes: bool, ends: Vec<prop::sample::Index>) {
            let windows = Windows::new(bytes, has_nodes);
            let mut open = open_all(&windows);
            prop_assert!(!open.is_empty());
            prop_assert!(sum(&open) <= bytes);
            for end in ends {
                open.swap_remove(end.index(open.len()));
                open.extend(open_all(&windows));
                prop_assert!(sum(&open) <= bytes);
                prop_assert!(open.len() <= 4096);
            }
        }
    }
}
