use std::sync::Arc;

use bbb_digest::{Digest, Function};
use bbb_lifecycle::TaskGroup;
use bytes::Bytes;
use object_store::{ObjectStoreExt as _, memory::InMemory};

use crate::{Error, Source, Wanted, conformance, conformance::Faulty};

use super::*;

mod big;
mod damage;
mod faults;
mod proxy;
mod servers;

fn instance(name: &str) -> InstanceName {
    name.parse().unwrap()
}

fn settings() -> BucketSettings {
    BucketSettings::new("s3://builds/prefix".parse().unwrap())
}

/// A tier, the faulty store below it, and the memory below that.
struct Tier {
    bucket: Arc<Bucket>,
    faulty: Arc<Faulty<InMemory>>,
    memory: Arc<InMemory>,
    cas: Arc<dyn Cas>,
    results: Arc<dyn ActionCache>,
}

fn tier(settings: BucketSettings) -> Tier {
    let memory = Arc::new(InMemory::new());
    tier_over(memory, settings)
}

/// A tier over memory that others may know too.
fn tier_over(memory: Arc<InMemory>, settings: BucketSettings) -> Tier {
    let faulty = Arc::new(Faulty::new(Arc::clone(&memory), 7));
    let objects = Objects::with_parts(Arc::clone(&faulty));
    let bucket = Bucket::over(objects, settings, true, &TaskGroup::new("test"));
    let cas = bucket.cas(&instance("main"));
    let results = bucket.action_cache(&instance("main"));
    Tier { bucket, faulty, memory, cas, results }
}

/// A blob that no other test has.
fn blob(len: usize) -> (Digest, Bytes) {
    let bytes = Bytes::from(conformance::data(len));
    (Digest::of(Function::Sha256, &bytes), bytes)
}

/// A blob that gets about a third of its size.
fn text(len: usize) -> (Digest, Bytes) {
    let mut bytes = Vec::with_capacity(len + 96);
    for noise in conformance::data(len.div_ceil(3)).chunks(32) {
        bytes.extend_from_slice(noise);
        bytes.resize(bytes.len() + 64, b' ');
    }
    bytes.truncate(len);
    let bytes = Bytes::from(bytes);
    (Digest::of(Function::Sha256, &bytes), bytes)
}

async fn put(cas: &Arc<dyn Cas>, digest: Digest, bytes: &Bytes) {
    cas.put(digest, Source::from(bytes.clone())).await.unwrap();
}

async fn conforms(bucket: Arc<Bucket>) {
    conformance::cas(bucket.cas(&instance("one"))).await;
    conformance::action_cache(bucket.action_cache(&instance("one"))).await;
    let side = |name| (bucket.cas(&instance(name)), bucket.action_cache(&instance(name)));
    conformance::walls(side("one"), side("other")).await;
    conformance::walls(side(""), side("one")).await;
}

#[tokio::test]
async fn conforms_in_memory() {
    for compress in [true, false] {
        let objects = Objects::with_parts(Arc::new(InMemory::new()));
        let settings = BucketSettings { compress, ..settings() };
        conforms(Bucket::open_over(objects, settings, &TaskGroup::new("test")).await.unwrap())
            .await;
    }
}

#[tokio::test]
async fn conforms_in_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let location = BucketLocation::Folder(folder.path().join("bucket"));
    let group = TaskGroup::new("test");
    let bucket = Bucket::open(BucketSettings::new(location), &group).await.unwrap();
    assert!(bucket.honours_conditions());
    conforms(bucket).await;
}

#[tokio::test]
async fn what_is_known_costs_no_request() {
    let tier = tier(settings());
    let (digest, bytes) = text(1000);
    put(&tier.cas, digest, &bytes).await;
    assert_eq!((tier.bucket.stats().put, tier.bucket.stats().requests()), (1, 1));
    assert!(tier.cas.find_missing(&[digest]).await.unwrap().is_empty());
    put(&tier.cas, digest, &bytes).await;
    assert_eq!(tier.bucket.stats().requests(), 1);
    // Another node has to look, once.
    let other = tier_over(tier.memory, settings());
    let absent = blob(10).0;
    for _ in 0..3 {
        assert_eq!(other.cas.find_missing(&[digest, absent, digest]).await.unwrap(), [absent]);
    }
    // Absence is not remembered.
    assert_eq!((other.bucket.stats().head, other.bucket.stats().requests()), (4, 4));
    assert!(tier.bucket.stats().bytes_out < 1000, "{:?}", tier.bucket.stats());
}

#[tokio::test]
async fn a_bucket_that_is_another_one_has_no_misses() {
    let memory = Arc::new(InMemory::new());
    let objects = Objects::with_parts(Arc::clone(&memory));
    let group = TaskGroup::new("test");
    let bucket = Bucket::open_over(objects, settings(), &group).await.unwrap();
    let (cas, results) = (bucket.cas(&instance("")), bucket.action_cache(&instance("")));
    let (small, big) = (blob(10).0, blob(5 << 20).0);
    // A folder that is not mounted any more, a bucket that was made anew: all is gone at once.
    memory.delete(&bucket.keys.meta("version")).await.unwrap();
    for digest in [small, big] {
        let got = cas.get(digest, Wanted::ALL).await;
        assert!(matches!(got, Err(Error::Unavailable { .. })), "{got:?}");
    }
    let missing = cas.find_missing(&[small]).await;
    assert!(matches!(missing, Err(Error::Unavailable { .. })), "{missing:?}");
    let result = results.get(small).await;
    assert!(matches!(result, Err(Error::Unavailable { .. })), "{result:?}");
    memory.put(&bucket.keys.meta("version"), probe::VERSION.into()).await.unwrap();
    assert_eq!(cas.find_missing(&[small]).await.unwrap(), [small]);
    let heads = bucket.stats().head;
    assert_eq!(cas.find_missing(&[big]).await.unwrap(), [big]);
    assert_eq!(bucket.stats().head, heads + 1, "one look at the anchor is good for a while");
}

/// The table of `docs/bucket.md`.
#[tokio::test]
async fn requests_are_those_that_are_documented() {
    let tier = tier(settings());
    let count = |before: BucketStats| {
        let now = tier.bucket.stats();
        let of = |field: fn(&BucketStats) -> u64| field(&now) - field(&before);
        [
            of(|stats| stats.head),
            of(|stats| stats.get),
            of(|stats| stats.put),
            of(|stats| stats.part),
        ]
    };
    let read = |digest, wanted| {
        let cas = Arc::clone(&tier.cas);
        async move { conformance::read_all(cas.get(digest, wanted).await.unwrap()).await.unwrap() }
    };
    let (small, bytes) = blob(4 << 20);
    let before = tier.bucket.stats();
    put(&tier.cas, small, &bytes).await;
    assert_eq!(count(before), [0, 0, 1, 0], "writing 4 MiB");
    let before = tier.bucket.stats();
    read(small, Wanted::ALL).await;
    assert_eq!(count(before), [0, 1, 0, 0], "reading 4 MiB");
    let (big, bytes) = blob(30 << 20);
    let before = tier.bucket.stats();
    put(&tier.cas, big, &bytes).await;
    assert_eq!(count(before), [1, 0, 0, 4], "writing 30 MiB");
    assert_eq!(tier.bucket.stats().multipart - before.multipart, 2);
    let before = tier.bucket.stats();
    read(big, Wanted::ALL).await;
    assert_eq!(count(before), [0, 5, 0, 0], "reading 30 MiB");
    let before = tier.bucket.stats();
    read(big, Wanted::part(20 << 20, Some(100))).await;
    assert_eq!(count(before), [0, 2, 0, 0], "reading a part");
    let (squeezed, bytes) = text(12 << 20);
    let before = tier.bucket.stats();
    put(&tier.cas, squeezed, &bytes).await;
    assert_eq!(count(before), [1, 0, 1, 0], "writing what gets smaller than a part");
    let before = tier.bucket.stats();
    tier.results.put(small, crate::ActionResult::default()).await.unwrap();
    assert!(tier.results.get(small).await.unwrap().is_some());
    assert_eq!(count(before), [0, 1, 1, 0], "writing and reading a result");
}
