//! What outlives the end of the process, clean or not.

use std::io::Write as _;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_there_again_after_a_clean_stop() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path(), 1 << 30);
    let mut digests = Vec::new();
    for len in LENS {
        digests.push(store.put(len).await);
    }
    let action = digests[0];
    let other = "some/instance".parse().unwrap();
    store.disk.action_cache(&other).put(action, ActionResult::default()).await.unwrap();
    let before = store.disk.stats();
    store.close().await;

    let store = Store::open(dir.path(), 1 << 30);
    assert_eq!(store.disk.stats().taken_bytes, before.taken_bytes, "it counts from the start");
    store.until_complete().await;
    let after = store.disk.stats();
    assert_eq!(
        (after.taken_bytes, after.blobs, after.results),
        (before.taken_bytes, before.blobs, 1)
    );
    for digest in digests {
        assert!(store.is_there(digest).await);
        assert!(store.reads(digest).await);
    }
    assert!(store.disk.action_cache(&other).get(action).await.unwrap().is_some());
    assert!(store.results().get(action).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_store_takes_nothing_more() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path(), 1 << 30);
    store.disk.close().await.unwrap();
    let put = store.cas().put(Digest::of(Function::Sha256, b"x"), b"x".to_vec().into()).await;
    assert!(matches!(put, Err(Error::Unavailable { .. })), "{put:?}");
}

/// The walk through the folder waits for a runtime that this test holds up, so that all answers come
/// from before its end.
#[tokio::test]
async fn without_a_snapshot_it_serves_before_it_has_looked_around() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path(), 1 << 30);
    let there: Vec<Digest> =
        vec![store.put(100).await, store.put(2 << 20).await, store.put(7).await];
    store.results().put(there[0], ActionResult::default()).await.unwrap();
    store.kill().await;

    let store = Store::open(dir.path(), 1 << 30);
    assert_eq!(store.disk.stats().blobs, 0);
    let absent = Digest::of(Function::Sha256, b"absent");
    let asked = [there[0], absent, there[1]];
    assert_eq!(store.cas().find_missing(&asked).await.unwrap(), [absent]);
    assert!(store.reads(there[2]).await);
    assert!(!store.reads(absent).await);
    assert!(store.results().get(there[0]).await.unwrap().is_some());
    store.until_complete().await;
    let stats = store.disk.stats();
    assert_eq!((stats.blobs, stats.results, stats.damaged), (3, 1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_serves_and_keeps_its_limit_before_the_snapshot_is_read() {
    let (dir, settings) = (TempDir::new().unwrap(), |dir: &Path| DiskSettings::new(dir, 1 << 20));
    let store = Store::open_with(settings(dir.path()));
    let (old, new) = (store.put(100 << 10).await, store.put(400 << 10).await);
    store.results().put(old, ActionResult::default()).await.unwrap();
    // Else it does not know that there is nothing else, and writes that down.
    store.until_complete().await;
    store.close().await;

    let (disk, last) = Disk::open_still(settings(dir.path())).unwrap();
    let store = Store { disk, group: TaskGroup::new("still") };
    let at_start = store.disk.stats();
    assert_eq!((at_start.blobs, at_start.is_complete), (0, false));
    assert_eq!(at_start.taken_bytes, index::charge(1) + (500 << 10));
    assert!(store.reads(old).await);
    assert!(store.results().get(old).await.unwrap().is_some());
    assert!(!store.is_there(Digest::of(Function::Sha256, b"absent")).await);
    // There is room for this only once something went, and what is old is not known yet.
    let (cas, bytes) = (store.cas(), conformance::data(600 << 10));
    let more = Digest::of(Function::Sha256, &bytes);
    let mut put = std::pin::pin!(cas.put(more, bytes.into()));
    assert!(futures::poll!(put.as_mut()).is_pending());
    let small = store.put(100).await;
    assert!(futures::poll!(put.as_mut()).is_pending());
    assert!(store.disk.stats().taken_bytes <= 1 << 20);

    let stop = store.group.stop();
    assert!(store.disk.load(last.snapshot, last.was_clean, &stop).await);
    assert!(store.disk.is_complete());
    put.await.unwrap();
    assert!(store.disk.stats().taken_bytes <= 1 << 20);
    for digest in [old, more, small] {
        assert!(store.is_there(digest).await);
    }
    assert!(!store.is_there(new).await, "used before all others");
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_before_the_snapshot_is_read_loses_nothing_of_it() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path(), 1 << 30);
    let before = store.put(100).await;
    store.close().await;
    let snapshot = fs::read(dir.path().join("snapshot")).unwrap();

    let (disk, last) = Disk::open_still(DiskSettings::new(dir.path(), 1 << 30)).unwrap();
    let store = Store { disk, group: TaskGroup::new("still") };
    let since = store.put(100_000).await;
    store.group.shut_down(Duration::ZERO).await;
    assert!(!store.disk.load(last.snapshot, last.was_clean, &store.group.stop()).await);
    assert!(store.disk.loaded().await.is_err(), "nobody waits for ever");
    store.close().await;
    assert_eq!(fs::read(dir.path().join("snapshot")).unwrap(), snapshot);

    let store = Store::open(dir.path(), 1 << 30);
    store.until_complete().await;
    assert_eq!(store.disk.stats().blobs, 2);
    assert!(store.reads(before).await && store.reads(since).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_snapshot_is_ignored() {
    for damage in ["flip", "cut", "empty"] {
        let dir = TempDir::new().unwrap();
        let store = Store::open(dir.path(), 1 << 30);
        let digest = store.put(100).await;
        store.close().await;
        let path = dir.path().join("snapshot");
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        match damage {
            "flip" => bytes[middle] ^= 1,
            "cut" => bytes.truncate(middle),
            _ => bytes.clear(),
        }
        fs::write(&path, bytes).unwrap();
        let store = Store::open(dir.path(), 1 << 30);
        assert!(store.is_there(digest).await, "{damage}");
        store.until_complete().await;
        assert_eq!(store.disk.stats().blobs, 1, "{damage}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_snapshot_knows_and_the_folder_has_not_is_forgotten() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path(), 1 << 30);
    let (gone, unasked, there) = (store.put(100).await, store.put(100).await, store.put(100).await);
    for digest in [gone, unasked] {
        fs::remove_file(store.path(Kind::Blob, digest)).unwrap();
    }
    store.close().await;
    let store = Store::open(dir.path(), 1 << 30);
    assert!(!store.is_there(gone).await);
    assert!(store.is_there(there).await);
    // The one that nobody asked for is forgotten when the folder is walked through.
    let left = || (store.disk.stats().blobs, store.disk.stats().taken_bytes);
    until(|| left() == (1, index::charge(100))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_machine_was_down_every_file_is_hashed_before_it_is_promised() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path(), 1 << 30);
    let (good, bad, asked) =
        (store.put(2 << 20).await, store.put(2 << 20).await, store.put(70_000).await);
    let action = Digest::of(Function::Sha256, b"action");
    store.results().put(action, ActionResult::default()).await.unwrap();
    store.disk.write_snapshot().unwrap();
    for digest in [bad, asked] {
        change_unseen(&store.path(Kind::Blob, digest));
    }
    store.kill().await;
    pretend_another_boot(dir.path());

    // Killed again at once: what was not hashed yet must not pass for hashed now.
    Store::open(dir.path(), 1 << 30).kill().await;
    let store = Store::open(dir.path(), 1 << 30);
    assert_eq!(store.cas().find_missing(&[good, bad]).await.unwrap(), [bad]);
    assert!(!store.reads(asked).await);
    assert!(store.reads(good).await);
    assert!(store.results().get(action).await.unwrap().is_some());
    assert_eq!(store.disk.stats().damaged, 2);
    let mtime = store.disk.mtime;
    store.kill().await;

    let store = Store::open(dir.path(), 1 << 30);
    assert_eq!(store.disk.mtime, mtime, "the same boot needs no second check");
    let metadata = fs::metadata(store.path(Kind::Blob, good)).unwrap();
    assert!(file::is_sealed(&metadata, 2 << 20, mtime));
    store.close().await;
    pretend_another_boot(dir.path());
    assert_eq!(
        Store::open(dir.path(), 1 << 30).disk.mtime,
        mtime,
        "nor does another one after a clean stop"
    );
}

/// Names the folder to the child of the next test.
const CHILD_DIR: &str = "BBB_STORAGE_CRASH_TEST_DIR";

/// Not a test of its own: what the next one kills. Says each digest once it is acknowledged.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by what_was_acknowledged_survives_kill_9"]
async fn child_that_is_killed() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let store = Store::open(Path::new(&dir), 1 << 30);
    loop {
        let puts = (0..8).map(|at| store.put([10, 3000, 70_000, 3 << 20][at % 4]));
        for digest in futures::future::join_all(puts).await {
            store.results().put(digest, ActionResult::default()).await.unwrap();
            let mut out = io::stdout().lock();
            writeln!(out, "stored {} {}", digest.hex(), digest.size_bytes()).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_kill_9() {
    let dir = TempDir::new().unwrap();
    let mut acknowledged = Vec::new();
    for round in 0..6 {
        let child = "disk::tests::crash::child_that_is_killed";
        acknowledged.extend(crate::killed::after(10 + 13 * round, child, CHILD_DIR, dir.path()));
        let store = Store::open(dir.path(), 1 << 30);
        assert!(store.cas().find_missing(&acknowledged).await.unwrap().is_empty());
        for digest in &acknowledged {
            assert!(store.reads(*digest).await);
            assert!(store.results().get(*digest).await.unwrap().is_some());
        }
        assert_eq!(store.disk.stats().damaged, 0);
        store.kill().await;
    }
    assert!(acknowledged.len() > 200, "{} acknowledged", acknowledged.len());
}
