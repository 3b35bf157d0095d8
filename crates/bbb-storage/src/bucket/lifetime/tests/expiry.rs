//! What expires, as users of the tier see it.

use std::{sync::Arc, time::Duration};

use bbb_digest::{Digest, Function, InstanceName};
use bbb_lifecycle::TaskGroup;
use object_store::path::Path;
use tokio::time;

use crate::{
    ActionResult, Encoding, Error, Source, SourceContent, Wanted,
    bucket::{Bucket, BucketError, BucketSettings, keys::Kind},
    conformance,
};

use super::{
    GRACE, HOUR,
    aged::{Aged, Weak},
    objects,
};

async fn open(aged: &Arc<Aged>, tasks: &TaskGroup) -> Arc<Bucket> {
    let mut settings = BucketSettings::new("s3://builds/test".parse().unwrap());
    settings.expire_after = Some(8 * HOUR);
    Bucket::open_over(objects(aged), settings, tasks).await.unwrap()
}

fn blob() -> (Digest, Source) {
    (
        Digest::of(Function::Sha256, b"hello"),
        Source { encoding: Encoding::Identity, content: SourceContent::Bytes("hello".into()) },
    )
}

#[tokio::test(start_paused = true)]
async fn a_bucket_from_which_things_expire_conforms() {
    let aged = Aged::new(Weak::default(), 0, 1);
    let tasks = TaskGroup::new("test");
    let bucket = open(&aged, &tasks).await;
    let instance = InstanceName::default();
    conformance::cas(bucket.cas(&instance)).await;
    conformance::action_cache(bucket.action_cache(&instance)).await;
    assert_eq!(bucket.promise(), Some(4 * HOUR));
    assert_eq!(tasks.shut_down(GRACE).await, 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_used_stays_and_what_is_dead_is_missing() {
    let aged = Aged::new(Weak::default(), 0, 1);
    let tasks = TaskGroup::new("test");
    let (one, two) = (open(&aged, &tasks).await, open(&aged, &tasks).await);
    let instance = InstanceName::default();
    let (digest, source) = blob();
    let key = |kind| one.keys.entry(kind, &instance, digest);
    let age = |kind, hours: u32| aged.age(&key(kind), hours * HOUR);
    let has = async |bucket: &Arc<Bucket>| {
        // Long enough for everybody to forget.
        time::sleep(HOUR).await;
        bucket.cas(&instance).find_missing(&[digest]).await.unwrap().is_empty()
    };
    one.cas(&instance).put(digest, source).await.unwrap();
    assert!(has(&two).await);
    assert_eq!(two.stats().renewed, 0);
    age(Kind::Blob, 9);
    assert!(has(&two).await);
    assert_eq!(two.stats().renewed, 1);
    // Read while it is aging: renewed behind.
    age(Kind::Blob, 9);
    one.cas(&instance).get(digest, Wanted::ALL).await.unwrap();
    time::sleep(Duration::from_secs(1)).await;
    assert_eq!(one.stats().renewed, 1);
    // Dead, but still there.
    age(Kind::Blob, 12);
    assert!(!has(&two).await);
    age(Kind::Blob, 12);
    let dead = one.cas(&instance).get(digest, Wanted::ALL).await;
    assert!(matches!(dead, Err(Error::Missing(_))), "{dead:?}");
    two.cas(&instance).put(digest, blob().1).await.unwrap();
    assert!(has(&one).await);

    let results = one.action_cache(&instance);
    results.put(digest, ActionResult { exit_code: 7, ..ActionResult::default() }).await.unwrap();
    age(Kind::Result, 7);
    let renewed = one.stats().renewed;
    assert_eq!(results.get(digest).await.unwrap().unwrap().exit_code, 7);
    assert_eq!(one.stats().renewed, renewed + 1);
    age(Kind::Result, 8);
    assert!(results.get(digest).await.unwrap().is_none());
    assert_eq!(tasks.shut_down(GRACE).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_time_that_promises_nothing_is_refused() {
    let aged = Aged::new(Weak::default(), 0, 1);
    let mut settings = BucketSettings::new("s3://builds/test".parse().unwrap());
    settings.expire_after = Some(Duration::from_secs(5));
    let refused = Bucket::open_over(objects(&aged), settings, &TaskGroup::new("test")).await;
    let Err(BucketError::ExpireAfter { what }) = refused else { panic!("{refused:?}") };
    assert!(what.contains("60s"), "{what}");
    assert_eq!(aged.keys().await, Vec::<Path>::new());
}
