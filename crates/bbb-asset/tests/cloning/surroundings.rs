//! What a process finds around it: whom it trusts, by which proxy it goes, whether there is a git at all. All of it is told by
//! the environment, so that each of these fetches runs in a process of its own.

use std::{
    process::{Command, Stdio},
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bbb_asset::{Origins, Reach};
use bbb_lifecycle::TaskGroup;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task,
};

use crate::{
    FIRST, fetch,
    repository::{Repository, smart},
    rig::{Rig, Server, send, with_headers},
    tree,
};

/// Tells a fetch in a process of its own what to fetch, and where it may go.
const URL: &str = "BBB_TEST_URL";
const COMMIT: &str = "BBB_TEST_COMMIT";
const ALLOW: &str = "BBB_TEST_ALLOW";

#[tokio::test]
#[ignore = "other tests run it, each in its own surroundings"]
async fn fetch_here() {
    let get = |name: &str| std::env::var(name).unwrap();
    let allow = vec![get(ALLOW).parse().unwrap()];
    let reach = Reach::new(allow, Vec::new(), Arc::new(|_| false));
    let roots = rustls::RootCertStore::empty();
    let rig = Rig::trusting(&[], bbb_asset::system_lookup(), roots, |_| Origins::from_env(reach));
    match fetch(&rig, &get(URL), &[("vcs.commit", &get(COMMIT))]).await {
        Ok(found) => println!("told: {:?}", tree(&rig, found.content).await),
        Err(error) => println!("told: {error:?}"),
    }
}

/// What becomes of fetching a commit where the environment says this, too.
async fn told(url: &str, commit: &str, allow: &str, environment: &[(&str, &str)]) -> String {
    let mut here = Command::new(std::env::current_exe().unwrap());
    here.args(["--exact", "surroundings::fetch_here", "--ignored", "--nocapture"]);
    for proxy in ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"] {
        here.env_remove(proxy).env_remove(proxy.to_lowercase());
    }
    here.env(URL, url).env(COMMIT, commit).env(ALLOW, allow).envs(environment.iter().copied());
    here.stderr(Stdio::inherit());
    let output = task::spawn_blocking(move || here.output().unwrap()).await.unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    let (_, told) = output.split_once("told: ").unwrap_or_else(|| panic!("{output}"));
    told.lines().next().unwrap().to_owned()
}

/// TLS before a server: where it is, and the certificate that it shows, in PEM.
async fn sealed(server: &Server, name: &str) -> (u16, String) {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
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
    let (behind, tasks) = (server.address, TaskGroup::new("sealed"));
    let group = tasks.clone();
    tasks.spawn("accept", async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            group.spawn("carry", async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut behind = TcpStream::connect(behind).await.unwrap();
                let _ = copy_bidirectional(&mut stream, &mut behind).await;
            });
        }
    });
    let certificate = STANDARD.encode(made.cert.der());
    (port, format!("-----BEGIN CERTIFICATE-----\n{certificate}\n-----END CERTIFICATE-----\n"))
}

/// A proxy that carries tunnels to a port of loopback, for those whom it knows.
async fn proxy(port: u16) -> Server {
    Server::new(move |mut stream, asked| async move {
        if asked.header("proxy-authorization") != Some("basic bwu6cc93") {
            return send(&mut stream, &with_headers("407 Login", &[], b"")).await;
        }
        let mut origin = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        send(&mut stream, b"HTTP/1.1 200 Connected\r\n\r\n").await;
        let _ = copy_bidirectional(&mut stream, &mut origin).await;
    })
    .await
}

#[tokio::test]
async fn git_trusts_whom_the_environment_names() {
    let repository = Repository::new();
    let server = smart(repository.root()).await;
    let (port, certificate) = sealed(&server, "localhost").await;
    let trusted = tempfile::tempdir().unwrap();
    let file = trusted.path().join("own.pem");
    std::fs::write(&file, certificate).unwrap();
    let (file, folder) = (file.to_str().unwrap(), trusted.path().to_str().unwrap());
    let (_, stranger) = sealed(&server, "localhost").await;
    let others = tempfile::tempdir().unwrap();
    let other = others.path().join("other.pem");
    std::fs::write(&other, stranger).unwrap();
    let other = other.to_str().unwrap();
    let url = format!("https://localhost:{port}/it.git");
    for (environment, is_trusted) in [
        (&[("SSL_CERT_FILE", file)][..], true),
        (&[("SSL_CERT_DIR", folder)], true),
        (&[("SSL_CERT_FILE", other), ("SSL_CERT_DIR", folder)], true),
        (&[("SSL_CERT_FILE", other)], false),
    ] {
        let told = told(&url, &repository.first, "localhost", environment).await;
        match is_trusted {
            true => assert_eq!(told, format!("{FIRST:?}"), "{environment:?}"),
            false => assert!(told.contains("certificate"), "{told}"),
        }
    }
    let asked = server.asked();
    assert!(asked.iter().any(|asked| asked.path.ends_with("git-upload-pack")));
}

#[tokio::test]
async fn git_goes_through_the_proxy_of_the_environment() {
    let repository = Repository::new();
    let server = smart(repository.root()).await;
    let (port, certificate) = sealed(&server, "repositories.test").await;
    let proxy = proxy(port).await;
    let trusted = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(trusted.path(), certificate).unwrap();
    // The password is "p/w".
    let login = |login: &str| format!("http://{login}@{}", proxy.address);
    let (known, unknown) = (login("me:p%2Fw"), login("me:x"));
    let file = trusted.path().to_str().unwrap();
    for (proxy, expected) in [(&known, format!("{FIRST:?}")), (&unknown, "407".to_owned())] {
        let environment = [("SSL_CERT_FILE", file), ("HTTPS_PROXY", proxy)];
        let url = "https://repositories.test/it.git";
        let told = told(url, &repository.first, "10.0.0.1", &environment).await;
        assert!(told.contains(&expected), "{told}");
        assert!(!told.contains("p/w") && !told.contains("p%2Fw"), "{told}");
    }
    let asked = proxy.asked();
    assert!(asked.len() >= 3);
    assert!(asked.iter().all(|asked| asked.path == "repositories.test:443"));
}

#[tokio::test]
async fn a_node_without_git_says_so() {
    let repository = Repository::new();
    let server = smart(repository.root()).await;
    let none = tempfile::tempdir().unwrap();
    let environment = [("PATH", none.path().to_str().unwrap())];
    let told = told(&server.url("/it.git"), &repository.first, "127.0.0.1", &environment).await;
    assert_eq!(told, "NoGit");
}
