//! Trees over a store that counts what it is asked, and loses what it is told to.

use std::{
    collections::HashMap,
    fmt, mem,
    sync::{Mutex, atomic::AtomicUsize, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use bbb_digest::Function;
use bbb_reapi::{ToProto as _, proto::reapi};
use prost::Message as _;

use super::*;
use crate::{Blob, Content, Encoding, Source, Wanted};

const F: Function = Function::Sha256;

#[derive(Debug, Default)]
struct Store {
    blobs: Mutex<HashMap<Digest, Bytes>>,
    reads: AtomicUsize,
    asked: Mutex<Vec<Digest>>,
}

impl Store {
    fn add(&self, bytes: impl Into<Bytes>) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::of(F, &bytes);
        self.blobs.lock().unwrap().insert(digest, bytes);
        digest
    }

    fn lose(&self, digest: Digest) -> Bytes {
        self.blobs.lock().unwrap().remove(&digest).unwrap()
    }

    /// A directory of files, whose names are their contents, and of directories, whose names are d0, d1 and so on.
    fn directory(&self, files: &[&str], below: &[Digest]) -> Digest {
        let file = |name: &&str| reapi::FileNode {
            name: (*name).to_owned(),
            digest: Some(self.add((*name).to_owned()).to_proto()),
            ..reapi::FileNode::default()
        };
        let node = |(number, digest): (usize, &Digest)| reapi::DirectoryNode {
            name: format!("d{number}"),
            digest: Some(digest.to_proto()),
        };
        let directory = reapi::Directory {
            files: files.iter().map(file).collect(),
            directories: below.iter().enumerate().map(node).collect(),
            ..reapi::Directory::default()
        };
        self.add(directory.encode_to_vec())
    }

    /// So many directories in each other.
    fn chain(&self, depth: usize) -> Digest {
        let bottom = self.directory(&[], &[]);
        (1..depth).fold(bottom, |below, _| self.directory(&[], &[below]))
    }

    fn reads(&self) -> usize {
        self.reads.swap(0, Ordering::Relaxed)
    }

    fn asked(&self) -> Vec<Digest> {
        sorted(mem::take(&mut *self.asked.lock().unwrap()))
    }
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("store")
    }
}

#[async_trait]
impl Cas for Store {
    async fn get(&self, digest: Digest, _: Wanted) -> Result<Blob> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let bytes =
            self.blobs.lock().unwrap().get(&digest).cloned().ok_or(Error::Missing(digest))?;
        let size_bytes = digest.size_bytes();
        Ok(Blob { size_bytes, encoding: Encoding::Identity, content: Content::Bytes(bytes) })
    }

    async fn put(&self, _: Digest, _: Source) -> Result<()> {
        unreachable!("nobody writes here")
    }

    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>> {
        self.asked.lock().unwrap().extend(digests);
        let blobs = self.blobs.lock().unwrap();
        Ok(digests.iter().filter(|digest| !blobs.contains_key(digest)).copied().collect())
    }
}

fn sorted(mut digests: Vec<Digest>) -> Vec<Digest> {
    digests.sort();
    digests
}

fn house(memory_bytes: u64) -> (Arc<Store>, Trees) {
    let store = Arc::new(Store::default());
    let cache = Arc::new(TreeCache::new(memory_bytes));
    (Arc::clone(&store), Trees::new(InstanceName::default(), store, cache))
}

/// Whether all that is left of what was ever read is kept by the cache, within its memory.
#[track_caller]
fn assert_idle(trees: &Trees) {
    while trees.cache.alive.give_way() {}
    assert_eq!(trees.cache.alive.counts(), (0, 0));
    assert_eq!(trees.cache.memory.free_bytes(), trees.cache.memory.total_bytes());
}

#[tokio::test]
async fn a_tree_like_another_one_shares_with_it_what_is_equal() {
    let (store, trees) = house(1 << 20);
    let same = store.directory(&["s"], &[store.directory(&["t"], &[])]);
    let one = store.directory(&["1"], &[store.directory(&["a"], &[]), same]);
    let other = store.directory(&["1"], &[store.directory(&["b"], &[]), same]);
    let one = trees.subtree(one).await.unwrap();
    assert_eq!(store.reads(), 4);
    let other = trees.subtree(other).await.unwrap();
    assert_eq!(store.reads(), 2, "the root and what is below it and differs");
    assert!(Arc::ptr_eq(one.child("d1").unwrap(), other.child("d1").unwrap()));
    assert!(!Arc::ptr_eq(one.child("d0").unwrap(), other.child("d0").unwrap()));
    assert!(Arc::ptr_eq(&one, &trees.subtree(one.digest()).await.unwrap()));
    let below = trees.subtree(same).await.unwrap();
    assert!(Arc::ptr_eq(&below, other.child("d1").unwrap()));
    assert_eq!(store.reads(), 0);
    assert_eq!(below.totals().files, 2);
    assert_eq!(one.totals(), other.totals());
    drop((one, other, below));
    assert_idle(&trees);
}

#[tokio::test]
async fn instances_share_nothing() {
    let (store, trees) = house(1 << 20);
    let elsewhere = Arc::new(Store::default());
    let there = Trees::new("b".parse().unwrap(), elsewhere, Arc::clone(&trees.cache));
    let root = store.directory(&["1"], &[]);
    let _held = trees.subtree(root).await.unwrap();
    let unknown = there.subtree(root).await;
    assert!(matches!(unknown, Err(TreeError::Storage(Error::Missing(_)))), "{unknown:?}");
}

#[tokio::test]
async fn what_is_below_a_tree_in_use_is_read_once_however_seldom_it_is_asked_for() {
    let (store, trees) = house(64 << 10);
    let same = store.directory(&["s"], &[]);
    let mut last = None;
    for number in 0..500 {
        let changed = store.directory(&[&format!("{number:0200}")], &[]);
        let root = store.directory(&[], &[same, changed]);
        last = Some(trees.subtree(root).await.unwrap());
        assert_eq!(store.reads(), if number == 0 { 3 } else { 2 }, "{number}");
        let (alive, kept) = trees.cache.alive.counts();
        assert!(kept < 40 && alive < 80, "{alive} alive, {kept} kept");
    }
    drop(last);
    assert_idle(&trees);
}

#[tokio::test]
async fn what_was_let_go_is_read_again() {
    let (store, trees) = house(64 << 10);
    let roots: Vec<_> =
        (0..100).map(|number| store.directory(&[&format!("{number:0200}")], &[])).collect();
    for _ in 0..3 {
        for root in &roots {
            assert_eq!(trees.subtree(*root).await.unwrap().digest(), *root);
        }
        assert_eq!(store.reads(), roots.len(), "the one needed next is always the oldest");
    }
    // The latest are kept.
    for root in roots.iter().rev().take(10) {
        trees.subtree(*root).await.unwrap();
    }
    assert_eq!(store.reads(), 0);
    assert_idle(&trees);
}

#[tokio::test(start_paused = true)]
async fn who_finds_all_memory_held_waits_for_it() {
    let (store, trees) = house(64 << 10);
    let large = |name: &str| {
        let names: Vec<_> = (0..70).map(|file| format!("{name}{file:060}")).collect();
        store.directory(&names.iter().map(String::as_str).collect::<Vec<_>>(), &[])
    };
    let (one, other) = (large("a"), large("b"));
    let held = trees.subtree(one).await.unwrap();
    let late = trees.subtree(other).await;
    assert!(matches!(late, Err(TreeError::Storage(Error::Full { .. }))), "{late:?}");
    assert!(Arc::ptr_eq(&held, &trees.subtree(one).await.unwrap()));
    let (read, ()) = tokio::join!(trees.subtree(other), async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        drop(held);
    });
    drop(read.unwrap());
    assert_idle(&trees);
}

#[tokio::test]
async fn a_tree_too_deep_for_any_path_is_refused_and_one_that_is_not_leaves_no_deep_stack() {
    let (store, trees) = house(64 << 20);
    let deepest = trees.subtree(store.chain(2048)).await.unwrap();
    assert_eq!(deepest.totals().depth, 2048);
    while trees.cache.alive.give_way() {}
    let dropping = std::thread::Builder::new().stack_size(64 << 10).spawn(|| drop(deepest));
    dropping.unwrap().join().unwrap();
    assert_idle(&trees);
    let deeper = trees.subtree(store.chain(2049)).await;
    assert!(matches!(deeper, Err(TreeError::Invalid { .. })), "{deeper:?}");
    assert_idle(&trees);
}

#[tokio::test]
async fn a_graph_that_claimsmore_than_there_can_be_is_as_large_as_it_is() {
    let (store, trees) = house(1 << 20);
    let bottom = store.directory(&["file"], &[]);
    let root = (0..100).fold(bottom, |below, _| store.directory(&[], &[below, below]));
    let Found::Whole(tree) = trees.find(root).await.unwrap() else { panic!("it is whole") };
    assert_eq!((store.reads(), store.asked().len()), (101, 102));
    assert_eq!(tree.totals().files, u64::MAX);
    assert_eq!(trees.walk(root).await.unwrap().directories.len(), 101);
    assert_eq!(trees.missing(root).await.unwrap(), []);
    drop(tree);
    assert_idle(&trees);
}

#[tokio::test]
async fn a_walk_has_one_order_whatever_was_known_before() {
    let (store, trees) = house(1 << 20);
    let leaf = store.directory(&["leaf"], &[]);
    let deep = store.directory(&["deep"], &[leaf]);
    let gone = store.directory(&["gone"], &[]);
    let root = store.directory(&[], &[store.directory(&["mid"], &[deep]), leaf, gone, deep]);
    let digests = |walk: Walk| walk.directories.iter().map(|(digest, _)| *digest).collect();
    let whole: Vec<Digest> = digests(trees.walk(root).await.unwrap());
    while trees.cache.alive.give_way() {}
    store.lose(gone);
    for known in [None, Some(leaf), Some(deep)] {
        let _known = match known {
            Some(known) => Some(trees.subtree(known).await.unwrap()),
            None => None,
        };
        let walk = trees.walk(root).await.unwrap();
        assert_eq!(walk.missing, [gone]);
        let expected: Vec<_> = whole.iter().filter(|digest| **digest != gone).copied().collect();
        assert_eq!(digests(walk), expected);
    }
    assert_idle(&trees);
}

#[tokio::test(start_paused = true)]
async fn what_was_seen_a_moment_ago_is_not_asked_for() {
    let (store, trees) = house(1 << 20);
    let same = store.directory(&["s"], &[]);
    let changed = |name| store.directory(&[name], &[]);
    let one = store.directory(&["1"], &[same, changed("a")]);
    let other = store.directory(&["1"], &[same, changed("b")]);
    let file = |name: &'static str| Digest::of(F, name.as_bytes());
    let find = async |root| match trees.find(root).await.unwrap() {
        Found::Whole(tree) => drop(tree),
        Found::Missing(missing) => panic!("{missing:?}"),
    };
    let all = sorted(vec![one, same, changed("a"), file("1"), file("s"), file("a")]);
    find(one).await;
    assert_eq!(store.asked(), all);
    tokio::time::advance(Duration::from_secs(4)).await;
    find(one).await;
    assert_eq!(store.asked(), []);
    find(other).await;
    assert_eq!(store.asked(), sorted(vec![other, changed("b"), file("1"), file("b")]));
    // What is the same was seen first, and by it the other tree is known.
    tokio::time::advance(Duration::from_secs(2)).await;
    find(other).await;
    assert_eq!(store.asked(), sorted(vec![other, same, file("1"), file("s")]));
    tokio::time::advance(Duration::from_secs(5)).await;
    find(one).await;
    assert_eq!(store.asked(), all);
}

#[tokio::test(start_paused = true)]
async fn who_misses_something_is_told_all_that_is_missing() {
    let (store, trees) = house(1 << 20);
    let same = store.directory(&["s"], &[]);
    let one = store.directory(&["1"], &[same]);
    let other = store.directory(&["2"], &[same, store.directory(&["x"], &[])]);
    let [seen_file, unseen_file] = ["s", "x"].map(|name| Digest::of(F, name.as_bytes()));
    assert!(matches!(trees.find(one).await.unwrap(), Found::Whole(_)));
    // Lost after it was seen: for seconds nobody notices.
    let bytes = store.lose(seen_file);
    assert!(matches!(trees.find(one).await.unwrap(), Found::Whole(_)));
    // But what was seen is no reason not to tell what is missing beside something else.
    store.lose(unseen_file);
    let Found::Missing(missing) = trees.find(other).await.unwrap() else { panic!("not whole") };
    assert_eq!(sorted(missing), sorted(vec![seen_file, unseen_file]));
    // From then on it is known wherever it belongs.
    let Found::Missing(missing) = trees.find(one).await.unwrap() else { panic!("not whole") };
    assert_eq!(missing, [seen_file]);
    store.add(bytes);
    assert!(matches!(trees.find(one).await.unwrap(), Found::Whole(_)));
    // A directory that somebody holds may be lost, too.
    let held = trees.subtree(one).await.unwrap();
    store.lose(same);
    assert_eq!(trees.missing(one).await.unwrap(), [same]);
    let Found::Missing(missing) = trees.find(one).await.unwrap() else { panic!("not whole") };
    assert_eq!(missing, [same]);
    drop(held);
    assert_idle(&trees);
}
