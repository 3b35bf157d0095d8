use std::sync::Arc;

use bbb_digest::{Digest, Function};
use bbb_lifecycle::TaskGroup;
use bytes::Bytes;
use object_store::memory::InMemory;

use crate::{Source, conformance, conformance::Faulty};

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

/// A blob that gets a third of its size.
fn text(len: usize) -> (Digest, Bytes) {
    let noise = conformance::data(len.div_ceil(3));
    let bytes: Vec<u8> = noise.iter().flat_map(|byte| [*byte, b' ', b' ']).take(len).collect();
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
