//! Origins that take their time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bbb_asset::{Bounds, Failed, FetchError, Origins};
use futures::future::join_all;
use tokio::io::AsyncWriteExt as _;

use crate::{
    LOOPBACK,
    rig::{Rig, Server, send, sri, wanted},
};

/// A server that says this at once, and after that a little now and then.
async fn dribbling(start: &'static [u8], more: &'static [u8]) -> Server {
    Server::new(move |mut stream, _| async move {
        send(&mut stream, start).await;
        while stream.write_all(more).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
}

/// A server that says this and no more.
async fn silent_after(start: &'static [u8]) -> Server {
    Server::new(move |mut stream, _| async move {
        send(&mut stream, start).await;
        std::future::pending::<()>().await;
    })
    .await
}

#[tokio::test]
async fn who_is_silent_or_dribbles_is_tried_four_times_and_left() {
    let length = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\nhello";
    let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let servers = [
        (silent_after(b"").await, "the answer takes longer than 300ms"),
        (silent_after(b"HTTP/1.1 200 OK\r\ncontent-le").await, "the answer takes longer"),
        (silent_after(length).await, "after 5 bytes: the next piece takes longer than 300ms"),
        (silent_after(chunked).await, "after 0 bytes: the next piece takes longer"),
        (dribbling(b"HTTP/1.1 200 OK\r\nx: ", b"x").await, "the answer takes longer"),
        (dribbling(length, b"x").await, "the next piece takes longer"),
        (dribbling(b"HTTP/1.1 200 OK\r\n\r\n", b"x").await, "the next piece takes longer"),
        (dribbling(chunked, b"1\r\nx\r\n").await, "the next piece takes longer"),
    ];
    let rig = Rig::impatient();
    let failures = servers.iter().map(|(server, told)| {
        let rig = &rig;
        async move {
            let (failed, story) = rig.failure(&[&server.url("/")], &[]).await;
            assert_eq!((failed, server.asked().len()), (Failed::TooLate, 4), "{story}");
            assert!(story.contains(told), "{told}: {story}");
        }
    });
    join_all(failures).await;
    rig.holds_nothing().await;
}

#[tokio::test]
async fn who_stalls_in_the_middle_may_go_on() {
    let count = Arc::new(AtomicUsize::new(0));
    let server = Server::new(move |mut stream, asked| {
        let is_first = count.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            let etag = "etag: \"1\"\r\n";
            if is_first {
                let start = format!("HTTP/1.1 200 OK\r\n{etag}content-length: 12\r\n\r\nhello, ");
                send(&mut stream, start.as_bytes()).await;
                return std::future::pending().await;
            }
            assert_eq!(asked.header("range"), Some("bytes=7-"));
            let range = "content-range: bytes 7-11/12\r\n";
            let rest = format!("HTTP/1.1 206 Partial Content\r\n{etag}{range}\r\nworld");
            send(&mut stream, rest.as_bytes()).await;
        }
    })
    .await;
    let rig = Rig::impatient();
    let pairs = &[("checksum.sri", &*sri(b"hello, world"))];
    assert!(rig.fetch(&[&server.url("/")], pairs).await.is_ok());
}

#[tokio::test]
async fn a_name_that_is_not_looked_up_is_left() {
    let rig = Rig::trusting(
        LOOPBACK,
        Arc::new(|_, _| Box::pin(std::future::pending())),
        rustls::RootCertStore::empty(),
        |origins: Origins| {
            let blink = Duration::from_millis(50);
            origins.within(Bounds { look_up: blink, first_pause: blink, ..Bounds::default() })
        },
    );
    let (failed, story) = rig.failure(&["http://good.example/"], &[]).await;
    assert_eq!(failed, Failed::TooLate, "{story}");
    assert!(story.contains("looking the host up takes longer than 50ms"), "{story}");
}

#[tokio::test]
async fn a_fetch_has_its_time_and_no_more() {
    let server = dribbling(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n", b"x").await;
    let rig = Rig::new(LOOPBACK);
    let mut wanted = wanted(&[&server.url("/"), "http://127.0.0.1:1/"], &[]);
    wanted.timeout = Some(Duration::from_millis(200));
    let failed = rig.find_or_fetch(wanted).await.unwrap_err();
    let FetchError::Outside { failed, uri, what } = failed else { panic!("{failed}") };
    assert_eq!((failed, uri), (Failed::TooLate, 0), "{what}");
    rig.holds_nothing().await;
}

#[tokio::test]
async fn who_dribbles_or_stalls_does_not_use_up_the_time_of_the_next() {
    let length = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\nhello";
    let bad = [dribbling(length, b"x").await, silent_after(length).await];
    let good = Server::files(&[("/x", b"hello")]).await;
    let rig = Rig::new(LOOPBACK);
    let fetches = bad.iter().map(|bad| {
        let (rig, urls) = (&rig, [bad.url("/"), good.url("/x")]);
        async move {
            let mut wanted = wanted(&urls.each_ref().map(String::as_str), &[]);
            wanted.timeout = Some(Duration::from_millis(2500));
            let found = rig.find_or_fetch(wanted).await.unwrap();
            assert_eq!((found.uri, rig.bytes(&found).await), (1, "hello".into()));
        }
    });
    join_all(fetches).await;
}
