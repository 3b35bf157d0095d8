//! Objects whose bytes have changed in the bucket: never served, noticed once, missing from then on.

use futures::TryStreamExt as _;
use object_store::{ObjectStore as _, ObjectStoreExt as _, path::Path};

use crate::{ActionResult, Wanted, conformance::read_all};

use super::*;

/// Changes a byte of an object, counted from its beginning or, if negative, from its end.
async fn damage(tier: &Tier, key: &Path, at: i64) {
    let mut bytes = tier.memory.get(key).await.unwrap().bytes().await.unwrap().to_vec();
    let at = if at < 0 { bytes.len() as i64 + at } else { at } as usize;
    bytes[at] ^= 0x10;
    tier.memory.put(key, bytes.into()).await.unwrap();
}

async fn read(tier: &Tier, digest: Digest, wanted: Wanted) -> Result<Bytes> {
    read_all(tier.cas.get(digest, wanted).await?).await
}

async fn quarantined(tier: &Tier) -> usize {
    let aside = tier.bucket.keys.meta("quarantine");
    tier.memory.list(Some(&aside)).try_collect::<Vec<_>>().await.unwrap().len()
}

fn key(tier: &Tier, kind: keys::Kind, digest: Digest) -> Path {
    tier.bucket.keys.entry(kind, &instance("main"), digest)
}

#[tokio::test(start_paused = true)]
async fn damaged_blobs_are_noticed_put_aside_and_uploaded_again() {
    for (len, at) in [
        (1000, 0),
        (1000, 13),
        (1000, 100),
        (1000, -1),
        (3 << 20, 1_000_000),
        (9 << 20, 100),
        (9 << 20, 2_500_000),
        (9 << 20, -1),
        (9 << 20, -30),
        (9 << 20, -300),
    ] {
        for compress in [true, false] {
            for wanted in [Wanted::ALL, Wanted::ALL_ZSTD] {
                let tier = tier(BucketSettings { compress, ..settings() });
                let (digest, bytes) = if compress { text(len) } else { blob(len) };
                put(&tier.cas, digest, &bytes).await;
                damage(&tier, &key(&tier, keys::Kind::Blob, digest), at).await;
                let what = format!("byte {at} of {len}, compress {compress}, {wanted:?}");
                let first = read(&tier, digest, wanted).await;
                assert!(matches!(first, Err(Error::Unavailable { .. })), "{what}: {first:?}");
                let second = read(&tier, digest, wanted).await;
                assert!(matches!(second, Err(Error::Missing(_))), "{what}: {second:?}");
                assert_eq!(tier.cas.find_missing(&[digest]).await.unwrap(), [digest]);
                assert_eq!(
                    (tier.bucket.stats().damaged, quarantined(&tier).await),
                    (1, 1),
                    "{what}"
                );
                put(&tier.cas, digest, &bytes).await;
                assert!(read(&tier, digest, wanted).await.unwrap() == bytes);
            }
        }
    }
}

#[tokio::test]
async fn damage_in_one_chunk_does_not_harm_the_others() {
    let tier = tier(BucketSettings { compress: false, ..settings() });
    let (digest, bytes) = blob(20 << 20);
    put(&tier.cas, digest, &bytes).await;
    damage(&tier, &key(&tier, keys::Kind::Blob, digest), 10 << 20).await;
    let good = read(&tier, digest, Wanted::part(0, Some(8 << 20))).await.unwrap();
    assert!(good == bytes[..8 << 20]);
    let bad = read(&tier, digest, Wanted::part(9 << 20, Some(2 << 20))).await;
    assert!(matches!(bad, Err(Error::Unavailable { .. })), "{bad:?}");
}

#[tokio::test]
async fn damaged_results_are_noticed_and_put_aside() {
    let tier = tier(settings());
    let action = blob(10).0;
    let result = ActionResult { exit_code: 7, ..ActionResult::default() };
    tier.results.put(action, result.clone()).await.unwrap();
    damage(&tier, &key(&tier, keys::Kind::Result, action), 40).await;
    let first = tier.results.get(action).await;
    assert!(matches!(first, Err(Error::Unavailable { .. })), "{first:?}");
    assert!(tier.results.get(action).await.unwrap().is_none());
    assert_eq!((tier.bucket.stats().damaged, quarantined(&tier).await), (1, 1));
    tier.results.put(action, result.clone()).await.unwrap();
    assert_eq!(*tier.results.get(action).await.unwrap().unwrap(), result);
}

#[tokio::test]
async fn objects_that_are_cut_short_or_of_another_blob_are_damage() {
    let tier = tier(settings());
    for (len, keep) in [(1000, 0), (1000, 10), (1000, 20), (20 << 20, 0), (20 << 20, 9 << 20)] {
        let (digest, bytes) = blob(len);
        put(&tier.cas, digest, &bytes).await;
        let key = key(&tier, keys::Kind::Blob, digest);
        let object = tier.memory.get(&key).await.unwrap().bytes().await.unwrap();
        tier.memory.put(&key, object.slice(..keep).into()).await.unwrap();
        let first = read(&tier, digest, Wanted::ALL).await;
        assert!(matches!(first, Err(Error::Unavailable { .. })), "{len} cut to {keep}: {first:?}");
        let second = read(&tier, digest, Wanted::ALL).await;
        assert!(matches!(second, Err(Error::Missing(_))), "{len} cut to {keep}: {second:?}");
    }
    for len in [1000, 20 << 20] {
        let ((one, bytes), (other, others)) = (blob(len), blob(len));
        put(&tier.cas, one, &bytes).await;
        put(&tier.cas, other, &others).await;
        let (from, to) = (key(&tier, keys::Kind::Blob, one), key(&tier, keys::Kind::Blob, other));
        tier.memory.copy(&from, &to).await.unwrap();
        let first = read(&tier, other, Wanted::ALL).await;
        assert!(matches!(first, Err(Error::Unavailable { .. })), "{first:?}");
    }
}
