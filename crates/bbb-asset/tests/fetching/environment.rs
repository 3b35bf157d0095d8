//! Nodes in real environments: a process of its own for each, since an environment is one for all that runs in a process.

use std::process::{Command, Stdio};

use bbb_asset::{FetchError, Origins};
use tokio::{net::TcpStream, task};

use crate::rig::{Rig, Server, ok, reach, send, tls::Authority};

/// What the other process is to fetch, in its environment.
const URLS: &str = "TEST_FETCHED_URLS";

/// The marks of what it says.
const FETCHED: &str = "fetched: ";
const FAILED: &str = "failed: ";

/// The other process, where it was told what to fetch: as a node does it, from loopback too.
#[tokio::test]
async fn in_this_environment() {
    let Ok(urls) = std::env::var(URLS) else { return };
    let rig = Rig::over(Origins::from_env(reach(&["127.0.0.1", "good.example"])));
    for url in urls.split(' ') {
        match rig.fetch(&[url], &[]).await {
            Ok(found) => println!("{FETCHED}{}", found.content.hex()),
            Err(FetchError::Outside { what, .. }) => println!("{FAILED}{what}"),
            Err(error) => panic!("{error}"),
        }
    }
}

/// What a process says that fetches these URLs in an environment of these variables and no others.
async fn fetched(variables: &[(&str, &str)], urls: &[&str]) -> Vec<String> {
    let mut process = Command::new(std::env::current_exe().unwrap());
    process.args(["--exact", "environment::in_this_environment", "--nocapture"]);
    process.env_clear().envs(variables.iter().copied()).env(URLS, urls.join(" "));
    process.stdin(Stdio::null()).stderr(Stdio::inherit());
    let said = task::spawn_blocking(move || process.output()).await.unwrap().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    let marked = |line: &str| {
        let start = line.find(FETCHED).or_else(|| line.find(FAILED))?;
        Some(line[start..].to_owned())
    };
    let lines: Vec<String> = said.lines().filter_map(marked).collect();
    assert_eq!(lines.len(), urls.len(), "{said}");
    lines
}

fn is_fetched(line: &str, bytes: &[u8]) -> bool {
    let digest = bbb_digest::Digest::of(bbb_digest::Function::Sha256, bytes);
    line == format!("{FETCHED}{}", digest.hex())
}

#[tokio::test]
async fn whom_ssl_cert_file_names_is_trusted() {
    let authority = Authority::new("own");
    let port = authority.serve("127.0.0.1", ok(b"sealed")).await.port;
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, authority: &Authority| {
        let path = folder.path().join(name);
        std::fs::write(&path, authority.pem()).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (own, other) = (write("own.pem", &authority), write("other.pem", &Authority::new("other")));
    let own_folder = folder.path().join("hashed");
    std::fs::create_dir(&own_folder).unwrap();
    write("hashed/0a1b2c3d.0", &authority);
    let url = format!("https://127.0.0.1:{port}/");
    let said = fetched(&[("SSL_CERT_FILE", &own)], &[&url]).await;
    assert!(is_fetched(&said[0], b"sealed"), "{said:?}");
    let said = fetched(&[("SSL_CERT_DIR", own_folder.to_str().unwrap())], &[&url]).await;
    assert!(is_fetched(&said[0], b"sealed"), "{said:?}");
    let said = fetched(&[("SSL_CERT_FILE", &other)], &[&url]).await;
    assert!(said[0].contains("UnknownIssuer"), "{said:?}");
    let said = fetched(&[("SSL_CERT_FILE", "/is/not/there.pem")], &[&url]).await;
    assert!(said[0].contains("no TLS with 127.0.0.1: "), "{said:?}");
}

#[tokio::test]
async fn proxies_that_variables_name_are_used() {
    let authority = Authority::new("own");
    let port = authority.serve("good.example", ok(b"sealed")).await.port;
    let proxy = Server::new(move |mut stream, asked| async move {
        if asked.path.starts_with("http://") {
            return send(&mut stream, &ok(b"by proxy")).await;
        }
        let mut origin = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        send(&mut stream, b"HTTP/1.1 200 Connected\r\n\r\n").await;
        let _ = tokio::io::copy_bidirectional(&mut stream, &mut origin).await;
    })
    .await;
    let direct = Server::always(ok(b"direct")).await;
    let folder = tempfile::tempdir().unwrap();
    let trusted = folder.path().join("authority.pem");
    std::fs::write(&trusted, authority.pem()).unwrap();
    let (trusted, own) = (trusted.to_str().unwrap(), direct.url("/"));
    let urls = ["http://good.example/x", "https://good.example/y", &own];
    let address = format!("http://me:pw@{}", proxy.address);
    for (http, https) in [("HTTP_PROXY", "HTTPS_PROXY"), ("http_proxy", "https_proxy")] {
        let variables = [(http, &*address), (https, &address), ("no_proxy", "127.0.0.0/8")];
        let variables = [&variables[..], &[("SSL_CERT_FILE", trusted)]].concat();
        let said = fetched(&variables, &urls).await;
        for (line, bytes) in said.iter().zip([&b"by proxy"[..], b"sealed", b"direct"]) {
            assert!(is_fetched(line, bytes), "{said:?}");
        }
    }
    let seen: Vec<_> = proxy
        .asked()
        .into_iter()
        .map(|asked| {
            assert_eq!(asked.header("proxy-authorization"), Some("basic bwu6chc="));
            asked.path
        })
        .collect();
    assert_eq!(seen, ["http://good.example/x", "good.example:443"].repeat(2));
    // With nothing but this, even loopback is asked for through it; and one that we do not speak to is not gone without.
    let said = fetched(&[("ALL_PROXY", &address)], &[&own]).await;
    assert!(is_fetched(&said[0], b"by proxy"), "{said:?}");
    let said = fetched(&[("ALL_PROXY", "socks5://me:secret@127.0.0.1:1")], &[&own]).await;
    assert!(said[0].contains("is of socks5") && !said[0].contains("secret"), "{said:?}");
    assert_eq!(direct.asked().len(), 2);
}
