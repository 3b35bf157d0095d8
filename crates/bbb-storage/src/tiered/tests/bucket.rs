//! Both tiers over a bucket, as nodes that share one.

use bbb_digest::{Digest, Function};
use bytes::Bytes;
use futures::future;
use object_store::memory::InMemory;
use tempfile::TempDir;

use crate::{
    ActionResult, Bucket, BucketSettings, CasExt as _, Encoding, Error, Objects, Wanted,
    conformance,
    conformance::{Faults, Faulty},
};

use super::{super::*, rig::disk, write_back::until_written};

/// A node with an empty disk on a bucket that others may share.
struct Node {
    _dir: TempDir,
    near: Arc<Disk>,
    bucket: Arc<Bucket>,
    faulty: Arc<Faulty<InMemory>>,
    tiered: Tiered,
    group: TaskGroup,
}

impl Node {
    fn new(shared: &Arc<InMemory>, limit_bytes: u64) -> Self {
        Self::with(shared, limit_bytes, Duration::from_secs(50))
    }

    fn with(shared: &Arc<InMemory>, limit_bytes: u64, deadline: Duration) -> Self {
        let (dir, group) = (TempDir::new().unwrap(), TaskGroup::new("node"));
        let near = disk(dir.path(), limit_bytes, &group);
        let faulty = Arc::new(Faulty::new(Arc::clone(shared), 7));
        let settings = BucketSettings::new("s3://builds/prefix".parse().unwrap());
        let settings = BucketSettings { deadline, ..settings };
        let objects = Objects::with_parts(Arc::clone(&faulty));
        let bucket = Bucket::over(objects, settings, true, &group);
        let far = {
            let bucket = Arc::clone(&bucket);
            move |instance: &InstanceName| Far {
                cas: bucket.cas(instance),
                results: bucket.action_cache(instance),
            }
        };
        let tiered = Tiered::new(&TieredSettings::default(), &near, far, &group);
        Self { _dir: dir, near, bucket, faulty, tiered, group }
    }

    fn cas(&self) -> Arc<dyn Cas> {
        self.tiered.cas(&InstanceName::default())
    }

    async fn conforms(&self) {
        let [one, other] = ["", "a/b"].map(|name| {
            let name = name.parse().unwrap();
            (self.tiered.cas(&name), self.tiered.action_cache(&name))
        });
        conformance::cas(Arc::clone(&one.0)).await;
        conformance::action_cache(Arc::clone(&one.1)).await;
        conformance::walls(one, other).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms_over_a_bucket() {
    let shared = Arc::new(InMemory::new());
    for limit_bytes in [1 << 30, 3 << 20, 4096] {
        let node = Node::new(&shared, limit_bytes);
        node.conforms().await;
        assert_eq!(node.group.shut_down(Duration::from_secs(60)).await, 0);
    }
    let mut node = Node::new(&shared, 1 << 30);
    let settings = WriteBackSettings::default();
    node.tiered = node.tiered.with_write_back(settings, &node.group).await.unwrap();
    node.conforms().await;
    until_written(&node.tiered).await;
    assert_eq!(node.tiered.waiting().dropped, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_node_wrote_is_read_by_another_once() {
    let shared = Arc::new(InMemory::new());
    let writer = Node::new(&shared, 1 << 30);
    let mut blobs = Vec::new();
    for len in [1, 5000, 1 << 20, 5 << 20, 20 << 20] {
        // Compressible, so that there are frames.
        let bytes: Vec<u8> = conformance::data(len).iter().map(|byte| byte & 15).collect();
        let bytes = Bytes::from(bytes);
        let digest = Digest::of(Function::Sha256, &bytes);
        writer.cas().put(digest, bytes.clone().into()).await.unwrap();
        blobs.push((digest, bytes));
    }
    let action = blobs[0].0;
    let results = writer.tiered.action_cache(&InstanceName::default());
    let result = ActionResult { exit_code: 7, ..ActionResult::default() };
    results.put(action, result.clone()).await.unwrap();
    drop(writer);

    // With room near, and without.
    for limit_bytes in [1 << 30, 1 << 20] {
        let reader = Node::new(&shared, limit_bytes);
        let results = reader.tiered.action_cache(&InstanceName::default());
        assert_eq!(*results.get(action).await.unwrap().unwrap(), result);
        for (digest, bytes) in &blobs {
            let readers = if limit_bytes > bytes.len() as u64 { 20 } else { 2 };
            let reads = (0..readers).map(|_| async {
                let blob = reader.cas().get(*digest, Wanted::ALL).await.unwrap();
                assert!(conformance::read_all(blob).await.unwrap() == bytes);
            });
            let before = reader.bucket.stats();
            future::join_all(reads).await;
            let came = reader.bucket.stats().bytes_in - before.bytes_in;
            // The end of a large object is read twice, for the table that stands there.
            let whole = bytes.len() as u64 + (128 << 10);
            assert!(limit_bytes < whole || came <= whole, "{came} of {digest}");
            let zstd = reader.cas().get(*digest, Wanted::ALL_ZSTD).await.unwrap();
            assert!(conformance::read_all(zstd).await.unwrap() == bytes);
        }
        assert!(reader.near.stats().taken_bytes <= limit_bytes);
    }
    let reader = Node::new(&shared, 1 << 30);
    let (digest, bytes) = blobs.last().unwrap();
    let blob = reader.cas().get(*digest, Wanted::ALL_ZSTD).await.unwrap();
    assert_eq!(blob.encoding, Encoding::Zstd);
    assert!(conformance::read_all(blob).await.unwrap() == bytes);
    assert_eq!(reader.near.stats().blobs, 1);
    assert!(reader.bucket.stats().bytes_in < bytes.len() as u64 * 3 / 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_fails_what_needs_the_bucket_and_nothing_else() {
    let shared = Arc::new(InMemory::new());
    let node = Node::with(&shared, 1 << 30, Duration::from_millis(500));
    let bytes = conformance::data(100);
    let digest = Digest::of(Function::Sha256, &bytes);
    node.cas().put(digest, bytes.into()).await.unwrap();
    node.faulty.set(Faults { outage: true, ..Faults::default() });
    let absent = Digest::of(Function::Sha256, b"absent");
    let (got, put) = future::join(
        node.cas().get(absent, Wanted::ALL),
        node.cas().put(absent, b"absent".to_vec().into()),
    )
    .await;
    assert!(matches!(got, Err(Error::Unavailable { .. })), "{got:?}");
    assert!(matches!(put, Err(Error::Unavailable { .. })), "{put:?}");
    assert_eq!(node.cas().get_bytes(digest, 100).await.unwrap().len(), 100);
    // Still known to be there.
    assert!(node.cas().find_missing(&[digest]).await.unwrap().is_empty());
    node.faulty.set(Faults::default());
    node.cas().put(absent, b"absent".to_vec().into()).await.unwrap();
}
