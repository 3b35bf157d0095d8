//! The promise, tried by chance: nodes that remember, clients that build, collectors that delete, and a bucket
//! whose requests take their time, all in simulated time.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use bbb_lifecycle::TaskGroup;
use futures::FutureExt as _;
use object_store::{Error, ObjectMeta, ObjectStoreExt as _, path::Path};
use proptest::prelude::*;
use tokio::{
    runtime,
    time::{self, Instant},
};

use super::{
    super::{super::keys::Kind, Lifetime, Used, policy::Window},
    GRACE,
    aged::{Aged, Weak},
    key, start,
};

/// Few, so that they are used again, and all in the collector's first group, so that they go at once.
const KEYS: [u64; 3] = [11, 35, 43];

const NODES: usize = 2;

const PATIENCE: Duration = Duration::from_secs(100);

/// What a client does, and how long after the last one.
#[derive(Clone, Debug)]
struct Step {
    pause: Pause,
    node: usize,
    number: u64,
    does: Does,
}

#[derive(Clone, Copy, Debug)]
enum Pause {
    Ms(u64),
    /// Until about the next window.
    Window {
        early_ms: u64,
    },
    /// Until nothing was used for so long that everything may be deleted, and so many windows have opened.
    Rush {
        windows: u32,
        late_ms: u64,
    },
    /// So many parts in a hundred of E.
    Part(u32),
}

#[derive(Clone, Copy, Debug)]
enum Does {
    /// Asks for a blob, and uploads it if it is not there.
    Build,
    /// Uploads it without asking.
    Upload,
    /// Reads it.
    Read,
    /// Asks for a result; if there is none, writes one.
    Result,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let pause = prop_oneof![
        6 => (0..400_u64).prop_map(Pause::Ms),
        2 => (0..40_000_u64).prop_map(|early_ms| Pause::Window { early_ms }),
        2 => (0..13_u32, 0..2500_u64).prop_map(|(windows, late_ms)| Pause::Rush { windows, late_ms }),
        3 => (10..120_u32).prop_map(Pause::Part),
    ];
    let does = prop_oneof![
        Just(Does::Build),
        Just(Does::Build),
        Just(Does::Upload),
        Just(Does::Read),
        Just(Does::Result)
    ];
    let step = (pause, 0..NODES, prop::sample::select(&KEYS[..]), does);
    let step = step.prop_map(|(pause, node, number, does)| Step { pause, node, number, does });
    prop::collection::vec(step, 1..80)
}

/// A node as the bucket tier will be one: what it saw, it believes for a while.
#[derive(Debug)]
struct Node {
    life: Arc<Lifetime>,
    store: Arc<Aged>,
    seen: Mutex<HashMap<Path, Instant>>,
}

impl Node {
    /// Whether an object is there and may be promised.
    async fn has(&self, kind: Kind, key: &Path) -> bool {
        let is_known = || {
            let seen = self.seen.lock().unwrap().get(key).copied();
            seen.is_some_and(|seen| seen.elapsed() < self.life.policy().existence_ttl())
        };
        if is_known() {
            return true;
        }
        let looked_at = Instant::now();
        let held = match self.store.head(key).await {
            Ok(meta) => self.life.hold(kind, &meta, PATIENCE).await.unwrap(),
            Err(Error::NotFound { .. }) => false,
            Err(error) => panic!("{error}"),
        };
        if held {
            self.seen.lock().unwrap().insert(key.clone(), looked_at);
        }
        held
    }

    async fn put(&self, kind: Kind, key: &Path) {
        loop {
            let begun = Instant::now();
            let write = self.life.begin_write();
            self.store.put(key, "x".into()).await.unwrap();
            if self.life.end_write(kind, key, write).await.unwrap() {
                self.seen.lock().unwrap().insert(key.clone(), begun);
                return;
            }
        }
    }

    async fn does(&self, does: Does, number: u64) {
        let (blob, result) = (key(Kind::Blob, number), key(Kind::Result, number));
        let promise = self.life.policy().promise();
        match does {
            Does::Build if self.has(Kind::Blob, &blob).await => {}
            Does::Build | Does::Upload => self.put(Kind::Blob, &blob).await,
            Does::Read => return self.read(&blob).await,
            Does::Result => {
                // The blob is promised with every answer; a result without its blob is none.
                if !(self.has(Kind::Result, &result).await && self.has(Kind::Blob, &blob).await) {
                    self.put(Kind::Blob, &blob).await;
                    self.put(Kind::Result, &result).await;
                }
            }
        }
        self.store.promise(&blob, promise);
    }

    /// Reads a blob, and remembers it if it may be.
    async fn read(&self, key: &Path) {
        let looked_at = Instant::now();
        self.check(key, |meta| match self.life.used(Kind::Blob, meta) {
            Used::Alive => {
                self.seen.lock().unwrap().insert(key.clone(), looked_at);
                true
            }
            Used::Aging => true,
            Used::Dead => false,
        })
        .await;
    }

    /// Whatever is promised can be read, on any node.
    async fn check(&self, key: &Path, is_alive: impl FnOnce(&ObjectMeta) -> bool) {
        let is_promised = self.store.is_promised(key);
        let is_there = match self.store.head(key).await {
            Ok(meta) => is_alive(&meta),
            Err(Error::NotFound { .. }) => false,
            Err(error) => panic!("{error}"),
        };
        if is_promised && !is_there && self.store.is_promised(key) {
            self.store.broken.lock().unwrap().push(format!("{key} cannot be read"));
        }
    }
}

async fn play(steps: Vec<Step>, expire_after: Duration, weak: Weak, seed: u64) -> Vec<String> {
    let store = Aged::new(weak, 900, seed);
    let tasks = TaskGroup::new("nodes");
    let mut nodes = Vec::new();
    for _ in 0..NODES {
        let life = start(&store, expire_after, &tasks).await;
        nodes.push(Arc::new(Node { life, store: Arc::clone(&store), seen: Mutex::default() }));
    }
    // Somebody always looks, on both nodes, and keeps nothing by that.
    let (looking, stop) = (nodes.clone(), tasks.stop());
    tasks.spawn("look", async move {
        while !stop.is_requested() {
            for (node, number) in looking.iter().flat_map(|node| KEYS.map(|number| (node, number)))
            {
                let is_alive = |meta: &ObjectMeta| !node.life.is_dead(Kind::Blob, meta);
                node.check(&key(Kind::Blob, number), is_alive).await;
            }
            time::sleep(expire_after / 20).await;
        }
    });
    let clients = TaskGroup::new("clients");
    for step in steps {
        let pause = match step.pause {
            Pause::Ms(ms) => Duration::from_millis(ms),
            Pause::Window { early_ms } => {
                let soon = store.now() + Duration::from_secs(60);
                let at = Window::ending_after(soon).closes() - Duration::from_millis(early_ms);
                at.duration_since(store.now()).unwrap()
            }
            Pause::Rush { windows, late_ms } => {
                let mut at = store.now() + nodes[0].life.policy().deletable(Kind::Blob);
                for _ in 0..=windows {
                    at = Window::ending_after(at).over();
                }
                let window = Window::ending_after(at);
                let late = Duration::from_millis(late_ms);
                (window.opens + late).duration_since(store.now()).unwrap()
            }
            Pause::Part(part) => expire_after * part / 100,
        };
        time::sleep(pause).await;
        let node = Arc::clone(&nodes[step.node]);
        clients.spawn("step", async move { node.does(step.does, step.number).boxed().await });
    }
    assert_eq!(clients.shut_down(Duration::from_secs(600)).await, 0);
    assert!(!clients.stop().is_requested() || clients.failed().now_or_never().is_none());
    // Whatever was promised last has its time.
    time::sleep(expire_after).await;
    let mut broken = Vec::new();
    assert_eq!(tasks.shut_down(GRACE + expire_after).await, 0);
    broken.append(&mut store.broken.lock().unwrap());
    broken
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 64, ..ProptestConfig::default() })]
    #[test]
    fn no_promise_is_broken(
        steps in steps(),
        minutes in prop_oneof![Just(1_u64), 2..60_u64, 60..600_u64],
        everybody_leads in any::<bool>(),
        ignores_conditions in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let weak = Weak { everybody_leads, ignores_conditions, ..Weak::default() };
        let runtime = runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let broken = runtime.block_on(play(steps, Duration::from_secs(60 * minutes), weak, seed));
        prop_assert!(broken.is_empty(), "{broken:#?}");
    }
}
