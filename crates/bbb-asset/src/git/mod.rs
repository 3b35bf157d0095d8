//! Repositories of git: a commit, or what a branch is at, as a tree. `.git` and submodules are not in it.
//!
//! The program `git` speaks the protocol. Before it does, the repository is asked for in the way of all other origins: redirects
//! are followed and addresses judged here, and the program is told of the address where that ended. It speaks https; http only
//! where `--fetch_allow` lists the host.

mod leash;
mod program;
mod remote;
mod revision;
mod trust;

use std::{
    io,
    path::Path,
    process::Stdio,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use bbb_digest::Digest;
use bbb_storage::{Error, Reservation};
use http::HeaderMap;
use tokio::{
    task,
    time::{self, Instant},
};
use url::Url;

use crate::{
    EntryPath, Origins, Qualifiers, Sink, UnpackError, UnpackLimits,
    directory::{Trees, part},
    failure::{Failed, Failure, story},
    unpack::unpack_tar,
};
use leash::Leash;
use program::{Git, GitError, bytes_in};
use remote::Remote;
use revision::Revision;

/// In what steps room is taken for what is fetched, and how often is looked how much that is.
const ROOM_STEP_BYTES: u64 = 16 << 20;
const LOOKED_AT_EVERY: Duration = Duration::from_millis(250);

/// Whether these qualifiers ask for a repository.
pub(crate) fn is_asked_for(qualifiers: &Qualifiers) -> bool {
    qualifiers.is_git()
        || ["vcs.commit", "vcs.branch"].iter().any(|name| qualifiers.get(name).is_some())
}

/// Fetches a revision of the repository at `url`, sending `headers` along to that origin alone, and stores it as a tree. It is not
/// asked for again after `again_until`, and not waited for if it says nothing.
pub(crate) async fn fetch(
    origins: &Origins,
    trees: &Trees,
    url: &Url,
    headers: HeaderMap,
    qualifiers: &Qualifiers,
    limits: UnpackLimits,
    again_until: Instant,
) -> Result<Digest, Failure> {
    let revision = Revision::of(qualifiers)?;
    let part = part(qualifiers, &limits)?;
    let remote = Remote::meet(origins, url, headers, again_until).await?;
    let format = remote.object_format(&revision)?;
    let mut settings = remote.settings(origins).await?;
    settings.push(patience(again_until));

    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let folder = trees.disk.scratch().join(format!("git-{number}"));
    let mut room = trees.disk.reserve(ROOM_STEP_BYTES).await.map_err(Failure::Storage)?;
    let leash = Leash::default();
    let _cut = leash.cut_on_drop();
    let fetched = task::spawn_blocking({
        let folder = folder.clone();
        move || {
            let git = Git::init(folder, format, settings, limits.bytes, leash)?;
            get(&git, &remote, &revision)?;
            Ok::<_, GitError>((git, revision))
        }
    });
    let fetched = tokio::select! {
        fetched = fetched => fetched.unwrap_or_else(|error| Err(io::Error::other(error).into())),
        failure = watch(&folder, &mut room, limits.bytes) => return Err(failure),
    };
    let (git, revision) = fetched?;
    store(trees, part, git, revision, limits).await
}

/// Has git give up on who is silent until then, or for as long as anybody may be silent.
fn patience(until: Instant) -> (String, String) {
    let left = until.saturating_duration_since(Instant::now());
    let seconds = (left.as_secs() + 1).min(program::SILENCE.as_secs());
    ("http.lowSpeedTime".to_owned(), seconds.to_string())
}

/// Gets a revision into a repository of our own.
fn get(git: &Git, remote: &Remote, revision: &Revision) -> Result<(), GitError> {
    let Revision::Commit { hash, branch } = revision else {
        return pull(git, &remote.arguments(revision), revision);
    };
    if let Some(branch) = branch.as_deref().filter(|_| remote.is_modern()) {
        // What a branch is at has come with it.
        if pull_branch(git, remote, hash, branch)? {
            return Ok(());
        }
    }
    pull(git, &remote.arguments(revision), revision)?;
    // All of an old server's commits have come, and this one may not be among them.
    git.run("cat-file", &["-e", &format!("{hash}^{{commit}}")]).map_err(not_there)?;
    match branch {
        Some(branch) if !remote.is_modern() => is_on(git, hash, &format!("refs/heads/{branch}"))?
            .then_some(())
            .ok_or_else(|| not_on(branch)),
        _ => Ok(()),
    }
}

/// Finds out that a commit is on a branch: the one that the branch is at, for true, or one of its history, for false. Of that
/// come the commits alone, where the server can leave out what is in them.
fn pull_branch(git: &Git, remote: &Remote, hash: &str, branch: &str) -> Result<bool, GitError> {
    let tip = Revision::Branch(branch.to_owned());
    pull(git, &remote.arguments(&tip), &tip)?;
    if is_on(git, hash, tip.name())? {
        return Ok(true);
    }
    let history = git.beside("history")?;
    pull(&history, &remote.history_arguments(&tip), &tip)?;
    if is_on(&history, hash, tip.name())? { Ok(false) } else { Err(not_on(branch)) }
}

fn pull(git: &Git, arguments: &[String], revision: &Revision) -> Result<(), GitError> {
    git.run("fetch", arguments).map_err(|error| match error {
        GitError::Failed(_, said) if revision.is_told_absent(&said) => GitError::NotThere(said),
        error => error,
    })
}

/// Whether a commit is another one, or before it. One that is not there is not.
fn is_on(git: &Git, hash: &str, other: &str) -> Result<bool, GitError> {
    let is_no = |said: &str| said == "exit status: 1" || said.contains("Not a valid ");
    match git.run("merge-base", &["--is-ancestor", hash, other]) {
        Ok(()) => Ok(true),
        Err(GitError::Failed(_, said)) if is_no(&said) => Ok(false),
        Err(error) => Err(error),
    }
}

fn not_on(branch: &str) -> GitError {
    GitError::NotThere(format!("the commit is not on the branch {branch}"))
}

fn not_there(error: GitError) -> GitError {
    match error {
        GitError::Failed(_, said) => GitError::NotThere(said),
        error => error,
    }
}

/// Stores what was fetched.
async fn store(
    trees: &Trees,
    part: EntryPath,
    git: Git,
    revision: Revision,
    limits: UnpackLimits,
) -> Result<Digest, Failure> {
    let unpack = move |sink: &mut dyn Sink| {
        let failed = |error: GitError| match error {
            GitError::Broken(error) => UnpackError::Unreadable(error),
            error => UnpackError::Damaged(error.to_string()),
        };
        let arguments = ["--format=tar", revision.name()];
        let mut packing = git.start("archive", &arguments, Stdio::piped()).map_err(failed)?;
        let stdout = packing.child.stdout.take();
        let stdout = stdout.ok_or_else(|| failed(io::Error::other("it has no output").into()))?;
        let unpacked = unpack_tar(stdout, &limits, sink);
        match (git.finish("archive", packing), unpacked) {
            // Its output ended early since it failed.
            (Err(error), Ok(()) | Err(UnpackError::Damaged(_))) => Err(failed(error)),
            (_, unpacked) => unpacked,
        }
    };
    trees.store(part, unpack).await
}

/// Takes room for what grows in a folder; comes back when it has become too large.
async fn watch(folder: &Path, room: &mut Reservation, limit_bytes: u64) -> Failure {
    loop {
        time::sleep(LOOKED_AT_EVERY).await;
        let folder = folder.to_owned();
        let bytes = task::spawn_blocking(move || bytes_in(&folder)).await.unwrap_or_default();
        if bytes > limit_bytes {
            return GitError::TooLarge(limit_bytes).into();
        }
        while room.bytes() < bytes.saturating_add(ROOM_STEP_BYTES / 2) {
            if let Err(error) = room.grow(ROOM_STEP_BYTES).await {
                return Failure::Storage(error);
            }
        }
    }
}

impl From<GitError> for Failure {
    fn from(error: GitError) -> Self {
        match error {
            GitError::Absent => Self::NoGit,
            GitError::NotThere(_) => Self::new(Failed::NotFound, story(&error)),
            GitError::TooLarge(_) => Self::new(Failed::Exhausted, story(&error)),
            GitError::Failed(_, ref said) if said.contains(program::TOO_SLOW) => {
                Self::new(Failed::TooLate, story(&error))
            }
            GitError::Failed(..) => Self::new(Failed::Aborted, story(&error)),
            GitError::Broken(error) => Self::Storage(Error::unavailable("running git", error)),
        }
    }
}
