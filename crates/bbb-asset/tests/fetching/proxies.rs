//! Origins behind proxies.

use std::net::SocketAddr;

use bbb_asset::{Failed, system_lookup};
use tokio::net::TcpStream;

use crate::{
    LOOPBACK,
    rig::{Rig, Server, greeter, ok, send, tls::Authority, with_headers},
};

/// A proxy on loopback for who has a password, which carries tunnels to wherever `port` of loopback is, and answers what it is
/// asked for in full.
async fn proxy(port: u16) -> Server {
    Server::new(move |mut stream, asked| async move {
        if asked.header("proxy-authorization") != Some("basic bwu6chc=") {
            return send(&mut stream, &with_headers("407 Login", &[], b"")).await;
        }
        if asked.path.starts_with("http://") {
            return send(&mut stream, &ok(b"by proxy")).await;
        }
        let mut origin = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        send(&mut stream, b"HTTP/1.1 200 Connected\r\n\r\n").await;
        let _ = tokio::io::copy_bidirectional(&mut stream, &mut origin).await;
    })
    .await
}

/// A rig in an environment of these variables.
fn through(allow: &[&str], authority: &Authority, variables: &[(&str, &str)]) -> Rig {
    Rig::trusting(allow, system_lookup(), authority.roots(), |origins| {
        origins.through(|name| {
            let found = variables.iter().find(|(own, _)| *own == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    })
}

#[tokio::test]
async fn a_proxy_is_used_where_there_is_one() {
    let authority = Authority::new("known");
    let port = authority.serve("good.example", ok(b"sealed")).await.port;
    let (proxy, origin) = (proxy(port).await, Server::always(ok(b"direct")).await);
    let address = format!("http://me:pw@{}", proxy.address);
    let variables = [("ALL_PROXY", &*address), ("NO_PROXY", "127.0.0.1")];
    let rig = through(LOOPBACK, &authority, &variables);
    let headers = [("http_header:X-Token", "mine")];
    let plain = rig.fetch(&["http://other.example/a?b#c"], &headers).await.unwrap();
    assert_eq!(rig.bytes(&plain).await, "by proxy");
    let tunnelled = rig.fetch(&["https://good.example/x"], &headers).await.unwrap();
    assert_eq!(rig.bytes(&tunnelled).await, "sealed");
    let direct = rig.fetch(&[&origin.url("/")], &[]).await.unwrap();
    assert_eq!(rig.bytes(&direct).await, "direct");
    // What is in a tunnel is not the proxy's, and what lets us use the proxy is not the origin's.
    let asked = proxy.asked();
    let seen =
        asked.iter().map(|asked| (&*asked.path, asked.header("host"), asked.header("x-token")));
    assert_eq!(
        seen.collect::<Vec<_>>(),
        [
            ("http://other.example/a?b", Some("other.example"), Some("mine")),
            ("good.example:443", Some("good.example:443"), None)
        ]
    );
    assert_eq!(origin.asked()[0].header("proxy-authorization"), None);
}

#[tokio::test]
async fn a_proxy_does_not_lead_to_where_nothing_leads() {
    let proxy = Server::always(ok(b"by proxy")).await;
    let address = proxy.address.to_string();
    let rig = through(&[], &Authority::new("known"), &[("all_proxy", &address)]);
    for url in ["http://127.0.0.1/", "http://localhost/", "https://[::1]/", "http://10.1.2.3:81/"] {
        assert_eq!(rig.failure(&[url], &[]).await.0, Failed::Denied, "{url}");
    }
    assert_eq!(proxy.asked().len(), 0);
}

#[tokio::test]
async fn who_is_not_let_through_is_told_by_whom() {
    let authority = Authority::new("known");
    let closed = Server::always(with_headers("403 Forbidden", &[], b"no")).await;
    let busy = Server::always(with_headers("503 Busy", &[], b"later")).await;
    let login = proxy(1).await;
    let mute = Server::new(|_stream, _| async {}).await;
    let garbage = greeter(b"what do you want?\r\n\r\n").await;
    let nobody: SocketAddr = "127.0.0.1:1".parse().unwrap();
    for (address, expected, told) in [
        (closed.address, Failed::Denied, "the proxy answers 403"),
        (login.address, Failed::Denied, "the proxy answers 407"),
        (busy.address, Failed::Aborted, "the proxy answers 503"),
        (mute.address, Failed::Aborted, "asking the proxy"),
        (garbage, Failed::Aborted, "asking the proxy"),
        (nobody, Failed::Aborted, "cannot connect to the proxy 127.0.0.1:1"),
    ] {
        let address = format!("http://me:other@{address}");
        let rig = through(&[], &authority, &[("HTTPS_PROXY", &address)]);
        let (failed, story) = rig.failure(&["https://good.example/x?a=secret"], &[]).await;
        assert_eq!(failed, expected, "{story}");
        assert!(story.contains(told), "{story}");
        assert!(!story.contains("secret") && !story.contains("other"), "{story}");
        rig.holds_nothing().await;
    }
    let attempts = [&closed, &login, &busy, &mute].map(|proxy| proxy.asked().len());
    assert_eq!(attempts, [1, 1, 4, 4]);
    // The same for what is asked for in full.
    let address = login.address.to_string();
    let rig = through(&[], &authority, &[("http_proxy", &address)]);
    let (failed, story) = rig.failure(&["http://good.example/"], &[]).await;
    assert!(failed == Failed::Denied && story.contains("the proxy answers 407"), "{story}");
}

#[tokio::test]
async fn a_proxy_that_cannot_be_used_is_not_gone_without() {
    let origin = Server::always(ok(b"direct")).await;
    for (value, told) in [
        ("socks5://me:secret@127.0.0.1:1080", "ALL_PROXY is of socks5, but only http:// proxies"),
        ("https://127.0.0.1:1", "ALL_PROXY is of https, but only http:// proxies"),
        ("http://me:sec#ret@proxy", "ALL_PROXY is no URL"),
    ] {
        let rig = through(LOOPBACK, &Authority::new("known"), &[("ALL_PROXY", value)]);
        let (failed, story) = rig.failure(&[&origin.url("/")], &[]).await;
        assert_eq!(failed, Failed::Aborted, "{story}");
        assert!(story.contains(told) && !story.contains("sec"), "{story}");
    }
    assert_eq!(origin.asked().len(), 0);
}

#[tokio::test]
async fn a_proxy_that_says_nothing_is_given_up() {
    let silent = greeter(b"").await;
    let blink = std::time::Duration::from_millis(100);
    let rig = Rig::trusting(&[], system_lookup(), rustls::RootCertStore::empty(), |origins| {
        let bounds =
            bbb_asset::Bounds { handshake: blink, first_pause: blink, ..Default::default() };
        origins.within(bounds).through(|name| (name == "ALL_PROXY").then(|| silent.to_string()))
    });
    let mut wanted = crate::rig::wanted(&["https://good.example/"], &[]);
    wanted.timeout = Some(5 * blink);
    let failed = rig.find_or_fetch(wanted).await.unwrap_err().to_string();
    assert!(failed.contains("the tunnel through the proxy takes longer than 100ms"), "{failed}");
}
