//! Blobs fetched from servers of every kind.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod rig;

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use bbb_asset::{Failed, FetchError};
use bbb_lifecycle::TaskGroup;
use futures::future::join_all;
use rig::{LIMIT_BYTES, Rig, Server, everything_at, ok, redirect, send, sri, wanted, with_headers};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

const LOOPBACK: &[&str] = &["127.0.0.1"];

fn big() -> Vec<u8> {
    (0..3_000_000_u32).map(|number| ((number.wrapping_mul(7919)) >> 8) as u8).collect()
}

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
async fn a_wrong_checksum_keeps_nothing() {
    let (server, rig) = (Server::files(&[("/a", b"hello")]).await, Rig::new(LOOPBACK));
    let (failed, story) =
        rig.failure(&[&server.url("/a")], &[("checksum.sri", &sri(b"other"))]).await;
    assert_eq!(failed, Failed::Aborted);
    assert!(story.contains(&sri(b"hello")), "{story}");
    assert_eq!(server.asked().len(), 1, "the same bytes would come again");
    assert_eq!(rig.holds(), (0, 0, 0));
}

#[tokio::test]
async fn an_error_page_is_no_asset() {
    for (status, expected, attempts) in [
        ("404 Not Found", Failed::NotFound, 1),
        ("410 Gone", Failed::NotFound, 1),
        ("403 Forbidden", Failed::Denied, 1),
        ("401 Unauthorized", Failed::Denied, 1),
        ("400 Bad Request", Failed::Aborted, 1),
        ("204 No Content", Failed::Aborted, 1),
        ("206 Partial Content", Failed::Aborted, 4),
        ("304 Not Modified", Failed::Aborted, 1),
        ("429 Too Many Requests", Failed::Exhausted, 4),
        ("503 Service Unavailable", Failed::Aborted, 4),
    ] {
        let page = with_headers(status, &[("Retry-After", "0")], b"<html>sorry</html>");
        let (server, rig) = (Server::always(page).await, Rig::new(LOOPBACK));
        let (failed, story) = rig.failure(&[&server.url("/a")], &[]).await;
        assert_eq!((failed, server.asked().len()), (expected, attempts), "{status}: {story}");
        assert!(story.contains(&status[..3]), "{story}");
        assert_eq!(rig.holds(), (0, 0, 0), "{status}");
    }
}

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
async fn redirects_are_followed_so_far() {
    let rig = Rig::new(LOOPBACK);
    let server = Server::new(|mut stream, asked| async move {
        let answer = match &*asked.path {
            "/a" => redirect("b?x=1#part"),
            "/b?x=1" => redirect("//127.0.0.1:PORT/c"),
            "/c" => ok(b"hello"),
            "/loop" => redirect("/loop"),
            "/nowhere" => with_headers("302 Found", &[], b""),
            "/file" => redirect("file:///etc/passwd"),
            _ => redirect("http://[::1]:1/"),
        };
        let port = stream.local_addr().unwrap().port();
        let answer = String::from_utf8(answer).unwrap().replace("PORT", &port.to_string());
        send(&mut stream, answer.as_bytes()).await;
    })
    .await;
    let found = rig.fetch(&[&server.url("/a")], &[]).await.unwrap();
    assert_eq!(rig.bytes(&found).await, "hello");
    for (path, expected, told) in [
        ("/loop", Failed::Aborted, "more than 10 times"),
        ("/nowhere", Failed::Aborted, "to nowhere"),
        ("/file", Failed::Denied, "no http"),
        (
            "/elsewhere",
            Failed::Denied,
            "redirected to http://[::1]:1/: [::1]:1 leads to an address",
        ),
    ] {
        let (failed, story) = rig.failure(&[&server.url(path)], &[]).await;
        assert_eq!(failed, expected, "{path}: {story}");
        assert!(story.contains(told), "{path}: {story}");
    }
}

#[tokio::test]
async fn loopback_is_refused_by_number_name_and_look_up() {
    let server = Server::files(&[("/", b"secret")]).await;
    let port = server.address.port();
    let rig = Rig::looking_up(&[], everything_at(Ipv4Addr::LOCALHOST));
    for host in
        ["127.0.0.1", "localhost", "evil.example", "[::1]", "[::ffff:127.0.0.1]", "0x7f.1", "0"]
    {
        let (failed, story) = rig.failure(&[&format!("http://{host}:{port}/")], &[]).await;
        assert_eq!(failed, Failed::Denied, "{host}: {story}");
        assert!(story.contains("not public"), "{host}: {story}");
    }
    assert_eq!(server.asked().len(), 0);
    // A name that is allowed is, wherever it leads, and for one port alone.
    let rig =
        Rig::looking_up(&[&format!("good.example:{port}")], everything_at(Ipv4Addr::LOCALHOST));
    assert!(rig.fetch(&[&format!("http://good.example:{port}/")], &[]).await.is_ok());
    let (failed, _) = rig.failure(&[&format!("http://good.example:{}/", port ^ 1)], &[]).await;
    assert_eq!(failed, Failed::Denied);
}

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
            assert!(server.asked().iter().all(|asked| asked.header("range").is_none()));
            assert_eq!(rig.holds(), (0, 0, 0));
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

#[tokio::test]
async fn lies_about_lengths_are_noticed() {
    // Less than was announced.
    let short = Server::always("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhello").await;
    // Chunks that end too early.
    let cut =
        Server::always("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
    // Two lengths, and what is none.
    let two =
        Server::always("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!")
            .await;
    let none = Server::always("HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\nhello!").await;
    let garbage = Server::always("hello\r\n\r\n").await;
    let rig = Rig::new(LOOPBACK);
    let urls = [&short, &cut, &two, &none, &garbage].map(|server| server.url("/"));
    let failures = join_all(urls.iter().map(|url| async { rig.failure(&[url], &[]).await })).await;
    for (failed, story) in failures {
        assert_eq!(failed, Failed::Aborted, "{story}");
    }
    assert_eq!(rig.holds(), (0, 0, 0));
    // More than was announced is not of this answer.
    let long = Server::always("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello and more").await;
    let found = rig.fetch(&[&long.url("/")], &[("checksum.sri", &sri(b"hello"))]).await.unwrap();
    assert_eq!(rig.bytes(&found).await, "hello");
}

#[tokio::test]
async fn too_much_is_not_taken() {
    let claimed = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 1_u64 << 60);
    let claims = Server::always(claimed).await;
    let endless = Server::new(|mut stream, _| async move {
        send(&mut stream, b"HTTP/1.1 200 OK\r\n\r\n").await;
        while stream.write_all(&[b'x'; 64 << 10]).await.is_ok() {}
    })
    .await;
    let head = Server::new(|mut stream, _| async move {
        send(&mut stream, b"HTTP/1.1 200 OK\r\n").await;
        while stream.write_all(b"x-more: and more\r\n").await.is_ok() {}
    })
    .await;
    let rig = Rig::new(LOOPBACK);
    for server in [&claims, &endless] {
        let (failed, story) = rig.failure(&[&server.url("/")], &[]).await;
        assert_eq!(failed, Failed::Exhausted, "{story}");
        assert!(story.contains(&LIMIT_BYTES.to_string()), "{story}");
        assert_eq!(server.asked().len(), 1);
    }
    let (failed, story) = rig.failure(&[&head.url("/")], &[]).await;
    assert_eq!(failed, Failed::Aborted, "{story}");
    assert_eq!(rig.holds(), (0, 0, 0));
}

#[tokio::test]
async fn who_is_too_slow_is_left() {
    let server = Server::new(|mut stream, _| async move {
        send(&mut stream, b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n").await;
        while stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let rig = Rig::new(LOOPBACK);
    let mut wanted = wanted(&[&server.url("/"), "http://127.0.0.1:1/"], &[]);
    wanted.timeout = Some(Duration::from_millis(200));
    let failed = rig.find_or_fetch(wanted).await.unwrap_err();
    let FetchError::Outside { failed, uri, what } = failed else { panic!("{failed}") };
    assert_eq!((failed, uri), (Failed::TooLate, 0), "{what}");
    assert_eq!(rig.holds(), (0, 0, 0));
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
async fn what_was_fetched_with_a_secret_is_for_those_who_have_it() {
    let server = Server::new(|mut stream, asked| async move {
        let answer = match asked.header("authorization") {
            Some("basic bwu6chc=") => ok(b"mine"),
            _ => with_headers("401 Unauthorized", &[], b"no"),
        };
        send(&mut stream, &answer).await;
    })
    .await;
    let rig = Rig::new(LOOPBACK);
    let (open, closed) = (server.url("/"), format!("http://me:pw@{}/", server.address));
    let found = rig.fetch(&[&closed], &[]).await.unwrap();
    assert_eq!(rig.bytes(&found).await, "mine");
    assert_eq!(rig.failure(&[&open], &[]).await.0, Failed::Denied);
    rig.fetch(&[&open], &[("http_header:Authorization", "Basic bWU6cHc=")]).await.unwrap();
    assert_eq!((server.asked().len(), rig.holds().1), (3, 0));
    // Who knows the checksum may have what has it.
    let sri = sri(b"mine");
    rig.fetch(&[&closed], &[("checksum.sri", &sri)]).await.unwrap();
    rig.fetch(&[&open], &[("checksum.sri", &sri)]).await.unwrap();
    assert_eq!((server.asked().len(), rig.holds().1), (4, 1));
}

#[tokio::test]
async fn a_secret_goes_to_its_own_host_alone() {
    let other = Server::files(&[("/there", b"hello")]).await;
    let to = other.url("/there");
    let server = Server::always(redirect(&to)).await;
    let rig = Rig::new(LOOPBACK);
    let json = format!("{{\"{}\": {{\"X-Token\": \"secret\"}}}}", server.url("/"));
    rig.fetch(&[&server.url("/")], &[("bazel.auth_headers", &json)]).await.unwrap();
    assert_eq!(server.asked()[0].header("x-token"), Some("secret"));
    assert_eq!(other.asked()[0].header("x-token"), None);
}

#[tokio::test]
async fn what_comes_encoded_is_taken_by_its_checksum_alone() {
    let answer = with_headers("200 OK", &[("Content-Encoding", "gzip")], b"zipped");
    let (server, rig) = (Server::always(answer).await, Rig::new(LOOPBACK));
    assert_eq!(rig.failure(&[&server.url("/")], &[]).await.0, Failed::Aborted);
    assert!(rig.fetch(&[&server.url("/")], &[("checksum.sri", &sri(b"zipped"))]).await.is_ok());
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

/// An https server of one file, and whom to trust for it.
async fn https(name: &str) -> (u16, rustls::RootCertStore) {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    TaskGroup::new("https").spawn("https", async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut asked = [0; 4096];
            let _ = stream.read(&mut asked).await;
            let _ = stream.write_all(&ok(b"sealed")).await;
            let _ = stream.shutdown().await;
        }
    });
    (port, roots)
}

#[tokio::test]
async fn https_is_for_those_whom_we_trust() {
    let (port, roots) = https("good.example").await;
    let everything = || everything_at(Ipv4Addr::LOCALHOST);
    let rig = Rig::trusting(LOOPBACK, everything(), roots, |origins| origins);
    let url = format!("https://good.example:{port}/x");
    assert_eq!(rig.bytes(&rig.fetch(&[&url], &[]).await.unwrap()).await, "sealed");
    let stranger = Rig::looking_up(LOOPBACK, everything());
    let bad = format!("https://bad.example:{port}/x");
    for (rig, url) in [(&stranger, &url), (&rig, &bad)] {
        let (failed, story) = rig.failure(&[url], &[]).await;
        assert_eq!(failed, Failed::Aborted, "{story}");
        assert!(story.contains("certificate"), "{story}");
    }
}

/// A proxy on loopback, which carries tunnels to wherever `port` of loopback is, and answers what it is asked for in full.
async fn proxy(port: u16) -> Server {
    Server::new(move |mut stream, asked| async move {
        if asked.header("proxy-authorization") != Some("basic bwu6chc=") {
            return send(&mut stream, &with_headers("407 Login", &[], b"")).await;
        }
        if asked.path.starts_with("http://") {
            return send(&mut stream, &ok(b"by proxy")).await;
        }
        let mut origin = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        send(&mut stream, b"HTTP/1.1 200 Connected\r\n\r\n").await;
        let _ = tokio::io::copy_bidirectional(&mut stream, &mut origin).await;
    })
    .await
}

#[tokio::test]
async fn a_proxy_is_used_where_there_is_one() {
    let (port, roots) = https("good.example").await;
    let proxy = proxy(port).await;
    let address = format!("http://me:pw@{}", proxy.address);
    let system = bbb_asset::system_lookup;
    let rig = Rig::trusting(&[], system(), roots.clone(), |origins| origins.through(&address));
    let plain = rig.fetch(&["http://other.example/a?b#c"], &[]).await.unwrap();
    assert_eq!(rig.bytes(&plain).await, "by proxy");
    let tunnelled = rig.fetch(&["https://good.example/x"], &[]).await.unwrap();
    assert_eq!(rig.bytes(&tunnelled).await, "sealed");
    let asked: Vec<String> = proxy.asked().into_iter().map(|asked| asked.path).collect();
    assert_eq!(asked, ["http://other.example/a?b", "good.example:443"]);
    // It does not lead to where nothing leads.
    for url in ["http://127.0.0.1/", "http://localhost/", "https://[::1]/"] {
        assert_eq!(rig.failure(&[url], &[]).await.0, Failed::Denied, "{url}");
    }
    let stranger = format!("http://{}", proxy.address);
    let rig = Rig::trusting(&[], system(), roots, |origins| origins.through(&stranger));
    let (failed, story) = rig.failure(&["https://good.example/x"], &[]).await;
    assert!(failed == Failed::Aborted && story.contains("407"), "{failed:?} {story}");
}
