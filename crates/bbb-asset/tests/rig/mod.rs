//! A file server that does what it is told, however bad, and assets that are fetched from it.

#![allow(dead_code, reason = "shared by tests of which none uses all of it")]

pub(crate) mod tls;

use std::{
    collections::HashMap,
    future::Future,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bbb_asset::{
    AssetUri, Assets, Bounds, Failed, Fetch, FetchError, Found, Kind, LookUp, Origins, Qualifiers,
    Reach,
};
use bbb_digest::{Digest, Function, InstanceName};
use bbb_lifecycle::TaskGroup;
use bbb_storage::{CasExt as _, Disk, DiskSettings, Instances, Stores, TreeCache, Trees};
use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

pub(crate) const LIMIT_BYTES: u64 = 4 << 20;

/// A request as it came: the head, in small letters.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) path: String,
    head: String,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        lines.find(|(own, _)| own == &name).map(|(_, value)| value.trim())
    }
}

type Served = Pin<Box<dyn Future<Output = ()> + Send>>;
type Serve = Arc<dyn Fn(TcpStream, Asked) -> Served + Send + Sync>;

/// A server on loopback.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    /// A server that answers each request, on a connection of its own, by `serve`.
    pub(crate) async fn new<F>(
        serve: impl Fn(TcpStream, Asked) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serve: Serve = Arc::new(move |stream, asked| Box::pin(serve(stream, asked)));
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let tasks = TaskGroup::new("server");
        let (log, group) = (Arc::clone(&asked), tasks.clone());
        tasks.spawn("accept", async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (serve, log) = (Arc::clone(&serve), Arc::clone(&log));
                group.spawn("answer", async move {
                    let Some(asked) = read_head(&mut stream).await else { return };
                    log.lock().unwrap().push(asked.clone());
                    serve(stream, asked).await;
                });
            }
        });
        Self { address, asked }
    }

    /// A server that answers by the same text always.
    pub(crate) async fn always(text: impl Into<Vec<u8>>) -> Self {
        let text: Bytes = text.into().into();
        Self::new(move |mut stream, _| {
            let text = text.clone();
            async move { send(&mut stream, &text).await }
        })
        .await
    }

    /// A server of files, by their paths; what is not there is a page that says so.
    pub(crate) async fn files(files: &[(&str, &[u8])]) -> Self {
        let files: HashMap<String, Vec<u8>> =
            files.iter().map(|(path, bytes)| ((*path).to_owned(), bytes.to_vec())).collect();
        Self::new(move |mut stream, asked| {
            let answer = match files.get(&asked.path) {
                Some(bytes) => ok(bytes),
                None => b"HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\nnone".to_vec(),
            };
            async move { send(&mut stream, &answer).await }
        })
        .await
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

/// Something that begins to speak as soon as somebody is there, and does not listen.
pub(crate) async fn greeter(greeting: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    TaskGroup::new("greeter").spawn("greet", async move {
        let mut kept = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            send(&mut stream, greeting).await;
            kept.push(stream);
        }
    });
    address
}

async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> Option<Asked> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).ok()?;
    let path = head.split(' ').nth(1)?.to_owned();
    Some(Asked { path, head: head.to_ascii_lowercase() })
}

/// Whoever has hung up does not read it.
pub(crate) async fn send(stream: &mut TcpStream, bytes: &[u8]) {
    let _ = stream.write_all(bytes).await;
}

pub(crate) fn ok(body: &[u8]) -> Vec<u8> {
    with_headers("200 OK", &[], body)
}

pub(crate) fn with_headers(status: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let headers: String =
        headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{headers}\r\n", body.len());
    [head.as_bytes(), body].concat()
}

pub(crate) fn redirect(to: &str) -> Vec<u8> {
    with_headers("302 Found", &[("Location", to)], b"<html>go there</html>")
}

/// Assets on a disk of their own.
pub(crate) struct Rig {
    pub(crate) assets: Assets,
    pub(crate) stores: Stores,
    _tasks: TaskGroup,
    disk: Arc<Disk>,
    _folder: tempfile::TempDir,
}

impl Rig {
    /// Assets that may be fetched from `allow` although it is not public.
    pub(crate) fn new(allow: &[&str]) -> Self {
        Self::looking_up(allow, bbb_asset::system_lookup())
    }

    pub(crate) fn looking_up(allow: &[&str], look_up: LookUp) -> Self {
        Self::trusting(allow, look_up, rustls::RootCertStore::empty(), |origins| origins)
    }

    pub(crate) fn trusting(
        allow: &[&str],
        look_up: LookUp,
        roots: rustls::RootCertStore,
        with: impl FnOnce(Origins) -> Origins,
    ) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let origins = Origins::with(reach(allow), look_up, Arc::new(tls));
        Self::over(with(origins.within(not_pausing())))
    }

    /// Assets that are fetched over loopback, and given up after a blink.
    pub(crate) fn impatient() -> Self {
        let blink = Duration::from_millis(300);
        let bounds = Bounds { head: blink, pace: blink, handshake: blink, ..not_pausing() };
        let (look_up, roots) = (bbb_asset::system_lookup(), rustls::RootCertStore::empty());
        let within = |origins: Origins| origins.within(Bounds { look_up: blink, ..bounds });
        Self::trusting(&["127.0.0.1"], look_up, roots, within)
    }

    pub(crate) fn over(origins: Origins) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tasks = TaskGroup::new("assets");
        let disk =
            Disk::open(DiskSettings::new(folder.path().join("store"), 64 << 20), &tasks).unwrap();
        let near = Arc::clone(&disk);
        let instances = Arc::new(Instances::new(move |name| {
            let (cas, cache) = (near.cas(name), Arc::new(TreeCache::new(1 << 20)));
            let trees = Arc::new(Trees::new(name.clone(), Arc::clone(&cas), cache));
            Stores { cas, action_cache: near.action_cache(name), trees }
        }));
        let stores = instances.get(&InstanceName::default());
        let near = Arc::clone(&disk);
        let assets = Assets::new(
            instances,
            Box::new(move |name| near.assets(name)),
            Arc::clone(&disk),
            origins,
            LIMIT_BYTES,
            &TaskGroup::new("fetches"),
        );
        Self { assets, stores, _tasks: tasks, disk, _folder: folder }
    }

    pub(crate) async fn fetch(
        &self,
        uris: &[&str],
        pairs: &[(&str, &str)],
    ) -> Result<Found, FetchError> {
        self.find_or_fetch(wanted(uris, pairs)).await
    }

    pub(crate) async fn find_or_fetch(&self, wanted: Fetch) -> Result<Found, FetchError> {
        let now = SystemTime::now();
        match self.assets.find(&wanted, now).await? {
            Some(found) => Ok(found),
            None => self.assets.fetch(wanted, now).await,
        }
    }

    /// The failure of a fetch that must fail for what is outside.
    pub(crate) async fn failure(&self, uris: &[&str], pairs: &[(&str, &str)]) -> (Failed, String) {
        match self.fetch(uris, pairs).await {
            Err(FetchError::Outside { failed, what, .. }) => (failed, what),
            other => panic!("fetched {uris:?}: {other:?}"),
        }
    }

    /// What the store has as what was found.
    pub(crate) async fn bytes(&self, found: &Found) -> Bytes {
        self.stores.cas.get_bytes(found.content, LIMIT_BYTES).await.unwrap()
    }

    /// Where files lie that are not done.
    pub(crate) fn scratch(&self) -> std::path::PathBuf {
        self.disk.scratch()
    }

    /// Waits until there is nothing: what a fetch leaves behind that was broken off goes when its thread is done with it.
    pub(crate) async fn holds_nothing(&self) {
        let is_empty = || self.holds() == (0, 0, 0) && self.disk.stats().taken_bytes == 0;
        let emptied = async {
            while !is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let emptied = tokio::time::timeout(Duration::from_secs(20), emptied).await;
        assert!(emptied.is_ok(), "{:?} {:?}", self.holds(), self.disk.stats());
    }

    /// What the store holds: blobs, records, files that are not done.
    pub(crate) fn holds(&self) -> (u64, u64, usize) {
        let stats = self.disk.stats();
        let scratch = std::fs::read_dir(self.disk.scratch()).unwrap().count();
        (stats.blobs, stats.results, scratch)
    }
}

/// The public internet, and `allow`.
pub(crate) fn reach(allow: &[&str]) -> Reach {
    let allow = allow.iter().map(|place| place.parse().unwrap()).collect();
    Reach::new(allow, Vec::new(), Arc::new(|_: IpAddr| false))
}

/// As origins are waited for, but that they are tried again without much of a pause.
fn not_pausing() -> Bounds {
    Bounds { first_pause: Duration::from_millis(5), ..Bounds::default() }
}

pub(crate) fn wanted(uris: &[&str], pairs: &[(&str, &str)]) -> Fetch {
    wanted_as(Kind::Blob, uris, pairs)
}

pub(crate) fn wanted_as(kind: Kind, uris: &[&str], pairs: &[(&str, &str)]) -> Fetch {
    let uris: Vec<AssetUri> =
        uris.iter().map(|uri| AssetUri::parse("uris", uri).unwrap()).collect();
    let qualifiers = Qualifiers::parse(kind, &uris, pairs.iter().copied()).unwrap();
    Fetch {
        instance: InstanceName::default(),
        kind,
        function: Function::Sha256,
        uris,
        qualifiers,
        timeout: Some(Duration::from_secs(30)),
        oldest: None,
    }
}

/// The value of `checksum.sri` for these bytes.
pub(crate) fn sri(bytes: &[u8]) -> String {
    format!("sha256-{}", STANDARD.encode(Digest::of(Function::Sha256, bytes).hash()))
}

/// Everything is at this address.
pub(crate) fn everything_at(address: Ipv4Addr) -> LookUp {
    Arc::new(move |_, port| {
        Box::pin(async move { Ok(vec![SocketAddr::new(address.into(), port)]) })
    })
}
