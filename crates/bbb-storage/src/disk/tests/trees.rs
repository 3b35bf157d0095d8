//! The layers over a real store: trees, and results that are complete.

use bbb_reapi::proto::reapi;
use prost::Message as _;

use super::*;
use crate::{Complete, TreeCache, TreeError, Trees};

/// One instance put together as a node does.
struct House {
    store: Store,
    cas: Arc<dyn Cas>,
    trees: Arc<Trees>,
    results: Complete,
    _dir: TempDir,
}

impl House {
    fn new(limit_bytes: u64) -> Self {
        Self::with_trees(limit_bytes, 1 << 20)
    }

    fn with_trees(limit_bytes: u64, trees_bytes: u64) -> Self {
        let dir = TempDir::new().unwrap();
        let store = Store::open(dir.path(), limit_bytes);
        let cas = store.cas();
        let cache = Arc::new(TreeCache::new(trees_bytes));
        let trees = Arc::new(Trees::new(InstanceName::default(), Arc::clone(&cas), cache));
        let results = Complete::new(store.results(), Arc::clone(&cas), Arc::clone(&trees));
        Self { store, cas, trees, results, _dir: dir }
    }

    async fn message(&self, message: &impl prost::Message) -> Digest {
        let bytes = message.encode_to_vec();
        let digest = Digest::of(Function::Sha256, &bytes);
        self.cas.put(digest, bytes.into()).await.unwrap();
        digest
    }

    fn take_away(&self, digest: Digest) {
        fs::remove_file(self.store.path(Kind::Blob, digest)).unwrap();
        let key = index::Key { instance: InstanceId(0), kind: Kind::Blob, digest };
        assert!(self.store.disk.index().remove(&key));
        self.store.disk.forget_in_memory(&key);
    }
}

fn wire(digest: Digest) -> Option<reapi::Digest> {
    Some(reapi::Digest { hash: digest.hex().to_string(), size_bytes: digest.size_bytes() as i64 })
}

fn directory(files: &[(&str, Digest)], directories: &[(&str, Digest)]) -> reapi::Directory {
    let files = files.iter().map(|(name, digest)| reapi::FileNode {
        name: (*name).to_owned(),
        digest: wire(*digest),
        ..reapi::FileNode::default()
    });
    let directories = directories.iter().map(|(name, digest)| reapi::DirectoryNode {
        name: (*name).to_owned(),
        digest: wire(*digest),
    });
    reapi::Directory {
        files: files.collect(),
        directories: directories.collect(),
        ..reapi::Directory::default()
    }
}

fn sorted(mut digests: Vec<Digest>) -> Vec<Digest> {
    digests.sort();
    digests.dedup();
    digests
}

fn action() -> Digest {
    Digest::of(Function::Sha256, b"action")
}

/// A result with files, streams, a directory as a `Tree` and one by its root.
async fn rich_result(house: &House) -> (ActionResult, Vec<Digest>) {
    let mut blobs = Vec::new();
    for len in 1..=7 {
        blobs.push(house.store.put(len).await);
    }
    // The tree's directories are no blobs of their own.
    let child = directory(&[("c", blobs[0])], &[]);
    let child_digest = Digest::of(Function::Sha256, &child.encode_to_vec());
    let root = directory(&[("a", blobs[1])], &[("d", child_digest)]);
    let tree = reapi::Tree { root: Some(root), children: vec![child] };
    let tree = house.message(&tree).await;
    let below = house.message(&directory(&[("x", blobs[2])], &[])).await;
    let top =
        house.message(&directory(&[("y", blobs[3])], &[("one", below), ("two", below)])).await;
    let output = |tree_digest, root_directory_digest| reapi::OutputDirectory {
        tree_digest,
        root_directory_digest,
        ..reapi::OutputDirectory::default()
    };
    let empty = Digest::empty(Function::Sha256);
    let file = |digest| reapi::OutputFile { digest: wire(digest), ..reapi::OutputFile::default() };
    let result = ActionResult {
        output_files: vec![file(blobs[4]), file(empty)],
        output_directories: vec![output(wire(tree), None), output(None, wire(top))],
        stdout_digest: wire(blobs[5]),
        stderr_digest: wire(blobs[6]),
        ..ActionResult::default()
    };
    blobs.extend([tree, below, top]);
    (result, blobs)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_closure_is_all_that_a_result_needs() {
    let house = House::new(1 << 30);
    let (result, blobs) = rich_result(&house).await;
    let closure = house.trees.closure(action(), &result).await.unwrap();
    assert_eq!(sorted(closure), sorted(blobs));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_is_stored_and_served_only_while_it_is_complete() {
    let (whole, count) = {
        let house = House::new(1 << 30);
        let (result, blobs) = rich_result(&house).await;
        house.results.put(action(), result.clone()).await.unwrap();
        (house.results.get(action()).await.unwrap().unwrap(), blobs.len())
    };
    assert_eq!(whole.output_files.len(), 2);
    for lost in 0..count {
        let house = House::new(1 << 30);
        let (result, blobs) = rich_result(&house).await;
        house.results.put(action(), result.clone()).await.unwrap();
        assert!(house.results.get(action()).await.unwrap().is_some());
        house.take_away(blobs[lost]);
        assert!(house.results.get(action()).await.unwrap().is_none(), "blob {lost} is lost");
        let put = house.results.put(action(), result).await;
        let Err(Error::Incomplete(missing)) = put else { panic!("blob {lost} is lost: {put:?}") };
        assert_eq!(missing, [blobs[lost]]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_that_is_not_stored_is_missing_not_a_fault() {
    let house = House::new(1 << 30);
    let root = Digest::of(Function::Sha256, b"no such directory");
    let output = reapi::OutputDirectory {
        root_directory_digest: wire(root),
        ..reapi::OutputDirectory::default()
    };
    let result = ActionResult { output_directories: vec![output], ..ActionResult::default() };
    let put = house.results.put(action(), result).await;
    assert!(matches!(&put, Err(Error::Incomplete(missing)) if *missing == [root]), "{put:?}");
    assert_eq!(house.trees.missing(root).await.unwrap(), [root]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_cannot_be_read_is_refused() {
    let house = House::new(1 << 30);
    let noise = house.store.put(50).await;
    let output = reapi::OutputDirectory { tree_digest: wire(noise), ..Default::default() };
    let result = ActionResult { output_directories: vec![output], ..ActionResult::default() };
    let put = house.results.put(action(), result.clone()).await;
    assert!(matches!(put, Err(Error::Unreadable { .. })), "{put:?}");
    house.store.results().put(action(), result).await.unwrap();
    assert!(house.results.get(action()).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_says_what_of_it_is_missing() {
    let house = House::new(1 << 30);
    let file = house.store.put(10).await;
    let absent_file = Digest::of(Function::Sha256, b"absent file");
    let absent_directory = Digest::of(Function::Sha256, b"absent directory");
    let empty = house.message(&reapi::Directory::default()).await;
    let shared =
        house.message(&directory(&[("a", file), ("b", absent_file)], &[("e", empty)])).await;
    let root = house
        .message(&directory(&[], &[("gone", absent_directory), ("one", shared), ("two", shared)]))
        .await;
    let walk = house.trees.walk(root).await.unwrap();
    assert_eq!(
        walk.directories.iter().map(|(digest, _)| *digest).collect::<Vec<_>>(),
        [root, shared, empty]
    );
    let missing = house.trees.missing(root).await.unwrap();
    assert_eq!(sorted(missing), sorted(vec![absent_file, absent_directory]));
}

/// A tree of some directories with some files each, unlike those of other numbers.
async fn wide_tree(house: &House, number: usize, directories: usize, files: usize) -> Digest {
    let file = Digest::of(Function::Sha256, b"file");
    let mut below = Vec::new();
    for index in 0..directories {
        let names: Vec<String> =
            (0..files).map(|file| format!("{number:02}-{index:03}-{file:03}")).collect();
        let files: Vec<_> = names.iter().map(|name| (name.as_str(), file)).collect();
        below.push((format!("{index:03}"), house.message(&directory(&files, &[])).await));
    }
    let below: Vec<_> = below.iter().map(|(name, digest)| (name.as_str(), *digest)).collect();
    house.message(&directory(&[], &below)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_that_takes_more_memory_than_trees_may_is_refused() {
    let house = House::with_trees(1 << 30, 200 << 10);
    let large = wide_tree(&house, 0, 10, 60).await;
    let small = wide_tree(&house, 1, 10, 5).await;
    for _ in 0..3 {
        let walk = house.trees.walk(large).await;
        assert!(matches!(walk, Err(TreeError::Storage(Error::Full { .. }))), "{walk:?}");
        // Whatever it had taken is back.
        assert_eq!(house.trees.walk(small).await.unwrap().directories.len(), 11);
    }
    // The claim alone, before anything is read.
    let claim = Digest::from_raw(Function::Sha256, &[7; 32], 1 << 40).unwrap();
    let walk = house.trees.walk(claim).await;
    assert!(matches!(walk, Err(TreeError::Storage(Error::Full { .. }))), "{walk:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_trees_at_once_take_turns() {
    // Each takes a good half of what there is for trees that are read.
    let house = House::with_trees(1 << 30, 400 << 10);
    let mut roots = Vec::new();
    for number in 0..12 {
        roots.push(wide_tree(&house, number, 20, 20).await);
    }
    let walks = roots.iter().map(|root| async {
        let walk = house.trees.walk(*root).await.unwrap();
        assert_eq!(walk.directories.len(), 21);
        tokio::task::yield_now().await;
    });
    futures::future::join_all(walks).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn results_go_before_the_blobs_they_need() {
    let house = House::new(4 << 20);
    let mut stored = Vec::new();
    for number in 0..300 {
        let digest = house.store.put(20_000).await;
        let file = reapi::OutputFile { digest: wire(digest), ..reapi::OutputFile::default() };
        let result = ActionResult { output_files: vec![file], ..ActionResult::default() };
        let action = Digest::of(Function::Sha256, format!("action {number}").as_bytes());
        house.results.put(action, result).await.unwrap();
        stored.push((action, digest));
        if number % 3 == 0 {
            // A hit keeps both.
            drop(house.results.get(stored[number / 2].0).await.unwrap());
        }
    }
    assert!(house.store.disk.stats().evictions > 100);
    let mut served = 0;
    for (action, digest) in stored {
        let index = house.store.disk.index();
        let has = |kind, digest| {
            index.find(&index::Key { instance: InstanceId(0), kind, digest }).is_some()
        };
        let (has_result, has_blob) = (has(Kind::Result, action), has(Kind::Blob, digest));
        assert!(has_blob || !has_result, "a result has outlived its blob");
        served += usize::from(has_result);
    }
    assert!(served > 50);
}
