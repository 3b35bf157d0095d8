//! The conformance suites of the seams: what every tier and every layer must do, whoever made it.
//!
//! Each check panics with what it found. All may run at once and again on one store: every run makes
//! blobs of its own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a check that fails panics"
)]

use std::{
    collections::HashSet,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bbb_digest::{Digest, Function};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, future, stream};

use crate::{
    ActionCache, ActionResult, Blob, Cas, CasExt as _, Content, Encoding, Error, HashedFile,
    Result, Source, SourceContent, Wanted, zstd,
};

mod faulty;

pub use crate::bucket::hostile;
pub use faulty::{Faults, Faulty};

/// The sizes of the blobs that are tried, in bytes: around every bound that a tier is likely to have.
const SIZES: [usize; 9] =
    [1, 100, 63 << 10, 64 << 10, (64 << 10) + 1, 1 << 20, (1 << 20) + 1, 5 << 20, (3 << 20) + 7];

/// Runs every check of [`Cas`].
pub async fn cas(cas: Arc<dyn Cas>) {
    empty_blob_is_always_there(&*cas).await;
    what_was_never_put_is_missing(&*cas).await;
    every_size_and_form_comes_back(&*cas).await;
    ranges_are_what_they_are_of_the_whole(&*cas).await;
    bad_sources_keep_nothing(&*cas).await;
    files_are_taken_in(&*cas).await;
    equal_puts_at_once_do_no_harm(Arc::clone(&cas)).await;
    missing_are_found_each_once(&*cas).await;
}

/// Runs every check of [`ActionCache`] on one that asks for no blobs.
pub async fn action_cache(cache: Arc<dyn ActionCache>) {
    for function in Function::ALL {
        let action = Digest::of(function, &data(60));
        assert!(cache.get(action).await.unwrap().is_none(), "{cache} knows what nobody put");
        for exit_code in [0, 1] {
            let result = ActionResult {
                exit_code,
                stdout_raw: data(exit_code as usize * 100_000),
                ..ActionResult::default()
            };
            cache.put(action, result.clone()).await.unwrap();
            let found = cache.get(action).await.unwrap().expect("a result that was put");
            assert!(*found == result, "{cache} gives another result");
        }
        let raw = action.hash();
        let other = Digest::from_raw(function, raw, action.size_bytes() + 1).unwrap();
        assert!(cache.get(other).await.unwrap().is_none(), "{cache} takes no heed of the size");
    }
    let action = Digest::of(Function::Sha256, &data(61));
    let puts = (0..16)
        .map(|exit_code| cache.put(action, ActionResult { exit_code, ..ActionResult::default() }));
    future::try_join_all(puts).await.unwrap();
    let found = cache.get(action).await.unwrap().expect("one of the results that were put");
    assert!((0..16).contains(&found.exit_code));
}

/// Checks that nothing written on one side is visible on the other.
pub async fn walls(
    one: (Arc<dyn Cas>, Arc<dyn ActionCache>),
    other: (Arc<dyn Cas>, Arc<dyn ActionCache>),
) {
    for len in [100, 1 << 20] {
        let bytes = data(len);
        let digest = Digest::of(Function::Sha256, &bytes);
        one.0.put(digest, bytes.into()).await.unwrap();
        assert_missing(&*other.0, digest).await;
        one.1.put(digest, ActionResult::default()).await.unwrap();
        assert!(other.1.get(digest).await.unwrap().is_none());
        assert!(one.1.get(digest).await.unwrap().is_some());
    }
}

/// Bytes that no other call has given, in this process or another, and that do not compress well.
pub fn data(len: usize) -> Vec<u8> {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    let seed = blake3::hash(format!("{} {call}", std::process::id()).as_bytes());
    let mut bytes = vec![0; len];
    blake3::Hasher::new_keyed(seed.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Reads all that a blob gives.
pub async fn read_all(blob: Blob) -> Result<Bytes> {
    let pieces: Vec<Bytes> = blob.into_stream().try_collect().await?;
    Ok(pieces.concat().into())
}

async fn empty_blob_is_always_there(cas: &dyn Cas) {
    for function in Function::ALL {
        let empty = Digest::empty(function);
        assert!(cas.find_missing(&[empty]).await.unwrap().is_empty());
        let blob = cas.get(empty, Wanted::ALL).await.unwrap();
        assert_eq!(blob.size_bytes, 0);
        assert!(read_all(blob).await.unwrap().is_empty());
        cas.put(empty, Bytes::new().into()).await.unwrap();
    }
    // No bytes have this hash.
    let false_empty = Digest::from_raw(Function::Sha256, &[7; 32], 0).unwrap();
    assert_missing(cas, false_empty).await;
    let put = cas.put(false_empty, Bytes::new().into()).await;
    assert!(matches!(put, Err(Error::Mismatch { .. })), "{put:?}");
}

async fn what_was_never_put_is_missing(cas: &dyn Cas) {
    for function in Function::ALL {
        assert_missing(cas, Digest::of(function, &data(100))).await;
    }
}

async fn every_size_and_form_comes_back(cas: &dyn Cas) {
    for function in Function::ALL {
        for len in if function == Function::Sha256 { &SIZES[..] } else { &SIZES[..3] } {
            for form in 0..FORMS {
                let bytes = data(*len);
                let digest = Digest::of(function, &bytes);
                cas.put(digest, source(&bytes, form)).await.unwrap();
                assert_there(cas, digest, &bytes).await;
                // And once more, now that it is there.
                cas.put(digest, source(&bytes, form)).await.unwrap();
            }
        }
    }
}

async fn ranges_are_what_they_are_of_the_whole(cas: &dyn Cas) {
    for len in [1, 1000, 1 << 20] {
        let bytes = Bytes::from(data(len));
        let digest = Digest::of(Function::Blake3, &bytes);
        cas.put(digest, bytes.clone().into()).await.unwrap();
        let len = len as u64;
        for offset in [0, 1, len / 2, len - 1, len, len + 1, u64::MAX] {
            for limit in [None, Some(0), Some(1), Some(len / 3), Some(len), Some(u64::MAX)] {
                let range = Wanted::part(offset, limit);
                let blob = cas.get(digest, range).await.unwrap();
                assert_eq!(blob.size_bytes, len);
                if !range.is_all() {
                    assert_eq!(blob.encoding, Encoding::Identity);
                }
                let within = range.within(len);
                let expected = bytes.slice(within.start as usize..within.end as usize);
                assert!(
                    read_all(blob).await.unwrap() == expected,
                    "{cas}: {range:?} of {len} bytes"
                );
            }
        }
    }
}

async fn bad_sources_keep_nothing(cas: &dyn Cas) {
    for len in [100, 3 << 20] {
        for form in 0..FORMS {
            let bytes = data(len);
            let digest = Digest::of(Function::Sha256, &bytes);
            let mut wrong = bytes.clone();
            wrong[len / 2] ^= 1;
            let longer = [&bytes[..], &[0]].concat();
            let shorter = bytes[..len - 1].to_vec();
            for bad in [wrong, longer, shorter] {
                let put = cas.put(digest, source(&bad, form)).await;
                let is_told =
                    matches!(put, Err(Error::Mismatch { expected, .. }) if expected == digest);
                assert!(is_told, "{cas}: {len} bytes, form {form}: {put:?}");
                assert_missing(cas, digest).await;
            }
        }
        let bytes = data(len);
        let digest = Digest::of(Function::Sha256, &bytes);
        let put = cas.put(digest, broken_stream(&bytes)).await;
        assert!(matches!(put, Err(Error::BrokenOff { .. })), "{put:?}");
        let whole = zstd::encode_bytes(&bytes).unwrap();
        for unreadable in [Bytes::copy_from_slice(&bytes), whole.slice(..whole.len() - 1)] {
            for content in [
                SourceContent::Bytes(unreadable.clone()),
                SourceContent::Stream(pieces_of(&unreadable, 1000)),
            ] {
                let put = cas.put(digest, Source { encoding: Encoding::Zstd, content }).await;
                assert!(matches!(put, Err(Error::Unreadable { .. })), "{put:?}");
            }
        }
        assert_missing(cas, digest).await;
    }
    a_bomb_goes_off_nowhere(cas).await;
}

/// A few bytes of zstd that stand for gigabytes, under the digest of a small blob.
async fn a_bomb_goes_off_nowhere(cas: &dyn Cas) {
    let frame = zstd::encode_bytes(&vec![0; 64 << 20]).unwrap();
    let endless = stream::repeat(frame).map(Ok).boxed();
    let digest = Digest::of(Function::Sha256, &data(1000));
    let source = Source { encoding: Encoding::Zstd, content: SourceContent::Stream(endless) };
    let put = cas.put(digest, source).await;
    assert!(matches!(put, Err(Error::Mismatch { .. })), "{put:?}");
    assert_missing(cas, digest).await;
}

async fn files_are_taken_in(cas: &dyn Cas) {
    let folder = std::env::temp_dir();
    for len in [1, 2 << 20] {
        let bytes = data(len);
        let digest = Digest::of(Function::Sha256, &bytes);
        let path = folder.join(format!("conformance-{}", digest.hex()));
        std::fs::write(&path, &bytes).unwrap();
        let file = HashedFile::hash(Function::Sha256, &path).unwrap();
        // Longer, since of so few bytes there may be the same twice.
        let wrong = Digest::of(Function::Sha256, &data(len + 20));
        let put = cas.put(wrong, HashedFile::hash(Function::Sha256, &path).unwrap().into()).await;
        assert!(matches!(put, Err(Error::Mismatch { .. })), "{put:?}");
        cas.put(digest, file.into()).await.unwrap();
        // The store may have made it its own.
        let _ = std::fs::remove_file(&path);
        assert_there(cas, digest, &bytes).await;
    }
}

async fn equal_puts_at_once_do_no_harm(cas: Arc<dyn Cas>) {
    for len in [100, 3 << 20] {
        let bytes = data(len);
        let digest = Digest::of(Function::Sha256, &bytes);
        let good = (0..8).map(|at| {
            let (cas, source) = (Arc::clone(&cas), source(&bytes, at % FORMS));
            async move { cas.put(digest, source).await.unwrap() }
        });
        let broken = (0..4).map(|_| {
            let (cas, source) = (Arc::clone(&cas), broken_stream(&bytes));
            // May succeed, when the blob is there before the stream breaks.
            async move { drop(cas.put(digest, source).await) }
        });
        future::join(future::join_all(good), future::join_all(broken)).await;
        assert_there(&*cas, digest, &bytes).await;
    }
}

async fn missing_are_found_each_once(cas: &dyn Cas) {
    let mut there = Vec::new();
    for _ in 0..20 {
        let bytes = data(50);
        let digest = Digest::of(Function::Sha256, &bytes);
        cas.put(digest, bytes.into()).await.unwrap();
        there.push(digest);
    }
    let absent: Vec<Digest> = (0..20).map(|_| Digest::of(Function::Sha256, &data(50))).collect();
    let mut asked: Vec<Digest> =
        there.iter().chain(&absent).chain(&absent).chain(&there).copied().collect();
    for _ in 0..3 {
        asked.rotate_left(17);
        let missing = cas.find_missing(&asked).await.unwrap();
        assert_eq!(missing.len(), absent.len(), "{cas}: one was named more than once, or not");
        assert_eq!(missing.iter().collect::<HashSet<_>>(), absent.iter().collect());
    }
    assert!(cas.find_missing(&[]).await.unwrap().is_empty());
}

/// In how many forms [`source`] gives bytes.
const FORMS: usize = 4;

fn source(bytes: &[u8], form: usize) -> Source {
    let identity = Bytes::copy_from_slice(bytes);
    let zstd = || zstd::encode_bytes(bytes).unwrap();
    let (encoding, content) = match form {
        0 => (Encoding::Identity, SourceContent::Bytes(identity)),
        1 => (Encoding::Identity, SourceContent::Stream(pieces_of(&identity, 70_000))),
        2 => (Encoding::Zstd, SourceContent::Bytes(zstd())),
        _ => (Encoding::Zstd, SourceContent::Stream(pieces_of(&zstd(), 70_000))),
    };
    Source { encoding, content }
}

fn pieces_of(bytes: &Bytes, len: usize) -> stream::BoxStream<'static, io::Result<Bytes>> {
    let pieces: Vec<_> = bytes.chunks(len).map(|piece| Ok(bytes.slice_ref(piece))).collect();
    stream::iter(pieces).boxed()
}

/// All but the last byte, then an error.
fn broken_stream(bytes: &[u8]) -> Source {
    let almost = Bytes::copy_from_slice(&bytes[..bytes.len() - 1]);
    let error = Err(io::Error::new(io::ErrorKind::ConnectionReset, "on purpose"));
    let stream = pieces_of(&almost, 10_000).chain(stream::iter([error])).boxed();
    Source { encoding: Encoding::Identity, content: SourceContent::Stream(stream) }
}

async fn assert_there(cas: &dyn Cas, digest: Digest, bytes: &[u8]) {
    assert!(cas.find_missing(&[digest]).await.unwrap().is_empty(), "{cas} misses {digest}");
    let blob = cas.get(digest, Wanted::ALL).await.unwrap();
    assert_eq!(blob.size_bytes, bytes.len() as u64);
    if let (Content::File(file), Encoding::Identity) = (&blob.content, blob.encoding) {
        assert!(std::fs::read(&*file.path).unwrap() == bytes, "{cas}: the file of {digest}");
    }
    assert!(read_all(blob).await.unwrap() == bytes, "{cas} gives other bytes for {digest}");
    assert!(cas.get_bytes(digest, bytes.len() as u64).await.unwrap() == bytes);
}

async fn assert_missing(cas: &dyn Cas, digest: Digest) {
    assert_eq!(cas.find_missing(&[digest]).await.unwrap(), [digest], "{cas}");
    let got = cas.get(digest, Wanted::ALL).await;
    assert!(matches!(got, Err(Error::Missing(missing)) if missing == digest), "{cas}: {got:?}");
}
