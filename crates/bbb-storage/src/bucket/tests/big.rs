//! Big blobs: in parts, in ranges, in whatever form they came.

use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, future, stream};
use object_store::ObjectStoreExt as _;

use crate::{Content, Encoding, SourceContent, Wanted, conformance::read_all, zstd};

use super::*;

const MIB: usize = 1 << 20;

/// The forms in which a big blob comes and is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// As it is, and stored so.
    Identity,
    /// As it is, and stored in frames of ours.
    Compressed,
    /// As one frame of the client's.
    Frame,
    /// As frames of the client's, of odd sizes.
    Frames,
}

const FORMS: [Form; 4] = [Form::Identity, Form::Compressed, Form::Frame, Form::Frames];

fn encoded(bytes: &Bytes, form: Form) -> Bytes {
    match form {
        Form::Identity | Form::Compressed => bytes.clone(),
        Form::Frame => zstd::encode_bytes(bytes).unwrap(),
        Form::Frames => {
            let frames = bytes.chunks(700_001).map(|chunk| zstd::encode_bytes(chunk).unwrap());
            frames.collect::<Vec<_>>().concat().into()
        }
    }
}

fn source(encoded: &Bytes, form: Form) -> Source {
    let pieces: Vec<_> =
        encoded.chunks(300_000).map(|piece| Ok(encoded.slice_ref(piece))).collect();
    let encoding = match form {
        Form::Identity | Form::Compressed => Encoding::Identity,
        Form::Frame | Form::Frames => Encoding::Zstd,
    };
    Source { encoding, content: SourceContent::Stream(stream::iter(pieces).boxed()) }
}

async fn stored(form: Form, len: usize) -> (Tier, Digest, Bytes, Bytes) {
    let tier = tier(BucketSettings { compress: form == Form::Compressed, ..settings() });
    let (digest, bytes) = text(len);
    let encoded = encoded(&bytes, form);
    tier.cas.put(digest, source(&encoded, form)).await.unwrap();
    (tier, digest, bytes, encoded)
}

#[tokio::test]
async fn ranges_are_what_they_are_of_the_whole_and_do_not_begin_at_the_beginning() {
    for form in FORMS {
        let len = 20 * MIB + 12_345;
        let (tier, digest, bytes, encoded) = stored(form, len).await;
        let stored = if form == Form::Compressed { len / 2 } else { encoded.len() } as u64;
        for (offset, limit) in [
            (0, 1),
            (0, len),
            (MIB - 1, 2),
            (10 * MIB, MIB),
            (13 * MIB + 5, 3 * MIB),
            (len - 1, 100),
            (len, 1),
            (20 * MIB, MIB),
        ] {
            let before = tier.bucket.stats().bytes_in;
            let wanted = Wanted::part(offset as u64, Some(limit as u64));
            let blob = tier.cas.get(digest, wanted).await.unwrap();
            assert_eq!((blob.encoding, blob.size_bytes), (Encoding::Identity, len as u64));
            let end = (offset + limit).min(len);
            let read = read_all(blob).await.unwrap();
            assert!(read == bytes[offset..end], "{form:?}: {offset} {limit}");
            let came = tier.bucket.stats().bytes_in - before;
            if limit <= MIB && form != Form::Frame {
                assert!(came < stored / 4, "{form:?}: {came} bytes for {limit} at {offset}");
            }
        }
    }
}

#[tokio::test]
async fn frames_go_out_as_they_came_in() {
    for form in [Form::Frame, Form::Frames] {
        for len in [1, 1000, 3 * MIB, 4 * MIB + 1, 9 * MIB] {
            let (tier, digest, bytes, encoded) = stored(form, len).await;
            let blob = tier.cas.get(digest, Wanted::ALL_ZSTD).await.unwrap();
            // A frame of next to nothing is longer than what it holds.
            assert_eq!(blob.encoding, Encoding::Zstd, "{form:?} {len}");
            let pieces: Vec<Bytes> = match blob.content {
                Content::Bytes(bytes) => vec![bytes],
                Content::Stream(stream) => stream.try_collect().await.unwrap(),
                Content::File(_) => panic!("a bucket has no files"),
            };
            let passed = pieces.concat();
            assert!(
                passed.starts_with(&encoded),
                "{form:?} {len}: {} of {}",
                passed.len(),
                encoded.len()
            );
            assert!(zstd::decode_bytes(&passed, len).unwrap() == bytes);
            let read = read_all(tier.cas.get(digest, Wanted::ALL).await.unwrap()).await.unwrap();
            assert!(read == bytes, "{form:?} {len}");
        }
    }
}

#[tokio::test]
async fn what_does_not_compress_is_stored_as_it_is() {
    let tier = tier(settings());
    let (digest, bytes) = blob(9 * MIB);
    put(&tier.cas, digest, &bytes).await;
    let got = tier.cas.get(digest, Wanted::ALL_ZSTD).await.unwrap();
    assert_eq!(got.encoding, Encoding::Identity);
    assert!(read_all(got).await.unwrap() == bytes);
    let stats = tier.bucket.stats();
    assert_eq!((stats.part, stats.multipart, stats.put), (2, 2, 0), "{stats:?}");
}

#[tokio::test]
async fn frames_that_are_mostly_air_are_stored_otherwise() {
    let tier = tier(settings());
    let (digest, bytes) = blob(10);
    let empty = zstd::encode_bytes(&[]).unwrap();
    let mut frames = vec![empty; 150];
    frames.insert(50, zstd::encode_bytes(&bytes).unwrap());
    let content = SourceContent::Bytes(frames.concat().into());
    tier.cas.put(digest, Source { encoding: Encoding::Zstd, content }).await.unwrap();
    assert!(read_all(tier.cas.get(digest, Wanted::ALL).await.unwrap()).await.unwrap() == bytes);
    assert!(tier.bucket.stats().bytes_out < 100);
}

#[tokio::test]
async fn an_upload_begins_while_its_source_still_comes() {
    let tier = tier(settings());
    let (digest, bytes) = blob(30 * MIB);
    let (first, rest) = (bytes.slice(..20 * MIB), bytes.slice(20 * MIB..));
    let bucket = Arc::clone(&tier.bucket);
    // The rest comes only when a part was sent.
    let rest = stream::once(async move {
        while bucket.stats().part == 0 {
            tokio::task::yield_now().await;
        }
        Ok(rest)
    });
    let pieces = stream::iter([Ok(first)]).chain(rest).boxed();
    let source = Source { encoding: Encoding::Identity, content: SourceContent::Stream(pieces) };
    tier.cas.put(digest, source).await.unwrap();
    assert!(read_all(tier.cas.get(digest, Wanted::ALL).await.unwrap()).await.unwrap() == bytes);
}

#[tokio::test]
async fn an_upload_that_is_dropped_or_wrong_is_aborted() {
    let tier = tier(settings());
    let (digest, bytes) = blob(20 * MIB);
    let pieces = stream::iter([Ok(bytes.clone())]).chain(stream::pending()).boxed();
    let source = Source { encoding: Encoding::Identity, content: SourceContent::Stream(pieces) };
    let mut upload = Box::pin(tier.cas.put(digest, source));
    while tier.faulty.open_uploads() == 0 {
        assert!((&mut upload).now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    drop(upload);
    let mut wrong = bytes.to_vec();
    wrong[19 * MIB] ^= 1;
    let put = tier.cas.put(digest, Source::from(wrong)).await;
    assert!(matches!(put, Err(Error::Mismatch { .. })), "{put:?}");
    while tier.faulty.open_uploads() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(tier.cas.find_missing(&[digest]).await.unwrap(), [digest]);
}

#[tokio::test]
async fn an_object_that_changes_its_form_is_read_on() {
    let (tier, digest, bytes, _) = stored(Form::Identity, 40 * MIB).await;
    let mut stream = tier.cas.get(digest, Wanted::ALL).await.unwrap().into_stream();
    let mut read = stream.next().await.unwrap().unwrap().to_vec();
    // Another node has written it meanwhile, compressed.
    let other = super::tier(settings());
    put(&other.cas, digest, &bytes).await;
    let key = tier.bucket.keys.entry(keys::Kind::Blob, &instance("main"), digest);
    let object = other.memory.get(&key).await.unwrap().bytes().await.unwrap();
    tier.memory.put(&key, object.into()).await.unwrap();
    while let Some(piece) = stream.next().await {
        read.extend_from_slice(&piece.unwrap());
    }
    assert!(read == bytes);
    assert_eq!(tier.bucket.stats().damaged, 0);
}

#[tokio::test]
async fn much_at_once_goes_through_little_memory() {
    let settings = BucketSettings { buffer_bytes: 1, ..settings() };
    let tier = tier(settings);
    tier.faulty.set(conformance::Faults {
        latency: Duration::from_millis(1),
        ..conformance::Faults::default()
    });
    let blobs: Vec<_> =
        (0..12).map(|at| if at % 2 == 0 { blob(17 * MIB) } else { text(3 * MIB) }).collect();
    future::join_all(blobs.iter().map(|(digest, bytes)| put(&tier.cas, *digest, bytes))).await;
    let reads = blobs.iter().map(|(digest, bytes)| {
        let cas = Arc::clone(&tier.cas);
        async move {
            let blob = cas.get(*digest, Wanted::ALL).await.unwrap();
            assert!(read_all(blob).await.unwrap() == *bytes);
        }
    });
    future::join_all(reads).await;
    let Budget { reads, ranges, writes, parts } = &*tier.bucket.budget;
    for share in [reads, ranges, writes, parts] {
        // All memory was given back.
        drop(share.take(u64::MAX).await.unwrap());
    }
}
