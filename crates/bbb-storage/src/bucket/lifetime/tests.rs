mod aged;
mod promises;

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use bbb_digest::{Digest, Function, InstanceName};
use bbb_lifecycle::TaskGroup;
use object_store::{Error, ObjectStore, ObjectStoreExt as _, local::LocalFileSystem, path::Path};
use tokio::time::{self, Instant};

use self::aged::{Aged, Weak};
use super::{
    super::keys::{Keys, Kind},
    Lifetime, Ways,
    lease::{LEASE_TTL, Lease},
    policy::{Policy, Window},
    refresh::Refresher,
};

const HOUR: Duration = Duration::from_secs(3600);
const GRACE: Duration = Duration::from_secs(10);

fn keys() -> Keys {
    Keys::new(&Path::from("test"))
}

/// The key of an entry that is named by a number, in whatever shard its hash says.
fn key(kind: Kind, number: u64) -> Path {
    let digest = Digest::of(Function::Sha256, &number.to_be_bytes());
    keys().entry(kind, &InstanceName::default(), digest)
}

fn server(store: &Arc<Aged>) -> Ways {
    Ways::Server { copier: Arc::clone(store) as Arc<dyn ObjectStore> }
}

fn refresher(store: &Arc<Aged>) -> Refresher {
    Refresher::new(Arc::clone(store) as Arc<dyn ObjectStore>, &keys(), server(store))
}

async fn start(store: &Arc<Aged>, expire_after: Duration, tasks: &TaskGroup) -> Arc<Lifetime> {
    let policy = Policy::new(expire_after).unwrap();
    let honours = !store.weak.ignores_conditions;
    let (over, ways) = (Arc::clone(store) as Arc<dyn ObjectStore>, server(store));
    Lifetime::start(over, &keys(), policy, ways, honours, tasks).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn every_way_renews_and_the_cheapest_that_works_is_learned() {
    let refusing = Weak { refuses_self_copy: true, ..Weak::default() };
    let ignoring = Weak { ignores_self_copy: true, ..Weak::default() };
    let copying_nothing = Weak { refuses_copy: true, ..Weak::default() };
    // By bucket: copies and puts of ten renewals.
    for (weak, copies, puts) in [
        (Weak::default(), 10, 0),
        (refusing, 20, 0),
        (ignoring, 1 + 20, 0),
        (copying_nothing, 0, 10),
    ] {
        let store = Aged::new(weak, 0, 1);
        let refresher = refresher(&store);
        for number in 0..10 {
            let key = key(Kind::Blob, number);
            store.put(&key, "hello".into()).await.unwrap();
            store.age(&key, HOUR);
            let before = store.now();
            let renewed = refresher.renew(&store.head(&key).await.unwrap(), before).await.unwrap();
            let after = store.head(&key).await.unwrap();
            assert!(renewed <= after.last_modified.into(), "{weak:?}");
            assert!(store.now().duration_since(renewed).unwrap() <= Duration::from_secs(1));
            assert_eq!(store.get(&key).await.unwrap().bytes().await.unwrap(), "hello");
        }
        assert_eq!(refresher.renewed(), 10);
        assert_eq!(store.copies.load(Relaxed), copies, "{weak:?}");
        assert_eq!(store.puts.load(Relaxed) - 10, puts, "{weak:?}");
        assert_eq!(store.keys().await.len(), 10, "something was left aside");
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_teaches_nothing() {
    let store = Aged::new(Weak::default(), 0, 1);
    let refresher = refresher(&store);
    let key = key(Kind::Blob, 1);
    store.put(&key, "hello".into()).await.unwrap();
    store.age(&key, HOUR);
    let meta = store.head(&key).await.unwrap();
    store.is_down.store(true, Relaxed);
    for _ in 0..10 {
        refresher.renew(&meta, store.now()).await.unwrap_err();
    }
    store.is_down.store(false, Relaxed);
    refresher.renew(&meta, store.now()).await.unwrap();
    assert_eq!((store.copies.load(Relaxed), store.puts.load(Relaxed)), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn many_that_want_one_renewed_make_one_request() {
    let store = Aged::new(Weak::default(), 100, 1);
    let refresher = refresher(&store);
    let key = key(Kind::Blob, 1);
    store.put(&key, "hello".into()).await.unwrap();
    store.age(&key, HOUR);
    let meta = store.head(&key).await.unwrap();
    let all = (0..100).map(|_| refresher.renew(&meta, store.now()));
    futures::future::try_join_all(all).await.unwrap();
    assert_eq!(store.copies.load(Relaxed), 1);
    // One that gave up is in nobody's way.
    let _ = time::timeout(Duration::ZERO, refresher.renew(&meta, store.now())).await;
    refresher.renew(&meta, store.now()).await.unwrap();
    store.delete(&key).await.unwrap();
    let gone = refresher.renew(&meta, store.now()).await.unwrap_err();
    assert!(matches!(gone, Error::NotFound { .. }), "{gone}");
}

#[tokio::test]
async fn files_are_renewed_in_place() {
    let folder = tempfile::tempdir().unwrap();
    let store: Arc<dyn ObjectStore> =
        Arc::new(LocalFileSystem::new_with_prefix(folder.path()).unwrap());
    let refresher = Refresher::new(Arc::clone(&store), &keys(), Ways::Files);
    let key = key(Kind::Blob, 1);
    store.put(&key, "hello".into()).await.unwrap();
    let path = folder.path().join(key.as_ref());
    let now = std::time::SystemTime::now();
    std::fs::File::open(&path).unwrap().set_modified(now - HOUR).unwrap();
    let meta = store.head(&key).await.unwrap();
    let renewed = refresher.renew(&meta, now).await.unwrap();
    assert!(renewed + Duration::from_secs(1) > now);
    assert_eq!(std::fs::metadata(&path).unwrap().modified().unwrap(), renewed);
    assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    store.delete(&key).await.unwrap();
    assert!(matches!(refresher.renew(&meta, now).await, Err(Error::NotFound { .. })));
}

#[tokio::test(start_paused = true)]
async fn one_holds_the_lease_until_it_falls_silent() {
    for ignores_conditions in [false, true] {
        let store = Aged::new(Weak { ignores_conditions, ..Weak::default() }, 0, 1);
        let lease =
            || Lease::new(Arc::clone(&store) as Arc<dyn ObjectStore>, &keys(), !ignores_conditions);
        let (mut one, mut two) = (lease(), lease());
        let now = || store.now();
        let (first, second) = tokio::join!(one.hold(now()), two.hold(now()));
        assert_eq!(u8::from(first.unwrap()) + u8::from(second.unwrap()), 1);
        let (holder, other) = if two.hold(now()).await.unwrap() {
            (&mut two, &mut one)
        } else {
            (&mut one, &mut two)
        };
        for _ in 0..10 {
            time::sleep(LEASE_TTL / 2).await;
            assert!(holder.hold(now()).await.unwrap());
            assert!(!other.hold(now()).await.unwrap());
        }
        time::sleep(LEASE_TTL * 2).await;
        assert!(other.hold(now()).await.unwrap());
        assert!(!holder.hold(now()).await.unwrap());
        other.release().await;
        assert!(holder.hold(now()).await.unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn the_dead_go_results_first_and_the_rest_stays() {
    let store = Aged::new(Weak::default(), 20, 7);
    let day = 24 * HOUR;
    for number in 0..2500 {
        for kind in Kind::ALL {
            store.put(&key(kind, number), "x".into()).await.unwrap();
            // Every other one is as old as E and its margin; the others were just written.
            store.age(&key(kind, number), if number % 2 == 0 { 10 * day } else { 4 * HOUR });
        }
    }
    let foreign = [Path::from("test/v1/00/cas/not-ours"), Path::from("other/v1/00/cas/x")];
    for key in &foreign {
        store.put(key, "x".into()).await.unwrap();
        store.age(key, 1000 * day);
    }
    let left = keys().meta("aside/left");
    store.put(&left, "x".into()).await.unwrap();
    let count = async |kind| {
        let keys_here = store.keys().await;
        let kinds = keys_here.iter().filter_map(|key| keys().parse(key));
        kinds.filter(|(found, _)| *found == kind).count()
    };
    let tasks = TaskGroup::new("test");
    let life = start(&store, 8 * day, &tasks).await;
    time::sleep(2 * day + HOUR).await;
    assert_eq!((count(Kind::Result).await, count(Kind::Blob).await), (1250, 2500));
    assert_eq!(life.collected().get().deleted, 1250);
    assert_eq!(life.collected().get().rounds, 1);
    assert!(!store.keys().await.contains(&left));
    // The blobs follow at 3E/2 and the margin.
    time::sleep(6 * day).await;
    assert_eq!((count(Kind::Result).await, count(Kind::Blob).await), (1250, 1250));
    for key in &foreign {
        store.head(key).await.unwrap();
    }
    let collected = life.collected().get();
    assert_eq!((collected.deleted, collected.failed, collected.spared), (2500, 0, 0));
    assert_eq!(tasks.shut_down(GRACE).await, 0);
    assert!(!store.keys().await.contains(&keys().meta("lease")), "the lease was not released");
}

#[tokio::test(start_paused = true)]
async fn another_node_goes_on_with_the_round() {
    let store = Aged::new(Weak::default(), 0, 1);
    let tasks = TaskGroup::new("first");
    let first = start(&store, 16 * HOUR, &tasks).await;
    time::sleep(2 * HOUR).await;
    assert_eq!(tasks.shut_down(GRACE).await, 0);
    let tasks = TaskGroup::new("second");
    let second = start(&store, 16 * HOUR, &tasks).await;
    time::sleep(2 * HOUR).await;
    assert_eq!(first.collected().get().rounds, 0);
    assert_eq!(second.collected().get().rounds, 1);
    assert_eq!(tasks.shut_down(GRACE).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_write_over_the_dead_outlasts_the_window() {
    let store = Aged::new(Weak::default(), 0, 1);
    let tasks = TaskGroup::new("test");
    let life = start(&store, HOUR, &tasks).await;
    // No collector but this test.
    assert_eq!(tasks.shut_down(GRACE).await, 0);
    let key = key(Kind::Blob, 1);
    let write = async |absent| {
        let write = life.begin_write(Kind::Blob, &key, absent).await.unwrap();
        store.put(&key, "x".into()).await.unwrap();
        write
    };
    let within = async || {
        let opens = Window::at_or_after(store.now() + Duration::from_secs(20)).opens;
        time::sleep(opens.duration_since(store.now()).unwrap() + Duration::from_secs(2)).await;
    };
    let waited = async |write| {
        let begun = Instant::now();
        let is_kept = life.end_write(Kind::Blob, &key, write).await.unwrap();
        (is_kept, begun.elapsed() > Duration::from_secs(10))
    };
    // Over nothing, over what is known to be nothing, over what lives: nobody waits.
    within().await;
    let over_nothing = write(false).await;
    assert_eq!(waited(over_nothing).await, (true, false));
    let over_living = write(false).await;
    assert_eq!(waited(over_living).await, (true, false));
    // Over the dead.
    store.age(&key, 3 * HOUR);
    let over_dead = write(false).await;
    assert_eq!(waited(over_dead).await, (true, true));
    // Over the dead, and the collector deletes it.
    within().await;
    store.age(&key, 3 * HOUR);
    let over_dead = write(false).await;
    store.delete(&key).await.unwrap();
    assert_eq!(waited(over_dead).await, (false, true));
    // Far from a window nobody asks.
    time::sleep(Duration::from_secs(100)).await;
    store.put(&key, "x".into()).await.unwrap();
    store.age(&key, 3 * HOUR);
    let over_dead = write(false).await;
    assert_eq!(waited(over_dead).await, (true, false));
}

#[tokio::test(start_paused = true)]
async fn what_is_read_is_renewed_behind() {
    let store = Aged::new(Weak::default(), 0, 1);
    let tasks = TaskGroup::new("test");
    let life = start(&store, HOUR, &tasks).await;
    let key = key(Kind::Blob, 1);
    store.put(&key, "x".into()).await.unwrap();
    store.age(&key, HOUR);
    assert!(life.used(Kind::Blob, &store.head(&key).await.unwrap()));
    assert!(!life.used(Kind::Result, &store.head(&key).await.unwrap()));
    time::sleep(Duration::from_secs(1)).await;
    assert_eq!(life.renewed(), 1);
    store.age(&key, 2 * HOUR);
    assert!(!life.used(Kind::Blob, &store.head(&key).await.unwrap()));
    assert_eq!(life.hold(Kind::Blob, &store.head(&key).await.unwrap()).await.unwrap(), None);
    assert_eq!(tasks.shut_down(GRACE).await, 0);
}
