//! A repository, and a server that gives it away as git's own program for that does.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tokio::{io::AsyncReadExt as _, net::TcpStream, task};

use crate::rig::{Asked, Server, redirect, send, with_headers};

/// A repository with two commits on `main` and one on `other`.
pub(super) struct Repository {
    folder: tempfile::TempDir,
    pub(super) first: String,
    pub(super) second: String,
}

impl Repository {
    pub(super) fn new() -> Self {
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
        git(&folder.path().join("it.git"), &["config", "uploadpack.allowFilter", "true"]);
        git(&folder.path().join("it.git"), &["update-server-info"]);
        Self { folder, first, second }
    }

    pub(super) fn root(&self) -> PathBuf {
        self.folder.path().to_owned()
    }
}

pub(super) fn git(folder: &Path, arguments: &[&str]) -> String {
    git_reading("", folder, arguments)
}

pub(super) fn git_reading(input: &str, folder: &Path, arguments: &[&str]) -> String {
    let mut git = Command::new("git");
    git.args(["-c", "user.name=a", "-c", "user.email=a@b", "-c", "core.safecrlf=false"]);
    git.args(arguments).current_dir(folder).env("GIT_CONFIG_GLOBAL", "/dev/null");
    let mut git = git.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    git.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = git.wait_with_output().unwrap();
    assert!(output.status.success(), "git {arguments:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A server of the repositories in a folder, by git's own program for that.
pub(super) async fn smart(root: PathBuf) -> Server {
    Server::new(move |stream, asked| answer(root.clone(), stream, asked)).await
}

/// A server of a folder that knows nothing of git.
pub(super) async fn files(root: PathBuf) -> Server {
    Server::new(move |mut stream, asked| {
        let path = asked.path.split('?').next().unwrap_or_default();
        let answer = match std::fs::read(root.join(&path[1..])) {
            Ok(bytes) => with_headers("200 OK", &[("connection", "close")], &bytes),
            Err(_) => with_headers("404 Not Found", &[("connection", "close")], b"none"),
        };
        async move { send(&mut stream, &answer).await }
    })
    .await
}

pub(super) async fn answer(root: PathBuf, mut stream: TcpStream, asked: Asked) {
    if let Some(path) = asked.path.strip_prefix("/moved") {
        return send(&mut stream, &redirect(path)).await;
    }
    let body = body(&mut stream, &asked).await;
    answer_to(root, stream, asked, body).await;
}

pub(super) async fn body(stream: &mut TcpStream, asked: &Asked) -> Vec<u8> {
    let length = asked.header("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    body
}

pub(super) async fn answer_to(root: PathBuf, mut stream: TcpStream, asked: Asked, body: Vec<u8>) {
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
    let _ = child.stdin.take().unwrap().write_all(body);
    let said = child.wait_with_output().unwrap().stdout;
    let end = said.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(said[..end].to_vec()).unwrap();
    let headers: Vec<(&str, &str)> =
        head.lines().filter_map(|line| line.split_once(": ")).collect();
    let status = headers.iter().find(|(name, _)| *name == "Status").map_or("200 OK", |(_, s)| s);
    with_headers(status, &[&headers[..], &[("connection", "close")]].concat(), &said[end + 4..])
}
