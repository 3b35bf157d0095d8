//! What goes when room is needed, and what stays.

use proptest::prelude::*;

use super::*;

const KIB: u64 = 1 << 10;

#[tokio::test(flavor = "multi_thread")]
async fn what_was_used_least_recently_goes_first() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path(), 1000 * KIB);
    let mut digests = Vec::new();
    for _ in 0..9 {
        digests.push(store.put(100 * KIB as usize).await);
    }
    // Each way of use counts.
    assert!(store.is_there(digests[0]).await);
    assert!(store.reads(digests[1]).await);
    for _ in 0..5 {
        store.put(100 * KIB as usize).await;
    }
    for digest in &digests[..2] {
        assert!(store.is_there(*digest).await);
    }
    for digest in &digests[2..6] {
        assert!(!store.is_there(*digest).await);
        assert!(!store.path(Kind::Blob, *digest).exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_order_of_use_outlives_a_restart() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path(), 1000 * KIB);
    let (old, new) = (store.put(400 * KIB as usize).await, store.put(400 * KIB as usize).await);
    assert!(store.is_there(old).await);
    store.close().await;
    let store = Store::open(dir.path(), 1000 * KIB);
    store.put(400 * KIB as usize).await;
    assert!(store.is_there(old).await, "used last before the restart");
    assert!(!store.is_there(new).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn to_look_for_damage_is_no_use() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path(), 1000 * KIB);
    let (old, new) = (store.put(400 * KIB as usize).await, store.put(400 * KIB as usize).await);
    store.disk.write_snapshot().unwrap();
    store.kill().await;
    pretend_another_boot(dir.path());
    let store = Store::open(dir.path(), 1000 * KIB);
    store.until_complete().await;
    assert!(store.reads(new).await);
    for doubtful_only in [true, false] {
        let slots = store.disk.index().slots();
        for slot in 0..slots {
            store.disk.scrub_slot(slot, doubtful_only).await.unwrap();
        }
    }
    store.put(400 * KIB as usize).await;
    assert!(store.is_there(new).await && !store.is_there(old).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_use_stays_and_too_much_of_it_is_full() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path(), 1000 * KIB);
    let in_use = store.put(300 * KIB as usize).await;
    let blob = store.cas().get(in_use, Wanted::ALL).await.unwrap();
    let reservation = store.disk.reserve(300 * KIB).await.unwrap();
    for _ in 0..10 {
        store.put(300 * KIB as usize).await;
        assert!(store.disk.stats().taken_bytes <= 1000 * KIB);
    }
    assert!(store.path(Kind::Blob, in_use).exists());
    let bytes = conformance::data(500 * KIB as usize);
    let digest = Digest::of(Function::Sha256, &bytes);
    let put = store.cas().put(digest, bytes.clone().into()).await;
    assert!(matches!(put, Err(Error::Full { .. })), "{put:?}");
    assert!(matches!(store.disk.reserve(2000 * KIB).await, Err(Error::Full { .. })));
    drop(reservation);
    store.cas().put(digest, bytes.into()).await.unwrap();
    assert_eq!(conformance::read_all(blob).await.unwrap().len() as u64, 300 * KIB);
    store.put(900 * KIB as usize).await;
    assert!(!store.is_there(in_use).await, "nothing holds it any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_of_a_large_blob_takes_no_room_before_it_comes() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path(), 10_000 * KIB);
    let there = store.put(5000 * KIB as usize).await;
    let digest = Digest::from_raw(Function::Sha256, &[1; 32], 9_000 * KIB).unwrap();
    let stream = futures::stream::pending();
    let content = crate::SourceContent::Stream(Box::pin(stream));
    let source = crate::Source { encoding: crate::Encoding::Identity, content };
    let cas = store.cas();
    let put = cas.put(digest, source);
    assert!(tokio::time::timeout(Duration::from_millis(50), put).await.is_err());
    assert!(store.is_there(there).await);
    assert_eq!(store.disk.stats().taken_bytes, 5000 * KIB);
    let digest = Digest::from_raw(Function::Sha256, &[1; 32], 11_000 * KIB).unwrap();
    let put = store.cas().put(digest, Vec::new().into()).await;
    assert!(matches!(put, Err(Error::Full { .. })), "larger than the whole store: {put:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn room_is_made_ahead_of_the_limit() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path(), 4000 * KIB);
    for _ in 0..100 {
        store.put(40 * KIB as usize).await;
    }
    until(|| store.disk.stats().taken_bytes <= 3900 * KIB).await;
    assert!(store.disk.stats().taken_bytes >= 3600 * KIB, "no more than needed");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_writers_at_the_limit_all_get_through() {
    let dir = TempDir::new().unwrap();
    let store = Arc::new(Store::open(dir.path(), 4000 * KIB));
    let writers = (0..16).map(|_| {
        let store = Arc::clone(&store);
        async move {
            for _ in 0..20 {
                let digest = store.put(100 * KIB as usize).await;
                store.reads(digest).await;
                assert!(store.disk.stats().taken_bytes <= 4000 * KIB);
            }
        }
    });
    futures::future::join_all(writers).await;
    let held =
        || walk(&dir.path().join("cas")).iter().map(|size| index::charge(*size)).sum::<u64>();
    until(|| store.disk.stats().taken_bytes == held()).await;
    assert!(held() <= 4000 * KIB && store.disk.stats().evictions > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_comes_back_while_it_goes_is_there() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path(), 1000 * KIB);
    store.until_complete().await;
    let blob = |byte| {
        let bytes = vec![byte; 70_000];
        (Digest::of(Function::Sha256, &bytes), bytes)
    };
    let ((back, bytes), (gone, other)) = (blob(1), blob(2));
    for (digest, bytes) in [(back, bytes.clone()), (gone, other)] {
        store.cas().put(digest, bytes.into()).await.unwrap();
    }
    let victims = store.disk.take_victims(0).unwrap();
    assert_eq!(victims.len(), 2);
    assert!(!store.is_there(back).await);
    store.cas().put(back, bytes.into()).await.unwrap();
    store.disk.remove_victims(victims);
    assert!(store.is_there(back).await && store.reads(back).await);
    assert!(!store.is_there(gone).await && !store.path(Kind::Blob, gone).exists());
    assert_eq!(store.disk.stats().taken_bytes, index::charge(70_000));
}

/// Whoever is told that there is nothing gives up: between looking and evicting, others may give room back.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_to_evict_is_told_from_nothing_that_must_go() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path(), 1000 * KIB);
    store.until_complete().await;
    let reservation = store.disk.reserve(500 * KIB).await.unwrap();
    assert!(store.disk.take_victims(500 * KIB).is_some_and(|victims| victims.is_empty()));
    assert!(store.disk.take_victims(499 * KIB).is_none());
    drop(reservation);
    assert!(store.disk.take_victims(0).is_some_and(|victims| victims.is_empty()));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_equal_blobs_that_come_and_go_leave_right_books() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path(), 400 * KIB);
    let blobs: Vec<_> = (0..120u8)
        .map(|number| {
            let bytes = vec![number; 4096];
            (Digest::of(Function::Sha256, &bytes), bytes)
        })
        .collect();
    for round in 0..20 {
        let puts = (0..blobs.len() * 4).map(|at| {
            let (digest, bytes) = blobs[at * (round + 7) % blobs.len()].clone();
            let cas = store.cas();
            async move { cas.put(digest, bytes.into()).await.unwrap() }
        });
        futures::future::join_all(puts).await;
    }
    let held =
        || walk(&dir.path().join("cas")).iter().map(|size| index::charge(*size)).sum::<u64>();
    until(|| store.disk.stats().taken_bytes == held()).await;
    assert!(held() <= 400 * KIB && store.disk.stats().evictions > 100);
}

fn walk(folder: &Path) -> Vec<u64> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries
        .flat_map(|entry| {
            let entry = entry.unwrap();
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => walk(&entry.path()),
                Ok(metadata) => vec![metadata.len()],
                Err(_) => Vec::new(),
            }
        })
        .collect()
}

#[derive(Clone, Debug)]
enum Op {
    Put(u8, u16),
    Read(u8),
    Find(u8),
    Pin(u8),
    Unpin,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let blob = 0..40u8;
    let op = prop_oneof![
        4 => (blob.clone(), 1..100u16).prop_map(|(blob, blocks)| Op::Put(blob, blocks)),
        2 => blob.clone().prop_map(Op::Read),
        2 => blob.clone().prop_map(Op::Find),
        1 => blob.prop_map(Op::Pin),
        1 => Just(Op::Unpin),
    ];
    prop::collection::vec(op, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever is done: the limit holds, what is in use is readable, what is gone was used longer ago
    /// than all that is left and not in use.
    #[test]
    fn the_limit_holds_and_the_order_is_that_of_use(ops in ops()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(ops));
    }
}

async fn run(ops: Vec<Op>) {
    let limit_bytes = 2000 * KIB;
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path(), limit_bytes);
    store.until_complete().await;
    let blob = |number: u8, blocks: u16| {
        let bytes = vec![number; usize::from(blocks) * 4096];
        (Digest::of(Function::Sha256, &bytes), bytes)
    };
    let mut used: Vec<Digest> = Vec::new();
    let mut sizes = std::collections::HashMap::new();
    let mut pins = Vec::new();
    // What was in use when its turn came is still there, whatever went since.
    let mut was_pinned = false;
    for op in ops {
        was_pinned |= matches!(op, Op::Pin(_));
        let touched = match op {
            Op::Put(number, blocks) => {
                let (digest, bytes) = blob(number, *sizes.entry(number).or_insert(blocks));
                store.cas().put(digest, bytes.into()).await.ok().map(|()| digest)
            }
            Op::Read(number) => match sizes.get(&number).map(|blocks| blob(number, *blocks).0) {
                Some(digest) => store.reads(digest).await.then_some(digest),
                None => None,
            },
            Op::Find(number) => match sizes.get(&number).map(|blocks| blob(number, *blocks).0) {
                Some(digest) => store.is_there(digest).await.then_some(digest),
                None => None,
            },
            Op::Pin(number) => match sizes.get(&number).map(|blocks| blob(number, *blocks).0) {
                Some(digest) => {
                    let pin =
                        store.disk.local_files(&InstanceName::default()).pin(digest, false).await;
                    pin.ok().map(|pin| {
                        pins.push((digest, pin));
                        digest
                    })
                }
                None => None,
            },
            Op::Unpin => {
                drop((!pins.is_empty()).then(|| pins.remove(0)));
                None
            }
        };
        if let Some(touched) = touched {
            used.retain(|digest| *digest != touched);
            used.push(touched);
        }
        assert!(store.disk.stats().taken_bytes <= limit_bytes);
        for (digest, _) in &pins {
            assert!(store.path(Kind::Blob, *digest).exists(), "what is in use went");
        }
        // Looked at from the newest on: eviction that is under way goes the other way.
        let is_left: Vec<bool> =
            used.iter().rev().map(|digest| store.path(Kind::Blob, *digest).exists()).collect();
        if !was_pinned {
            assert!(is_left.is_sorted_by(|newer, older| newer >= older), "{is_left:?}");
        }
    }
}
