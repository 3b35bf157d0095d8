//! Existence, asked of owners.

use bbb_digest::Digest;
use bbb_storage::{Error, Wanted};

use crate::rig::{Rig, blob, instance};

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_digests_are_one_call_for_each_owner() {
    let rig = Rig::of(&["a", "b", "c"]).await;
    let absent: Vec<Digest> = (0..10_000).map(|_| blob(20).0).collect();
    let mut missing = rig.node("a").cas().find_missing(&absent).await.unwrap();
    let mut expected = absent.clone();
    missing.sort();
    expected.sort();
    assert!(missing == expected);
    assert_eq!(rig.node("a").peers.stats().existence_calls, 2);
    assert_eq!(rig.heads(), 10_000, "one look for each, wherever it was made");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_looks_for_what_was_written_a_moment_ago() {
    let rig = Rig::of(&["a", "b", "c"]).await;
    let blobs: Vec<_> = (0..200).map(|_| blob(2_000)).collect();
    for blob in &blobs {
        rig.node("a").put(blob).await;
    }
    let digests: Vec<Digest> = blobs.iter().map(|blob| blob.0).collect();
    let before = rig.heads();
    for name in ["a", "b", "c"] {
        assert!(rig.node(name).cas().find_missing(&digests).await.unwrap().is_empty());
    }
    assert_eq!(rig.heads(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_nodes_together_look_once() {
    let rig = Rig::of(&["a", "b", "c"]).await;
    let mut stored = Vec::new();
    for _ in 0..50 {
        stored.push(rig.stored(&[], 500).await.0);
    }
    for name in ["c", "a", "b"] {
        assert!(rig.node(name).cas().find_missing(&stored).await.unwrap().is_empty());
    }
    assert_eq!(rig.heads(), 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_share_of_an_owner_that_is_gone_is_looked_for_in_the_bucket() {
    let rig = Rig::of(&["a", "b", "c"]).await;
    let mut stored = Vec::new();
    for _ in 0..50 {
        stored.push(rig.stored(&[], 500).await.0);
    }
    rig.kill("b");
    let absent = blob(7).0;
    stored.push(absent);
    let missing = rig.node("a").cas().find_missing(&stored).await.unwrap();
    assert_eq!(missing, [absent]);
    assert!(rig.node("a").peers.stats().fallbacks >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_are_walls_to_hints_too() {
    let rig = Rig::of(&["a", "b", "c"]).await;
    let blob = rig.blob_of(&["b", "c"], 1000);
    rig.node("a").put(&blob).await;
    let other = "other".parse().unwrap();
    assert_ne!(instance(), other);
    for name in ["b", "c"] {
        let cas = rig.node(name).tiered.cas(&other);
        assert_eq!(cas.find_missing(&[blob.0]).await.unwrap(), [blob.0]);
        assert!(cas.get(blob.0, Wanted::ALL).await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_owner_misses_is_written_again() {
    let rig = Rig::of(&["a", "b", "c"]).await;
    let blob = rig.blob_of(&["b", "c"], 2_000_007);
    rig.node("a").put(&blob).await;
    // Against the rules it goes away, from everywhere.
    rig.lose_object(blob.0).await;
    rig.nodes.iter().for_each(|node| node.lose_files(2_000_007));
    let read = rig.node("a").cas().get(blob.0, Wanted::ALL).await;
    assert!(matches!(read, Err(Error::Missing(_))), "{read:?}");
    assert_eq!(rig.node("a").cas().find_missing(&[blob.0]).await.unwrap(), [blob.0]);
    rig.node("a").put(&blob).await;
    rig.nodes.iter().for_each(|node| node.lose_files(2_000_007));
    rig.node("c").read(&blob).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_do_not_take_what_was_known_before_for_news() {
    let rig = Rig::of(&["a", "b", "c"]).await;
    let blob = rig.blob_of(&["b", "c"], 3_001);
    rig.see("a", &["a"]);
    rig.node("a").put(&blob).await;
    rig.meet();
    // It is not written again, for it is known to be there; since when, the owners cannot tell.
    rig.node("a").put(&blob).await;
    let (gets, heads) = (rig.gets(), rig.heads());
    assert!(rig.node("c").cas().find_missing(&[blob.0]).await.unwrap().is_empty());
    assert_eq!(rig.heads(), heads + 1, "the owner looks for itself");
    rig.node("c").read(&blob).await;
    assert_eq!(rig.gets(), gets, "it knows who holds it all the same");
}
