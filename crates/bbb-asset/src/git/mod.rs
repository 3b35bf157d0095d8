//! Repositories of git: a commit, or what a branch is at, as a tree. `.git` and submodules are not in it.
//!
//! The program `git` speaks the protocol. Before it does, the repository is asked for in the way of all other origins: redirects
//! are followed and addresses judged here, and the program is told of the address where that ended. It speaks https; http only
//! where `--fetch_allow` lists the host.

mod leash;
mod program;

use std::{
    fs, io,
    path::Path,
    process::Stdio,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bbb_digest::Digest;
use bbb_storage::{Error, Reservation};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use tokio::{task, time};
use url::{Host, Url};

use crate::{
    EntryPath, Origins, Qualifiers, Sink, UnpackError, UnpackLimits,
    directory::{Trees, part},
    failure::{Failed, Failure, story},
    follow::{follow, refusal},
    origin::{Answer, Way},
    unpack::unpack_tar,
};
use leash::Leash;
use program::{Git, GitError};

/// In what steps room is taken for what is fetched, and how often is looked how much that is.
const ROOM_STEP_BYTES: u64 = 16 << 20;
const LOOKED_AT_EVERY: Duration = Duration::from_millis(250);

/// How much of a repository's greeting is read, in bytes.
const MAX_GREETING_BYTES: usize = 4 << 10;

/// What of a repository is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Revision {
    /// By its whole hash, in hex.
    Commit(String),
    /// By its name.
    Branch(String),
    /// What the repository is at.
    Head,
}

/// Whether these qualifiers ask for a repository.
pub(crate) fn is_asked_for(qualifiers: &Qualifiers) -> bool {
    qualifiers.is_git()
        || ["vcs.commit", "vcs.branch"].iter().any(|name| qualifiers.get(name).is_some())
}

/// Fetches a revision of the repository at `url`, sending `headers` along to that origin alone, and stores it as a tree.
pub(crate) async fn fetch(
    origins: &Origins,
    trees: &Trees,
    url: &Url,
    headers: HeaderMap,
    qualifiers: &Qualifiers,
    limits: UnpackLimits,
) -> Result<Digest, Failure> {
    let revision = Revision::of(qualifiers)?;
    let part = part(qualifiers, &limits)?;
    if qualifiers.integrity().is_some() {
        let what = "a repository is no file that has a checksum: use vcs.commit";
        return Err(Failure::new(Failed::Aborted, what));
    }
    let remote = Remote::meet(origins, url, headers).await?;
    let settings = remote.settings(origins).await?;

    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let folder = trees.disk.scratch().join(format!("git-{number}"));
    let mut room = trees.disk.reserve(ROOM_STEP_BYTES).await.map_err(Failure::Storage)?;
    let leash = Leash::default();
    let _cut = leash.cut_on_drop();
    let name = revision.name();
    let fetched = task::spawn_blocking({
        let folder = folder.clone();
        move || {
            let format = revision.object_format().unwrap_or(remote.object_format);
            let git = Git::init(folder, format, settings, limits.bytes, leash)?;
            let arguments = remote.arguments(&revision);
            git.run("fetch", &arguments.iter().map(String::as_str).collect::<Vec<_>>())?;
            Ok::<_, GitError>(git)
        }
    });
    let git = tokio::select! {
        fetched = fetched => fetched.unwrap_or_else(|error| Err(io::Error::other(error).into())),
        failure = watch(&folder, &mut room, limits.bytes) => return Err(failure),
    };
    store(trees, part, git?, name, limits).await
}

/// Stores what was fetched.
async fn store(
    trees: &Trees,
    part: EntryPath,
    git: Git,
    revision: String,
    limits: UnpackLimits,
) -> Result<Digest, Failure> {
    let unpack = move |sink: &mut dyn Sink| {
        let failed = |error: GitError| match error {
            GitError::Broken(error) => UnpackError::Unreadable(error),
            error => UnpackError::Damaged(error.to_string()),
        };
        let arguments = ["--format=tar", &revision];
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
        let packs = folder.join("objects/pack");
        let bytes = task::spawn_blocking(move || bytes_in(&packs)).await.unwrap_or_default();
        if bytes > limit_bytes {
            let what = format!("it is larger than the {limit_bytes} bytes that are taken");
            return Failure::new(Failed::Exhausted, what);
        }
        while room.bytes() < bytes.saturating_add(ROOM_STEP_BYTES / 2) {
            if let Err(error) = room.grow(ROOM_STEP_BYTES).await {
                return Failure::Storage(error);
            }
        }
    }
}

/// How much lies in a folder. What goes meanwhile, or is not there yet, is nothing.
fn bytes_in(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}

impl From<GitError> for Failure {
    fn from(error: GitError) -> Self {
        match error {
            GitError::Absent | GitError::Failed(..) => Self::new(Failed::Aborted, story(&error)),
            GitError::Broken(error) => Self::Storage(Error::unavailable("running git", error)),
        }
    }
}

impl Revision {
    fn of(qualifiers: &Qualifiers) -> Result<Self, Failure> {
        let refused = |what: &str| Err(Failure::new(Failed::Aborted, what));
        match (qualifiers.get("vcs.commit"), qualifiers.get("vcs.branch")) {
            (Some(commit), _) => {
                let is_hash = matches!(commit.len(), 40 | 64)
                    && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
                match is_hash {
                    true => Ok(Self::Commit(commit.to_ascii_lowercase())),
                    false => refused("vcs.commit is no whole hash of a commit"),
                }
            }
            (None, Some(branch)) => {
                let is_special = |c: char| c.is_ascii_control() || " ~^:?*[\\".contains(c);
                match branch.is_empty() || branch.contains(is_special) || branch.contains("..") {
                    true => refused("vcs.branch is no name of a branch"),
                    false => Ok(Self::Branch(branch.to_owned())),
                }
            }
            (None, None) => Ok(Self::Head),
        }
    }

    /// What it is called where it was fetched to.
    fn name(&self) -> String {
        match self {
            Self::Commit(commit) => commit.clone(),
            Self::Branch(_) | Self::Head => "refs/wanted/it".to_owned(),
        }
    }

    /// What it is called where it is fetched from.
    fn source(&self) -> String {
        match self {
            Self::Commit(commit) => commit.clone(),
            Self::Branch(branch) => format!("refs/heads/{branch}"),
            Self::Head => "HEAD".to_owned(),
        }
    }

    fn object_format(&self) -> Option<&'static str> {
        match self {
            Self::Commit(commit) if commit.len() == 64 => Some("sha256"),
            Self::Commit(_) => Some("sha1"),
            Self::Branch(_) | Self::Head => None,
        }
    }
}

/// A repository where it really is.
struct Remote {
    url: Url,
    headers: HeaderMap,
    /// Whether it gives single commits. Others are fetched with all their history.
    is_modern: bool,
    object_format: &'static str,
}

impl Remote {
    /// Asks for the repository as git does (gitprotocol-http, "Discovering References").
    async fn meet(origins: &Origins, url: &Url, headers: HeaderMap) -> Result<Self, Failure> {
        if url.query().is_some() {
            return Err(Failure::new(Failed::Aborted, "the URL of a repository has no query"));
        }
        let mut asked = url.clone();
        asked.set_path(&format!("{}/info/refs", url.path().trim_end_matches('/')));
        asked.set_query(Some("service=git-upload-pack"));
        let greeting = |hop: &Url| {
            let own = hop.origin() == url.origin();
            let mut headers = if own { headers.clone() } else { HeaderMap::new() };
            headers.insert("git-protocol", HeaderValue::from_static("version=2"));
            headers
        };
        // What comes out of TLS may be anything, but for a commit that git checks.
        let (mut there, mut answer) =
            follow(origins, &asked, false, greeting).await.map_err(|trouble| trouble.failure)?;
        if answer.status() != StatusCode::OK {
            return Err(refusal(&answer).failure);
        }
        let Some(path) = there.path().strip_suffix("/info/refs").map(str::to_owned) else {
            return Err(Failure::new(Failed::Aborted, "it redirects to what is no repository"));
        };
        let start = greeting_of(&mut answer).await?;
        there.set_path(&path);
        there.set_query(None);
        let holds = |text: &[u8]| start.windows(text.len()).any(|window| window == text);
        let is_smart = answer.header(header::CONTENT_TYPE)
            == Some("application/x-git-upload-pack-advertisement");
        Ok(Self {
            headers: if there.origin() == url.origin() { headers } else { HeaderMap::new() },
            url: there,
            is_modern: is_smart && holds(b"version 2\n"),
            object_format: if holds(b"object-format=sha256") { "sha256" } else { "sha1" },
        })
    }

    /// What git is told so that it goes where it may, and nowhere else.
    async fn settings(&self, origins: &Origins) -> Result<Vec<(String, String)>, Failure> {
        let way = origins
            .way(&self.url)
            .await
            .map_err(|error| Failure::new(Failed::Denied, story(&error)))?;
        let scheme = self.url.scheme();
        if scheme != "https" && !origins.is_listed(&self.url, &way) {
            let what = "git is spoken over https alone, but to hosts that --fetch_allow lists";
            return Err(Failure::new(Failed::Denied, what));
        }
        let mut settings = vec![(format!("protocol.{scheme}.allow"), "always".to_owned())];
        let proxy = match &way {
            Way::Direct(addresses) => {
                let addresses: Vec<String> = addresses
                    .iter()
                    .map(|address| match address.ip() {
                        std::net::IpAddr::V4(v4) => v4.to_string(),
                        std::net::IpAddr::V6(v6) => format!("[{v6}]"),
                    })
                    .collect();
                let port = self.url.port_or_known_default().unwrap_or_default();
                if let Some(Host::Domain(host)) = self.url.host() {
                    let pinned = format!("{host}:{port}:{}", addresses.join(","));
                    settings.push(("http.curloptResolve".to_owned(), pinned));
                }
                String::new()
            }
            Way::Proxy(proxy) => {
                let login = proxy.login.as_ref().and_then(login_of).unwrap_or_default();
                format!("http://{login}{}:{}", proxy.host, proxy.port)
            }
        };
        // An empty one is none, whatever the environment says.
        settings.push(("http.proxy".to_owned(), proxy));
        for (name, value) in &self.headers {
            if let Ok(value) = value.to_str() {
                settings.push(("http.extraHeader".to_owned(), format!("{name}: {value}")));
            }
        }
        if let Ok(trusted) = std::env::var("SSL_CERT_FILE") {
            settings.push(("http.sslCAInfo".to_owned(), trusted));
        }
        Ok(settings)
    }

    fn arguments(&self, revision: &Revision) -> Vec<String> {
        let mut arguments: Vec<String> =
            ["--quiet", "--no-tags", "--no-recurse-submodules", "--no-auto-maintenance"]
                .map(str::to_owned)
                .into();
        if self.is_modern {
            arguments.push("--depth=1".to_owned());
        }
        arguments.push(self.url.to_string());
        match (self.is_modern, revision) {
            (false, Revision::Commit(_)) => arguments.extend(
                ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"].map(str::to_owned),
            ),
            _ => arguments.push(format!("+{}:refs/wanted/it", revision.source())),
        }
        arguments
    }
}

/// The start of a greeting.
async fn greeting_of(answer: &mut Answer) -> Result<Vec<u8>, Failure> {
    let mut start = Vec::new();
    while start.len() < MAX_GREETING_BYTES {
        let next =
            answer.next().await.map_err(|error| Failure::new(Failed::Aborted, story(&error)));
        let Some(piece) = next? else { break };
        start.extend_from_slice(&piece[..piece.len().min(MAX_GREETING_BYTES)]);
    }
    Ok(start)
}

/// User and password of a `Basic` login, as URLs have them.
fn login_of(login: &HeaderValue) -> Option<String> {
    let basic = login.to_str().ok()?.strip_prefix("Basic ")?;
    let both = String::from_utf8(STANDARD.decode(basic).ok()?).ok()?;
    let (user, password) = both.split_once(':').unwrap_or((&both, ""));
    let encoded =
        |text| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC);
    Some(format!("{}:{}@", encoded(user), encoded(password)))
}
