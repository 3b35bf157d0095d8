//! Directories fetched from repositories of git, which a server on loopback has.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod rig;

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant, SystemTime},
};

use bbb_asset::{Failed, FetchError, Found, Kind};
use bbb_digest::{Digest, Function};
use bbb_reapi::Directory;
use bbb_storage::CasExt as _;
use rig::{Asked, Rig, Server, redirect, send, with_headers};
use tokio::{io::AsyncReadExt as _, net::TcpStream, task};

const LOOPBACK: &[&str] = &["127.0.0.1"];

/// A repository with two commits on `main` and one on `other`.
struct Repository {
    folder: tempfile::TempDir,
    first: String,
    second: String,
}

impl Repository {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let work = folder.path().join("work");
        std::fs::create_dir(&work).unwrap();
        git(&work, &["init", "-q", "-b", "main"]);
        let write = |name: &str, text: &str| {
            std::fs::create_dir_all(work.join(name).parent().unwrap()).unwrap();
            std::fs::write(work.join(name), text).unwrap();
        };
        write("src/a", "first\n");
        write("run", "#!/bin/sh\n");
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(work.join("run"), executable).unwrap();
        git(&work, &["add", "-A"]);
        git(&work, &["commit", "-qm", "first"]);
        let first = git(&work, &["rev-parse", "HEAD"]);
        write("src/a", "second\n");
        // What is packed for others would not be what was committed.
        write(".gitattributes", "* text eol=crlf\nsecret export-ignore\nid export-subst ident\n");
        write("secret", "not to be packed\n");
        write("id", "$Format:%H$ $Id$\n");
        std::os::unix::fs::symlink("src/a", work.join("link")).unwrap();
        git(&work, &["add", "-A"]);
        git(&work, &["commit", "-qm", "second"]);
        let second = git(&work, &["rev-parse", "HEAD"]);
        git(&work, &["checkout", "-q", "-b", "other/branch", &first]);
        write("src/b", "other\n");
        git(&work, &["add", "-A"]);
        git(&work, &["commit", "-qm", "other"]);
        git(&work, &["checkout", "-q", "main"]);
        git(folder.path(), &["clone", "-q", "--bare", "work", "it.git"]);
        git(&folder.path().join("it.git"), &["update-server-info"]);
        Self { folder, first, second }
    }

    fn root(&self) -> PathBuf {
        self.folder.path().to_owned()
    }
}

fn git(folder: &Path, arguments: &[&str]) -> String {
    let mut git = Command::new("git");
    git.args(["-c", "user.name=a", "-c", "user.email=a@b", "-c", "core.safecrlf=false"]);
    git.args(arguments).current_dir(folder).env("GIT_CONFIG_GLOBAL", "/dev/null");
    let output = git.stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "git {arguments:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A server of the repositories in a folder, by git's own program for that.
async fn smart(root: PathBuf) -> Server {
    Server::new(move |stream, asked| answer(root.clone(), stream, asked)).await
}

async fn answer(root: PathBuf, mut stream: TcpStream, asked: Asked) {
    if let Some(path) = asked.path.strip_prefix("/moved") {
        return send(&mut stream, &redirect(path)).await;
    }
    let length = asked.header("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    let answer = task::spawn_blocking(move || backend(&root, &asked, &body)).await.unwrap();
    send(&mut stream, &answer).await;
}

fn backend(root: &Path, asked: &Asked, body: &[u8]) -> Vec<u8> {
    let (path, query) = asked.path.split_once('?').unwrap_or((&asked.path, ""));
    let mut backend = Command::new("git");
    backend.arg("http-backend").env("GIT_PROJECT_ROOT", root).env("GIT_HTTP_EXPORT_ALL", "1");
    backend.env("PATH_INFO", path).env("QUERY_STRING", query).env("REMOTE_ADDR", "127.0.0.1");
    backend.env("REQUEST_METHOD", if body.is_empty() { "GET" } else { "POST" });
    for (name, variable) in [
        ("content-type", "CONTENT_TYPE"),
        ("content-length", "CONTENT_LENGTH"),
        ("content-encoding", "HTTP_CONTENT_ENCODING"),
        ("git-protocol", "GIT_PROTOCOL"),
    ] {
        backend.env(variable, asked.header(name).unwrap_or_default());
    }
    let mut child =
        backend.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let _ = std::io::Write::write_all(&mut child.stdin.take().unwrap(), body);
    let said = child.wait_with_output().unwrap().stdout;
    let end = said.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(said[..end].to_vec()).unwrap();
    let headers: Vec<(&str, &str)> =
        head.lines().filter_map(|line| line.split_once(": ")).collect();
    let status = headers.iter().find(|(name, _)| *name == "Status").map_or("200 OK", |(_, s)| s);
    with_headers(status, &[&headers[..], &[("connection", "close")]].concat(), &said[end + 4..])
}

async fn fetch(rig: &Rig, url: &str, pairs: &[(&str, &str)]) -> Result<Found, FetchError> {
    rig.assets.fetch(rig::wanted_as(Kind::Directory, &[url], pairs), SystemTime::now()).await
}

async fn failure(rig: &Rig, url: &str, pairs: &[(&str, &str)]) -> (Failed, String) {
    match fetch(rig, url, pairs).await {
        Err(FetchError::Outside { failed, what, .. }) => (failed, what),
        other => panic!("fetched {url}: {other:?}"),
    }
}

/// The files of a tree and what is in them, one line each.
async fn tree(rig: &Rig, root: Digest) -> Vec<String> {
    let (mut lines, mut left) = (Vec::new(), vec![(String::new(), root)]);
    while let Some((path, digest)) = left.pop() {
        let bytes = rig.stores.cas.get_bytes(digest, 1 << 20).await.unwrap();
        let directory = Directory::decode(Function::Sha256, &bytes).unwrap();
        for file in directory.files {
            let bytes = rig.stores.cas.get_bytes(file.digest, 1 << 20).await.unwrap();
            let star = if file.is_executable { "*" } else { "" };
            let text = String::from_utf8_lossy(&bytes).into_owned();
            lines.push(format!("{path}{}{star} = {text:?}", file.name.as_str()));
        }
        for link in directory.symlinks {
            lines.push(format!("{path}{} -> {}", link.name.as_str(), link.target));
        }
        for below in directory.directories {
            left.push((format!("{path}{}/", below.name.as_str()), below.digest));
        }
    }
    lines.sort();
    lines
}

const FIRST: [&str; 2] = [r##"run* = "#!/bin/sh\n""##, r#"src/a = "first\n""#];
const SECOND: [&str; 6] = [
    r##".gitattributes = "* text eol=crlf\nsecret export-ignore\nid export-subst ident\n""##,
    r#"id = "$Format:%H$ $Id$\n""#,
    "link -> src/a",
    r##"run* = "#!/bin/sh\n""##,
    r#"secret = "not to be packed\n""#,
    r#"src/a = "second\n""#,
];

#[tokio::test]
async fn a_revision_becomes_the_tree_that_was_committed() {
    let repository = Repository::new();
    let (server, rig) = (smart(repository.root()).await, Rig::new(LOOPBACK));
    let url = server.url("/it.git");
    for (pairs, expected) in [
        (("vcs.commit", repository.first.as_str()), &FIRST[..]),
        (("vcs.commit", &repository.second.to_uppercase()), &SECOND),
        (("vcs.branch", "main"), &SECOND),
        (("resource_type", "application/x-git"), &SECOND),
        (("vcs.branch", "other/branch"), &[FIRST[0], FIRST[1], r#"src/b = "other\n""#]),
    ] {
        let found = fetch(&rig, &url, &[pairs]).await.unwrap();
        assert_eq!(tree(&rig, found.content).await, expected, "{pairs:?}");
        let asked = server.asked().len();
        assert_eq!(fetch(&rig, &url, &[pairs]).await.unwrap(), found);
        assert_eq!(server.asked().len(), asked, "it is not remembered");
    }
    let pairs = [("vcs.commit", repository.first.as_str()), ("directory", "src")];
    let found = fetch(&rig, &url, &pairs).await.unwrap();
    assert_eq!(tree(&rig, found.content).await, [r#"a = "first\n""#]);
    assert_eq!(rig.holds().2, 0);
}

#[tokio::test]
async fn a_repository_may_be_nothing_but_files() {
    let repository = Repository::new();
    let root = repository.root();
    let server = Server::new(move |mut stream, asked| {
        let path = asked.path.split('?').next().unwrap_or_default();
        let answer = match std::fs::read(root.join(&path[1..])) {
            Ok(bytes) => with_headers("200 OK", &[("connection", "close")], &bytes),
            Err(_) => with_headers("404 Not Found", &[("connection", "close")], b"none"),
        };
        async move { send(&mut stream, &answer).await }
    })
    .await;
    let rig = Rig::new(LOOPBACK);
    for (pairs, expected) in
        [(("vcs.commit", repository.first.as_str()), &FIRST[..]), (("vcs.branch", "main"), &SECOND)]
    {
        let found = fetch(&rig, &server.url("/it.git/"), &[pairs]).await.unwrap();
        assert_eq!(tree(&rig, found.content).await, expected);
    }
}

#[tokio::test]
async fn redirects_are_followed_before_git_is_asked() {
    let repository = Repository::new();
    let (server, rig) = (smart(repository.root()).await, Rig::new(LOOPBACK));
    let commit = [("vcs.commit", repository.first.as_str())];
    let found = fetch(&rig, &server.url("/moved/it.git"), &commit).await.unwrap();
    assert_eq!(tree(&rig, found.content).await, FIRST);
}

#[tokio::test]
async fn what_is_not_there_is_told() {
    let repository = Repository::new();
    let (server, rig) = (smart(repository.root()).await, Rig::new(LOOPBACK));
    let (url, absent) = (server.url("/it.git"), "0123456789".repeat(4));
    for (url, pair, expected, story) in [
        (&server.url("/no.git"), ("vcs.branch", "main"), Failed::NotFound, "404"),
        (&url, ("vcs.branch", "none"), Failed::Aborted, "refs/heads/none"),
        (&url, ("vcs.commit", &*absent), Failed::Aborted, "git fetch fails"),
        (&url, ("vcs.commit", "main"), Failed::Aborted, "whole hash"),
        (&url, ("vcs.commit", "--upload-pack=x"), Failed::Aborted, "whole hash"),
        (&url, ("vcs.branch", "a:b"), Failed::Aborted, "no name"),
        (&url, ("vcs.branch", ""), Failed::Aborted, "no name"),
    ] {
        let (failed, what) = failure(&rig, url, &[pair]).await;
        assert_eq!(failed, expected, "{what}");
        assert!(what.contains(story), "{what}");
    }
    let sri = rig::sri(b"x");
    let (_, what) = failure(&rig, &url, &[("vcs.branch", "main"), ("checksum.sri", &sri)]).await;
    assert!(what.contains("use vcs.commit"), "{what}");
    assert_eq!((rig.holds().1, rig.holds().2), (0, 0));
}

#[tokio::test]
async fn git_goes_nowhere_but_where_it_may() {
    let repository = Repository::new();
    let server = smart(repository.root()).await;
    let branch = [("vcs.branch", "main")];
    let (failed, what) = failure(&Rig::new(&[]), &server.url("/it.git"), &branch).await;
    assert_eq!(failed, Failed::Denied, "{what}");
    assert_eq!(server.asked().len(), 0);
    // By a name that nobody but this test knows: git is told of the address, too.
    let everywhere = rig::everything_at([127, 0, 0, 1].into());
    let rig = Rig::looking_up(&["repositories.test"], everywhere);
    let url = format!("http://repositories.test:{}/it.git", server.address.port());
    let found = fetch(&rig, &url, &branch).await.unwrap();
    assert_eq!(tree(&rig, found.content).await, SECOND);
}

#[tokio::test]
async fn headers_of_a_client_are_sent_along() {
    let repository = Repository::new();
    let (server, rig) = (smart(repository.root()).await, Rig::new(LOOPBACK));
    let pairs = [("vcs.branch", "main"), ("http_header:authorization", "Bearer secret")];
    fetch(&rig, &server.url("/it.git"), &pairs).await.unwrap();
    let asked = server.asked();
    assert!(asked.len() >= 3);
    assert!(asked.iter().all(|asked| asked.header("authorization") == Some("bearer secret")));
}

/// Whether any process has this in its environment.
fn is_running(text: &str) -> bool {
    std::fs::read_dir("/proc").unwrap().flatten().any(|process| {
        let environment = std::fs::read(process.path().join("environ")).unwrap_or_default();
        environment.windows(text.len()).any(|window| window == text.as_bytes())
    })
}

#[tokio::test]
async fn git_ends_when_time_is_up() {
    let repository = Repository::new();
    let root = repository.root();
    // It greets, and then says nothing.
    let server = Server::new(move |stream, asked| {
        let root = root.clone();
        async move {
            if asked.path.contains("info/refs") {
                answer(root, stream, asked).await;
            } else {
                let _stream = stream;
                std::future::pending::<()>().await;
            }
        }
    })
    .await;
    let rig = Rig::new(LOOPBACK);
    let mut fetch =
        rig::wanted_as(Kind::Directory, &[&server.url("/it.git")], &[("vcs.branch", "main")]);
    fetch.timeout = Some(Duration::from_secs(2));
    let began = Instant::now();
    let folder = rig.scratch();
    let folder = folder.to_str().unwrap();
    let started = async {
        while !is_running(folder) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let (ended, ()) = tokio::join!(rig.assets.fetch(fetch, SystemTime::now()), started);
    let error = ended.unwrap_err();
    assert!(matches!(error, FetchError::Outside { failed: Failed::TooLate, .. }), "{error:?}");
    assert!(began.elapsed() < Duration::from_secs(20));
    // Killed, and its folder gone.
    while rig.holds().2 > 0 || is_running(folder) {
        assert!(began.elapsed() < Duration::from_secs(20), "it goes on");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
