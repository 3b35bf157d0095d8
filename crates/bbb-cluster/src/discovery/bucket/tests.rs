//! Over a bucket in memory whose clock is that of the paused runtime, with faults.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use futures::stream::BoxStream;
use object_store::{
    CopyOptions, Error, GetResult, ListResult, MultipartUpload, PutMultipartOptions, PutOptions,
    PutResult, Result, local::LocalFileSystem, memory::InMemory,
};

use super::{
    super::tests::{Bed, meeting, node},
    *,
};
use crate::MemberId;

/// A bucket in memory.
#[derive(Debug)]
struct Bucket {
    objects: InMemory,
    started: Instant,
    /// How far its clock is from that of the nodes.
    clock: Duration,
    written: Arc<Mutex<HashMap<Path, Instant>>>,
    fails: AtomicBool,
    hangs: AtomicBool,
    puts: AtomicU64,
    gets: AtomicU64,
    lists: AtomicU64,
}

impl Bucket {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            objects: InMemory::new(),
            started: Instant::now(),
            clock: Duration::from_secs(2_000_000_000),
            written: Arc::default(),
            fails: false.into(),
            hangs: false.into(),
            puts: 0.into(),
            gets: 0.into(),
            lists: 0.into(),
        })
    }

    async fn pass(&self, count: &AtomicU64) -> Result<()> {
        count.fetch_add(1, Relaxed);
        if self.hangs.load(Relaxed) {
            future::pending::<()>().await;
        }
        if self.fails.load(Relaxed) {
            return Err(Error::Generic { store: "bucket", source: "SlowDown".into() });
        }
        Ok(())
    }

    async fn keys(&self) -> BTreeSet<String> {
        self.objects.list(None).map(|meta| meta.unwrap().location.to_string()).collect().await
    }

    /// Puts an object as it is.
    async fn leave(&self, key: &str, bytes: &[u8]) {
        self.put(&Path::from(key), bytes.to_vec().into()).await.unwrap();
    }

    fn counts(&self) -> [u64; 3] {
        [&self.puts, &self.gets, &self.lists].map(|count| count.load(Relaxed))
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a bucket in memory")
    }
}

#[async_trait]
impl ObjectStore for Bucket {
    async fn put_opts(
        &self,
        key: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.pass(&self.puts).await?;
        self.written.lock().unwrap().insert(key.clone(), Instant::now());
        self.objects.put_opts(key, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        _: &Path,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Err(Error::NotSupported { source: "no entry is so large".into() })
    }

    async fn get_opts(&self, key: &Path, options: GetOptions) -> Result<GetResult> {
        self.pass(&self.gets).await?;
        self.objects.get_opts(key, options).await
    }

    fn delete_stream(
        &self,
        keys: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        if self.hangs.load(Relaxed) {
            return stream::pending().boxed();
        }
        self.objects.delete_stream(keys)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.lists.fetch_add(1, Relaxed);
        if self.hangs.load(Relaxed) {
            return stream::pending().boxed();
        }
        if self.fails.load(Relaxed) {
            return stream::iter([Err(Error::Generic {
                store: "bucket",
                source: "SlowDown".into(),
            })])
            .boxed();
        }
        let (written, started, clock) = (Arc::clone(&self.written), self.started, self.clock);
        let told = move |mut meta: ObjectMeta| {
            let at = written.lock().unwrap()[&meta.location];
            meta.last_modified =
                (SystemTime::UNIX_EPOCH + clock + at.duration_since(started)).into();
            meta
        };
        self.objects.list(prefix).map_ok(told).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.objects.copy_opts(from, to, options).await
    }
}

fn list(bucket: &Arc<Bucket>, ring: &KeyRing) -> BucketList {
    BucketList::new(Arc::clone(bucket) as Arc<dyn ObjectStore>, "some/members", ring)
}

fn ring() -> KeyRing {
    KeyRing::open("meet")
}

fn bed(name: &str, gossip: &str, bucket: &Arc<Bucket>) -> Bed {
    Bed::new(node(name, gossip), list(bucket, &ring()))
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn ten_nodes_that_start_at_once_all_have_someone_within_moments() {
    let bucket = Bucket::new();
    let mut beds: Vec<Bed> =
        (0..10).map(|i| bed(&format!("node/{i}"), &format!("10.0.0.{i}:1"), &bucket)).collect();
    let started = Instant::now();
    for bed in &mut beds {
        bed.next().await;
    }
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    for (i, bed) in beds.iter_mut().enumerate() {
        let mut found = BTreeSet::new();
        while found.len() < 9 {
            found.insert(bed.next().await);
        }
        assert!(!found.contains(&address(&format!("10.0.0.{i}:1"))), "itself");
    }
    assert_eq!(bucket.keys().await.len(), 10);
    for bed in beds {
        bed.stop().await;
    }
    assert_eq!(bucket.keys().await.len(), 0, "each removed its own");
}

#[tokio::test(start_paused = true)]
async fn asks_little_in_company_and_goes_on_looking() {
    let bucket = Bucket::new();
    let mut a = bed("a", "10.0.0.1:1", &bucket);
    let b = bed("b", "10.0.0.2:1", &bucket);
    a.next().await;
    for (bed, other) in [(&a, node("b", "10.0.0.2:1")), (&b, node("a", "10.0.0.1:1"))] {
        bed.sees([other]);
    }
    tokio::time::sleep(EAGER).await;
    while a.found.try_recv().is_ok() {}
    let before = bucket.counts();
    a.quiet(Duration::from_secs(3600)).await;
    let [puts, gets, lists] = std::array::from_fn(|i| bucket.counts()[i] - before[i]);
    assert!((230..=250).contains(&puts), "{puts} PUTs of two nodes an hour");
    assert!((110..=130).contains(&lists), "{lists} LISTs");
    assert_eq!(gets, 0, "nobody is unknown");

    let c = bed("c", "10.0.0.3:1", &bucket);
    let started = Instant::now();
    assert_eq!(a.next().await, address("10.0.0.3:1"));
    assert!(started.elapsed() < IN_COMPANY * 2, "the other half is found");
    for bed in [a, b, c] {
        bed.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn entries_of_the_dead_are_ignored_then_removed() {
    let bucket = Bucket::new();
    let dead = list(&bucket, &ring());
    let (_view, _found, meeting) =
        meeting(node("dead", "10.0.0.9:1"), bbb_lifecycle::Stop::default());
    dead.write(&meeting, &mut None).await.unwrap();
    bucket.leave("some/members/readme.txt", b"foreign").await;
    let foreign = format!("some/members/{}/notes", ring().tag());
    bucket.leave(&foreign, b"foreign").await;

    let mut a = bed("a", "10.0.0.1:1", &bucket);
    assert_eq!(a.next().await, address("10.0.0.9:1"), "it may live");
    tokio::time::sleep(entry::STALE + WRITE_PAUSE * 2).await;
    // What was found until then, and the one that waits for room.
    while timeout(ALONE * 2, a.found.recv()).await.is_ok() {}
    a.quiet(entry::DOOMED).await;
    tokio::time::sleep(ALONE * 2).await;
    let keys = bucket.keys().await;
    assert_eq!(keys.len(), 3, "the dead one is removed, and nothing else: {keys:?}");
    assert!(keys.contains(&foreign) && keys.contains("some/members/readme.txt"));
    a.stop().await;
}

#[tokio::test(start_paused = true)]
async fn clusters_and_keys_stay_apart() {
    let bucket = Bucket::new();
    let keys =
        crate::SecretKey::parse_list("Rg0Nn1cWl7VbWkBPp0XKLnXkW0VJcWmT1R8vG2pXqZE=").unwrap();
    let rings = [KeyRing::open("other"), KeyRing::new("meet", &keys).unwrap()];
    let strangers: Vec<Bed> =
        rings.iter().map(|ring| Bed::new(node("s", "10.0.0.9:1"), list(&bucket, ring))).collect();
    let mut a = bed("a", "10.0.0.1:1", &bucket);
    a.quiet(Duration::from_secs(600)).await;
    for mut stranger in strangers {
        assert!(stranger.found.try_recv().is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn an_entry_counts_only_where_it_belongs() {
    let bucket = Bucket::new();
    let list = list(&bucket, &ring());
    let of = |name: &str, gossip: &str| {
        let contact = Contact::of(&node(name, gossip), false).encode().unwrap();
        (EntryName::of(name, 7).key(&list.prefix), list.sealer.seal(SystemTime::now(), &contact))
    };
    let ((b, b_sealed), (c, c_sealed)) = (of("b", "10.0.0.2:1"), of("c", "10.0.0.3:1"));
    bucket.leave(b.as_ref(), &c_sealed).await;
    bucket.leave(c.as_ref(), &b_sealed[1..]).await;
    let mut a = bed("a", "10.0.0.1:1", &bucket);
    a.quiet(Duration::from_secs(30)).await;
    bucket.leave(c.as_ref(), &c_sealed).await;
    assert_eq!(a.next().await, address("10.0.0.3:1"));
    a.stop().await;
}

#[tokio::test(start_paused = true)]
async fn goes_on_when_the_bucket_is_well_again() {
    let bucket = Bucket::new();
    let other = bed("b", "10.0.0.2:1", &bucket);
    for fault in [&bucket.fails, &bucket.hangs] {
        fault.store(true, Relaxed);
        let mut a = bed("a", "10.0.0.1:1", &bucket);
        let before = bucket.counts();
        a.quiet(Duration::from_secs(300)).await;
        let asked: u64 = bucket.counts().iter().zip(before).map(|(now, before)| now - before).sum();
        assert!(asked < 400, "{asked} requests of two nodes in 5 minutes of faults");
        fault.store(false, Relaxed);
        let well = Instant::now();
        assert_eq!(a.next().await, address("10.0.0.2:1"));
        assert!(well.elapsed() < WRITE_PAUSE + REQUEST_WAIT * 2, "{:?}", well.elapsed());
        a.stop().await;
    }
    other.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_bucket_that_hangs_does_not_keep_a_node_from_leaving() {
    let bucket = Bucket::new();
    let a = bed("a", "10.0.0.1:1", &bucket);
    tokio::time::sleep(Duration::from_secs(1)).await;
    bucket.hangs.store(true, Relaxed);
    tokio::time::sleep(WRITE_PAUSE * 2).await;
    let asked = Instant::now();
    a.stop().await;
    assert!(asked.elapsed() <= FAREWELL_WAIT + Duration::from_millis(10));
}

#[tokio::test(start_paused = true)]
async fn a_new_generation_has_a_new_entry() {
    let bucket = Bucket::new();
    let a = bed("a", "10.0.0.1:1", &bucket);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let first = bucket.keys().await;
    a.becomes(MemberId { generation: 8, ..node("a", "10.0.0.1:1") });
    tokio::time::sleep(WRITE_PAUSE * 2).await;
    let second = bucket.keys().await;
    assert_eq!((first.len(), second.len()), (1, 1));
    assert_ne!(first, second);
    a.stop().await;
    assert_eq!(bucket.keys().await.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_node_without_an_address_leaves_no_entry_and_still_finds_others() {
    let bucket = Bucket::new();
    let mut a = bed("a", "0.0.0.0:1", &bucket);
    let b = bed("b", "10.0.0.2:1", &bucket);
    assert_eq!(a.next().await, address("10.0.0.2:1"));
    assert_eq!(bucket.keys().await.len(), 1);
    b.stop().await;
}

#[tokio::test]
async fn a_shared_folder_is_a_bucket_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalFileSystem::new_with_prefix(folder.path()).unwrap();
    let store: Arc<dyn ObjectStore> = Arc::new(store);
    let bed = |name: &str, gossip: &str| {
        Bed::new(node(name, gossip), BucketList::new(Arc::clone(&store), "members", &ring()))
    };
    let (mut a, mut b) = (bed("a", "10.0.0.1:1"), bed("b", "10.0.0.2:1"));
    assert_eq!((a.next().await, b.next().await), (address("10.0.0.2:1"), address("10.0.0.1:1")));
    a.stop().await;
    b.stop().await;
    assert!(store.list(None).next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn very_many_objects_are_gone_through_in_parts() {
    let bucket = Bucket::new();
    let prefix = format!("some/members/{}", ring().tag());
    for i in 0..MAX_LISTED + 10 {
        bucket.leave(&format!("{prefix}/a-{i:05}"), b"").await;
    }
    let list = list(&bucket, &ring());
    let mut after = None;
    assert_eq!(list.list(&mut after).await.unwrap().len(), MAX_LISTED);
    assert_eq!(list.list(&mut after).await.unwrap().len(), 10);
    assert_eq!(after, None);
    let mut z = bed("z", "10.0.0.1:1", &bucket);
    let zz = bed("zz", "10.0.0.2:1", &bucket);
    z.next().await;
    zz.stop().await;
}
