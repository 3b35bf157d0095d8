//! Servers and repositories that mean no good.

use bbb_asset::Failed;
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use crate::{
    LOOPBACK, failure, fetch,
    repository::{Repository, answer, answer_to, body, git, git_reading, smart},
    rig::{Asked, Rig, Server, redirect, send, with_headers},
    settled, tree,
};

const BRANCH: [(&str, &str); 1] = [("vcs.branch", "main")];

/// A server of a repository that answers what git asks for, once it knows what there is, by `serve`.
async fn turning<F>(
    repository: &Repository,
    serve: impl Fn(TcpStream) -> F + Clone + Send + Sync + 'static,
) -> Server
where
    F: Future<Output = ()> + Send + 'static,
{
    let root = repository.root();
    Server::new(move |mut stream: TcpStream, asked: Asked| {
        let (root, serve) = (root.clone(), serve.clone());
        async move {
            if asked.path.contains("info/refs") {
                return answer(root, stream, asked).await;
            }
            let said = body(&mut stream, &asked).await;
            match said.windows(13).any(|window| window == b"command=fetch") {
                true => serve(stream).await,
                false => answer_to(root, stream, asked, said).await,
            }
        }
    })
    .await
}

#[tokio::test]
async fn git_is_sent_on_to_nowhere() {
    let (repository, elsewhere) = (Repository::new(), Server::always("").await);
    let to = redirect(&elsewhere.url("/it.git/git-upload-pack"));
    let server = turning(&repository, move |mut stream| {
        let to = to.clone();
        async move { send(&mut stream, &to).await }
    })
    .await;
    let (failed, what) = failure(&Rig::new(LOOPBACK), &server.url("/it.git"), &BRANCH).await;
    assert_eq!(failed, Failed::Aborted, "{what}");
    assert_eq!(elsewhere.asked().len(), 0);
}

#[tokio::test]
async fn a_repository_of_files_borrows_from_nobody() {
    let (repository, elsewhere) = (Repository::new(), Server::always("").await);
    let (root, there) = (repository.root(), elsewhere.url("/it.git/objects\n"));
    let server = Server::new(move |mut stream, asked| {
        let path = asked.path.split('?').next().unwrap_or_default();
        let closed = [("connection", "close")];
        let answer = match path {
            "/it.git/objects/info/http-alternates" | "/it.git/objects/info/alternates" => {
                with_headers("200 OK", &closed, there.as_bytes())
            }
            path if path.contains("info/refs") || path.ends_with("HEAD") => {
                with_headers("200 OK", &closed, &std::fs::read(root.join(&path[1..])).unwrap())
            }
            _ => with_headers("404 Not Found", &closed, b"none"),
        };
        async move { send(&mut stream, &answer).await }
    })
    .await;
    let (failed, what) = failure(&Rig::new(LOOPBACK), &server.url("/it.git"), &BRANCH).await;
    assert_eq!(failed, Failed::Aborted, "{what}");
    assert_eq!(elsewhere.asked().len(), 0);
}

/// A line of git's protocol on one of its bands (gitprotocol-common, gitprotocol-pack).
fn on_band(band: u8, bytes: &[u8]) -> Vec<u8> {
    [format!("{:04x}", bytes.len() + 5).as_bytes(), &[band], bytes].concat()
}

/// Says `first`, and then `next` until nobody listens.
async fn for_ever(mut stream: TcpStream, first: Vec<u8>, next: Vec<u8>) {
    let head = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-git-upload-pack-result\r\n\
        connection: close\r\n\r\n000dpackfile\n";
    send(&mut stream, &[head, &*first].concat()).await;
    while stream.write_all(&next).await.is_ok() {}
}

#[tokio::test]
async fn what_does_not_end_is_ended() {
    let repository = Repository::new();
    // One object that says it has 2^60 bytes, and they come; or just talk.
    let pack = [b"PACK", &[0, 0, 0, 2, 0, 0, 0, 1][..], &[0xb0], &[0x80; 7], &[0x01, 0x78, 0x01]];
    let block = [&[0, 0, 0x80, 0xff, 0x7f][..], &[7; 0x8000]].concat();
    let talk = b"nothing to say \x1b[31m but much of it\n".repeat(1000);
    for (first, next) in [
        (on_band(1, &pack.concat()), on_band(1, &block)),
        (on_band(2, b"well\n"), on_band(2, &talk)),
    ] {
        let serve = move |stream| for_ever(stream, first.clone(), next.clone());
        let (server, rig) = (turning(&repository, serve).await, Rig::new(LOOPBACK));
        let (failed, what) = failure(&rig, &server.url("/it.git"), &BRANCH).await;
        assert_eq!(failed, Failed::Exhausted, "{what}");
        assert!(what.contains("more than the 4194304 bytes"), "{what}");
        settled(&rig).await;
    }
}

#[tokio::test]
async fn what_a_repository_says_is_done_by_nobody() {
    let repository = Repository::new();
    let work = repository.root().join("work");
    let mark = repository.root().join("mark");
    let command = format!("sh -c 'touch {}'", mark.display());
    let write = |name: &str, text: String| std::fs::write(work.join(name), text).unwrap();
    write(".gitmodules", format!("[submodule \"sub\"]\n\tpath = sub\n\turl = ext::{command}\n"));
    write(".gitattributes", "* filter=evil diff=evil merge=evil\n".to_owned());
    write(".gitconfig", format!("[filter \"evil\"]\n\tsmudge = {command}\n"));
    git(&work, &["add", "-A"]);
    let sub = format!("160000,{},sub", repository.first);
    git(&work, &["update-index", "--add", "--cacheinfo", &sub]);
    git(&work, &["commit", "-qm", "evil"]);
    let bare = repository.root().join("it.git");
    git(&bare, &["fetch", "-q", "../work", "+main:main"]);
    let hook = bare.join("hooks/post-checkout");
    std::fs::create_dir_all(hook.parent().unwrap()).unwrap();
    std::fs::write(&hook, format!("#!/bin/sh\n{command}\n")).unwrap();
    let (server, rig) = (smart(repository.root()).await, Rig::new(LOOPBACK));
    let found = fetch(&rig, &server.url("/it.git"), &BRANCH).await.unwrap();
    let lines = tree(&rig, found.content).await;
    assert!(lines.iter().any(|line| line.starts_with(".gitmodules = ")), "{lines:?}");
    assert!(!lines.iter().any(|line| line.starts_with("sub")), "{lines:?}");
    assert!(!mark.exists());
}

#[tokio::test]
async fn a_tree_that_leads_out_is_refused() {
    let repository = Repository::new();
    let bare = repository.root().join("it.git");
    let entry = |entry: &str| git_reading(&format!("{entry}\n"), &bare, &["mktree"]);
    let blob = git(&bare, &["rev-parse", "main:run"]);
    let tree = entry(&format!("100644 blob {blob}\tpasswd"));
    for evil in [
        format!("040000 tree {tree}\t.."),
        format!("040000 tree {tree}\t."),
        format!("100644 blob {blob}\t.."),
    ] {
        let commit = git(&bare, &["commit-tree", "-m", "evil", &entry(&evil)]);
        git(&bare, &["update-ref", "refs/heads/evil", &commit]);
        let (server, rig) = (smart(repository.root()).await, Rig::new(LOOPBACK));
        let (failed, what) = failure(&rig, &server.url("/it.git"), &[("vcs.branch", "evil")]).await;
        assert_eq!(failed, Failed::Aborted, "{evil:?}: {what}");
        assert_eq!(rig.holds().1, 0);
    }
}
