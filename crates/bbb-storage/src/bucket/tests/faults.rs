//! A bucket in which things go wrong: no fault is a miss, nothing acknowledged is lost, no wrong byte is
//! given.

use std::time::Duration;

use futures::{StreamExt as _, future, stream};
use tokio::time::Instant;

use crate::{
    ActionResult, Wanted,
    conformance::{Faults, read_all},
};

use super::*;

const MIXED: Faults = Faults {
    errors: 0.08,
    slow_down: 0.04,
    lost_answers: 0.08,
    cut_bodies: 0.1,
    wrong_bytes: 0.05,
    latency: Duration::from_millis(20),
    outage: false,
    full: false,
};

#[tokio::test(start_paused = true)]
async fn nothing_acknowledged_is_lost_and_no_fault_is_a_miss() {
    let tier = tier(settings());
    tier.faulty.set(MIXED);
    let blobs: Vec<_> = (0..60)
        .map(|at| match at % 10 {
            0 => blob(9 << 20),
            1 => text(12 << 20),
            2 => text(2 << 20),
            at => text(1 + at * 1000),
        })
        .collect();
    let puts = blobs.iter().map(|(digest, bytes)| {
        let (cas, results) = (Arc::clone(&tier.cas), Arc::clone(&tier.results));
        async move {
            match cas.put(*digest, Source::from(bytes.clone())).await {
                Ok(()) => {}
                Err(Error::Unavailable { .. }) => return None,
                Err(error) => panic!("{error}"),
            }
            let result = ActionResult { stdout_raw: bytes.to_vec(), ..ActionResult::default() };
            results.put(*digest, result).await.ok()?;
            Some((*digest, bytes.clone()))
        }
    });
    let acknowledged: Vec<_> =
        stream::iter(puts).buffer_unordered(16).filter_map(future::ready).collect().await;
    assert!(acknowledged.len() > 50, "retries help: {} of 60", acknowledged.len());
    // Another node reads, under the same faults.
    let other = tier_over(Arc::clone(&tier.memory), settings());
    other.faulty.set(MIXED);
    let mut failed = 0;
    for (digest, bytes) in &acknowledged {
        match other.cas.find_missing(&[*digest]).await {
            Ok(missing) => assert!(missing.is_empty(), "{digest} is lost"),
            Err(Error::Unavailable { .. }) => failed += 1,
            Err(error) => panic!("{error}"),
        }
        let read = match other.cas.get(*digest, Wanted::ALL).await {
            Ok(blob) => read_all(blob).await,
            Err(error) => Err(error),
        };
        match read {
            Ok(read) => assert!(read == bytes, "other bytes for {digest}"),
            Err(Error::Unavailable { .. }) => failed += 1,
            Err(error) => panic!("{error}"),
        }
        match other.results.get(*digest).await {
            Ok(result) => assert!(result.expect("a result that is there").stdout_raw == *bytes),
            Err(Error::Unavailable { .. }) => failed += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(failed <= 5, "retries help: {failed} failed");
    let stats = other.bucket.stats();
    assert!(stats.retries > 20 && stats.damaged == 0, "{stats:?}");
    other.faulty.set(Faults::default());
    for (digest, bytes) in &acknowledged {
        let blob = other.cas.get(*digest, Wanted::ALL).await.unwrap();
        assert!(read_all(blob).await.unwrap() == bytes);
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_makes_everything_unavailable_for_its_time() {
    let tier = tier(settings());
    let (digest, bytes) = text(1000);
    put(&tier.cas, digest, &bytes).await;
    let (big, big_bytes) = blob(9 << 20);
    put(&tier.cas, big, &big_bytes).await;
    tier.bucket.existence.forget_all();
    tier.faulty.set(Faults { outage: true, ..Faults::default() });
    let began = Instant::now();
    let new = blob(5 << 20);
    let asked = [digest, new.0];
    let all = future::join5(
        tier.cas.get(digest, Wanted::ALL),
        tier.cas.get(big, Wanted::ALL),
        tier.cas.put(new.0, Source::from(new.1.clone())),
        tier.cas.find_missing(&asked),
        tier.results.get(digest),
    );
    let (one, two, three, four, five) = all.await;
    assert!(matches!(one, Err(Error::Unavailable { .. })), "{one:?}");
    assert!(matches!(two, Err(Error::Unavailable { .. })), "{two:?}");
    assert!(matches!(three, Err(Error::Unavailable { .. })), "{three:?}");
    assert!(matches!(four, Err(Error::Unavailable { .. })), "{four:?}");
    assert!(matches!(five, Err(Error::Unavailable { .. })), "{five:?}");
    assert!(began.elapsed() <= Duration::from_secs(51), "{:?}", began.elapsed());
    // One that ends in time is not noticed.
    let read = tier.cas.get(digest, Wanted::ALL);
    let end = async {
        tokio::time::sleep(Duration::from_secs(40)).await;
        tier.faulty.set(Faults::default());
    };
    let (read, ()) = future::join(read, end).await;
    assert!(read_all(read.unwrap()).await.unwrap() == bytes);
    assert_eq!(tier.cas.find_missing(&[digest, new.0]).await.unwrap(), [new.0]);
}

#[tokio::test(start_paused = true)]
async fn a_full_bucket_is_full_and_still_gives_what_it_has() {
    let tier = tier(settings());
    let (digest, bytes) = text(1000);
    put(&tier.cas, digest, &bytes).await;
    tier.faulty.set(Faults { full: true, ..Faults::default() });
    for len in [100, 9 << 20] {
        let (new, content) = blob(len);
        let refused = tier.cas.put(new, Source::from(content)).await;
        assert!(matches!(refused, Err(Error::Full { .. })), "{refused:?}");
    }
    let refused = tier.results.put(digest, ActionResult::default()).await;
    assert!(matches!(refused, Err(Error::Full { .. })), "{refused:?}");
    assert!(read_all(tier.cas.get(digest, Wanted::ALL).await.unwrap()).await.unwrap() == bytes);
}

#[tokio::test(start_paused = true)]
async fn bytes_that_change_on_their_way_are_no_damage() {
    let tier = tier(settings());
    let blobs = [text(1000), text(3 << 20), blob(9 << 20), text(20 << 20)];
    for (digest, bytes) in &blobs {
        put(&tier.cas, *digest, bytes).await;
    }
    // Every answer is wrong, each in another way.
    tier.faulty.set(Faults { wrong_bytes: 1.0, ..Faults::default() });
    for (digest, _) in &blobs {
        for wanted in [Wanted::ALL, Wanted::ALL_ZSTD] {
            let read = match tier.cas.get(*digest, wanted).await {
                Ok(blob) => read_all(blob).await,
                Err(error) => Err(error),
            };
            assert!(matches!(read, Err(Error::Unavailable { .. })), "{read:?}");
        }
    }
    assert_eq!(tier.bucket.stats().damaged, 0);
    tier.faulty.set(Faults::default());
    for (digest, bytes) in &blobs {
        let blob = tier.cas.get(*digest, Wanted::ALL).await.unwrap();
        assert!(read_all(blob).await.unwrap() == bytes);
    }
}
