//! What lets a client in at an origin.

use bbb_asset::Failed;

use crate::{
    LOOPBACK,
    rig::{Rig, Server, ok, redirect, send, sri, with_headers},
};

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
