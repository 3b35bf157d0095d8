//! What both tiers promise as one store.

use std::{io, sync::atomic::Ordering, task::Poll};

use bbb_digest::{Digest, Function};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use tempfile::TempDir;
use tokio::sync::watch;

use crate::{
    ActionResult, CasExt as _, Content, Encoding, Error, HashedFile, Source, SourceContent, Wanted,
    conformance, zstd,
};

use super::{
    super::*,
    rig::{Rig, disk, until},
};

#[tokio::test(flavor = "multi_thread")]
async fn conforms_over_a_second_disk() {
    for limit_bytes in [1 << 30, 3 << 20, 4096] {
        let (near_dir, far_dir) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let group = TaskGroup::new("tiers");
        let near = disk(near_dir.path(), limit_bytes, &group);
        let far = disk(far_dir.path(), 1 << 30, &group);
        let far = move |instance: &InstanceName| Far {
            cas: far.cas(instance),
            results: far.action_cache(instance),
        };
        let tiered = Tiered::new(&TieredSettings::default(), &near, far, &group);
        let [one, other] = ["", "a/b"].map(|name| {
            let name = name.parse().unwrap();
            (tiered.cas(&name), tiered.action_cache(&name))
        });
        conformance::cas(Arc::clone(&one.0)).await;
        conformance::action_cache(Arc::clone(&one.1)).await;
        conformance::walls(one, other).await;
        assert_eq!(group.shut_down(Duration::from_secs(60)).await, 0);
        assert!(near.stats().taken_bytes <= limit_bytes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms_with_an_empty_near_tier() {
    let rig = Rig::new(1 << 30);
    rig.remote.has_frames.store(true, Ordering::SeqCst);
    conformance::cas(Arc::clone(&rig.cas)).await;
    for len in [1, 100_000, 4 << 20, 5 << 20] {
        for wanted in [Wanted::ALL, Wanted::ALL_ZSTD, Wanted::part(len as u64 / 2, Some(1000))] {
            let (digest, bytes) = rig.remote.have(len);
            let blob = rig.cas.get(digest, wanted).await.unwrap();
            let range = wanted.within(len as u64);
            let expected = bytes.slice(range.start as usize..range.end as usize);
            assert!(conformance::read_all(blob).await.unwrap() == expected, "{len}: {wanted:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_once_is_near() {
    let rig = Rig::new(1 << 30);
    for len in [100, 5 << 20] {
        let (digest, bytes) = rig.remote.have(len);
        for _ in 0..3 {
            assert!(rig.cas.get_bytes(digest, u64::MAX).await.unwrap() == bytes);
            rig.until_quiet().await;
        }
        assert!(rig.is_near(digest).await);
    }
    assert_eq!(rig.remote.gets(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_near_is_no_promise() {
    let rig = Rig::new(1 << 30);
    let bytes = conformance::data(100);
    let digest = Digest::of(Function::Sha256, &bytes);
    rig.cas.put(digest, bytes.clone().into()).await.unwrap();
    assert!(rig.is_near(digest).await && rig.remote.has(digest));
    rig.remote.lose(digest);
    assert_eq!(rig.cas.find_missing(&[digest]).await.unwrap(), [digest]);
    // And what it takes to mend that works although it is near.
    rig.cas.put(digest, bytes.into()).await.unwrap();
    assert!(rig.remote.has(digest));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_of_far_is_no_miss() {
    let rig = Rig::new(1 << 30);
    let near = conformance::data(100);
    let near_digest = Digest::of(Function::Sha256, &near);
    rig.cas.put(near_digest, near.into()).await.unwrap();
    rig.remote.is_out.store(true, Ordering::SeqCst);
    for len in [100, 5 << 20] {
        let (digest, bytes) = rig.remote.have(len);
        for wanted in [Wanted::ALL, Wanted::part(1, Some(5))] {
            let got = rig.cas.get(digest, wanted).await;
            assert!(matches!(got, Err(Error::Unavailable { .. })), "{got:?}");
        }
        let missing = rig.cas.find_missing(&[digest]).await;
        assert!(matches!(missing, Err(Error::Unavailable { .. })), "{missing:?}");
        let put = rig.cas.put(digest, bytes.into()).await;
        assert!(matches!(put, Err(Error::Unavailable { .. })), "{put:?}");
        let pinned = rig.tiered.local_files(&InstanceName::default());
        let pinned = pinned.pin(Digest::of(Function::Sha256, b"absent"), false).await;
        assert!(matches!(pinned, Err(Error::Unavailable { .. })), "{pinned:?}");
        let result = rig.results.get(digest).await;
        assert!(matches!(result, Err(Error::Unavailable { .. })), "{result:?}");
    }
    // What is near is read all the same.
    assert_eq!(rig.cas.get_bytes(near_digest, 100).await.unwrap().len(), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_far_tier_that_hangs_slows_no_hit() {
    let rig = Rig::new(1 << 30);
    let bytes = conformance::data(100);
    let digest = Digest::of(Function::Sha256, &bytes);
    rig.cas.put(digest, bytes.into()).await.unwrap();
    rig.remote.hold_calls();
    // More misses than anything that could be shared would let through.
    let hanging: Vec<_> = (0..500)
        .map(|_| {
            let (cas, (absent, _)) = (Arc::clone(&rig.cas), rig.remote.have(10));
            let get = async move { cas.get(absent, Wanted::ALL).await.map(drop) };
            Box::pin(get)
        })
        .collect();
    let hanging = futures::future::join_all(hanging);
    tokio::pin!(hanging);
    assert!(futures::poll!(&mut hanging).is_pending());
    for _ in 0..100 {
        assert_eq!(rig.cas.get_bytes(digest, 100).await.unwrap().len(), 100);
    }
    assert!(futures::poll!(&mut hanging).is_pending());
    rig.remote.let_calls();
    for got in hanging.await {
        got.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_are_served_to_nobody_and_kept_nowhere() {
    let rig = Rig::new(1 << 30);
    let small_near = Rig::new(4096);
    for rig in [&rig, &small_near] {
        rig.remote.is_wrong.store(true, Ordering::SeqCst);
        for len in [100, 1 << 20, 5 << 20] {
            let (digest, _) = rig.remote.have(len);
            let got = match rig.cas.get(digest, Wanted::ALL).await {
                Ok(blob) => conformance::read_all(blob).await,
                Err(error) => Err(error),
            };
            assert!(matches!(got, Err(Error::Unavailable { .. })), "{len}: {got:?}");
            rig.until_quiet().await;
            assert!(!rig.is_near(digest).await);
        }
        until(|| rig.temporary_files() == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_near_fails_no_write() {
    let rig = Rig::new(4096);
    let source = |bytes: &Bytes, form: usize| {
        let pieces: Vec<_> = bytes.chunks(50_000).map(|piece| Ok(bytes.slice_ref(piece))).collect();
        match form {
            0 => bytes.clone().into(),
            _ => Source {
                encoding: Encoding::Identity,
                content: SourceContent::Stream(stream::iter(pieces).boxed()),
            },
        }
    };
    for len in [100_000, 5 << 20] {
        for form in 0..2 {
            let bytes = Bytes::from(conformance::data(len));
            let digest = Digest::of(Function::Sha256, &bytes);
            rig.cas.put(digest, source(&bytes, form)).await.unwrap();
            assert!(rig.remote.has(digest) && !rig.is_near(digest).await);
            assert!(rig.cas.get_bytes(digest, u64::MAX).await.unwrap() == bytes);
        }
    }
    // Nor does a store that is closed.
    rig.near.close().await.unwrap();
    let bytes = conformance::data(10);
    rig.cas.put(Digest::of(Function::Sha256, &bytes), bytes.into()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn files_go_near_by_themselves_and_far_by_their_bytes() {
    for (limit_bytes, is_near) in [(1 << 30, true), (4096, false)] {
        let rig = Rig::new(limit_bytes);
        for len in [10_000, 5 << 20] {
            let path = rig.near.scratch().join("output");
            std::fs::write(&path, conformance::data(len)).unwrap();
            let file = HashedFile::hash(Function::Sha256, &path).unwrap();
            let digest = file.digest();
            rig.cas.put(digest, file.into()).await.unwrap();
            assert!(rig.remote.has(digest));
            assert_eq!(rig.is_near(digest).await, is_near);
            assert_eq!(path.exists(), !is_near, "taken over, not copied");
        }
    }
}

/// A stream of 40 pieces, and whether it was read to its end.
fn watched(
    bytes: &Bytes,
    encoding: Encoding,
    end: Option<io::Error>,
) -> (Source, watch::Receiver<bool>) {
    let came = match encoding {
        Encoding::Identity => bytes.clone(),
        Encoding::Zstd => zstd::encode_bytes(bytes).unwrap(),
    };
    let pieces = came.chunks(came.len().div_ceil(40)).map(|piece| Ok(came.slice_ref(piece)));
    let pieces: Vec<_> = pieces.chain(end.map(Err)).collect();
    let (tell, is_read) = watch::channel(false);
    let end = stream::poll_fn(move |_| {
        tell.send_replace(true);
        Poll::Ready(None)
    });
    let content = SourceContent::Stream(stream::iter(pieces).chain(end).boxed());
    (Source { encoding, content }, is_read)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_far_tier_that_hangs_holds_up_no_stream() {
    for encoding in [Encoding::Identity, Encoding::Zstd] {
        let rig = Rig::new(1 << 30);
        let bytes = Bytes::from(conformance::data(9 << 20));
        let digest = Digest::of(Function::Sha256, &bytes);
        let (source, mut is_read) = watched(&bytes, encoding, None);
        rig.remote.hold_calls();
        let mut put = rig.cas.put(digest, source);
        tokio::select! {
            stored = &mut put => panic!("acknowledged before far has it: {stored:?}"),
            read = is_read.wait_for(|is_read| *is_read) => drop(read.unwrap()),
        }
        assert!(!rig.remote.has(digest));
        rig.remote.let_calls();
        put.await.unwrap();
        assert!(rig.remote.has(digest) && rig.is_near(digest).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_stream_is_said_though_far_hangs() {
    let rig = Rig::new(1 << 30);
    let bytes = Bytes::from(conformance::data(9 << 20));
    rig.remote.hold_calls();
    let other = Digest::of(Function::Sha256, &conformance::data((9 << 20) - 1));
    let other = Digest::from_raw(Function::Sha256, other.hash(), 9 << 20).unwrap();
    let (source, _) = watched(&bytes, Encoding::Identity, None);
    let stored = rig.cas.put(other, source).await;
    assert!(matches!(stored, Err(Error::Mismatch { .. })), "{stored:?}");
    let digest = Digest::of(Function::Sha256, &bytes);
    let gone = io::Error::new(io::ErrorKind::ConnectionReset, "on purpose");
    let (source, _) = watched(&bytes.slice(..8 << 20), Encoding::Identity, Some(gone));
    let stored = rig.cas.put(digest, source).await;
    assert!(matches!(stored, Err(Error::BrokenOff { .. })), "{stored:?}");
    assert!(!rig.is_near(digest).await && !rig.is_near(other).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_early_if_far_has_it() {
    let rig = Rig::new(1 << 30);
    let (digest, bytes) = rig.remote.have(1 << 20);
    let begun = stream::iter([Ok(bytes.slice(..1000))]).chain(stream::pending()).boxed();
    let source = Source { encoding: Encoding::Identity, content: SourceContent::Stream(begun) };
    rig.cas.put(digest, source).await.unwrap();
    until(|| rig.temporary_files() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_frames_are_handed_on_and_checked() {
    let rig = Rig::new(1 << 30);
    rig.remote.has_frames.store(true, Ordering::SeqCst);
    let (digest, bytes) = rig.remote.have(1 << 20);
    let blob = rig.cas.get(digest, Wanted::ALL_ZSTD).await.unwrap();
    let (Encoding::Zstd, Content::Bytes(frames)) = (blob.encoding, blob.content) else {
        panic!("other than the frames were given")
    };
    assert!(zstd::decode_bytes(&frames, bytes.len()).unwrap() == bytes);
    rig.until_quiet().await;
    assert!(rig.is_near(digest).await);
}

#[tokio::test]
async fn results_are_fars_and_fresh() {
    let rig = Rig::new(1 << 30);
    let action = Digest::of(Function::Sha256, b"action");
    let result = |exit_code| ActionResult { exit_code, ..ActionResult::default() };
    let exit_code = async || rig.results.get(action).await.unwrap().map(|found| found.exit_code);
    assert_eq!(exit_code().await, None);
    // What another node writes is seen at once where nothing was seen before, and soon elsewhere.
    rig.remote.set_result(action, result(1));
    assert_eq!(exit_code().await, Some(1));
    rig.remote.set_result(action, result(2));
    assert_eq!(exit_code().await, Some(1));
    tokio::time::pause();
    tokio::time::advance(TieredSettings::default().results_fresh).await;
    assert_eq!(exit_code().await, Some(2));
    // What this node writes is seen at once.
    rig.results.put(action, result(3)).await.unwrap();
    assert_eq!(exit_code().await, Some(3));
    rig.remote.is_out.store(true, Ordering::SeqCst);
    assert!(rig.results.put(action, result(4)).await.is_err());
    assert!(rig.results.get(action).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_brought_near_to_be_linked() {
    let rig = Rig::new(64 << 20);
    let files = rig.tiered.local_files(&InstanceName::default());
    for (at, len) in [100, 5 << 20].into_iter().enumerate() {
        let (digest, bytes) = rig.remote.have(len);
        for executable in [false, true] {
            let pinned = files.pin(digest, executable).await.unwrap();
            let to = rig.near.scratch().join(format!("{at}-{executable}"));
            pinned.link(&to).unwrap();
            assert!(std::fs::read(&to).unwrap() == bytes);
        }
    }
    assert_eq!(rig.remote.gets(), 2);
    let absent = files.pin(Digest::of(Function::Sha256, b"absent"), false).await;
    assert!(matches!(absent, Err(Error::Missing(_))), "{absent:?}");
    let small = Rig::new(4096);
    let files = small.tiered.local_files(&InstanceName::default());
    for len in [10_000, 5 << 20] {
        let (digest, _) = small.remote.have(len);
        let pinned = files.pin(digest, false).await;
        assert!(matches!(pinned, Err(Error::Full { .. })), "{pinned:?}");
    }
}
