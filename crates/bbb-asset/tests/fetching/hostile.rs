//! Answers that are not what they say, or say what they should not.

use bbb_asset::Failed;
use futures::future::join_all;
use tokio::io::AsyncWriteExt as _;

use crate::{
    LOOPBACK,
    rig::{LIMIT_BYTES, Rig, Server, send, sri, with_headers},
};

#[tokio::test]
async fn a_wrong_checksum_keeps_nothing() {
    let (server, rig) = (Server::files(&[("/a", b"hello")]).await, Rig::new(LOOPBACK));
    let (failed, story) =
        rig.failure(&[&server.url("/a")], &[("checksum.sri", &sri(b"other"))]).await;
    assert_eq!(failed, Failed::Aborted);
    assert!(story.contains(&sri(b"hello")), "{story}");
    assert_eq!(server.asked().len(), 1, "the same bytes would come again");
    rig.holds_nothing().await;
}

#[tokio::test]
async fn an_error_page_is_no_asset() {
    let rig = Rig::new(LOOPBACK);
    let failures = [
        ("404 Not Found", Failed::NotFound, 1),
        ("410 Gone", Failed::NotFound, 1),
        ("403 Forbidden", Failed::Denied, 1),
        ("401 Unauthorized", Failed::Denied, 1),
        ("451 Unavailable For Legal Reasons", Failed::Denied, 1),
        ("400 Bad Request", Failed::Aborted, 1),
        ("416 Range Not Satisfiable", Failed::Aborted, 1),
        ("101 Switching Protocols", Failed::Aborted, 1),
        ("201 Created", Failed::Aborted, 1),
        ("203 Non-Authoritative Information", Failed::Aborted, 1),
        ("204 No Content", Failed::Aborted, 1),
        ("206 Partial Content", Failed::Aborted, 1),
        ("304 Not Modified", Failed::Aborted, 1),
        ("408 Request Timeout", Failed::Aborted, 4),
        ("429 Too Many Requests", Failed::Exhausted, 4),
        ("500 Internal Server Error", Failed::Aborted, 4),
        ("503 Service Unavailable", Failed::Aborted, 4),
        ("521 Web Server Is Down", Failed::Aborted, 4),
        ("999 Enhance Your Calm", Failed::Aborted, 1),
    ]
    .map(|(status, expected, attempts)| {
        let rig = &rig;
        async move {
            let headers = [("Retry-After", "0"), ("Content-Range", "bytes 0-15/16")];
            let page = with_headers(status, &headers, b"<html>sorry</html>");
            let server = Server::always(page).await;
            let (failed, story) = rig.failure(&[&server.url("/a?token=secret")], &[]).await;
            assert_eq!((failed, server.asked().len()), (expected, attempts), "{status}: {story}");
            let told = format!("{}: the origin answers {}", server.url("/a"), &status[..3]);
            assert!(story.starts_with(&told), "{story}");
        }
    });
    join_all(failures).await;
    rig.holds_nothing().await;
}

/// What is no answer, and what the client is told of it.
const NO_ANSWERS: &[(&str, &[u8])] = &[
    ("nothing", b""),
    ("garbage", b"hello\r\n\r\n"),
    ("another protocol", b"SSH-2.0-OpenSSH_9.6\r\n"),
    ("another version", b"HTTP/3.0 200 OK\r\n\r\nhello"),
    ("before there were versions", b"<html>hello</html>"),
    ("no status", b"HTTP/1.1 OK\r\n\r\nhello"),
    ("half a head", b"HTTP/1.1 200 OK\r\ncontent-le"),
    ("no name", b"HTTP/1.1 200 OK\r\n: 5\r\n\r\nhello"),
    ("a zero", b"HTTP/1.1 200 OK\r\nx: a\0b\r\ncontent-length: 5\r\n\r\nhello"),
    ("less than announced", b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhello"),
    ("two lengths", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!"),
    ("two in one", b"HTTP/1.1 200 OK\r\ncontent-length: 5, 6\r\n\r\nhello!"),
    ("no number", b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\nhello!"),
    ("less than nothing", b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\nhello"),
    ("a sign", b"HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\nhello"),
    ("too large a number", b"HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551617\r\n\r\nh"),
    ("no last chunk", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"),
    ("half a chunk", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n50\r\nhello"),
    ("no chunk", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nhello"),
    (
        "a chunk too long for words",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
        fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    ),
    (
        "more than the chunk",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
        5\r\nhello!!\r\n0\r\n\r\n",
    ),
];

#[tokio::test]
async fn what_is_no_answer_is_no_asset() {
    let rig = Rig::new(LOOPBACK);
    let failures = NO_ANSWERS.iter().map(|(what, answer)| {
        let rig = &rig;
        async move {
            let server = Server::always(*answer).await;
            let (failed, story) = rig.failure(&[&server.url("/a?token=secret")], &[]).await;
            assert_eq!((failed, server.asked().len()), (Failed::Aborted, 4), "{what}: {story}");
            assert!(story.starts_with(&format!("{}: ", server.url("/a"))), "{what}: {story}");
            assert!(
                ["asking: ", "reading: "].iter().any(|at| story.contains(at)),
                "{what}: {story}"
            );
        }
    });
    join_all(failures).await;
    rig.holds_nothing().await;
}

#[tokio::test]
async fn what_nobody_asked_for_is_not_taken_in() {
    let rig = Rig::new(LOOPBACK);
    // More than was announced is not of this answer.
    let long = Server::always("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello and more").await;
    // Chunks go before lengths (RFC 9112, section 6.3), and what follows them is no part of it.
    let both = Server::always(
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n\
         5;a=b\r\nhello\r\n0\r\nx-trailer: more\r\n\r\nand more",
    );
    // It is said twice, but it is the same.
    let twice =
        Server::always("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\nhello");
    let early = Server::always(
        "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
    );
    for server in [long, both.await, twice.await, early.await] {
        let found = rig.fetch(&[&server.url("/")], &[]).await.unwrap();
        assert_eq!(rig.bytes(&found).await, "hello");
    }
}

/// A server that begins its answer so, and goes on like that for ever.
async fn endless(start: &'static [u8], more: &'static [u8]) -> Server {
    Server::new(move |mut stream, _| async move {
        send(&mut stream, start).await;
        let more = more.repeat((64 << 10) / more.len());
        while stream.write_all(&more).await.is_ok() {}
    })
    .await
}

#[tokio::test]
async fn too_much_is_not_taken() {
    let claimed = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 1_u64 << 60);
    let just = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", LIMIT_BYTES + 1);
    let head = b"HTTP/1.1 200 OK\r\n";
    let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let rig = Rig::new(LOOPBACK);
    for (what, server) in [
        ("a claim", Server::always(claimed).await),
        ("a byte too much", Server::always(just).await),
        ("no length", endless(b"HTTP/1.1 200 OK\r\n\r\n", b"x").await),
        ("chunks", endless(chunked, b"5\r\nhello\r\n").await),
    ] {
        let (failed, story) = rig.failure(&[&server.url("/")], &[]).await;
        assert_eq!((failed, server.asked().len()), (Failed::Exhausted, 1), "{what}: {story}");
        assert!(story.contains(&LIMIT_BYTES.to_string()), "{what}: {story}");
        rig.holds_nothing().await;
    }
    for (what, server) in [
        ("headers", endless(head, b"x-more: and more\r\n").await),
        ("one header", endless(b"HTTP/1.1 200 OK\r\nx: ", b"x").await),
        ("a status", endless(b"HTTP/1.1 200 ", b"x").await),
        (
            "what is said of a chunk",
            endless(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5;", b"x").await,
        ),
        (
            "trailers",
            endless(
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n",
                b"x-more: and more\r\n",
            )
            .await,
        ),
    ] {
        let (failed, story) = rig.failure(&[&server.url("/")], &[]).await;
        assert_eq!((failed, server.asked().len()), (Failed::Aborted, 4), "{what}: {story}");
        rig.holds_nothing().await;
    }
    let many = "x: y\r\n".repeat(201);
    let server = Server::always(format!("HTTP/1.1 200 OK\r\n{many}\r\n")).await;
    assert_eq!(rig.failure(&[&server.url("/")], &[]).await.0, Failed::Aborted);
}

#[tokio::test]
async fn who_only_ever_promises_something_is_left() {
    let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let servers = [
        ("an answer", endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n").await),
        ("a chunk", endless(chunked, b"0").await),
    ];
    let rig = Rig::impatient();
    let failures = servers.iter().map(|(what, server)| {
        let rig = &rig;
        async move {
            let (failed, story) = rig.failure(&[&server.url("/")], &[]).await;
            assert_eq!((failed, server.asked().len()), (Failed::TooLate, 4), "{what}: {story}");
        }
    });
    join_all(failures).await;
    rig.holds_nothing().await;
}

#[tokio::test]
async fn what_comes_encoded_is_taken_by_its_checksum_alone() {
    let chunks = "6\r\nzipped\r\n0\r\n\r\n";
    for (headers, is_plain) in [
        ("content-length: 6\r\ncontent-encoding: gzip\r\n\r\nzipped".to_owned(), false),
        ("content-length: 6\r\ncontent-encoding: identity, br\r\n\r\nzipped".to_owned(), false),
        (
            "content-length: 6\r\ncontent-encoding: identity\r\ncontent-encoding: x\r\n\r\nzipped"
                .to_owned(),
            false,
        ),
        ("content-length: 6\r\ncontent-encoding: Identity\r\n\r\nzipped".to_owned(), true),
        ("content-length: 6\r\ncontent-encoding:\r\n\r\nzipped".to_owned(), true),
        (format!("transfer-encoding: gzip, chunked\r\n\r\n{chunks}"), false),
        (format!("transfer-encoding: Chunked\r\n\r\n{chunks}"), true),
        ("transfer-encoding: gzip\r\n\r\nzipped".to_owned(), false),
    ] {
        let (server, rig) =
            (Server::always(format!("HTTP/1.1 200 OK\r\n{headers}")).await, Rig::new(LOOPBACK));
        let url = server.url("/");
        if is_plain {
            assert!(rig.fetch(&[&url], &[]).await.is_ok(), "{headers}");
        } else {
            let (failed, story) = rig.failure(&[&url], &[]).await;
            assert_eq!((failed, server.asked().len()), (Failed::Aborted, 1), "{headers}");
            assert!(story.contains("it comes encoded, which was not asked for"), "{story}");
            rig.holds_nothing().await;
        }
        // The checksum is one of what comes, as it comes.
        let found = rig.fetch(&[&url], &[("checksum.sri", &sri(b"zipped"))]).await.unwrap();
        assert_eq!(rig.bytes(&found).await, "zipped");
    }
}
