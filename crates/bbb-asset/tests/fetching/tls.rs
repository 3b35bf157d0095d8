//! Origins behind TLS.

use std::net::Ipv4Addr;

use bbb_asset::Failed;

use crate::{
    LOOPBACK,
    rig::{Rig, Server, everything_at, greeter, ok, redirect, sri, tls::Authority},
};

/// A rig for which everything is on loopback, and that trusts one authority.
fn trusting(authority: &Authority) -> Rig {
    let everything = everything_at(Ipv4Addr::LOCALHOST);
    Rig::trusting(LOOPBACK, everything, authority.roots(), |origins| origins)
}

#[tokio::test]
async fn https_is_for_those_whom_we_trust() {
    let (known, unknown) = (Authority::new("known"), Authority::new("unknown"));
    let rig = trusting(&known);
    let good = known.serve("good.example", ok(b"sealed")).await;
    let found = rig.fetch(&[&format!("https://good.example:{}/x", good.port)], &[]).await.unwrap();
    assert_eq!(rig.bytes(&found).await, "sealed");
    let rig = trusting(&known);
    let old = known.serve_in(2000..=2001, "good.example", ok(b"old")).await;
    let early = known.serve_in(2099..=2100, "good.example", ok(b"early")).await;
    let strange = unknown.serve("good.example", ok(b"strange")).await;
    for (host, server, told) in [
        ("good.example", &old, "expired"),
        ("good.example", &early, "not valid yet"),
        ("good.example", &strange, "UnknownIssuer"),
        ("bad.example", &good, "not valid for name \"bad.example\""),
        ("127.0.0.1", &good, "not valid for name"),
    ] {
        let (port, before) = (server.port, server.connections());
        let (failed, story) = rig.failure(&[&format!("https://{host}:{port}/x?a=b")], &[]).await;
        assert_eq!(failed, Failed::Aborted, "{story}");
        let start = format!("https://{host}:{port}/x: no TLS with {host}: ");
        assert!(story.starts_with(&start) && story.contains(told), "{told}: {story}");
        assert_eq!(server.connections(), before + 1, "it would be the same again");
    }
    // Not even with a checksum.
    let url = format!("https://good.example:{}/", strange.port);
    assert_eq!(
        rig.failure(&[&url], &[("checksum.sri", &sri(b"strange"))]).await.0,
        Failed::Aborted
    );
    rig.holds_nothing().await;
}

#[tokio::test]
async fn what_speaks_no_tls_is_no_https() {
    let plain = Server::always(ok(b"open")).await;
    let garbage = greeter(b"220 mail.example ESMTP\r\n\r\n\r\n\r\n\r\n").await;
    let rig = Rig::impatient();
    // Its own server waits for a head that never comes.
    let (failed, story) = rig.failure(&[&format!("https://{}/", plain.address)], &[]).await;
    assert_eq!(failed, Failed::TooLate, "{story}");
    assert!(story.contains("the TLS handshake takes longer"), "{story}");
    let (failed, story) = rig.failure(&[&format!("https://{garbage}/")], &[]).await;
    assert_eq!(failed, Failed::Aborted, "{story}");
    assert!(story.contains("no TLS with 127.0.0.1"), "{story}");
    rig.holds_nothing().await;
}

#[tokio::test]
async fn nobody_is_sent_out_of_tls_unchecked() {
    let plain = Server::files(&[("/x", b"open")]).await;
    let authority = Authority::new("known");
    let answer = redirect(&format!("{}?token=secret", plain.url("/x")));
    let sealed = authority.serve("good.example", answer).await;
    let (rig, url) = (trusting(&authority), format!("https://good.example:{}/", sealed.port));
    let (failed, story) = rig.failure(&[&url], &[]).await;
    assert_eq!(failed, Failed::Denied, "{story}");
    assert!(story.contains("there is no checksum") && !story.contains("secret"), "{story}");
    assert_eq!(plain.asked().len(), 0);
    let plain = Server::always(ok(b"open")).await;
    let sealed = authority.serve("good.example", redirect(&plain.url("/"))).await;
    let url = format!("https://good.example:{}/", sealed.port);
    assert!(rig.fetch(&[&url], &[("checksum.sri", &sri(b"open"))]).await.is_ok());
}
