//! Directories fetched from repositories of git, which a server on loopback has.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod hostile;
mod repository;
#[path = "../rig/mod.rs"]
mod rig;
mod surroundings;

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant, SystemTime},
};

use bbb_asset::{Failed, FetchError, Found, Kind};
use bbb_digest::{Digest, Function};
use bbb_reapi::Directory;
use bbb_storage::CasExt as _;
use repository::{Repository, answer, files, smart};
use rig::{Rig, Server, send, with_headers};

const LOOPBACK: &[&str] = &["127.0.0.1"];

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
    let server = files(repository.root()).await;
    let rig = Rig::new(LOOPBACK);
    for (pairs, expected) in
        [(("vcs.commit", repository.first.as_str()), &FIRST[..]), (("vcs.branch", "main"), &SECOND)]
    {
        let found = fetch(&rig, &server.url("/it.git/"), &[pairs]).await.unwrap();
        assert_eq!(tree(&rig, found.content).await, expected);
    }
    for pair in [("vcs.commit", &*"0123456789".repeat(4)), ("vcs.branch", "none")] {
        let (failed, what) = failure(&rig, &server.url("/it.git/"), &[pair]).await;
        assert_eq!(failed, Failed::NotFound, "{what}");
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
    let page = Server::always(with_headers("200 OK", &[], b"<html>Welcome!</html>")).await;
    let (url, absent) = (server.url("/it.git"), "0123456789".repeat(4));
    let sha256 = absent.clone() + &absent[..24];
    for (url, pair, story) in [
        (&server.url("/no.git"), ("vcs.branch", "main"), "404"),
        (&page.url("/it.git"), ("vcs.branch", "main"), "no repository"),
        (&url, ("vcs.branch", "none"), "refs/heads/none"),
        (&url, ("vcs.commit", &*absent), "not our ref"),
        (&url, ("vcs.commit", &*sha256), "no sha256 commits"),
        (&url, ("directory", "none"), "no such directory"),
    ] {
        let (failed, what) =
            failure(&rig, url, &[pair, ("resource_type", "application/x-git")]).await;
        assert_eq!(failed, Failed::NotFound, "{what}");
        assert!(what.contains(story), "{what}");
    }
    assert_eq!((rig.holds().1, rig.holds().2), (0, 0));
}

#[tokio::test]
async fn a_commit_is_on_the_branch_that_is_named() {
    let repository = Repository::new();
    let (first, second) = (&*repository.first, &*repository.second);
    let rig = Rig::new(LOOPBACK);
    for server in [smart(repository.root()).await, files(repository.root()).await] {
        for (commit, branch, expected) in [
            (second, "main", Some(&SECOND[..])),
            (first, "main", Some(&FIRST[..])),
            (first, "other/branch", Some(&FIRST[..])),
            (second, "other/branch", None),
            (first, "none", None),
        ] {
            let pairs = [("vcs.commit", commit), ("vcs.branch", branch)];
            match expected {
                Some(lines) => {
                    let found = fetch(&rig, &server.url("/it.git"), &pairs).await.unwrap();
                    assert_eq!(tree(&rig, found.content).await, lines, "{pairs:?}");
                }
                None => {
                    let (failed, what) = failure(&rig, &server.url("/it.git"), &pairs).await;
                    assert_eq!(failed, Failed::NotFound, "{pairs:?}: {what}");
                }
            }
        }
    }
    assert_eq!(rig.holds().2, 0);
}

#[tokio::test]
async fn what_cannot_be_a_revision_is_asked_of_nobody() {
    let (server, rig) = (Server::always("").await, Rig::new(LOOPBACK));
    let sri = rig::sri(b"x");
    for pairs in [
        &[("vcs.commit", "main")][..],
        &[("vcs.branch", "a:b")],
        &[("vcs.branch", "main"), ("checksum.sri", &sri)],
    ] {
        let failed = fetch(&rig, &server.url("/it.git"), pairs).await;
        assert!(matches!(failed, Err(FetchError::Invalid(_))), "{failed:?}");
    }
    assert_eq!(server.asked().len(), 0);
}

#[tokio::test]
async fn a_commit_is_asked_for_again_by_those_alone_who_want_it_newer() {
    let repository = Repository::new();
    let (server, rig) = (smart(repository.root()).await, Rig::new(LOOPBACK));
    let mut wanted = rig::wanted_as(
        Kind::Directory,
        &[&server.url("/it.git")],
        &[("vcs.commit", &repository.first)],
    );
    let found = rig.find_or_fetch(wanted.clone()).await.unwrap();
    let asked = server.asked().len();
    wanted.oldest = Some(SystemTime::now() - Duration::from_secs(60));
    assert_eq!(rig.find_or_fetch(wanted.clone()).await.unwrap(), found);
    assert_eq!(server.asked().len(), asked);
    wanted.oldest = Some(SystemTime::now() + Duration::from_secs(60));
    assert_eq!(rig.find_or_fetch(wanted).await.unwrap(), found);
    assert!(server.asked().len() > asked);
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
    for host in ["repositories.test", "Repositories.Test."] {
        let url = format!("http://{host}:{}/it.git", server.address.port());
        let found = fetch(&rig, &url, &branch).await.unwrap();
        assert_eq!(tree(&rig, found.content).await, SECOND);
    }
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

#[tokio::test]
async fn a_repository_is_tried_again_and_leaves_the_others_their_time() {
    let repository = Repository::new();
    let (root, count) = (repository.root(), AtomicUsize::new(0));
    let busy = Server::new(move |mut stream, asked| {
        let (root, is_first) = (root.clone(), count.fetch_add(1, Ordering::Relaxed) == 0);
        async move {
            match is_first {
                true => send(&mut stream, &with_headers("502 Bad Gateway", &[], b"later")).await,
                false => answer(root, stream, asked).await,
            }
        }
    })
    .await;
    let silent = Server::new(|stream, _| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let rig = Rig::new(LOOPBACK);
    let urls = [silent.url("/it.git"), busy.url("/it.git")];
    let urls = urls.each_ref().map(String::as_str);
    let mut wanted = rig::wanted_as(Kind::Directory, &urls, &[("vcs.branch", "main")]);
    wanted.timeout = Some(Duration::from_secs(4));
    let found = rig.find_or_fetch(wanted).await.unwrap();
    assert_eq!((found.uri, tree(&rig, found.content).await), (1, SECOND.map(str::to_owned).into()));
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
    settled(&rig).await;
}

/// Waits until git is killed, and its folder gone.
async fn settled(rig: &Rig) {
    let (began, folder) = (Instant::now(), rig.scratch());
    while rig.holds().2 > 0 || is_running(folder.to_str().unwrap()) {
        assert!(began.elapsed() < Duration::from_secs(20), "it goes on");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
