//! What is read where, and what it costs the bucket.

use std::time::Duration;

use bbb_storage::{Wanted, conformance};
use futures::future::join_all;

use crate::rig::{Rig, blob};

/// Small ones that fit into one message, some that do not, and large ones that are streamed.
const SIZES: [usize; 4] = [100, 900 << 10, 3 << 20, 9 << 20];

#[tokio::test(flavor = "multi_thread")]
async fn written_on_one_read_on_any_without_the_bucket() {
    let rig = Rig::of(&["a", "b", "c"]).await;
    for owners in [["a", "b"], ["b", "a"], ["b", "c"], ["c", "b"]] {
        for len in SIZES {
            let blob = rig.blob_of(&owners, len);
            rig.node("a").put(&blob).await;
            let before = rig.gets();
            rig.node("b").read(&blob).await;
            rig.node("c").read(&blob).await;
            assert_eq!(rig.gets(), before, "{len} bytes of {owners:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wanted_by_three_at_once_fetched_once() {
    let rig = Rig::of(&["a", "b", "c"]).await;
    for owner in ["a", "b", "c"] {
        let blob = rig.stored(&[owner], 300 << 10).await;
        let before = rig.gets();
        join_all(rig.nodes.iter().flat_map(|node| [node.read(&blob), node.read(&blob)])).await;
        assert_eq!(rig.gets(), before + 1, "owned by {owner}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_blob_is_fetched_by_its_owner_alone() {
    let rig = Rig::of(&["a", "b", "c"]).await;
    let blob = rig.stored(&["b"], 20 << 20).await;
    join_all(rig.nodes.iter().map(|node| node.read(&blob))).await;
    for name in ["a", "c"] {
        assert_eq!(rig.node(name).bucket.stats().get, 0, "{name} asked the bucket");
        // It is read to its end a moment before it is kept.
        while !rig.node(name).holds(blob.0).await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_of_a_blob_come_from_peers_too() {
    let rig = Rig::of(&["a", "b", "c"]).await;
    let (digest, bytes) = rig.blob_of(&["b", "c"], 40 << 20);
    rig.node("a").put(&(digest, bytes.clone())).await;
    let before = rig.gets();
    let size = bytes.len() as u64;
    for (offset, limit) in [(30 << 20, Some(100)), (size - 1, None), (size, None), (7, Some(0))] {
        let wanted = Wanted::part(offset, limit);
        let read = rig.node("c").cas().get(digest, wanted).await.unwrap();
        assert_eq!(read.size_bytes, size);
        let range = wanted.within(size);
        let part = bytes.slice(range.start as usize..range.end as usize);
        assert!(conformance::read_all(read).await.unwrap() == part, "{wanted:?}");
    }
    assert_eq!(rig.gets(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_asks_the_second_one_after_it_has_joined() {
    let mut rig = Rig::of(&["a", "b"]).await;
    let blobs: Vec<_> = (0..40).map(|_| blob(5_000)).collect();
    for blob in &blobs {
        rig.node("a").put(blob).await;
    }
    rig.add("c").await;
    rig.meet();
    for blob in &blobs {
        rig.node("c").read(blob).await;
        rig.node("b").read(blob).await;
    }
    // What it owns now but what nobody in its place knew of: never, for the second one was the first before.
    assert_eq!(rig.gets(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_holder_has_evicted_comes_from_the_bucket_once() {
    let rig = Rig::of(&["a", "b", "c"]).await;
    let blob = rig.blob_of(&["b", "c"], 2_000_003);
    rig.node("a").put(&blob).await;
    rig.node("a").lose_files(2_000_003);
    rig.node("c").read(&blob).await;
    rig.node("b").read(&blob).await;
    assert_eq!(rig.gets(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_has_lost_its_disk_finds_what_others_hold() {
    let rig = Rig::of(&["a", "b", "c"]).await;
    let blob = rig.blob_of(&["b", "c"], 2_000_003);
    rig.node("b").put(&blob).await;
    rig.node("c").read(&blob).await;
    rig.node("c").keeps(blob.0).await;
    rig.node("b").lose_files(2_000_003);
    rig.node("a").read(&blob).await;
    rig.node("b").read(&blob).await;
    assert_eq!(rig.gets(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn hints_of_many_writes_travel_together() {
    let rig = Rig::of(&["a", "b", "c"]).await;
    let blobs: Vec<_> = (0..1_000).map(|_| rig.blob_of(&["b", "c"], 300)).collect();
    join_all(blobs.iter().map(|blob| rig.node("a").put(blob))).await;
    let stats = rig.node("a").peers.stats();
    assert_eq!((stats.hints_told, stats.hints_dropped), (2_000, 0));
    assert!(stats.hint_calls < 500, "{} calls", stats.hint_calls);
    for name in ["b", "c"] {
        assert_eq!(rig.node(name).peers.stats().hints, 1_000);
        join_all(blobs.iter().map(|blob| rig.node(name).read(blob))).await;
    }
    assert_eq!(rig.gets(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_disagree_about_owners_do_not_ask_in_circles() {
    let rig = Rig::of(&["a", "b"]).await;
    // Each takes the other for the owner of everything.
    for blob in [rig.stored(&["a"], 5_000).await, rig.stored(&["b"], 5_000).await] {
        rig.leave_it_to("a", "b");
        rig.leave_it_to("b", "a");
        let before = rig.gets();
        join_all([rig.node("a").read(&blob), rig.node("b").read(&blob)]).await;
        assert!(rig.gets() - before <= 2);
        rig.meet();
    }
}
