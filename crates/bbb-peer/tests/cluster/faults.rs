//! Nodes that are gone, silent, or at odds with the bucket.

use std::time::Duration;

use bbb_storage::{Error, Wanted, conformance, conformance::Faults};
use futures::{StreamExt as _, future::join_all};
use tokio::time::Instant;

use crate::{
    link::State,
    rig::{Rig, blob},
};

/// What all bounds of one road together come to, on a machine that has other things to do as well.
const PATIENCE: Duration = Duration::from_secs(8);

#[tokio::test(flavor = "multi_thread")]
async fn when_the_owner_is_gone_the_second_one_knows() {
    let rig = Rig::of(&["a", "b", "c"]).await;
    for is_noticed in [false, true] {
        let blob = rig.blob_of(&["b", "c"], 5_000);
        rig.node("a").put(&blob).await;
        rig.kill("b");
        if is_noticed {
            ["a", "c"].iter().for_each(|name| rig.see(name, &["a", "c"]));
        }
        let before = rig.gets();
        rig.node("c").read(&blob).await;
        assert_eq!(rig.gets(), before);
        rig.node("b").link.set(State::Whole);
        rig.meet();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_writer_is_gone_the_bucket_is_asked_once() {
    let rig = Rig::of(&["a", "b", "c"]).await;
    let blob = rig.blob_of(&["b", "c"], 5_000);
    rig.node("a").put(&blob).await;
    rig.kill("a");
    join_all([rig.node("b").read(&blob), rig.node("c").read(&blob)]).await;
    assert_eq!(rig.gets(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_owner_gone_three_at_once_are_still_one_fetch() {
    let rig = Rig::of(&["a", "b", "c", "d"]).await;
    let blob = rig.stored(&["b", "c"], 5_000).await;
    rig.kill("b");
    join_all(["a", "c", "d"].map(|name| rig.node(name).read(&blob))).await;
    assert_eq!(rig.gets(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_owner_costs_a_bounded_time_and_the_next_ones_nothing() {
    let rig = Rig::of(&["a", "b"]).await;
    let warm = rig.stored(&["b"], 5_000).await;
    rig.node("a").read(&warm).await;
    rig.node("b").link.set(State::Hung);
    let first = rig.stored(&["b"], 5_000).await;
    let start = Instant::now();
    rig.node("a").read(&first).await;
    // Its connection is found out by its silence: in a second and two more.
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
    let start = Instant::now();
    for _ in 0..20 {
        let next = rig.stored(&["b"], 5_000).await;
        rig.node("a").read(&next).await;
    }
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
    assert!(rig.node("a").peers.stats().stepped_over >= 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_never_answers_a_connection_costs_a_bounded_time() {
    let rig = Rig::of(&["a", "b"]).await;
    rig.node("b").link.set(State::Hung);
    let blob = rig.stored(&["b"], 5_000).await;
    let start = Instant::now();
    rig.node("a").read(&blob).await;
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_comes_back_is_asked_again() {
    let rig = Rig::of(&["a", "b"]).await;
    rig.kill("b");
    let blob = rig.stored(&["b"], 5_000).await;
    rig.node("a").read(&blob).await;
    assert_eq!(rig.node("a").bucket.stats().get, 1);
    rig.node("b").link.set(State::Whole);
    let back = async {
        while rig.node("b").bucket.stats().get == 0 {
            rig.node("a").read(&rig.stored(&["b"], 100).await).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), back).await.expect("it is asked again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_breaks_goes_on_from_the_bucket() {
    let rig = Rig::of(&["a", "b"]).await;
    let (digest, bytes) = rig.blob_of(&["b"], 60 << 20);
    rig.node("b").put(&(digest, bytes.clone())).await;
    // A part that is not worth fetching whole is streamed straight, as fast as it is read.
    let wanted = Wanted::part(12 << 20, Some(13 << 20));
    let read = rig.node("a").cas().get(digest, wanted).await.unwrap();
    let mut stream = read.into_stream();
    let mut came = stream.next().await.unwrap().unwrap().to_vec();
    rig.kill("b");
    while let Some(piece) = stream.next().await {
        came.extend_from_slice(&piece.unwrap());
    }
    assert!(came == bytes.slice(12 << 20..25 << 20));
    assert_eq!(rig.node("a").peers.stats().resumed, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_bucket_what_is_near_anywhere_is_served_and_nothing_is_missing() {
    let rig = Rig::of(&["a", "b", "c"]).await;
    let near = rig.blob_of(&["b", "c"], 5_000);
    rig.node("b").put(&near).await;
    let far = rig.stored(&["b", "c"], 5_000).await;
    for node in &rig.nodes {
        node.faulty.set(Faults { outage: true, ..Faults::default() });
    }
    let cas = rig.node("a").cas();
    let results = rig.node("a").results();
    let (got, missing, result) = tokio::join!(
        cas.get(far.0, Wanted::ALL),
        cas.find_missing(std::slice::from_ref(&far.0)),
        results.get(far.0)
    );
    assert!(matches!(got, Err(Error::Unavailable { .. })), "{got:?}");
    assert!(matches!(missing, Err(Error::Unavailable { .. })), "{missing:?}");
    assert!(matches!(result, Err(Error::Unavailable { .. })), "{result:?}");
    // The owner was late then, since its bucket was; what it holds it gives all the same, and soon.
    let start = Instant::now();
    rig.node("a").read(&near).await;
    rig.node("c").read(&near).await;
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
}

/// Every order of a join, a leave and two kills, with blobs written and read between.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_comes_and_goes_nothing_is_missing() {
    let orders = [
        ["join", "kill b", "kill a"],
        ["kill b", "join", "kill a"],
        ["kill a", "kill b", "join"],
        ["kill a", "join", "kill b"],
        ["join", "kill a", "kill b"],
        ["kill b", "kill a", "join"],
    ];
    for order in orders {
        let mut rig = Rig::of(&["a", "b", "c"]).await;
        let mut alive = vec!["a", "b", "c"];
        let mut blobs = Vec::new();
        for step in order {
            for name in alive.clone() {
                let blob = blob(2_000);
                rig.node(name).put(&blob).await;
                blobs.push(blob);
            }
            match step.strip_prefix("kill ") {
                Some(name) => {
                    rig.kill(name);
                    alive.retain(|alive| *alive != name);
                }
                None => {
                    rig.add("d").await;
                    alive.push("d");
                }
            }
            // Before anyone has noticed, and then after they have.
            for is_noticed in [false, true] {
                if is_noticed {
                    alive.iter().for_each(|name| rig.see(name, &alive));
                }
                let digests: Vec<_> = blobs.iter().map(|blob| blob.0).collect();
                for blob in &blobs {
                    let before = rig.gets();
                    join_all(alive.iter().map(|name| rig.node(name).read(blob))).await;
                    let gets = rig.gets() - before;
                    assert!(gets <= 1, "{gets} GETs of one blob: {step} of {order:?}");
                }
                for name in &alive {
                    let missing = rig.node(name).cas().find_missing(&digests).await.unwrap();
                    assert!(missing.is_empty(), "{step} of {order:?}: missing on {name}");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_meanwhile_is_found_by_who_asked_too_early() {
    let rig = Rig::of(&["a", "b", "c"]).await;
    let blob = rig.blob_of(&["b"], 2_000);
    // Somebody looks while the bucket is slow, and the blob is written elsewhere meanwhile.
    rig.node("b").faulty.set(Faults { latency: Duration::from_millis(500), ..Faults::default() });
    let cas = rig.node("c").cas();
    let early = cas.get(blob.0, Wanted::ALL);
    let late = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        rig.node("a").put(&blob).await;
        let read = rig.node("c").cas().get(blob.0, Wanted::ALL).await.unwrap();
        assert!(conformance::read_all(read).await.unwrap() == blob.1);
    };
    let (early, ()) = tokio::join!(early, late);
    assert!(matches!(early, Err(Error::Missing(_)) | Ok(_)), "{early:?}");
}
