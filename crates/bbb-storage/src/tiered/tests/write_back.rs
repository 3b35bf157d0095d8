//! What is acknowledged near and written far behind.

use std::{io::Write as _, path::Path, sync::atomic::Ordering};

use bbb_digest::{Digest, Function};
use bbb_reapi::proto::reapi;
use tempfile::TempDir;

use crate::{ActionResult, CasExt as _, Error, HashedFile, conformance};

use super::{
    super::*,
    rig::{Remote, Rig, dir, disk, until},
};

fn settings() -> WriteBackSettings {
    // Stopping does not wait, as a sudden end would not.
    WriteBackSettings { drain: Duration::ZERO, ..WriteBackSettings::default() }
}

async fn rig() -> Rig {
    Rig::write_back(dir(), Remote::new(), 1 << 30, settings()).await
}

/// A result that needs one blob.
fn result_of(digest: Digest, exit_code: i32) -> ActionResult {
    let wire = reapi::Digest {
        hash: digest.hex().as_str().to_owned(),
        size_bytes: digest.size_bytes() as i64,
    };
    let file = reapi::OutputFile {
        path: "out".to_owned(),
        digest: Some(wire),
        ..reapi::OutputFile::default()
    };
    ActionResult { exit_code, output_files: vec![file], ..ActionResult::default() }
}

fn action(name: &str) -> Digest {
    Digest::of(Function::Sha256, name.as_bytes())
}

pub(super) async fn until_written(tiered: &Tiered) {
    until(|| {
        let waiting = tiered.waiting();
        (waiting.blobs, waiting.results) == (0, 0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    let (near_dir, far_dir) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let group = TaskGroup::new("tiers");
    let near = disk(near_dir.path(), 1 << 30, &group);
    let far_disk = disk(far_dir.path(), 1 << 30, &group);
    let far = {
        let far = Arc::clone(&far_disk);
        move |instance: &InstanceName| Far {
            cas: far.cas(instance),
            results: far.action_cache(instance),
        }
    };
    let tiered = Tiered::new(&TieredSettings::default(), &near, far, &group);
    let tiered = tiered.with_write_back(settings(), &group).await.unwrap();
    let [one, other] = ["", "a/b"].map(|name| {
        let name = name.parse().unwrap();
        (tiered.cas(&name), tiered.action_cache(&name))
    });
    conformance::cas(Arc::clone(&one.0)).await;
    conformance::action_cache(Arc::clone(&one.1)).await;
    conformance::walls(one, other).await;
    until_written(&tiered).await;
    assert_eq!(tiered.waiting().dropped, 0);
    assert_eq!(far_disk.stats().blobs, near.stats().blobs);
    assert_eq!(near.stats().results, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_far_is_out_all_goes_on_and_is_written_afterwards() {
    let rig = rig().await;
    rig.remote.is_out.store(true, Ordering::SeqCst);
    let path = rig.near.scratch().join("output");
    std::fs::write(&path, conformance::data(5 << 20)).unwrap();
    let file = HashedFile::hash(Function::Sha256, &path).unwrap();
    let digests = [rig.put(100).await, rig.put(5 << 20).await, file.digest()];
    rig.cas.put(file.digest(), file.into()).await.unwrap();
    rig.results.put(action("one"), result_of(digests[0], 1)).await.unwrap();
    rig.results.put(action("one"), result_of(digests[1], 2)).await.unwrap();
    assert!(rig.cas.find_missing(&digests).await.is_ok_and(|missing| missing.is_empty()));
    for digest in digests {
        assert_eq!(
            rig.cas.get_bytes(digest, u64::MAX).await.unwrap().len() as u64,
            digest.size_bytes()
        );
    }
    assert_eq!(rig.results.get(action("one")).await.unwrap().unwrap().exit_code, 2);
    // What does not wait is unknown, not missing.
    let missing = rig.cas.find_missing(&[action("absent")]).await;
    assert!(matches!(missing, Err(Error::Unavailable { .. })), "{missing:?}");
    let waiting = rig.tiered.waiting();
    assert_eq!((waiting.blobs, waiting.results, waiting.written), (3, 2, 0));

    rig.remote.is_out.store(false, Ordering::SeqCst);
    until_written(&rig.tiered).await;
    assert!(digests.iter().all(|digest| rig.remote.has(*digest)));
    assert_eq!(rig.remote.result(action("one")).unwrap().exit_code, 2);
    assert_eq!(rig.tiered.waiting().dropped, 0);
    let left: Vec<_> = std::fs::read_dir(rig.dir.path().join("near/queue")).unwrap().collect();
    assert_eq!(left.len(), 1, "the name of the instance alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_outlives_a_fault_in_reading_it() {
    let rig = rig().await;
    rig.remote.breaks_off.store(true, Ordering::SeqCst);
    let digest = rig.put(5 << 20).await;
    until_written(&rig.tiered).await;
    assert!(rig.remote.has(digest));
    assert_eq!(rig.tiered.waiting().dropped, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_goes_on_after_a_restart() {
    let rig = rig().await;
    rig.remote.is_out.store(true, Ordering::SeqCst);
    let digests = [rig.put(100).await, rig.put(5 << 20).await];
    rig.results.put(action("one"), result_of(digests[1], 7)).await.unwrap();
    let (dir, remote) = rig.end().await;
    // One is evicted before the queue is looked at again.
    let hex = digests[0].hex();
    let hex = hex.as_str();
    let path = format!("near/cas/%/sha256/{}/{hex}-100", &hex[..2]);
    std::fs::remove_file(dir.path().join(path)).unwrap();

    let rig = Rig::write_back(dir, remote, 1 << 30, settings()).await;
    let waiting = rig.tiered.waiting();
    assert_eq!((waiting.blobs, waiting.results), (2, 1));
    assert_eq!(waiting.bytes, 100 + (5 << 20));
    assert!(rig.cas.find_missing(&digests).await.unwrap().is_empty());
    assert_eq!(rig.cas.get_bytes(digests[0], 100).await.unwrap().len(), 100);
    assert_eq!(rig.results.get(action("one")).await.unwrap().unwrap().exit_code, 7);
    rig.remote.is_out.store(false, Ordering::SeqCst);
    until_written(&rig.tiered).await;
    assert!(digests.iter().all(|digest| rig.remote.has(*digest)));
    assert_eq!(rig.remote.result(action("one")).unwrap().exit_code, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_does_not_write_back_writes_what_one_left() {
    let rig = rig().await;
    rig.remote.is_out.store(true, Ordering::SeqCst);
    let digest = rig.put(100).await;
    rig.results.put(action("one"), result_of(digest, 1)).await.unwrap();
    let (dir, remote) = rig.end().await;
    let rig = Rig::write_back(dir, remote, 1 << 30, WriteBackSettings::leftovers()).await;
    // What is newer does not overtake what waits, and is not overtaken by it.
    rig.results.put(action("one"), result_of(digest, 2)).await.unwrap();
    let bytes = conformance::data(10);
    let put = rig.cas.put(Digest::of(Function::Sha256, &bytes), bytes.into()).await;
    assert!(matches!(put, Err(Error::Unavailable { .. })), "{put:?}");
    rig.remote.is_out.store(false, Ordering::SeqCst);
    until_written(&rig.tiered).await;
    assert!(rig.remote.has(digest));
    assert_eq!(rig.remote.result(action("one")).unwrap().exit_code, 2);
    rig.results.put(action("one"), result_of(digest, 3)).await.unwrap();
    assert_eq!(rig.remote.result(action("one")).unwrap().exit_code, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn past_its_bound_writes_go_far_at_once() {
    let settings = WriteBackSettings { limit_bytes: 1000, ..settings() };
    let rig = Rig::write_back(dir(), Remote::new(), 1 << 30, settings).await;
    rig.remote.is_out.store(true, Ordering::SeqCst);
    rig.put(600).await;
    let bytes = conformance::data(600);
    let digest = Digest::of(Function::Sha256, &bytes);
    let put = rig.cas.put(digest, bytes.clone().into()).await;
    assert!(matches!(put, Err(Error::Unavailable { .. })), "{put:?}");
    rig.remote.is_out.store(false, Ordering::SeqCst);
    rig.cas.put(digest, bytes.into()).await.unwrap();
    until_written(&rig.tiered).await;
    assert_eq!(rig.tiered.waiting().bytes, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_never_evicted() {
    let limit_bytes = 4 << 20;
    let rig = Rig::write_back(dir(), Remote::new(), limit_bytes, settings()).await;
    rig.remote.is_out.store(true, Ordering::SeqCst);
    let mut waiting = Vec::new();
    while rig.tiered.waiting().bytes + 300_000 <= limit_bytes / 2 {
        waiting.push(rig.put(300_000).await);
    }
    // Others come and go through the room that is left.
    rig.remote.is_out.store(false, Ordering::SeqCst);
    rig.remote.hold_calls();
    let cas = rig.near.cas(&"other".parse().unwrap());
    for _ in 0..30 {
        let bytes = conformance::data(300_000);
        cas.put(Digest::of(Function::Sha256, &bytes), bytes.into()).await.unwrap();
        assert!(rig.near.stats().taken_bytes <= limit_bytes);
    }
    for digest in &waiting {
        assert!(rig.is_near(*digest).await);
    }
    rig.remote.let_calls();
    until_written(&rig.tiered).await;
    assert!(waiting.iter().all(|digest| rig.remote.has(*digest)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_is_not_far_before_its_blobs_are() {
    let rig = rig().await;
    rig.remote.hold_calls();
    let digest = rig.put(100).await;
    rig.results.put(action("good"), result_of(digest, 0)).await.unwrap();
    // What was lost is not made up for.
    rig.results.put(action("bad"), result_of(action("absent"), 0)).await.unwrap();
    until(|| rig.remote.puts.load(Ordering::SeqCst) == 1).await;
    assert!(rig.remote.result(action("good")).is_none());
    rig.remote.let_calls();
    until_written(&rig.tiered).await;
    assert!(rig.remote.has(digest));
    assert!(rig.remote.result(action("good")).is_some());
    assert!(rig.remote.result(action("bad")).is_none());
    assert_eq!(rig.tiered.waiting().dropped, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_damaged_while_it_waited_is_dropped_and_so_is_what_needs_it() {
    let rig = rig().await;
    rig.remote.is_out.store(true, Ordering::SeqCst);
    let (bad, good) = (rig.put(100_000).await, rig.put(100).await);
    rig.results.put(action("bad"), result_of(bad, 0)).await.unwrap();
    rig.results.put(action("good"), result_of(good, 0)).await.unwrap();
    let hex = bad.hex();
    let path = format!("near/cas/%/sha256/{}/{}-100000", &hex.as_str()[..2], hex.as_str());
    let (dir, remote) = rig.end().await;
    let path = dir.path().join(path);
    let mut permissions = std::fs::metadata(&path).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o644);
    std::fs::set_permissions(&path, permissions).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[0] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    remote.is_out.store(false, Ordering::SeqCst);
    let rig = Rig::write_back(dir, remote, 1 << 30, settings()).await;
    until_written(&rig.tiered).await;
    assert!(!rig.remote.has(bad) && rig.remote.has(good));
    assert!(rig.remote.result(action("bad")).is_none());
    assert!(rig.remote.result(action("good")).is_some());
    assert_eq!(rig.tiered.waiting().dropped, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_stop_writes_what_waits() {
    let settings = WriteBackSettings { drain: Duration::from_secs(60), ..settings() };
    let rig = Rig::write_back(dir(), Remote::new(), 1 << 30, settings).await;
    rig.remote.hold_calls();
    let digest = rig.put(100).await;
    rig.results.put(action("one"), result_of(digest, 0)).await.unwrap();
    let (remote, cas) = (Arc::clone(&rig.remote), Arc::clone(&rig.cas));
    let stop = rig.group.stop();
    let end = rig.end();
    tokio::pin!(end);
    assert!(futures::poll!(&mut end).is_pending());
    stop.requested().await;
    remote.let_calls();
    let (_dir, remote) = end.await;
    assert!(remote.has(digest) && remote.result(action("one")).is_some());
    // What comes too late to wait goes far at once.
    let bytes = conformance::data(10);
    let late = Digest::of(Function::Sha256, &bytes);
    cas.put(late, bytes.into()).await.unwrap();
    assert!(remote.has(late));
}

/// Names the folder to the child of the next test.
const CHILD_DIR: &str = "BBB_STORAGE_WRITE_BACK_TEST_DIR";

struct Node {
    tiered: Tiered,
    far: Arc<Disk>,
    group: TaskGroup,
}

/// Both tiers in the folders of one: what is far survives there.
async fn node(dir: &Path) -> Node {
    let group = TaskGroup::new("tiers");
    let near = disk(&dir.join("here"), 1 << 30, &group);
    let far = disk(&dir.join("there"), 1 << 30, &group);
    let stores = {
        let far = Arc::clone(&far);
        move |instance: &InstanceName| Far {
            cas: far.cas(instance),
            results: far.action_cache(instance),
        }
    };
    let tiered = Tiered::new(&TieredSettings::default(), &near, stores, &group);
    // One at a time, so that enough waits to be killed.
    let settings = WriteBackSettings { concurrency: 1, ..settings() };
    Node { tiered: tiered.with_write_back(settings, &group).await.unwrap(), far, group }
}

/// Not a test of its own: what the next one kills. Says each digest once it is acknowledged.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by what_was_acknowledged_near_survives_kill_9"]
async fn child_that_is_killed() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let node = node(Path::new(&dir)).await;
    let instance = InstanceName::default();
    let (cas, results) = (node.tiered.cas(&instance), node.tiered.action_cache(&instance));
    loop {
        let puts = (0..8).map(|at| {
            let bytes = conformance::data([10, 3000, 70_000, 2 << 20][at % 4]);
            let digest = Digest::of(Function::Sha256, &bytes);
            let cas = Arc::clone(&cas);
            async move {
                cas.put(digest, bytes.into()).await.unwrap();
                digest
            }
        });
        for digest in futures::future::join_all(puts).await {
            results.put(digest, result_of(digest, 0)).await.unwrap();
            let mut out = std::io::stdout().lock();
            writeln!(out, "stored {} {}", digest.hex(), digest.size_bytes()).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_near_survives_kill_9() {
    let dir = TempDir::new().unwrap();
    let mut acknowledged = Vec::new();
    let mut waited = 0;
    for round in 0..5 {
        let child = "tiered::tests::write_back::child_that_is_killed";
        acknowledged.extend(crate::killed::after(10 + 13 * round, child, CHILD_DIR, dir.path()));
        let node = node(dir.path()).await;
        let waiting = node.tiered.waiting();
        waited += waiting.blobs + waiting.results;
        let instance = InstanceName::default();
        let (cas, results) = (node.tiered.cas(&instance), node.tiered.action_cache(&instance));
        assert!(cas.find_missing(&acknowledged).await.unwrap().is_empty());
        for digest in &acknowledged {
            assert!(results.get(*digest).await.unwrap().is_some());
        }
        until_written(&node.tiered).await;
        assert_eq!(node.tiered.waiting().dropped, 0);
        let (cas, results) = (node.far.cas(&instance), node.far.action_cache(&instance));
        assert!(cas.find_missing(&acknowledged).await.unwrap().is_empty());
        for digest in &acknowledged {
            assert_eq!(
                Digest::of(Function::Sha256, &cas.get_bytes(*digest, u64::MAX).await.unwrap()),
                *digest
            );
            assert!(results.get(*digest).await.unwrap().is_some());
        }
        assert_eq!(node.group.shut_down(Duration::from_secs(60)).await, 0);
    }
    assert!(acknowledged.len() > 100, "{} acknowledged", acknowledged.len());
    assert!(waited > 0, "it was never killed while anything waited");
}
