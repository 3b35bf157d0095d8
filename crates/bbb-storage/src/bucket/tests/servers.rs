//! The tier on S3 servers that are not ours: Garage (which ignores conditions) and moto (which honours
//! them). `scripts/test servers` says where they are, and runs these; by themselves they are skipped.

use std::{
    env,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use futures::{StreamExt as _, TryStreamExt as _, future, stream};
use object_store::aws::AmazonS3Builder;
use tempfile::TempDir;
use tokio::time::{self, Instant};

use crate::{ActionResult, Encoding, Wanted, conformance::read_all};

use super::{
    proxy::{Proxy, WireFaults},
    *,
};

const BUCKET: &str = "bbb";
const KEY: &str = "GK0123456789abcdef01234567";
const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// A server that runs as long as this lives.
struct Server {
    child: Child,
    address: SocketAddr,
    region: &'static str,
    honours_conditions: bool,
    _folder: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn program(variable: &str) -> String {
    env::var(variable).unwrap_or_else(|_| panic!("{variable} must name the server's program"))
}

/// Waits until a server accepts connections.
fn wait(child: &mut Child, address: SocketAddr) {
    while TcpStream::connect(address).is_err() {
        assert!(child.try_wait().unwrap().is_none(), "the server has ended");
        thread::sleep(Duration::from_millis(20));
    }
}

fn garage() -> Server {
    let folder = tempfile::tempdir().unwrap();
    let (port, rpc) = (free_port(), free_port());
    let root = folder.path().display();
    let config = format!(
        "replication_factor = 1\ndb_engine = \"sqlite\"\nmetadata_dir = \"{root}/meta\"\n\
         data_dir = \"{root}/data\"\nrpc_secret = \"{SECRET}\"\nrpc_bind_addr = \"127.0.0.1:{rpc}\"\n\
         [s3_api]\ns3_region = \"garage\"\napi_bind_addr = \"127.0.0.1:{port}\"\n"
    );
    let path = folder.path().join("garage.toml");
    std::fs::write(&path, config).unwrap();
    let mut child = Command::new(program("BBB_GARAGE"))
        .arg("-c")
        .arg(path)
        .args(["server", "--single-node", "--default-bucket"])
        .env("GARAGE_DEFAULT_ACCESS_KEY", KEY)
        .env("GARAGE_DEFAULT_SECRET_KEY", SECRET)
        .env("GARAGE_DEFAULT_BUCKET", BUCKET)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    wait(&mut child, address);
    Server { child, address, region: "garage", honours_conditions: false, _folder: folder }
}

fn moto() -> Server {
    let folder = tempfile::tempdir().unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let mut child = Command::new(program("BBB_MOTO"))
        .args(["-H", "127.0.0.1", "-p", &address.port().to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait(&mut child, address);
    let mut connection = TcpStream::connect(address).unwrap();
    let request = format!(
        "PUT /{BUCKET} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    connection.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    Server { child, address, region: "us-east-1", honours_conditions: true, _folder: folder }
}

impl Server {
    fn settings(&self, address: SocketAddr) -> BucketSettings {
        BucketSettings {
            region: self.region.to_owned(),
            endpoint: Some(format!("http://{address}")),
            ..BucketSettings::new(format!("s3://{BUCKET}/a/prefix").parse().unwrap())
        }
    }

    async fn open(&self, settings: BucketSettings) -> Result<Arc<Bucket>, BucketError> {
        open(settings, SECRET).await
    }
}

async fn open(settings: BucketSettings, secret: &str) -> Result<Arc<Bucket>, BucketError> {
    let BucketLocation::S3 { bucket, .. } = &settings.location else { panic!("no S3") };
    let builder = AmazonS3Builder::new().with_access_key_id(KEY).with_secret_access_key(secret);
    let objects = connect::s3(builder, bucket, &settings)?;
    Bucket::open_over(objects, settings, &TaskGroup::new("test")).await
}

async fn serves(server: Server) {
    let settings = server.settings(server.address);
    let bucket = server.open(settings.clone()).await.unwrap();
    assert_eq!(bucket.honours_conditions(), server.honours_conditions);
    conforms(Arc::clone(&bucket)).await;
    big_blobs_of_all_forms(&bucket).await;
    // A node that comes later finds everything.
    let cas = bucket.cas(&instance("later"));
    let (digest, bytes) = text(20 << 20);
    put(&cas, digest, &bytes).await;
    drop(bucket);
    let later = server.open(settings).await.unwrap();
    let cas = later.cas(&instance("later"));
    assert!(cas.find_missing(&[digest]).await.unwrap().is_empty());
    let part = cas.get(digest, Wanted::part(10 << 20, Some(1000))).await.unwrap();
    assert!(read_all(part).await.unwrap() == bytes[10 << 20..][..1000]);
    assert!(later.stats().bytes_in < 4 << 20, "{:?}", later.stats());
    assert_eq!(later.stats().faults, 0, "{:?}", later.stats());
    damage_is_put_aside(&later).await;
}

async fn big_blobs_of_all_forms(bucket: &Arc<Bucket>) {
    let cas = bucket.cas(&instance("big"));
    for (digest, bytes) in [blob(33 << 20), text(33 << 20)] {
        put(&cas, digest, &bytes).await;
        for wanted in [Wanted::ALL, Wanted::ALL_ZSTD, Wanted::part(5 << 20, Some(9 << 20))] {
            let read = read_all(cas.get(digest, wanted).await.unwrap()).await.unwrap();
            let within = wanted.within(bytes.len() as u64);
            assert!(read == bytes[within.start as usize..within.end as usize], "{wanted:?}");
        }
    }
}

async fn damage_is_put_aside(bucket: &Arc<Bucket>) {
    let cas = bucket.cas(&instance("damage"));
    let ((digest, bytes), (other, _)) = (blob(1000), blob(1000));
    put(&cas, digest, &bytes).await;
    let key = |digest| bucket.keys.entry(keys::Kind::Blob, &instance("damage"), digest);
    bucket.store.copy(&key(digest), &key(other)).await.unwrap();
    let first = cas.get(other, Wanted::ALL).await;
    assert!(matches!(first, Err(Error::Unavailable { .. })), "{first:?}");
    let second = cas.get(other, Wanted::ALL).await;
    assert!(matches!(second, Err(Error::Missing(_))), "{second:?}");
    bucket.store.head(&bucket.keys.aside(&key(other))).await.unwrap();
    let shard = bucket.keys.shard(digest.hash()[0], keys::Kind::Blob);
    let listed: Vec<_> = bucket.store.list(shard).try_collect().await.unwrap();
    assert!(listed.iter().any(|meta| meta.location == key(digest)), "{listed:?}");
}

#[tokio::test]
#[ignore = "needs BBB_GARAGE: run by `scripts/test servers`"]
async fn garage_serves_the_tier() {
    serves(garage()).await;
}

#[tokio::test]
#[ignore = "needs BBB_MOTO: run by `scripts/test servers`"]
async fn moto_serves_the_tier() {
    serves(moto()).await;
}

/// Every way to be wrong ends in one line, within its time, that says what to look at.
/// What is old can be renewed the cheapest way, whatever its size, and stays what it is.
async fn renews(server: Server) {
    let settings = BucketSettings {
        expire_after: Some(Duration::from_secs(3600)),
        ..server.settings(server.address)
    };
    let bucket = server.open(settings).await.unwrap();
    let cas = bucket.cas(&instance("renewed"));
    let blobs = [blob(1000), blob(40 << 20)];
    let mut seen = Vec::new();
    for (digest, bytes) in &blobs {
        put(&cas, *digest, bytes).await;
        let key = bucket.keys.entry(keys::Kind::Blob, &instance("renewed"), *digest);
        seen.push(bucket.store.head(&key).await.unwrap());
    }
    // Times are told in whole seconds. A new key each time: on Garage, one that is written again and again runs
    // ahead of the clock.
    let latest = seen.iter().map(|meta| meta.last_modified).max().unwrap();
    for count in 0.. {
        let clock = bucket.keys.meta(&format!("probe/{count}"));
        bucket.store.put(&clock, "what time is it?".into()).await.unwrap();
        if bucket.store.head(&clock).await.unwrap().last_modified > latest {
            break;
        }
    }
    let copies = bucket.stats().copy;
    for before in &seen {
        bucket.lifetime.as_ref().unwrap().renew(before).await.unwrap();
        let after = bucket.store.head(&before.location).await.unwrap();
        assert!(after.last_modified > before.last_modified, "{before:?} {after:?}");
        assert_eq!(after.size, before.size);
    }
    assert_eq!(bucket.stats().copy - copies, 2, "not the cheapest way");
    assert_eq!(bucket.stats().renewed, 2);
    for (digest, bytes) in &blobs {
        let blob = cas.get(*digest, Wanted::ALL).await.unwrap();
        assert!(read_all(blob).await.unwrap() == bytes[..], "{digest}");
    }
    // The collector has taken its lease, listed a first part, and noted that.
    let progress = bucket.keys.meta("collector");
    let noted = async {
        while let Err(retry::Failure::Missing) = bucket.store.head(&progress).await {
            time::sleep(Duration::from_millis(100)).await;
        }
    };
    time::timeout(Duration::from_secs(30), noted).await.expect("the collector does nothing");
    let keys: Vec<_> = seen.iter().map(|meta| meta.location.clone()).collect();
    let gone: Vec<_> = bucket.store.delete_all(keys.clone()).try_collect().await.unwrap();
    assert_eq!(gone, keys);
    for key in &keys {
        let gone = bucket.store.head(key).await;
        assert!(matches!(gone, Err(retry::Failure::Missing)), "{gone:?}");
    }
    assert_eq!(bucket.group.shut_down(Duration::from_secs(10)).await, 0);
}

#[tokio::test]
#[ignore = "needs BBB_GARAGE: run by `scripts/test servers`"]
async fn garage_renews() {
    renews(garage()).await;
}

#[tokio::test]
#[ignore = "needs BBB_MOTO: run by `scripts/test servers`"]
async fn moto_renews() {
    renews(moto()).await;
}

async fn refuses(server: Server, knows_keys: bool) {
    let good = server.settings(server.address);
    let settings = BucketSettings { location: "no-such-bucket".parse().unwrap(), ..good.clone() };
    let error = server.open(settings).await.unwrap_err();
    // Garage does not tell those who may not see a bucket whether it is there.
    let is_told = matches!(error, BucketError::NoBucket { .. } | BucketError::Refused { .. });
    assert!(is_told && error.to_string().contains("--bucket"), "{error}");
    if knows_keys {
        let error = open(good.clone(), "wrong").await.unwrap_err();
        assert!(matches!(error, BucketError::Refused { .. }), "{error}");
        let settings = BucketSettings { region: "elsewhere".to_owned(), ..good.clone() };
        let error = server.open(settings).await.unwrap_err();
        assert!(error.to_string().contains("--region"), "{error}");
    }
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let began = Instant::now();
    let settings = BucketSettings { endpoint: Some(nobody), ..good };
    let error = server.open(settings).await.unwrap_err();
    assert!(matches!(error, BucketError::Unreachable { .. }), "{error}");
    let line = error.to_string();
    assert!(line.contains("--endpoint") && !line.contains('\n'), "{line}");
    assert!(began.elapsed() < Duration::from_secs(15));
}

#[tokio::test]
#[ignore = "needs BBB_GARAGE: run by `scripts/test servers`"]
async fn garage_refuses_what_is_wrong() {
    refuses(garage(), true).await;
}

#[tokio::test]
#[ignore = "needs BBB_MOTO: run by `scripts/test servers`"]
async fn moto_refuses_what_is_wrong() {
    refuses(moto(), false).await;
}

/// What a wire does to whoever builds over it.
async fn survives_the_wire(server: Server) {
    let group = TaskGroup::new("proxy");
    let proxy = Proxy::start(server.address, &group).await;
    let settings = server.settings(proxy.address);
    let bucket = server.open(settings).await.unwrap();
    proxy.set(WireFaults {
        resets: 0.05,
        slow_down: 0.03,
        lost_answers: 0.06,
        cut_bodies: 0.08,
        wrong_bytes: 0.03,
    });
    let blobs: Vec<_> = (0..60)
        .map(|at| match at % 10 {
            0 => blob(18 << 20),
            1 => text(12 << 20),
            at => text(1 + at * 30_000),
        })
        .collect();
    let (cas, results) = (bucket.cas(&instance("")), bucket.action_cache(&instance("")));
    let puts = blobs.iter().map(|(digest, bytes)| {
        let (cas, results) = (Arc::clone(&cas), Arc::clone(&results));
        async move {
            cas.put(*digest, Source::from(bytes.clone())).await.unwrap();
            let result =
                ActionResult { stdout_raw: bytes[..1].to_vec(), ..ActionResult::default() };
            results.put(*digest, result).await.unwrap();
        }
    });
    stream::iter(puts).buffer_unordered(8).collect::<Vec<()>>().await;
    // Through the faults, and by a node that sees none of them.
    let direct = server.open(server.settings(server.address)).await.unwrap();
    for bucket in [&bucket, &direct] {
        bucket.existence.forget_all();
        let (cas, results) = (bucket.cas(&instance("")), bucket.action_cache(&instance("")));
        let digests: Vec<_> = blobs.iter().map(|(digest, _)| *digest).collect();
        assert!(cas.find_missing(&digests).await.unwrap().is_empty());
        for (digest, bytes) in &blobs {
            let read = read_all(cas.get(*digest, Wanted::ALL).await.unwrap()).await.unwrap();
            assert!(read == *bytes);
            assert_eq!(results.get(*digest).await.unwrap().unwrap().stdout_raw, bytes[..1]);
        }
    }
    let stats = bucket.stats();
    assert!(stats.faults > 20 && stats.retries > 20 && stats.damaged == 0, "{stats:?}");
    assert_eq!((direct.stats().faults, direct.stats().damaged), (0, 0));
}

#[tokio::test]
#[ignore = "needs BBB_GARAGE: run by `scripts/test servers`"]
async fn nothing_is_lost_between_us_and_garage() {
    survives_the_wire(garage()).await;
}

#[tokio::test]
#[ignore = "needs BBB_MOTO: run by `scripts/test servers`"]
async fn nothing_is_lost_between_us_and_moto() {
    survives_the_wire(moto()).await;
}

#[tokio::test]
#[ignore = "needs BBB_GARAGE: run by `scripts/test servers`"]
async fn a_server_that_is_killed_and_comes_back_has_what_was_acknowledged() {
    let mut server = garage();
    let bucket = server.open(server.settings(server.address)).await.unwrap();
    let cas = bucket.cas(&instance(""));
    let (digest, bytes) = blob(1 << 20);
    put(&cas, digest, &bytes).await;
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    bucket.existence.forget_all();
    let config = server._folder.path().join("garage.toml");
    let restart = async {
        time::sleep(Duration::from_secs(3)).await;
        server.child = Command::new(program("BBB_GARAGE"))
            .arg("-c")
            .arg(config)
            .arg("server")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
    };
    // The read rides it out.
    let (read, ()) = future::join(cas.get(digest, Wanted::ALL), restart).await;
    let read = read.unwrap();
    assert_eq!(read.encoding, Encoding::Identity);
    assert!(read_all(read).await.unwrap() == bytes);
    assert!(bucket.stats().retries > 0);
}
