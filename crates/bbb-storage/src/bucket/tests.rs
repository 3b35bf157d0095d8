use std::sync::Arc;

use bbb_lifecycle::TaskGroup;
use object_store::memory::InMemory;

use crate::conformance;

use super::*;

fn instance(name: &str) -> InstanceName {
    name.parse().unwrap()
}

fn settings() -> BucketSettings {
    BucketSettings::new("s3://builds/prefix".parse().unwrap())
}

async fn in_memory(compress: bool) -> Arc<Bucket> {
    let objects = Objects::with_parts(Arc::new(InMemory::new()));
    let settings = BucketSettings { compress, ..settings() };
    Bucket::open_over(objects, settings, &TaskGroup::new("test")).await.unwrap()
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
    conforms(in_memory(true).await).await;
    conforms(in_memory(false).await).await;
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
