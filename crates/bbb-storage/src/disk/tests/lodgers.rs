//! What others keep in the folder, among blobs.

use std::sync::atomic::AtomicU32;

use super::*;
use crate::{LocalFile, Lodger};

const KIB: u64 = 1 << 10;

impl Store {
    /// Something of so many bytes, and how often it was told to leave.
    async fn lodge(&self, bytes: u64) -> (Lodger, Arc<AtomicU32>) {
        let told = Arc::new(AtomicU32::default());
        let leave = {
            let told = Arc::clone(&told);
            move || {
                told.fetch_add(1, Ordering::Relaxed);
            }
        };
        (self.disk.lodging().take(bytes, Box::new(leave)).await.unwrap(), told)
    }
}

fn count(told: &AtomicU32) -> u32 {
    told.load(Ordering::Relaxed)
}

#[tokio::test(flavor = "multi_thread")]
async fn lodgers_and_blobs_go_in_one_order_of_use() {
    let dir = TempDir::new().unwrap();
    let store = Store::open_to_be_filled(dir.path(), 1000 * KIB);
    store.until_complete().await;
    let oldest = store.put(100 * KIB as usize).await;
    let (old, told_old) = store.lodge(100 * KIB).await;
    let blob = store.put(100 * KIB as usize).await;
    let (used, told_used) = store.lodge(100 * KIB).await;
    let newest = store.put(100 * KIB as usize).await;
    used.used();
    let _reservation = store.disk.reserve(700 * KIB).await.unwrap();
    assert!(!store.is_there(oldest).await && count(&told_old) == 1);
    assert!(store.is_there(blob).await && store.is_there(newest).await && count(&told_used) == 0);
    assert!(old.keep().is_none(), "it was told to leave");
    let stats = store.disk.stats();
    assert_eq!((stats.lodgers, stats.lodged_bytes), (1, 100 * KIB));
    assert_eq!(stats.taken_bytes, 1000 * KIB);
    // Both blobs were looked at since.
    let _more = store.disk.reserve(100 * KIB).await.unwrap();
    assert_eq!(count(&told_used), 1);
    drop((old, used));
    let stats = store.disk.stats();
    assert_eq!((stats.taken_bytes, stats.lodgers), (1000 * KIB, 0), "it was given back once");
}

#[tokio::test(flavor = "multi_thread")]
async fn room_of_a_lodger_counts_in_blocks_and_is_given_back() {
    let dir = TempDir::new().unwrap();
    let store = Store::open_to_be_filled(dir.path(), 1000 * KIB);
    let (nothing, _) = store.lodge(0).await;
    let (little, told) = store.lodge(5000).await;
    assert_eq!(store.disk.stats().taken_bytes, 12 * KIB);
    let kept = little.keep().unwrap();
    drop(little);
    drop(nothing);
    assert_eq!(store.disk.stats().taken_bytes, 8 * KIB, "someone keeps it");
    assert!(matches!(store.disk.reserve(1000 * KIB).await, Err(Error::Full { .. })));
    drop(kept);
    assert_eq!((store.disk.stats().taken_bytes, count(&told)), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_stays_and_too_much_of_it_is_full() {
    let dir = TempDir::new().unwrap();
    let store = Store::open_to_be_filled(dir.path(), 1000 * KIB);
    let (lodger, told) = store.lodge(600 * KIB).await;
    let kept = [lodger.keep().unwrap(), lodger.keep().unwrap()];
    for _ in 0..10 {
        store.put(300 * KIB as usize).await;
    }
    let full = store.disk.lodging().take(500 * KIB, Box::new(|| {})).await;
    assert!(matches!(full, Err(Error::Full { .. })), "{full:?}");
    let too_large = store.disk.lodging().take(1001 * KIB, Box::new(|| {})).await;
    assert!(matches!(too_large, Err(Error::Full { .. })), "{too_large:?}");
    let [first, last] = kept;
    drop(first);
    let full = store.disk.lodging().take(500 * KIB, Box::new(|| {})).await;
    assert!(matches!(full, Err(Error::Full { .. })) && count(&told) == 0, "{full:?}");
    drop(last);
    let (_other, _) = store.lodge(500 * KIB).await;
    assert_eq!(count(&told), 1);
}

/// A lodger that holds pins on blobs, as a staged tree does: with it they become free to go, in their own order.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_lodger_pins_goes_after_it_and_before_what_was_used_since() {
    let dir = TempDir::new().unwrap();
    let store = Store::open_to_be_filled(dir.path(), 1000 * KIB);
    store.until_complete().await;
    let files = store.disk.local_files(&InstanceName::default());
    let mut pinned = Vec::new();
    let mut pins: Vec<Arc<dyn LocalFile>> = Vec::new();
    for _ in 0..4 {
        let digest = store.put(100 * KIB as usize).await;
        pins.push(files.pin(digest, false).await.unwrap());
        pinned.push(digest);
    }
    let gone = Arc::new(Mutex::new(Some(pins)));
    let leave = Arc::clone(&gone);
    let lodging = store.disk.lodging();
    let leave = Box::new(move || drop(leave.lock().unwrap().take()));
    let lodger = lodging.take(4 * KIB, leave).await.unwrap();
    let newer = store.put(100 * KIB as usize).await;
    let kept = lodger.keep().unwrap();
    let reserved = store.disk.reserve(500 * KIB).await.unwrap();
    assert!(!store.is_there(newer).await, "all that is older is in use");
    assert!(store.disk.reserve(100 * KIB).await.is_err());
    for digest in &pinned {
        assert!(store.path(Kind::Blob, *digest).exists());
    }
    drop((kept, reserved));
    let newest = store.put(100 * KIB as usize).await;
    let _reserved = store.disk.reserve(700 * KIB).await.unwrap();
    assert!(gone.lock().unwrap().is_none());
    let left: Vec<bool> =
        pinned.iter().map(|digest| store.path(Kind::Blob, *digest).exists()).collect();
    assert_eq!(left, [false, false, true, true]);
    assert!(store.is_there(newest).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lodger_that_panics_or_uses_the_store_when_it_leaves_stops_nobody() {
    let dir = TempDir::new().unwrap();
    let store = Store::open_to_be_filled(dir.path(), 1000 * KIB);
    let lodging = store.disk.lodging();
    let panics = Box::new(|| panic!("told to leave"));
    let _panics = lodging.take(400 * KIB, panics).await.unwrap();
    let (other, told) = store.lodge(100 * KIB).await;
    // It takes locks of the store, which must be free: its own, and with a Lodger that is dropped in it.
    let disk = Arc::clone(&store.disk);
    let _uses =
        lodging.take(400 * KIB, Box::new(move || drop((disk.stats(), other)))).await.unwrap();
    let reserved = store.disk.reserve(1000 * KIB).await.unwrap();
    assert_eq!(store.disk.stats().taken_bytes, 1000 * KIB);
    assert_eq!(count(&told), 1);
    drop(reserved);
    store.put(900 * KIB as usize).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_a_lodger_drops_what_it_holds_of_the_store() {
    let dir = TempDir::new().unwrap();
    let store = Store::open_to_be_filled(dir.path(), 1000 * KIB);
    let digest = store.put(100 * KIB as usize).await;
    let pin = store.disk.local_files(&InstanceName::default()).pin(digest, false).await.unwrap();
    let lodger = store.disk.lodging().take(1, Box::new(move || drop(pin))).await.unwrap();
    let kept = lodger.keep().unwrap();
    drop(lodger);
    drop(kept);
    store.disk.reserve(1000 * KIB).await.unwrap();
    assert!(!store.is_there(digest).await, "its pin is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn lodgers_that_come_and_go_among_writers_leave_right_books() {
    let dir = TempDir::new().unwrap();
    let store = Arc::new(Store::open(dir.path(), 2000 * KIB));
    let (there, gone) = (Arc::new(AtomicU64::default()), Arc::new(AtomicU64::default()));
    let lodgers = (0..8u64).map(|number| {
        let (store, there, gone) = (Arc::clone(&store), Arc::clone(&there), Arc::clone(&gone));
        async move {
            let mut before = None;
            for round in 0..40 {
                let gone = Arc::clone(&gone);
                let leave = move || {
                    gone.fetch_add(1, Ordering::Relaxed);
                };
                let taken = store.disk.lodging().take(64 * KIB, Box::new(leave)).await;
                let lodger = taken.unwrap();
                there.fetch_add(1, Ordering::Relaxed);
                let kept = lodger.keep();
                store.put(((number + round) % 10 * 10 * KIB) as usize + 1).await;
                drop(kept);
                lodger.used();
                // Some are dropped by those who have them, some stay until they are told to leave.
                if round % 2 == 0 {
                    before = Some(lodger);
                } else {
                    std::mem::forget(lodger);
                }
                assert!(store.disk.stats().taken_bytes <= 2000 * KIB);
            }
            drop(before);
        }
    });
    futures::future::join_all(lodgers).await;
    until(|| {
        let stats = store.disk.stats();
        stats.lodged_bytes == stats.lodgers * 64 * KIB && stats.lodgers <= 31
    })
    .await;
    assert!(gone.load(Ordering::Relaxed) > 0);
    drop(store.disk.reserve(2000 * KIB).await.unwrap());
    let stats = store.disk.stats();
    assert_eq!((stats.lodgers, stats.lodged_bytes, stats.taken_bytes), (0, 0, 0));
}

/// What a pinned file costs whoever holds one of each file of a large tree: the pin with the two counts of its Arc.
#[test]
fn a_pinned_file_takes_little_memory() {
    let bytes = crate::disk::links::LINKABLE_BYTES + 2 * size_of::<usize>();
    assert!(bytes <= 32, "{bytes} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reservation_grows_and_shrinks_with_what_it_is_for() {
    let dir = TempDir::new().unwrap();
    let store = Store::open_to_be_filled(dir.path(), 1000 * KIB);
    let lodging = store.disk.lodging();
    assert_eq!(lodging.limit_bytes(), 1000 * KIB);
    let blob = store.put(300 * KIB as usize).await;
    let mut held = lodging.reserve(600 * KIB).await.unwrap();
    held.absorb(lodging.reserve(100 * KIB).await.unwrap());
    assert_eq!((held.bytes(), store.disk.stats().taken_bytes), (700 * KIB, 1000 * KIB));
    assert!(store.is_there(blob).await);
    held.give_back(200 * KIB);
    assert_eq!((held.bytes(), store.disk.stats().taken_bytes), (500 * KIB, 800 * KIB));
    held.absorb(lodging.reserve(500 * KIB).await.unwrap());
    assert!(!store.is_there(blob).await, "it has made room");
    assert!(matches!(lodging.reserve(1).await, Err(Error::Full { .. })));
    held.give_back(u64::MAX);
    assert_eq!((held.bytes(), store.disk.stats().taken_bytes), (0, 0));
    drop(held);
    assert_eq!(store.disk.stats().taken_bytes, 0);
}

/// What is about to be free is not mistaken for what is in use, though he is gone who had it freed.
#[tokio::test(flavor = "multi_thread")]
async fn an_eviction_that_nobody_waits_for_any_more_is_still_the_only_one() {
    let dir = TempDir::new().unwrap();
    let store = Store::open_to_be_filled(dir.path(), 1000 * KIB);
    store.until_complete().await;
    let (leaves, mut leaving) = tokio::sync::mpsc::unbounded_channel();
    let (let_go, may_go) = std::sync::mpsc::channel();
    let leave = move || {
        leaves.send(()).unwrap();
        may_go.recv().unwrap();
    };
    let _lodger = store.disk.lodging().take(800 * KIB, Box::new(leave)).await.unwrap();
    tokio::select! {
        given_up = store.disk.reserve(500 * KIB) => panic!("{given_up:?}"),
        told = leaving.recv() => told.unwrap(),
    }
    let mut other = std::pin::pin!(store.disk.reserve(500 * KIB));
    let early = tokio::time::timeout(Duration::from_millis(50), other.as_mut()).await;
    assert!(early.is_err(), "{early:?}");
    let_go.send(()).unwrap();
    assert_eq!(other.await.unwrap().bytes(), 500 * KIB);
}
