use std::{
    path::Path,
    sync::atomic::{AtomicBool, AtomicU32, AtomicUsize},
    time::Duration,
};

use async_trait::async_trait;
use bbb_digest::{Digest, Function};
use bbb_reapi::{ToProto as _, proto::reapi};
use bbb_storage::{
    Complete, Disk, DiskSettings, Instances, LocalFile, Result as Stored, TreeCache, Trees,
};
use prost::Message as _;
use tokio::sync::Semaphore;

use super::*;

const FUNCTION: Function = Function::Sha256;

/// The files of a store, one of which may be slow to come, or fail.
#[derive(Debug)]
struct Files {
    files: Arc<dyn LocalFiles>,
    pins: AtomicUsize,
    failures: AtomicU32,
    /// Whether they are on another file system.
    are_elsewhere: AtomicBool,
    gate: Semaphore,
}

/// A file that cannot be linked to.
#[derive(Debug)]
struct Elsewhere;

impl LocalFile for Elsewhere {
    fn link(&self, _: &Path) -> Stored<()> {
        Err(Storage::unavailable("linking", io::ErrorKind::CrossesDevices.into()))
    }
}

#[async_trait]
impl LocalFiles for Files {
    async fn pin(&self, digest: Digest, executable: bool) -> Stored<Arc<dyn LocalFile>> {
        self.pins.fetch_add(1, Ordering::Relaxed);
        let _pass = self.gate.acquire().await;
        let fails = |left: u32| left.checked_sub(1);
        if self.failures.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fails).is_ok() {
            return Err(Storage::unavailable("pinning", io::ErrorKind::Other.into()));
        }
        match self.are_elsewhere.load(Ordering::Relaxed) {
            true => Ok(Arc::new(Elsewhere)),
            false => self.files.pin(digest, executable).await,
        }
    }
}

impl fmt::Display for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.files.fmt(f)
    }
}

/// A store and the trees that are staged from it.
struct House {
    bases: Arc<Bases>,
    files: Arc<Files>,
    stores: Stores,
    disk: Arc<Disk>,
    tasks: TaskGroup,
    folder: tempfile::TempDir,
}

impl House {
    fn new(limit_bytes: u64) -> Self {
        Self::of(limit_bytes, 1 << 20)
    }

    /// One that spends so many bytes of memory on staged trees.
    fn of(limit_bytes: u64, memory_bytes: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tasks = TaskGroup::new("test");
        let disk = DiskSettings::new(folder.path().join("store"), limit_bytes);
        let disk = Disk::open(disk, &tasks).unwrap();
        let cache = Arc::new(TreeCache::new(16 << 20));
        let of = Arc::clone(&disk);
        let instances = Instances::new(move |name: &InstanceName| {
            let cas = of.cas(name);
            let trees = Trees::new(name.clone(), Arc::clone(&cas), Arc::clone(&cache));
            let trees = Arc::new(trees);
            let results = of.action_cache(name);
            let complete = Complete::new(results, Arc::clone(&cas), Arc::clone(&trees));
            Stores { cas, action_cache: Arc::new(complete), trees }
        });
        let stores = instances.get(&InstanceName::default());
        let files = Files {
            files: disk.local_files(&InstanceName::default()),
            pins: AtomicUsize::default(),
            failures: AtomicU32::default(),
            are_elsewhere: AtomicBool::default(),
            gate: Semaphore::new(Semaphore::MAX_PERMITS),
        };
        let bases =
            Bases::start(disk.scratch().join("trees"), disk.lodging(), 0, memory_bytes, &tasks)
                .unwrap();
        Self { bases, files: Arc::new(files), stores, disk, tasks, folder }
    }

    async fn put(&self, content: impl Into<Vec<u8>>) -> Digest {
        let content = content.into();
        let digest = Digest::of(FUNCTION, &content);
        self.stores.cas.put(digest, content.into()).await.unwrap();
        digest
    }

    /// A root with a file of each of these contents.
    async fn tree(&self, contents: &[String]) -> Arc<Subtree> {
        let mut directory = reapi::Directory::default();
        for (index, content) in contents.iter().enumerate() {
            self.put(content.as_bytes()).await;
            directory.files.push(node(&format!("f{index:05}"), content));
        }
        let root = self.put(directory.encode_to_vec()).await;
        self.stores.trees.subtree(root).await.unwrap()
    }

    async fn ground(&self, tree: &Arc<Subtree>) -> Result<Option<Ground>, Error> {
        let sources = Sources {
            instance: &InstanceName::default(),
            stores: &self.stores,
            links: &*self.files,
            means: Means::default(),
            concurrency: 4,
        };
        self.bases.ground(tree, sources).await
    }

    /// The folders of bases that are there.
    fn folders(&self) -> usize {
        std::fs::read_dir(self.disk.scratch().join("trees")).unwrap().count()
    }
}

fn node(name: &str, content: &str) -> reapi::FileNode {
    let digest = Some(Digest::of(FUNCTION, content.as_bytes()).to_proto());
    reapi::FileNode { name: name.into(), digest, ..reapi::FileNode::default() }
}

fn contents(of: &str, count: usize) -> Vec<String> {
    (0..count).map(|index| format!("{of} {index}")).collect()
}

async fn until(mut is_met: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if is_met() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("condition was not met in time");
}

fn read(ground: &Ground, name: &str) -> String {
    std::fs::read_to_string(ground.base.tree().join(name)).unwrap()
}

#[tokio::test]
async fn equal_trees_are_staged_once_and_like_ones_stand_above() {
    let house = House::new(1 << 30);
    let tree = house.tree(&contents("x", 100)).await;
    let all = futures::future::join_all((0..16).map(|_| house.ground(&tree))).await;
    let all: Vec<_> = all.into_iter().map(|ground| ground.unwrap().unwrap()).collect();
    assert!(all.iter().all(|ground| ground.layer.is_empty() && read(ground, "f00007") == "x 7"));
    assert_eq!((house.folders(), house.files.pins.load(Ordering::Relaxed)), (1, 100));
    let mut changed = contents("x", 100);
    changed[7] = "new".into();
    let above = house.ground(&house.tree(&changed).await).await.unwrap().unwrap();
    assert_eq!((above.layer.entries(), above.base.tree()), (1, all[0].base.tree()));
    // What differs too much gets a base of its own, and others stand on that.
    changed[..60].fill("many".into());
    let other = house.ground(&house.tree(&changed).await).await.unwrap().unwrap();
    assert!(other.layer.is_empty());
    changed[99] = "one more".into();
    let above = house.ground(&house.tree(&changed).await).await.unwrap().unwrap();
    assert_eq!((above.layer.entries(), above.base.tree()), (1, other.base.tree()));
    assert_eq!(house.disk.stats().lodgers, 2);
}

#[tokio::test]
async fn no_instance_stands_on_what_another_staged() {
    let house = House::new(1 << 30);
    let tree = house.tree(&contents("x", 10)).await;
    let _ground = house.ground(&tree).await.unwrap().unwrap();
    let other = "other".parse::<InstanceName>().unwrap();
    let (stores, links) = (&house.stores, &*house.files);
    let means = Means::default();
    let sources = Sources { instance: &other, stores, links, means, concurrency: 4 };
    let _other = house.bases.ground(&tree, sources).await.unwrap().unwrap();
    assert_eq!(house.folders(), 2);
}

#[tokio::test]
async fn when_the_maker_gives_up_the_next_one_makes() {
    let house = House::new(1 << 30);
    let tree = house.tree(&contents("x", 10)).await;
    house.files.gate.forget_permits(Semaphore::MAX_PERMITS);
    let mut first = Box::pin(house.ground(&tree));
    let mut second = Box::pin(house.ground(&tree));
    tokio::select! {
        _ = &mut first => panic!("it waits for its files"),
        _ = &mut second => panic!("it waits for the first"),
        () = until(|| house.files.pins.load(Ordering::Relaxed) > 0) => {}
    }
    drop(first);
    house.files.gate.add_permits(100);
    let ground = second.await.unwrap().unwrap();
    assert_eq!(read(&ground, "f00009"), "x 9");
    until(|| house.folders() == 1 && house.disk.stats().lodgers == 1).await;
}

#[tokio::test]
async fn when_the_maker_fails_the_next_one_makes() {
    let house = House::new(1 << 30);
    let tree = house.tree(&contents("x", 10)).await;
    house.files.failures.store(1, Ordering::Relaxed);
    let (first, second) = tokio::join!(house.ground(&tree), house.ground(&tree));
    assert!(matches!(first, Err(Error::Fault { .. })), "{first:?}");
    assert_eq!(read(&second.unwrap().unwrap(), "f00009"), "x 9");
    let again = house.ground(&tree).await.unwrap().unwrap();
    assert_eq!(read(&again, "f00000"), "x 0");
}

#[tokio::test]
async fn a_base_that_cannot_be_made_gives_its_room_back() {
    let house = House::new(1 << 30);
    let tree = house.tree(&contents("x", 100)).await;
    house.files.failures.store(1, Ordering::Relaxed);
    assert!(house.ground(&tree).await.is_err());
    until(|| house.folders() == 0 && house.disk.stats().lodged_bytes == 0).await;
}

#[tokio::test]
async fn what_is_copied_counts_and_is_made_once_too() {
    let house = House::new(1 << 30);
    let tree = house.tree(&contents("x", 100)).await;
    house.files.are_elsewhere.store(true, Ordering::Relaxed);
    for _ in 0..2 {
        let ground = house.ground(&tree).await.unwrap().unwrap();
        assert_eq!(read(&ground, "f00042"), "x 42");
    }
    assert_eq!((house.folders(), house.files.pins.load(Ordering::Relaxed)), (1, 100));
    let stats = house.disk.stats();
    assert!(stats.lodgers == 2 && stats.lodged_bytes >= tree.totals().bytes, "{stats:?}");
}

#[tokio::test]
async fn a_base_that_is_pushed_out_stays_while_it_is_used() {
    let house = House::of(1 << 30, 100 * 80);
    let (one, other) = (contents("x", 60), contents("y", 60));
    let (one, other) = (house.tree(&one).await, house.tree(&other).await);
    let used = house.ground(&one).await.unwrap().unwrap();
    let _other = house.ground(&other).await.unwrap().unwrap();
    assert_eq!((read(&used, "f00059"), house.folders()), ("x 59".into(), 2));
    drop(used);
    until(|| house.folders() == 1 && house.disk.stats().lodgers == 1).await;
    let large = house.tree(&contents("z", 101)).await;
    assert!(house.ground(&large).await.unwrap().is_none(), "it alone would be too much");
}

#[tokio::test]
async fn what_is_missing_is_named_and_nothing_is_left() {
    let house = House::new(1 << 30);
    let mut directory = reapi::Directory::default();
    house.put("there").await;
    directory.files = vec![node("a", "there"), node("b", "not there")];
    let root = house.put(directory.encode_to_vec()).await;
    let tree = house.stores.trees.subtree(root).await.unwrap();
    let missing = Digest::of(FUNCTION, b"not there");
    match house.ground(&tree).await {
        Err(Error::Missing(digests)) => assert_eq!(digests, [missing]),
        other => panic!("{other:?}"),
    }
    until(|| house.folders() == 0 && house.disk.stats().lodgers == 0).await;
    house.put("not there").await;
    assert!(house.ground(&tree).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_base_goes_when_its_turn_comes_but_not_while_it_is_used() {
    const BLOB: usize = 64 << 10;
    let house = House::new(64 * BLOB as u64);
    let tree = house.tree(&contents("x", 10)).await;
    let ground = house.ground(&tree).await.unwrap().unwrap();
    for number in 0..200_u8 {
        house.put(vec![number; BLOB]).await;
    }
    assert_eq!((read(&ground, "f00003"), house.folders()), ("x 3".into(), 1));
    let digest = Digest::of(FUNCTION, b"x 3");
    assert!(house.stores.cas.find_missing(&[digest]).await.unwrap().is_empty(), "it is pinned");
    drop(ground);
    for number in 0..200_u8 {
        house.put(vec![number; BLOB + 1]).await;
    }
    until(|| house.folders() == 0 && house.disk.stats().lodgers == 0).await;
    let digests: Vec<_> = tree.directory().files.iter().map(|file| file.digest).collect();
    assert_eq!(house.stores.cas.find_missing(&digests).await.unwrap(), digests);
    // It can be made again.
    let tree = house.tree(&contents("x", 10)).await;
    assert_eq!(read(&house.ground(&tree).await.unwrap().unwrap(), "f00003"), "x 3");
    assert!(house.disk.stats().taken_bytes <= 64 * BLOB as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_is_evicted_meanwhile_each_finds_its_tree() {
    const LIMIT: u64 = 2 << 20;
    let house = Arc::new(House::new(LIMIT));
    let mut turns = tokio::task::JoinSet::new();
    for worker in 0..6_usize {
        let house = Arc::clone(&house);
        turns.spawn(async move {
            let mut staged = 0;
            for turn in 0..60 {
                let mut contents = contents("x", 40);
                contents[worker] = format!("{}", turn % 7);
                contents[10..10 + turn % 30].fill(format!("{}", turn % 3));
                let tree = house.tree(&contents).await;
                // Blobs may be evicted before they are pinned, and all room may be in use.
                let Ok(Some(ground)) = house.ground(&tree).await else { continue };
                staged += 1;
                house.put(vec![turn as u8; 50_000 + worker]).await;
                let in_layer = |index: usize| {
                    let places = ground.layer.blobs.iter().flat_map(|blob| &blob.places);
                    places.filter(|place| place.1 == index).count() > 0
                };
                for (index, content) in contents.iter().enumerate() {
                    if !in_layer(index) {
                        assert_eq!(read(&ground, &format!("f{index:05}")), *content);
                    }
                }
            }
            staged
        });
    }
    let staged: usize = turns.join_all().await.into_iter().sum();
    assert!(staged > 100, "{staged}");
    let stats = house.disk.stats();
    assert!(stats.taken_bytes <= LIMIT && stats.evictions > 0 && stats.damaged == 0, "{stats:?}");
    // What is left on the disk is what is counted.
    until(|| house.folders() as u64 == house.disk.stats().lodgers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_there_is_no_room_a_tree_is_staged_alone() {
    const LIMIT: u64 = 16 << 20;
    let house = House::new(LIMIT);
    let tree = house.tree(&contents("x", 10)).await;
    let all = house.disk.lodging().take(LIMIT - 4096, Box::new(|| {})).await.unwrap();
    let kept = all.keep().unwrap();
    assert!(house.ground(&tree).await.unwrap().is_none());
    until(|| house.folders() == 0 && house.disk.stats().lodged_bytes == LIMIT - 4096).await;
    drop((kept, all));
    let tree = house.tree(&contents("x", 10)).await;
    assert!(house.ground(&tree).await.unwrap().is_some());
}

#[tokio::test]
async fn what_a_process_left_is_removed_by_the_next() {
    let house = House::new(1 << 30);
    let folder = house.folder.path().join("left");
    std::fs::create_dir_all(folder.join("1/tree/d")).unwrap();
    let bases =
        Bases::start(folder.clone(), house.disk.lodging(), 0, 1 << 20, &house.tasks).unwrap();
    until(|| std::fs::read_dir(&folder).unwrap().count() == 0).await;
    assert!(bases.has_whiteouts && Path::new(&bases.folder).exists());
}
