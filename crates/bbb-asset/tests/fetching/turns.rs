//! Several URLs, and one that is tried again.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant, SystemTime},
};

use bbb_asset::{Failed, FetchError};

use crate::{
    LOOPBACK,
    rig::{Rig, Server, ok, send, sri, wanted, with_headers},
};

#[tokio::test]
async fn urls_are_tried_in_turn_and_all_that_failed_is_told() {
    let good = Server::files(&[("/good", b"hello")]).await;
    let rig = Rig::new(LOOPBACK);
    let (none, other) = (good.url("/none"), "http://10.0.0.1/x?token=secret");
    let pairs = &[("checksum.sri", &*sri(b"hello"))];
    let found = rig.fetch(&[&none, other, "urn:x:y", &good.url("/good")], pairs).await.unwrap();
    assert_eq!((found.uri, rig.bytes(&found).await), (3, "hello".into()));
    let failed = rig.fetch(&[&none, other, "urn:x:y"], pairs).await.unwrap_err();
    let FetchError::Outside { failed, uri, what } = failed else { panic!("{failed}") };
    assert_eq!((failed, uri), (Failed::Denied, 1));
    assert!(
        what.contains("404") && what.contains("not public") && what.contains("urn:x:y"),
        "{what}"
    );
    assert!(!what.contains("secret"), "{what}");
}

#[tokio::test]
async fn the_next_url_may_be_right_where_one_is_wrong() {
    let bad = Server::files(&[("/x", b"not what was wanted")]).await;
    let page = Server::always(with_headers("500 Oh", &[("Retry-After", "0")], b"<html>")).await;
    let good = Server::files(&[("/x", b"hello")]).await;
    let rig = Rig::new(LOOPBACK);
    let urls = [bad.url("/x"), page.url("/x"), good.url("/x"), bad.url("/y")];
    let urls = urls.each_ref().map(String::as_str);
    let pairs = &[("checksum.sri", &*sri(b"hello"))];
    let found = rig.fetch(&urls, pairs).await.unwrap();
    assert_eq!((found.uri, rig.bytes(&found).await), (2, "hello".into()));
    assert_eq!([&bad, &page, &good].map(|server| server.asked().len()), [1, 4, 1]);
    assert_eq!(rig.holds(), (1, 1, 0));
    // The next time it is known by the URL that gave it, whichever comes first.
    assert_eq!(rig.fetch(&urls, pairs).await.unwrap(), found);
    assert_eq!([&bad, &page, &good].map(|server| server.asked().len()), [1, 4, 1]);
}

/// A server that says `status` and when to come back so many times before it gives what it has.
async fn busy(times: usize, status: &'static str, after: &str) -> Server {
    let (count, after) = (AtomicUsize::new(0), after.to_owned());
    Server::new(move |mut stream, _| {
        let answer = match count.fetch_add(1, Ordering::Relaxed) < times {
            true => with_headers(status, &[("Retry-After", &after)], b"later"),
            false => ok(b"hello"),
        };
        async move { send(&mut stream, &answer).await }
    })
    .await
}

#[tokio::test]
async fn one_url_is_tried_four_times() {
    let rig = Rig::new(LOOPBACK);
    for (times, is_fetched) in [(3, true), (4, false)] {
        let server = busy(times, "502 Bad Gateway", "whenever").await;
        assert_eq!(rig.fetch(&[&server.url("/")], &[]).await.is_ok(), is_fetched, "{times}");
        assert_eq!(server.asked().len(), 4);
    }
    // Connections that are refused, or break without an answer.
    let (failed, story) = rig.failure(&["http://127.0.0.1:1/"], &[]).await;
    assert_eq!(failed, Failed::Aborted);
    assert!(story.contains("cannot connect to 127.0.0.1: "), "{story}");
    let server = Server::new(|_stream, _| async {}).await;
    assert_eq!(rig.failure(&[&server.url("/")], &[]).await.0, Failed::Aborted);
    assert_eq!(server.asked().len(), 4);
}

#[tokio::test]
async fn who_asks_for_a_pause_gets_it() {
    let soon = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(2));
    let seconds = busy(1, "429 Too Many Requests", "1").await;
    let date = busy(1, "503 Service Unavailable", &soon).await;
    let rig = Rig::new(LOOPBACK);
    let fetch = |server: Server| {
        let rig = &rig;
        async move {
            let start = Instant::now();
            assert!(rig.fetch(&[&server.url("/")], &[]).await.is_ok());
            assert_eq!(server.asked().len(), 2);
            start.elapsed()
        }
    };
    let (took, _) = tokio::join!(fetch(seconds), fetch(date));
    assert!(took >= Duration::from_secs(1), "{took:?}");
    assert!(SystemTime::now() >= httpdate::parse_http_date(&soon).unwrap());
}

#[tokio::test]
async fn a_pause_is_no_longer_than_somebody_waits_for() {
    let (rig, start) = (Rig::new(LOOPBACK), Instant::now());
    for (pause, timeout_secs) in [("3600", 600), ("18446744073709551615", 3600), ("30", 20)] {
        let server = busy(1, "503 Service Unavailable", pause).await;
        let mut wanted = wanted(&[&server.url("/")], &[]);
        wanted.timeout = Some(Duration::from_secs(timeout_secs));
        let failed = rig.find_or_fetch(wanted).await.unwrap_err();
        let FetchError::Outside { failed, what, .. } = failed else { panic!("{failed}") };
        assert_eq!((failed, server.asked().len()), (Failed::Aborted, 1), "{what}");
        assert!(what.contains("503"), "{what}");
    }
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    rig.holds_nothing().await;
}

#[tokio::test]
async fn who_says_nothing_does_not_use_up_the_time_of_the_next() {
    let silent = Server::new(|stream, _| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let good = Server::files(&[("/x", b"hello")]).await;
    let rig = Rig::new(LOOPBACK);
    let mut wanted = wanted(&[&silent.url("/"), "urn:x", &good.url("/x")], &[]);
    wanted.timeout = Some(Duration::from_secs(2));
    let found = rig.find_or_fetch(wanted).await.unwrap();
    assert_eq!((found.uri, rig.bytes(&found).await), (2, "hello".into()));
}
