//! One fetch for each blob, whoever comes and goes.

use std::sync::atomic::Ordering;

use futures::{TryStreamExt as _, future};

use crate::{Content, Encoding, Error, Wanted, conformance};

use super::{
    super::*,
    rig::{PIECE_BYTES, Rig, until},
};

/// A blob of so many pieces, as the far tier streams it.
const PIECES: usize = 32;

const LEN: usize = PIECES * PIECE_BYTES;

#[tokio::test(flavor = "multi_thread")]
async fn however_many_read_it_is_fetched_once() {
    let rig = Rig::new(1 << 30);
    for (len, has_frames) in [(100, true), (100_000, false), (LEN, false), (LEN, true)] {
        rig.remote.has_frames.store(has_frames, Ordering::SeqCst);
        let before = rig.remote.gets();
        let (digest, bytes) = rig.remote.have(len);
        let readers = (0..200).map(|at| {
            let (cas, bytes) = (Arc::clone(&rig.cas), bytes.clone());
            let wanted = match at % 3 {
                0 => Wanted::ALL_ZSTD,
                1 => Wanted::ALL,
                _ => Wanted::part(len as u64 / 7, None),
            };
            async move {
                let blob = cas.get(digest, wanted).await.unwrap();
                let range = wanted.within(len as u64);
                let expected = bytes.slice(range.start as usize..range.end as usize);
                assert!(conformance::read_all(blob).await.unwrap() == expected);
            }
        });
        future::join_all(readers).await;
        assert_eq!(rig.remote.gets() - before, 1, "{len} bytes");
        rig.until_quiet().await;
        assert!(rig.is_near(digest).await);
        assert_eq!(rig.temporary_files(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_get_what_is_there_but_for_the_end() {
    let rig = Rig::new(1 << 30);
    rig.remote.hold_pieces();
    let (digest, bytes) = rig.remote.have(LEN);
    let blob = rig.cas.get(digest, Wanted::ALL).await.unwrap();
    let mut stream = blob.into_stream();
    let mut came = Vec::new();
    for pieces in [1, 3, PIECES - 5] {
        rig.remote.let_pieces(pieces);
        let until = came.len() + pieces * PIECE_BYTES;
        while came.len() < until {
            came.extend_from_slice(&stream.try_next().await.unwrap().unwrap());
        }
    }
    // The part of a range that is there is given although the whole is not.
    let part = Wanted::part(LEN as u64 / 3, Some(1000));
    let blob = rig.cas.get(digest, part).await.unwrap();
    let start = LEN / 3;
    assert!(conformance::read_all(blob).await.unwrap() == bytes.slice(start..start + 1000));
    assert_eq!(rig.remote.gets(), 1);
    rig.remote.let_pieces(1);
    while let Some(piece) = stream.try_next().await.unwrap() {
        came.extend_from_slice(&piece);
    }
    assert!(came == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_is_held_back_until_the_hash_is_right() {
    let rig = Rig::new(1 << 30);
    rig.remote.is_wrong.store(true, Ordering::SeqCst);
    let (digest, _) = rig.remote.have(LEN);
    let readers = (0..20).map(|_| async {
        let mut stream = rig.cas.get(digest, Wanted::ALL).await?.into_stream();
        let mut came = 0;
        loop {
            match stream.try_next().await {
                Ok(Some(piece)) => came += piece.len(),
                Ok(None) => panic!("a whole blob was given that is not right"),
                Err(error) => {
                    assert!(came < LEN);
                    return Err::<(), Error>(error);
                }
            }
        }
    });
    for got in future::join_all(readers).await {
        assert!(matches!(got, Err(Error::Unavailable { .. })), "{got:?}");
    }
    // Far mends it, and nothing remembers that it was bad.
    rig.remote.is_wrong.store(false, Ordering::SeqCst);
    let blob = rig.cas.get(digest, Wanted::ALL).await.unwrap();
    assert_eq!(conformance::read_all(blob).await.unwrap().len(), LEN);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_that_nobody_reads_any_more_is_given_up() {
    let rig = Rig::new(1 << 30);
    rig.remote.hold_pieces();
    let (digest, bytes) = rig.remote.have(LEN);
    let before = rig.near.stats().taken_bytes;
    let first = rig.cas.get(digest, Wanted::ALL).await.unwrap();
    let second = rig.cas.get(digest, Wanted::ALL).await.unwrap();
    assert!(rig.near.stats().taken_bytes >= before + LEN as u64, "its room is taken");
    // One leaves, the other reads on.
    drop(first);
    rig.remote.let_pieces(2);
    let mut stream = second.into_stream();
    assert!(stream.try_next().await.unwrap().is_some());
    assert_eq!(rig.remote.open.load(Ordering::SeqCst), 1);
    drop(stream);
    until(|| rig.remote.open.load(Ordering::SeqCst) == 0).await;
    rig.until_quiet().await;
    until(|| rig.near.stats().taken_bytes == before).await;
    until(|| rig.temporary_files() == 0).await;
    assert!(!rig.is_near(digest).await);
    // And begins anew for whoever comes next.
    rig.remote.let_pieces(PIECES);
    let blob = rig.cas.get(digest, Wanted::ALL).await.unwrap();
    assert!(conformance::read_all(blob).await.unwrap() == bytes);
    assert_eq!(rig.remote.gets(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pin_is_a_reader() {
    let rig = Rig::new(1 << 30);
    rig.remote.hold_pieces();
    let (digest, bytes) = rig.remote.have(LEN);
    let files = rig.tiered.local_files(&InstanceName::default());
    let blob = rig.cas.get(digest, Wanted::ALL).await.unwrap();
    let pin = files.pin(digest, false);
    tokio::pin!(pin);
    assert!(futures::poll!(&mut pin).is_pending());
    drop(blob);
    rig.remote.let_pieces(PIECES);
    let to = rig.near.scratch().join("linked");
    let pinned = pin.await.unwrap();
    pinned.link(&to).unwrap();
    assert!(pinned.was_brought());
    assert!(!files.pin(digest, false).await.unwrap().was_brought());
    assert!(std::fs::read(to).unwrap() == bytes);
    assert_eq!(rig.remote.gets(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_never_asked_twice_ends_nothing() {
    let rig = Rig::new(1 << 30);
    rig.remote.hold_calls();
    let (digest, bytes) = rig.remote.have(100);
    // The one that began it leaves before far has answered.
    let mut first = Box::pin(rig.cas.get(digest, Wanted::ALL));
    assert!(futures::poll!(&mut first).is_pending());
    let mut second = Box::pin(rig.cas.get(digest, Wanted::ALL));
    assert!(futures::poll!(&mut second).is_pending());
    drop(first);
    rig.remote.let_calls();
    let blob = second.await.unwrap();
    assert!(conformance::read_all(blob).await.unwrap() == bytes);
    assert_eq!(rig.remote.gets(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_deep_in_a_large_blob_does_not_wait_for_its_beginning() {
    let rig = Rig::new(1 << 30);
    let len = 16 << 20;
    let (digest, bytes) = rig.remote.have(len);
    rig.remote.hold_pieces();
    let whole = rig.cas.get(digest, Wanted::ALL).await.unwrap();
    // Two pieces at its end, straight from far; the fetch gets none of them as long as they are few.
    let part = Wanted::part(15 << 20, Some(1000));
    let blob = rig.cas.get(digest, part).await.unwrap();
    assert_eq!(rig.remote.gets(), 2);
    rig.remote.let_pieces(1 + 64);
    let start = 15 << 20;
    assert!(conformance::read_all(blob).await.unwrap() == bytes.slice(start..start + 1000));
    assert!(conformance::read_all(whole).await.unwrap() == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_near_passes_through() {
    let rig = Rig::new(1 << 20);
    let (digest, bytes) = rig.remote.have(LEN);
    for wanted in [Wanted::ALL, Wanted::part(5, None), Wanted::part(LEN as u64 / 2, Some(77))] {
        let blob = rig.cas.get(digest, wanted).await.unwrap();
        let range = wanted.within(LEN as u64);
        let expected = bytes.slice(range.start as usize..range.end as usize);
        assert!(conformance::read_all(blob).await.unwrap() == expected);
    }
    // Room enough, but all of it in use.
    let rig = Rig::new(12 << 20);
    let (held, _) = rig.remote.have(LEN);
    let _blob = rig.cas.get(held, Wanted::ALL).await.unwrap();
    let (digest, bytes) = rig.remote.have(LEN);
    let blob = rig.cas.get(digest, Wanted::ALL).await.unwrap();
    assert!(conformance::read_all(blob).await.unwrap() == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_ends_fetches_and_their_readers() {
    let rig = Rig::new(1 << 30);
    rig.remote.hold_pieces();
    let (digest, _) = rig.remote.have(LEN);
    let blob = rig.cas.get(digest, Wanted::ALL).await.unwrap();
    assert_eq!(rig.group.shut_down(Duration::from_secs(60)).await, 0);
    let read = conformance::read_all(blob).await;
    assert!(matches!(read, Err(Error::Unavailable { .. })), "{read:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_of_a_large_blob_are_handed_on_to_all_who_want_them() {
    let rig = Rig::new(1 << 30);
    rig.remote.has_frames.store(true, Ordering::SeqCst);
    let (digest, bytes) = rig.remote.have(LEN);
    rig.remote.hold_pieces();
    let get = || rig.cas.get(digest, Wanted::ALL_ZSTD);
    let slow = get().await.unwrap();
    let others: Vec<_> = future::join_all((0..5).map(|_| get())).await;
    let plain = rig.cas.get(digest, Wanted::ALL).await.unwrap();
    rig.remote.let_pieces(1 << 10);
    for other in others {
        let other = other.unwrap();
        assert_eq!(other.encoding, Encoding::Zstd);
        assert!(conformance::read_all(other).await.unwrap() == bytes);
    }
    assert!(conformance::read_all(plain).await.unwrap() == bytes);
    rig.until_quiet().await;
    // One that reads nothing keeps the frames, but holds nobody up, and least of all far.
    assert_eq!(rig.remote.open.load(Ordering::SeqCst), 0);
    assert!(rig.is_near(digest).await);
    assert_eq!((rig.remote.gets(), rig.temporary_files()), (1, 1));
    let taken = rig.near.stats().taken_bytes;
    assert!(taken > LEN as u64 * 3 / 2, "the frames are counted in: {taken}");
    assert_eq!(slow.encoding, Encoding::Zstd);
    assert!(conformance::read_all(slow).await.unwrap() == bytes);
    assert_eq!(rig.temporary_files(), 0);
    assert_eq!(rig.near.stats().taken_bytes, LEN as u64);
    // Now that it is near, it comes from there.
    assert_eq!(get().await.unwrap().encoding, Encoding::Identity);
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_nobody_reads_any_more_are_given_up() {
    let rig = Rig::new(1 << 30);
    rig.remote.has_frames.store(true, Ordering::SeqCst);
    rig.remote.hold_pieces();
    let (digest, bytes) = rig.remote.have(LEN);
    let blob = rig.cas.get(digest, Wanted::ALL_ZSTD).await.unwrap();
    let Content::Stream(mut stream) = blob.content else { panic!("{blob:?}") };
    rig.remote.let_pieces(3);
    assert!(stream.try_next().await.unwrap().is_some());
    drop(stream);
    rig.until_quiet().await;
    until(|| rig.temporary_files() == 0 && rig.near.stats().taken_bytes == 0).await;
    // Where there is no room they are read as they are not.
    let rig = Rig::new(1 << 20);
    rig.remote.has_frames.store(true, Ordering::SeqCst);
    let (digest, _) = rig.remote.have(LEN);
    let blob = rig.cas.get(digest, Wanted::ALL_ZSTD).await.unwrap();
    assert_eq!(conformance::read_all(blob).await.unwrap().len(), bytes.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_are_not_right_are_passed_to_nobody_whole() {
    let rig = Rig::new(1 << 30);
    rig.remote.has_frames.store(true, Ordering::SeqCst);
    rig.remote.is_wrong.store(true, Ordering::SeqCst);
    let (digest, _) = rig.remote.have(LEN);
    let blob = rig.cas.get(digest, Wanted::ALL_ZSTD).await.unwrap();
    assert_eq!(blob.encoding, Encoding::Zstd);
    let read = conformance::read_all(blob).await;
    assert!(matches!(read, Err(Error::Unavailable { .. })), "{read:?}");
    assert!(!rig.is_near(digest).await);
    until(|| rig.temporary_files() == 0).await;
}
