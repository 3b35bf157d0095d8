//! What will be deleted, told beforehand.
//!
//! A collector deletes in a window only what stands in its list for that window. The list stands before any
//! node reads it, and the nodes read it before the window opens. So a node knows of each key whether somebody
//! may be deleting it right now; of a window whose lists it could not read, it takes every key for such.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use bbb_lifecycle::Stop;
use bytes::{Bytes, BytesMut};
use futures::TryStreamExt as _;
use object_store::{PutPayload, path::Path};
use tokio::time;

use super::{
    super::{
        existence::Id,
        keys::Keys,
        retry::Failure,
        store::{Part, Store},
    },
    clock::ServerClock,
    policy::Window,
};

/// How many keys a list holds.
pub(super) const MAX_DOOMED: usize = 16_384;

/// Where the lists lie, below the keys for housekeeping.
pub(super) const LISTS: &str = "doomed";

/// How many windows are remembered: the one that comes and those that writes may still have met.
const MAX_WINDOWS: usize = 3;

/// How long to wait before lists are read again that could not be read.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// What is doomed, as far as a node knows.
#[derive(Debug)]
pub(super) struct Doomed {
    store: Arc<Store>,
    keys: Keys,
    windows: Mutex<BTreeMap<Window, HashSet<Id>>>,
}

impl Doomed {
    pub(super) fn new(store: Arc<Store>, keys: &Keys) -> Self {
        Self { store, keys: keys.clone(), windows: Mutex::default() }
    }

    /// Whether somebody may delete the object in that window.
    pub(super) fn names(&self, window: Window, id: Id) -> bool {
        let windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        windows.get(&window).is_none_or(|doomed| doomed.contains(&id))
    }

    /// Reads the lists of each window in time.
    pub(super) async fn run(&self, clock: &ServerClock, stop: &Stop) {
        let read = async {
            let mut window = Window::ending_after(clock.now());
            loop {
                sleep_until(clock, window.read_from()).await;
                match self.read(window).await {
                    Ok(()) => window = window.next(),
                    Err(error) => {
                        tracing::debug!(%error, "cannot read what will be deleted");
                        time::sleep(RETRY_INTERVAL).await;
                    }
                }
                // What is over matters to nobody, also if the clock was set.
                window = window.max(Window::ending_after(clock.now()));
            }
        };
        stop.until_requested(read).await;
    }

    async fn read(&self, window: Window) -> Result<(), Failure> {
        let lists: Vec<_> = self.store.list(self.folder(window)).try_collect().await?;
        let mut doomed = HashSet::new();
        let limit_bytes = (MAX_DOOMED * Id::LEN) as u64;
        for list in lists {
            let read = self.store.get(&list.location, Part::All, limit_bytes, None).await?;
            let ids = read.bytes.as_chunks::<{ Id::LEN }>().0;
            doomed.extend(ids.iter().map(|id| Id::from_bytes(*id)));
        }
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        windows.insert(window, doomed);
        while windows.len() > MAX_WINDOWS {
            windows.pop_first();
        }
        Ok(())
    }

    /// Tells all nodes what the holder will delete in a window. Gives the key of the list.
    pub(super) async fn publish(
        &self,
        window: Window,
        holder: &str,
        doomed: impl Iterator<Item = Id>,
    ) -> Result<Path, Failure> {
        let ids: BytesMut = doomed.flat_map(Id::bytes).collect();
        let key = self.keys.meta(&format!("{}/{holder}", name(window)));
        self.store.put(&key, PutPayload::from(Bytes::from(ids))).await?;
        Ok(key)
    }

    fn folder(&self, window: Window) -> Path {
        self.keys.meta(&name(window))
    }
}

fn name(window: Window) -> String {
    let opens = window.opens.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("{LISTS}/{}", opens.as_secs())
}

/// Sleeps until then by the server's clock.
pub(super) async fn sleep_until(clock: &ServerClock, then: SystemTime) {
    while let Ok(wait) = then.duration_since(clock.now())
        && !wait.is_zero()
    {
        time::sleep(wait).await;
    }
}
