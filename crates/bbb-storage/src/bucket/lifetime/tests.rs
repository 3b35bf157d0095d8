mod aged;
mod expiry;
mod promises;

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use bbb_digest::{Digest, Function, InstanceName};
use bbb_lifecycle::TaskGroup;
use object_store::{
    ObjectMeta, ObjectStore, ObjectStoreExt as _, local::LocalFileSystem, path::Path,
};
use tokio::time::{self, Instant};

use self::aged::{Aged, Weak};
use super::{
    super::{
        budget::Budget,
        existence::Id,
        keys::{Keys, Kind},
        retry::Failure,
        stats::BucketStats,
        store::{Objects, Store},
    },
    Lifetime, Used,
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

fn objects(aged: &Arc<Aged>) -> Objects {
    Objects::plain(Arc::clone(aged) as Arc<dyn ObjectStore>)
}

fn bucket(objects: Objects) -> Arc<Store> {
    Arc::new(Store::new(objects, Duration::from_secs(50)))
}

fn budget() -> Arc<Budget> {
    Arc::new(Budget::new(64 << 20, Duration::from_secs(50)))
}

fn refresher(objects: Objects, group: &TaskGroup) -> Arc<Refresher> {
    Arc::new(Refresher::new(bucket(objects), &keys(), budget(), group))
}

async fn start(aged: &Arc<Aged>, expire_after: Duration, tasks: &TaskGroup) -> Arc<Lifetime> {
    let policy = Policy::new(expire_after).unwrap();
    let honours = !aged.weak.ignores_conditions;
    let store = bucket(objects(aged));
    let life = Lifetime::start(&store, &keys(), policy, &budget(), honours, tasks);
    life.measure().await.unwrap();
    life
}

fn stats(life: &Lifetime) -> BucketStats {
    let mut stats = BucketStats::default();
    life.add_to(&mut stats);
    stats
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
        let tasks = TaskGroup::new("test");
        let refresher = refresher(objects(&store), &tasks);
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

/// A blob that nobody has used for an hour.
async fn hour_old(store: &Aged) -> ObjectMeta {
    let key = key(Kind::Blob, 1);
    store.put(&key, "hello".into()).await.unwrap();
    store.age(&key, HOUR);
    store.head(&key).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_outage_teaches_nothing() {
    let store = Aged::new(Weak::default(), 0, 1);
    let tasks = TaskGroup::new("test");
    let refresher = refresher(objects(&store), &tasks);
    let meta = hour_old(&store).await;
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
    let tasks = TaskGroup::new("test");
    let refresher = refresher(objects(&store), &tasks);
    let meta = hour_old(&store).await;
    let all = (0..100).map(|_| refresher.renew(&meta, store.now()));
    futures::future::try_join_all(all).await.unwrap();
    assert_eq!(store.copies.load(Relaxed), 1);
    // One that gave up is in nobody's way.
    let _ = time::timeout(Duration::ZERO, refresher.renew(&meta, store.now())).await;
    refresher.renew(&meta, store.now()).await.unwrap();
    store.delete(&meta.location).await.unwrap();
    let gone = refresher.renew(&meta, store.now()).await.unwrap_err();
    assert!(matches!(gone, Failure::Missing), "{gone}");
}

#[tokio::test(start_paused = true)]
async fn what_was_written_anew_is_not_cut_to_what_was_seen() {
    let store = Aged::new(Weak { refuses_copy: true, ..Weak::default() }, 0, 1);
    let tasks = TaskGroup::new("test");
    let life = start(&store, HOUR, &tasks).await;
    let seen = hour_old(&store).await;
    store.put(&seen.location, "hello in another form".into()).await.unwrap();
    let renewed = life.renew(&seen).await;
    assert!(matches!(renewed, Err(Failure::Condition)), "{renewed:?}");
    assert!(life.hold(Kind::Blob, &seen, HOUR).await.unwrap(), "it was written a moment ago");
    let there = store.get(&seen.location).await.unwrap().bytes().await.unwrap();
    assert_eq!(there, "hello in another form");
    assert_eq!(tasks.shut_down(GRACE).await, 0);
}

#[tokio::test]
async fn files_are_renewed_in_place() {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalFileSystem::new_with_prefix(folder.path()).unwrap();
    let tasks = TaskGroup::new("test");
    let refresher = refresher(Objects::folder(store.clone()), &tasks);
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
    assert!(matches!(refresher.renew(&meta, now).await, Err(Failure::Missing)));
}

#[tokio::test(start_paused = true)]
async fn one_holds_the_lease_until_it_falls_silent() {
    for ignores_conditions in [false, true] {
        let store = Aged::new(Weak { ignores_conditions, ..Weak::default() }, 0, 1);
        let lease = || Lease::new(bucket(objects(&store)), &keys(), !ignores_conditions);
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
    let journal = ["journal/a/old", "journal/a/young"].map(|name| keys().meta(name));
    for (key, days) in journal.iter().zip([8, 5]) {
        store.put(key, "x".into()).await.unwrap();
        store.age(key, days * day);
    }
    let count = async |kind| {
        let keys_here = store.keys().await;
        let kinds = keys_here.iter().filter_map(|key| keys().parse(key));
        kinds.filter(|(found, _)| *found == kind).count()
    };
    let tasks = TaskGroup::new("test");
    let life = start(&store, 8 * day, &tasks).await;
    time::sleep(2 * day + HOUR).await;
    assert_eq!((count(Kind::Result).await, count(Kind::Blob).await), (1250, 2500));
    assert_eq!((count(Kind::Log).await, count(Kind::Asset).await), (1250, 1250));
    assert_eq!(stats(&life).expired, 3 * 1250);
    assert_eq!(stats(&life).rounds, 1);
    let there = store.keys().await;
    assert_eq!(
        [&left, &journal[0], &journal[1]].map(|key| there.contains(key)),
        [false, false, true]
    );
    // The blobs follow at 3E/2 and the margin.
    time::sleep(6 * day).await;
    assert_eq!((count(Kind::Result).await, count(Kind::Blob).await), (1250, 1250));
    for key in &foreign {
        store.head(key).await.unwrap();
    }
    let collected = stats(&life);
    assert_eq!((collected.expired, collected.left, collected.spared), (4 * 1250, 0, 0));
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
    assert_eq!(stats(&first).rounds, 0);
    assert_eq!(stats(&second).rounds, 1);
    assert_eq!(tasks.shut_down(GRACE).await, 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_doomed_waits_for_the_window_to_be_over() {
    let store = Aged::new(Weak::default(), 0, 1);
    let (collector, nodes) = (TaskGroup::new("collector"), TaskGroup::new("nodes"));
    let life = start(&store, HOUR, &nodes).await;
    let (doomed, other) = (key(Kind::Blob, 1), key(Kind::Blob, 2));
    let window = Window::open_to_lists(store.now()).next();
    life.doomed.publish(window, "test", [Id::of(&doomed)].into_iter()).await.unwrap();
    let write = async |key: &Path, life: &Lifetime| {
        let (begun, write) = (Instant::now(), life.begin_write());
        store.put(key, "x".into()).await.unwrap();
        let is_kept = life.end_write(Kind::Blob, key, write).await.unwrap();
        (is_kept, begun.elapsed() > Duration::from_secs(5))
    };
    assert_eq!(write(&doomed, &life).await, (true, false), "long before the window");
    time::sleep(window.opens.duration_since(store.now()).unwrap()).await;
    assert_eq!(write(&other, &life).await, (true, false));
    let meta = store.head(&other).await.unwrap();
    assert_eq!(life.used(Kind::Blob, &meta), Used::Alive);
    let patience = Duration::from_secs(50);
    let over = async || {
        // Another node wrote it, and waits as this one does.
        store.put(&doomed, "x".into()).await.unwrap();
        let meta = store.head(&doomed).await.unwrap();
        assert_eq!(life.used(Kind::Blob, &meta), Used::Aging);
        assert!(life.hold(Kind::Blob, &meta, Duration::from_secs(1)).await.is_err());
        life.hold(Kind::Blob, &meta, patience).await.unwrap()
    };
    let delete = async {
        time::sleep(Duration::from_secs(6)).await;
        store.delete(&doomed).await.unwrap();
    };
    let (is_kept, is_there, ()) = tokio::join!(write(&doomed, &life), over(), delete);
    assert_eq!((is_kept, is_there), ((false, true), false));
    assert!(store.now() >= window.over());
    assert_eq!(write(&doomed, &life).await, (true, false), "after the window");

    // A node that could not read the lists takes everything for doomed.
    let window = Window::open_to_lists(store.now()).next();
    time::sleep(window.opens.duration_since(store.now()).unwrap() - HOUR / 60).await;
    assert_eq!(nodes.shut_down(GRACE).await, 0);
    time::sleep(HOUR / 60).await;
    assert_eq!(write(&other, &life).await, (true, true));
    assert_eq!(collector.shut_down(GRACE).await, 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_read_is_renewed_behind() {
    let store = Aged::new(Weak::default(), 0, 1);
    let tasks = TaskGroup::new("test");
    let life = start(&store, HOUR, &tasks).await;
    let key = key(Kind::Blob, 1);
    store.put(&key, "x".into()).await.unwrap();
    store.age(&key, HOUR);
    let meta = store.head(&key).await.unwrap();
    assert_eq!(life.used(Kind::Blob, &meta), Used::Aging);
    assert_eq!(life.used(Kind::Result, &meta), Used::Dead);
    time::sleep(Duration::from_secs(1)).await;
    assert_eq!(stats(&life).renewed, 1);
    store.age(&key, 2 * HOUR);
    let meta = store.head(&key).await.unwrap();
    assert_eq!(life.used(Kind::Blob, &meta), Used::Dead);
    assert!(!life.hold(Kind::Blob, &meta, HOUR).await.unwrap());
    assert_eq!(tasks.shut_down(GRACE).await, 0);
}
