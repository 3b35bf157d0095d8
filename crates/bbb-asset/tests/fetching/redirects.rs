//! Origins that send us on, and where we do not go.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bbb_asset::{Failed, LookUp};

use crate::{
    LOOPBACK,
    rig::{Rig, Server, everything_at, ok, redirect, send, with_headers},
};

/// A server whose paths send on to others of it, and elsewhere; where there are ten hops to go at `/10`.
async fn signposts() -> Server {
    Server::new(|mut stream, asked| async move {
        let answer = match &*asked.path {
            "/a" => redirect("b?x=1#part"),
            "/b?x=1" => redirect("//me:pw@127.0.0.1:PORT/c"),
            "/c" | "/0" => ok(b"hello"),
            "/loop" => redirect("/loop"),
            "/there" => redirect("/back?token=secret"),
            "/back?token=secret" => redirect("/there"),
            "/nowhere" => with_headers("302 Found", &[], b""),
            "/empty" => redirect("http://"),
            "/binary" => redirect("http://\u{1}/"),
            "/long" => redirect(&format!("/{}", "a".repeat(100 << 10))),
            "/file" => redirect("file:///etc/passwd?token=secret"),
            "/ftp" => redirect("ftp://me:secret@files.example/x"),
            "/data" => redirect("data:text/plain,secret"),
            "/private" => redirect("http://me:secret@10.1.2.3/x?token=secret"),
            "/linklocal" => redirect("http://169.254.169.254/latest/meta-data"),
            "/named" => redirect("https://inside.example/x"),
            "/loopback" => redirect("http://[::1]:1/"),
            number => {
                let left: u32 = number[1..].parse().unwrap();
                redirect(&format!("/{}", left - 1))
            }
        };
        let port = stream.local_addr().unwrap().port();
        let answer = String::from_utf8(answer).unwrap().replace("PORT", &port.to_string());
        send(&mut stream, answer.as_bytes()).await;
    })
    .await
}

#[tokio::test]
async fn redirects_are_followed_so_far() {
    let (server, rig) = (signposts().await, Rig::new(LOOPBACK));
    let found = rig.fetch(&[&server.url("/a")], &[]).await.unwrap();
    assert_eq!(rig.bytes(&found).await, "hello");
    let asked = server.asked();
    assert_eq!(asked.len(), 3);
    assert!(asked.iter().all(|asked| asked.header("authorization").is_none()));
    assert!(rig.fetch(&[&server.url("/10")], &[]).await.is_ok());
    assert!(rig.failure(&[&server.url("/11")], &[]).await.1.contains("more than 10 times"));
    for (status, is_followed) in [
        ("301 Moved Permanently", true),
        ("303 See Other", true),
        ("307 Temporary Redirect", true),
        ("308 Permanent Redirect", true),
        ("300 Multiple Choices", false),
        ("305 Use Proxy", false),
        ("200 OK", true),
    ] {
        let page = with_headers(status, &[("Location", &server.url("/c"))], b"hello");
        let fetched = rig.fetch(&[&Server::always(page).await.url("/")], &[]).await;
        assert_eq!(fetched.is_ok(), is_followed, "{status}");
    }
}

#[tokio::test]
async fn nobody_sends_us_where_we_would_not_go_by_ourselves() {
    let server = signposts().await;
    let look_up: LookUp = Arc::new(|host: String, port| {
        Box::pin(async move {
            assert_eq!(host, "inside.example");
            Ok(vec![
                SocketAddr::from(([127, 0, 0, 2], port)),
                SocketAddr::from(([192, 168, 0, 1], port)),
            ])
        })
    });
    let rig = Rig::looking_up(LOOPBACK, look_up);
    for (path, expected, told) in [
        ("/loop", Failed::Aborted, "it redirects more than 10 times"),
        ("/there", Failed::Aborted, "it redirects more than 10 times"),
        ("/nowhere", Failed::Aborted, "it redirects to nowhere"),
        ("/empty", Failed::Aborted, "it redirects to nowhere"),
        ("/binary", Failed::Aborted, "asking: "),
        ("/long", Failed::Aborted, "asking: "),
        ("/file", Failed::Denied, "redirects to file:///etc/passwd, which is no http or https"),
        ("/ftp", Failed::Denied, "redirects to ftp://files.example/x, which is no http or https"),
        ("/data", Failed::Denied, "redirects to data:, which is no http or https"),
        (
            "/private",
            Failed::Denied,
            "redirected to http://10.1.2.3/x: 10.1.2.3:80 leads to an address",
        ),
        (
            "/linklocal",
            Failed::Denied,
            "redirected to http://169.254.169.254/latest/meta-data: 169",
        ),
        (
            "/named",
            Failed::Denied,
            "redirected to https://inside.example/x: inside.example:443 leads",
        ),
        ("/loopback", Failed::Denied, "redirected to http://[::1]:1/: [::1]:1 leads to an address"),
    ] {
        let (failed, story) = rig.failure(&[&server.url(path)], &[]).await;
        assert_eq!(failed, expected, "{path}: {story}");
        assert!(story.starts_with(&server.url(path)) && story.contains(told), "{path}: {story}");
        assert!(!story.contains("secret"), "{path}: {story}");
        rig.holds_nothing().await;
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
async fn of_several_addresses_those_are_connected_to_that_were_judged() {
    let server = Server::files(&[("/", b"hello")]).await;
    let port = server.address.port();
    // What must not be asked is there, and comes first.
    let inside = std::net::TcpListener::bind((Ipv4Addr::new(127, 0, 0, 2), port)).unwrap();
    inside.set_nonblocking(true).unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let look_up: LookUp = Arc::new(move |_, port| {
        let is_first = counted.fetch_add(1, Ordering::Relaxed) == 0;
        let addresses = match is_first {
            true => vec![[127, 0, 0, 2], [127, 0, 0, 1], [10, 0, 0, 1]],
            // Whoever owns the name says something else the next time.
            false => vec![[127, 0, 0, 2]],
        };
        let addresses = addresses.into_iter().map(|address| SocketAddr::from((address, port)));
        let addresses = addresses.collect();
        Box::pin(async move { Ok(addresses) })
    });
    let (rig, url) = (Rig::looking_up(LOOPBACK, look_up), format!("http://evil.example:{port}/"));
    assert!(rig.fetch(&[&url], &[]).await.is_ok());
    assert_eq!(count.load(Ordering::Relaxed), 1, "one look-up, which is judged and connected to");
    let (failed, story) = rig.failure(&[&format!("{url}other")], &[]).await;
    assert!(failed == Failed::Denied && story.contains("not public"), "{story}");
    assert_eq!((count.load(Ordering::Relaxed), server.asked().len()), (2, 1));
    assert!(inside.accept().is_err(), "somebody has connected");
}
