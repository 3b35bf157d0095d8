//! A repository where it really is, and what git is told so that it goes there and nowhere else.

use std::net::{IpAddr, SocketAddr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use tokio::time::Instant;
use url::{Host, Url};

use super::revision::Revision;
use crate::{
    Origins,
    failure::{Failed, Failure},
    follow::{Tries, Trouble, follow, refusal},
    origin::{Answer, Way},
};

/// How much of a repository's greeting is read, in bytes.
const MAX_GREETING_BYTES: usize = 4 << 10;

/// A repository where it really is.
pub(super) struct Remote {
    url: Url,
    headers: HeaderMap,
    /// Whether it gives single commits. Others are fetched with all their history.
    is_modern: bool,
    object_format: &'static str,
}

impl Remote {
    /// Asks for the repository as git does (gitprotocol-http, "Discovering References"), until `again_until` as often as for
    /// anything else.
    pub(super) async fn meet(
        origins: &Origins,
        url: &Url,
        headers: HeaderMap,
        again_until: Instant,
    ) -> Result<Self, Failure> {
        if url.query().is_some() {
            return Err(Failure::new(Failed::Aborted, "the URL of a repository has no query"));
        }
        let mut tries = Tries::new(url, origins.bounds(), again_until);
        loop {
            match Self::greet(origins, url, &headers, again_until).await {
                Ok(remote) => return Ok(remote),
                Err(trouble) => tries.again(trouble).await?,
            }
        }
    }

    async fn greet(
        origins: &Origins,
        url: &Url,
        headers: &HeaderMap,
        until: Instant,
    ) -> Result<Self, Trouble> {
        let mut asked = url.clone();
        asked.set_path(&format!("{}/info/refs", url.path().trim_end_matches('/')));
        asked.set_query(Some("service=git-upload-pack"));
        let headers_for = |hop: &Url| {
            let is_own = hop.origin() == url.origin();
            if is_own { headers.clone() } else { HeaderMap::new() }
        };
        let greeting = |hop: &Url| {
            let mut headers = headers_for(hop);
            headers.insert("git-protocol", HeaderValue::from_static("version=2"));
            headers
        };
        // What comes out of TLS may be anything, but for a commit that git checks.
        let (mut there, mut answer) = follow(origins, &asked, false, greeting, until).await?;
        if answer.status() != StatusCode::OK {
            return Err(refusal(&answer));
        }
        let Some(path) = there.path().strip_suffix("/info/refs").map(str::to_owned) else {
            return Err(Trouble::last(Failed::Aborted, "it redirects to what is no repository"));
        };
        let start = greeting_of(&mut answer).await?;
        there.set_path(&path);
        there.set_query(None);
        let holds = |text: &[u8]| start.windows(text.len()).any(|window| window == text);
        let is_smart = answer.header(header::CONTENT_TYPE)
            == Some("application/x-git-upload-pack-advertisement");
        if !is_smart && !is_list_of_refs(&start) {
            return Err(Trouble::last(Failed::NotFound, "what is there is no repository of git"));
        }
        Ok(Self {
            headers: headers_for(&there),
            url: there,
            is_modern: is_smart && holds(b"version 2\n"),
            object_format: if holds(b"object-format=sha256") { "sha256" } else { "sha1" },
        })
    }

    /// The format that the repository has if this revision is in it.
    pub(super) fn object_format(&self, revision: &Revision) -> Result<&'static str, Failure> {
        match revision.object_format() {
            // Only new servers say which one they have.
            Some(format) if self.is_modern && format != self.object_format => {
                let what = format!("the repository has no {format} commits");
                Err(Failure::new(Failed::NotFound, what))
            }
            format => Ok(format.unwrap_or(self.object_format)),
        }
    }

    /// What git is told so that it goes where it may, and nowhere else.
    pub(super) async fn settings(
        &self,
        origins: &Origins,
    ) -> Result<Vec<(String, String)>, Failure> {
        let way = origins.way(&self.url).await.map_err(|error| Trouble::from(error).failure)?;
        let scheme = self.url.scheme();
        if scheme != "https" && !origins.is_listed(&self.url, &way) {
            let what = "git is spoken over https alone, but to hosts that --fetch_allow lists";
            return Err(Failure::new(Failed::Denied, what));
        }
        let mut settings = vec![(format!("protocol.{scheme}.allow"), "always".to_owned())];
        let proxy = match &way {
            Way::Direct(addresses) => {
                if let Some(pinned) = self.pinned(addresses)? {
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
        Ok(settings)
    }

    /// In the words of `CURLOPT_RESOLVE`, the addresses that were judged. They count for every name on this port, so that nothing
    /// is looked up again however the name is written. None for a URL that names an address.
    fn pinned(&self, addresses: &[SocketAddr]) -> Result<Option<String>, Failure> {
        let Some(Host::Domain(host)) = self.url.host() else { return Ok(None) };
        if addresses.is_empty() {
            return Err(Failure::new(Failed::Aborted, format!("{host} has no address")));
        }
        let addresses = addresses.iter().map(|address| match address.ip() {
            IpAddr::V4(v4) => v4.to_string(),
            IpAddr::V6(v6) => format!("[{v6}]"),
        });
        let port = self.url.port_or_known_default().unwrap_or_default();
        Ok(Some(format!("*:{port}:{}", addresses.collect::<Vec<_>>().join(","))))
    }

    /// Whether it gives single commits.
    pub(super) fn is_modern(&self) -> bool {
        self.is_modern
    }

    /// What is to be fetched of a revision: it, and no history where the server can give it so.
    pub(super) fn arguments(&self, revision: &Revision) -> Vec<String> {
        self.asking_for(revision, self.is_modern.then_some("--depth=1"))
    }

    /// What is to be fetched of the history of a revision: all commits, and not what is in them where the server can leave it out.
    pub(super) fn history_arguments(&self, revision: &Revision) -> Vec<String> {
        self.asking_for(revision, Some("--filter=tree:0"))
    }

    fn asking_for(&self, revision: &Revision, only: Option<&str>) -> Vec<String> {
        let fixed = ["--quiet", "--no-tags", "--no-recurse-submodules", "--no-auto-maintenance"];
        let mut arguments: Vec<String> = fixed.into_iter().chain(only).map(str::to_owned).collect();
        arguments.push(self.url.to_string());
        arguments.extend(revision.refspecs(self.is_modern));
        arguments
    }
}

/// The start of a greeting.
async fn greeting_of(answer: &mut Answer) -> Result<Vec<u8>, Trouble> {
    let mut start = Vec::new();
    while start.len() < MAX_GREETING_BYTES {
        let Some(piece) = answer.next().await? else { break };
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

/// Whether this may be the start of the list of refs of a repository that is nothing but files: a hash, a tab, a name. A repository
/// that has none has an empty one.
fn is_list_of_refs(start: &[u8]) -> bool {
    let hash = start.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(start.len());
    start.is_empty() || (matches!(hash, 40 | 64) && start.get(hash) == Some(&b'\t'))
}
