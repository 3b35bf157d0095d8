//! Blobs that are fetched, remembered and asked about.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use bbb_asset::{Failed, Fetch, FetchError, Push};
use bbb_digest::{Digest, Function};
use futures::future::join_all;
use tokio::sync::Semaphore;

use crate::{
    LOOPBACK, big,
    rig::{Rig, Server, ok, send, sri, wanted, with_headers},
};

#[tokio::test]
async fn a_file_is_fetched_once_and_remembered() {
    let (server, rig) = (Server::files(&[("/a?b=c", b"hello")]).await, Rig::new(LOOPBACK));
    let url = server.url("/a?b=c");
    for _ in 0..2 {
        let found = rig.fetch(&[&url], &[]).await.unwrap();
        assert_eq!((found.uri, rig.bytes(&found).await), (0, "hello".into()));
    }
    let asked = server.asked();
    assert_eq!(asked.len(), 1);
    let address = server.address.to_string();
    assert_eq!(asked[0].header("host"), Some(address.as_str()));
    assert_eq!(asked[0].header("accept-encoding"), Some("identity"));
    // With a checksum it is another asset.
    rig.fetch(&[&url], &[("checksum.sri", &sri(b"hello"))]).await.unwrap();
    assert_eq!(server.asked().len(), 2);
    assert_eq!(rig.holds(), (1, 2, 0));
}

#[tokio::test]
async fn large_and_empty_files_come_whole() {
    let big = big();
    let (server, rig) =
        (Server::files(&[("/big", &big), ("/empty", b"")]).await, Rig::new(LOOPBACK));
    let found = rig.fetch(&[&server.url("/big")], &[("checksum.sri", &sri(&big))]).await.unwrap();
    assert_eq!(rig.bytes(&found).await, big);
    let found = rig.fetch(&[&server.url("/empty")], &[("checksum.sri", &sri(b""))]).await.unwrap();
    assert!(found.content.is_empty());
}

#[tokio::test]
async fn whoever_asks_meanwhile_waits_for_the_same_fetch() {
    let server = Server::new(|mut stream, _| async move {
        tokio::time::sleep(Duration::from_millis(50)).await;
        send(&mut stream, &ok(b"hello")).await;
    })
    .await;
    let (rig, url) = (Rig::new(LOOPBACK), server.url("/"));
    let fetches = join_all((0..100).map(|_| async { rig.fetch(&[&url], &[]).await })).await;
    assert!(fetches.iter().all(Result::is_ok));
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn the_origin_is_asked_whether_it_has_changed() {
    let server = Server::new(|mut stream, asked| async move {
        let headers = [("ETag", "\"v1\""), ("Cache-Control", "no-cache")];
        let answer = match asked.header("if-none-match") {
            Some("\"v1\"") => with_headers("304 Not Modified", &headers, b""),
            _ => with_headers("200 OK", &headers, b"hello"),
        };
        send(&mut stream, &answer).await;
    })
    .await;
    let (rig, url) = (Rig::new(LOOPBACK), server.url("/"));
    let first = rig.fetch(&[&url], &[]).await.unwrap();
    assert_eq!(rig.fetch(&[&url], &[]).await.unwrap(), first);
    let asked = server.asked();
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[1].header("if-none-match"), Some("\"v1\""));
    // A checksum says that nothing can have changed, unless the client wants it new: then even from the future.
    let pairs = &[("checksum.sri", &*sri(b"hello"))];
    rig.fetch(&[&url], pairs).await.unwrap();
    rig.fetch(&[&url], pairs).await.unwrap();
    assert_eq!(server.asked().len(), 3);
    let mut newest = wanted(&[&url], pairs);
    newest.oldest = Some(SystemTime::now() + Duration::from_secs(3600));
    assert_eq!(rig.find_or_fetch(newest).await.unwrap(), first);
    assert_eq!(server.asked().len(), 4);
}

#[tokio::test]
async fn what_an_origin_leaves_out_when_nothing_has_changed_stays_as_it_was() {
    let server = Server::new(|mut stream, asked| async move {
        let answer = match asked.header("if-none-match") {
            Some(_) => with_headers("304 Not Modified", &[], b""),
            None => {
                let headers = [("ETag", "\"v1\""), ("Cache-Control", "max-age=0")];
                with_headers("200 OK", &headers, b"hello")
            }
        };
        send(&mut stream, &answer).await;
    })
    .await;
    let (rig, url) = (Rig::new(LOOPBACK), server.url("/"));
    for asked in 1..=3 {
        rig.fetch(&[&url], &[]).await.unwrap();
        assert_eq!(server.asked().len(), asked, "it has become fresh for ever");
    }
}

#[tokio::test]
async fn what_nobody_can_fetch_by_is_named() {
    let (server, rig) = (Server::files(&[("/", b"hello")]).await, Rig::new(LOOPBACK));
    let failed = rig.fetch(&[&server.url("/")], &[("a.b", "c"), ("vcs.branch", "d")]).await;
    let Err(FetchError::Unsupported(names)) = failed else { panic!("{failed:?}") };
    assert_eq!(names.iter().map(|name| &**name).collect::<Vec<_>>(), ["a.b", "vcs.branch"]);
    assert_eq!(server.asked().len(), 0);
    assert_eq!(rig.failure(&["urn:a:b"], &[]).await.0, Failed::NotFound);
}

#[tokio::test]
async fn nothing_is_unchanged_that_was_not_asked_about() {
    let count = AtomicUsize::new(0);
    let server = Server::new(move |mut stream, asked| {
        let answer = match count.fetch_add(1, Ordering::Relaxed) {
            0 => {
                let headers = [("ETag", "\"1\""), ("Cache-Control", "no-cache")];
                with_headers("200 OK", &headers, b"first")
            }
            1 => {
                assert_eq!(asked.header("if-none-match"), Some("\"1\""));
                let mut answer = with_headers("200 OK", &[("ETag", "\"2\"")], b"second");
                answer.truncate(answer.len() - 1);
                answer
            }
            _ => {
                assert_eq!(asked.header("if-none-match"), None);
                assert_eq!(asked.header("if-range"), Some("\"2\""));
                with_headers("304 Not Modified", &[("ETag", "\"2\"")], b"")
            }
        };
        async move { send(&mut stream, &answer).await }
    })
    .await;
    let (rig, url) = (Rig::new(LOOPBACK), server.url("/"));
    assert!(rig.fetch(&[&url], &[]).await.is_ok());
    let (failed, story) = rig.failure(&[&url], &[]).await;
    assert!(failed == Failed::Aborted && story.contains("304"), "{failed:?} {story}");
    assert_eq!((server.asked().len(), rig.holds()), (3, (1, 1, 0)));
}

#[tokio::test]
async fn who_waits_for_the_fetch_of_another_has_his_own_time() {
    let server = Server::new(|mut stream, _| async move {
        tokio::time::sleep(Duration::from_millis(900)).await;
        send(&mut stream, &ok(b"hello")).await;
    })
    .await;
    let (rig, url) = (Rig::new(LOOPBACK), server.url("/"));
    let fetch = |timeout_ms| {
        let mut wanted = wanted(&[&url], &[]);
        wanted.timeout = Some(Duration::from_millis(timeout_ms));
        rig.find_or_fetch(wanted)
    };
    let long = async {
        let asking = async {
            while server.asked().is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), asking).await.unwrap();
        fetch(20_000).await
    };
    let (short, long) = tokio::join!(fetch(600), long);
    let Err(FetchError::Outside { failed: Failed::TooLate, .. }) = short else {
        panic!("{short:?}")
    };
    assert!(long.is_ok(), "{long:?}");
    assert_eq!(server.asked().len(), 2);
}

#[tokio::test]
async fn what_is_pushed_meanwhile_is_not_forgotten() {
    let go = Arc::new(Semaphore::new(0));
    let gate = Arc::clone(&go);
    let server = Server::new(move |mut stream, _| {
        let gate = Arc::clone(&gate);
        async move {
            let _turn = gate.acquire().await;
            send(&mut stream, &ok(b"fetched")).await;
        }
    })
    .await;
    let (rig, url) = (Rig::new(LOOPBACK), server.url("/"));
    let pushed = Digest::of(Function::Sha256, b"pushed");
    let push = async {
        while server.asked().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        rig.stores.cas.put(pushed, b"pushed".to_vec().into()).await.unwrap();
        let Fetch { instance, uris, qualifiers, kind, .. } = wanted(&[&url], &[]);
        let (blobs, directories) = (Vec::new(), Vec::new());
        let content = pushed;
        let push =
            Push { instance, uris, qualifiers, kind, content, blobs, directories, expires: None };
        rig.assets.push(push, SystemTime::now()).await.unwrap();
        go.add_permits(1);
    };
    let fetch = async { rig.fetch(&[&url], &[]).await };
    let (fetched, ()) = tokio::join!(fetch, push);
    assert_eq!(rig.bytes(&fetched.unwrap()).await, "fetched");
    assert_eq!(rig.fetch(&[&url], &[]).await.unwrap().content, pushed);
    assert_eq!(server.asked().len(), 1);
}
