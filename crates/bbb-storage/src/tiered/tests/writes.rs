//! Streams that are stored in both tiers, each of which may keep the other waiting, and the client both.

use std::{io, sync::atomic::Ordering};

use bbb_digest::{Digest, Function};
use bytes::Bytes;
use futures::{StreamExt as _, channel::mpsc, stream};

use crate::{Encoding, Error, Source, SourceContent, conformance, zstd};

use super::{
    super::*,
    rig::{Rig, until},
};

fn source(encoding: Encoding, pieces: Vec<Bytes>) -> Source {
    let pieces = stream::iter(pieces.into_iter().map(Ok)).boxed();
    Source { encoding, content: SourceContent::Stream(pieces) }
}

/// A blob that is to come, the beginning of it, and the rest.
fn halves(len: usize) -> (Digest, Bytes, Bytes) {
    let bytes = Bytes::from(conformance::data(len));
    let digest = Digest::of(Function::Sha256, &bytes);
    (digest, bytes.slice(..len / 2), bytes.slice(len / 2..))
}

/// What far holds for a put, such as its memory, may be all that there is.
#[tokio::test(flavor = "multi_thread")]
async fn far_is_not_begun_anew_while_it_holds_something_for_the_same() {
    let rig = Rig::new(1 << 30);
    let bytes = Bytes::from(conformance::data(9 << 20));
    let digest = Digest::of(Function::Sha256, &bytes);
    let frames = zstd::encode_bytes(&bytes).unwrap();
    let pieces = frames.chunks(256 << 10).map(|piece| frames.slice_ref(piece)).collect();
    rig.remote.hold_calls();
    let stored = rig.cas.put(digest, source(Encoding::Zstd, pieces));
    let let_one = async {
        until(|| rig.remote.puts.load(Ordering::SeqCst) == 2).await;
        assert_eq!(rig.remote.storing.load(Ordering::SeqCst), 1);
        rig.remote.calls.add_permits(1);
    };
    let (stored, ()) = tokio::join!(stored, let_one);
    stored.unwrap();
    assert!(rig.remote.has(digest) && rig.is_near(digest).await);
}

#[tokio::test(start_paused = true)]
async fn far_does_not_wait_for_a_client_that_takes_its_time() {
    for len in [1 << 20, 9 << 20] {
        let rig = Rig::new(1 << 30);
        let (digest, begin, rest) = halves(len);
        let (mut client, pieces) = mpsc::channel(1);
        client.try_send(Ok(begin)).unwrap();
        let content = SourceContent::Stream(pieces.boxed());
        let mut stored = rig.cas.put(digest, Source { encoding: Encoding::Identity, content });
        let storing = &rig.remote.storing;
        for count in [1, 0] {
            tokio::select! {
                stored = &mut stored => panic!("only half of it came: {stored:?}"),
                () = until(|| storing.load(Ordering::SeqCst) == count) => {}
            }
        }
        client.try_send(Ok(rest)).unwrap();
        drop(client);
        stored.await.unwrap();
        assert!(rig.remote.has(digest) && rig.is_near(digest).await);
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_slow_client_did_wrong_is_said() {
    let rig = Rig::new(1 << 30);
    let (digest, begin, _) = halves(1 << 20);
    let gone = io::Error::new(io::ErrorKind::ConnectionReset, "on purpose");
    for (end, is_told) in [
        (Ok(begin.clone()), (|told| matches!(told, Error::Mismatch { .. })) as fn(Error) -> bool),
        (Err(gone), |told| matches!(told, Error::BrokenOff { .. })),
    ] {
        let late = async move {
            tokio::time::sleep(Duration::from_secs(60)).await;
            end
        };
        let pieces = stream::iter([Ok(begin.clone())]).chain(stream::once(late)).boxed();
        let content = SourceContent::Stream(pieces);
        let stored = rig.cas.put(digest, Source { encoding: Encoding::Identity, content }).await;
        assert!(is_told(stored.unwrap_err()));
        assert!(!rig.remote.has(digest) && !rig.is_near(digest).await);
    }
}

/// A client that is slow is no reason to fail where near has no room.
#[tokio::test(start_paused = true)]
async fn far_waits_for_a_slow_client_where_near_takes_nothing() {
    let rig = Rig::new(4096);
    let (digest, begin, rest) = halves(1 << 20);
    let late = async move {
        tokio::time::sleep(Duration::from_secs(60)).await;
        Ok(rest)
    };
    let pieces = stream::iter([Ok(begin)]).chain(stream::once(late)).boxed();
    let content = SourceContent::Stream(pieces);
    rig.cas.put(digest, Source { encoding: Encoding::Identity, content }).await.unwrap();
    assert!(rig.remote.has(digest));
}

#[tokio::test]
async fn a_write_never_says_that_its_blob_is_missing() {
    let rig = Rig::new(1 << 30);
    let blobs = rig.tiered.blobs(&rig.tiered.own, &InstanceName::default());
    // It was evicted before it could be written far from there.
    let stored = blobs.write_from_near(Digest::of(Function::Sha256, b"evicted")).await;
    assert!(matches!(stored, Err(Error::Unavailable { .. })), "{stored:?}");
}
