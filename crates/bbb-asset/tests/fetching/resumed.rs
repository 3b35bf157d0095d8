//! Downloads that break off.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bbb_asset::Failed;

use crate::{
    LOOPBACK, big,
    rig::{Asked, Rig, Server, redirect, send, sri, with_headers},
};

#[tokio::test]
async fn what_breaks_off_is_gone_on_with() {
    let big = Arc::new(big());
    for (etag, resumes) in [("\"v1\"", true), ("W/\"v1\"", false)] {
        let bytes = Arc::clone(&big);
        let server = Server::new(move |mut stream, asked| {
            let bytes = Arc::clone(&bytes);
            async move {
                let start = asked.header("range").map_or(0, |range| {
                    range.strip_prefix("bytes=").unwrap().trim_end_matches('-').parse().unwrap()
                });
                let status = if start > 0 { "206 Partial Content" } else { "200 OK" };
                let range = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
                let headers = [("ETag", etag), ("Content-Range", &*range)];
                let answer = with_headers(status, &headers, &bytes[start..]);
                let is_first = asked.header("range").is_none() && asked.path == "/cut";
                let sent = if is_first { answer.len() / 2 } else { answer.len() };
                send(&mut stream, &answer[..sent]).await;
            }
        })
        .await;
        let rig = Rig::new(LOOPBACK);
        let url = server.url("/cut");
        if resumes {
            let found = rig.fetch(&[&url], &[("checksum.sri", &sri(&big))]).await.unwrap();
            assert_eq!(rig.bytes(&found).await, **big);
            let asked = server.asked();
            assert_eq!(asked.len(), 2);
            assert_eq!(asked[1].header("if-range"), Some(etag));
        } else {
            let (failed, story) = rig.failure(&[&url], &[]).await;
            assert_eq!(failed, Failed::Aborted, "{story}");
            assert!(story.contains("after ") && story.contains(" bytes: reading: "), "{story}");
            assert!(server.asked().iter().all(|asked| asked.header("range").is_none()));
            rig.holds_nothing().await;
        }
    }
}

#[tokio::test]
async fn what_changed_meanwhile_is_fetched_anew() {
    let count = Arc::new(AtomicUsize::new(0));
    let server = Server::new(move |mut stream, _| {
        let is_first = count.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            let (etag, body) =
                if is_first { ("\"1\"", [b'a'; 5000]) } else { ("\"2\"", [b'b'; 5000]) };
            let answer = with_headers("200 OK", &[("ETag", etag)], &body);
            send(&mut stream, &answer[..answer.len() - if is_first { 100 } else { 0 }]).await;
        }
    })
    .await;
    let rig = Rig::new(LOOPBACK);
    let found = rig.fetch(&[&server.url("/")], &[]).await.unwrap();
    assert_eq!(rig.bytes(&found).await, vec![b'b'; 5000]);
}

/// A server of `START` and `REST`, of which it gives the start, as `"1"`, until it is asked for more: then it does as it likes.
async fn breaking_off(go_on: impl Fn(&Asked) -> Option<Vec<u8>> + Send + Sync + 'static) -> Server {
    let (count, go_on) = (AtomicUsize::new(0), Arc::new(go_on));
    Server::new(move |mut stream, asked| {
        let is_first = count.fetch_add(1, Ordering::Relaxed) == 0;
        let go_on = Arc::clone(&go_on);
        async move {
            let whole = with_headers("200 OK", &[("ETag", "\"1\"")], &[START, REST].concat());
            let answer = match asked.header("range") {
                None if is_first => whole[..whole.len() - REST.len()].to_vec(),
                None => with_headers("200 OK", &[("ETag", "\"2\"")], OTHER),
                Some(_) => go_on(&asked).unwrap_or(whole),
            };
            send(&mut stream, &answer).await;
        }
    })
    .await
}

const START: &[u8] = &[b'a'; 5000];
const REST: &[u8] = &[b'b'; 3000];
const OTHER: &[u8] = b"something else";

#[tokio::test]
async fn only_the_rest_of_the_same_is_put_behind_the_start() {
    let part = |etag: &'static str, range: &'static str, body: &'static [u8]| {
        let headers = [("ETag", etag), ("Content-Range", range)];
        Some(with_headers("206 Partial Content", &headers, body))
    };
    let right = "bytes 5000-7999/8000";
    let whole = [START, REST].concat();
    for (what, answer, expected) in [
        ("the rest", part("\"1\"", right, REST), &*whole),
        ("the whole, for it knows no ranges", None, &whole),
        ("the whole, for it has changed", Some(with_headers("200 OK", &[], OTHER)), OTHER),
        ("the rest of something else", part("\"2\"", right, REST), OTHER),
        ("the rest of who knows what", part("", right, REST), OTHER),
        ("it only looks the same", part("W/\"1\"", right, REST), OTHER),
        ("another part", part("\"1\"", "bytes 4000-7999/8000", REST), OTHER),
        ("less than the rest", part("\"1\"", "bytes 5000-5999/8000", &[b'b'; 1000]), OTHER),
        ("of unknown length", part("\"1\"", "bytes 5000-7999/*", REST), OTHER),
        ("less than it says", part("\"1\"", right, b"b"), OTHER),
        ("more than it says", part("\"1\"", right, &[b'b'; 4000]), OTHER),
        ("no range at all", part("\"1\"", "lines 1-2/3", REST), OTHER),
        ("nothing", Some(with_headers("416 Range Not Satisfiable", &[], b"")), OTHER),
        ("a page", Some(with_headers("503 Busy", &[("Retry-After", "0")], b"sorry")), OTHER),
    ] {
        let server = breaking_off(move |_| answer.clone()).await;
        let rig = Rig::new(LOOPBACK);
        let found = rig.fetch(&[&server.url("/")], &[]).await.unwrap();
        assert!(rig.bytes(&found).await == expected, "{what}");
        assert_eq!(server.asked()[1].header("range"), Some("bytes=5000-"), "{what}");
        assert_eq!(server.asked()[1].header("if-range"), Some("\"1\""), "{what}");
        assert_eq!(rig.holds(), (1, 1, 0), "{what}");
    }
}

#[tokio::test]
async fn a_validator_is_one_of_its_own_place_alone() {
    let rest = with_headers(
        "206 Partial Content",
        &[("ETag", "\"1\""), ("Content-Range", "bytes 5000-7999/8000")],
        REST,
    );
    // Two mirrors that number their versions, which are not the same.
    let [one, other] = [0, 1].map(|_| {
        let rest = rest.clone();
        breaking_off(move |_| Some(rest.clone()))
    });
    let (one, other) = (one.await, other.await);
    let count = AtomicUsize::new(0);
    let places = [one.url("/?signature=1"), other.url("/"), one.url("/?signature=2")];
    let server = Server::new(move |mut stream, _| {
        let place = places[count.fetch_add(1, Ordering::Relaxed).min(2)].clone();
        async move { send(&mut stream, &redirect(&place)).await }
    })
    .await;
    let rig = Rig::new(LOOPBACK);
    let found = rig.fetch(&[&server.url("/")], &[]).await.unwrap();
    assert_eq!(rig.bytes(&found).await, OTHER);
    assert_eq!((one.asked().len(), other.asked().len()), (2, 1));
}

#[tokio::test]
async fn what_was_cut_where_nobody_can_see_it_is_told_by_a_checksum() {
    // Neither a length nor chunks: what came until it hung up is all that there is.
    let server = Server::always("HTTP/1.0 200 OK\r\n\r\nhello, wor").await;
    let rig = Rig::new(LOOPBACK);
    let (failed, _) =
        rig.failure(&[&server.url("/")], &[("checksum.sri", &sri(b"hello, world"))]).await;
    assert_eq!(failed, Failed::Aborted);
    rig.holds_nothing().await;
    let found = rig.fetch(&[&server.url("/")], &[]).await.unwrap();
    assert_eq!(rig.bytes(&found).await, "hello, wor");
}
