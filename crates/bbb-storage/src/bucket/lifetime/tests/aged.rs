//! A bucket in simulated time: `Last-Modified` follows the paused clock of the runtime, every request takes
//! a while, and the bucket has the weaknesses that it is told to have.

use std::{
    collections::HashMap,
    fmt,
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, stream::BoxStream};
use object_store::{
    CopyMode, CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    memory::InMemory, path::Path,
};
use tokio::time::{self, Instant};

/// What a bucket cannot do, or does wrong.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Weak {
    /// A copy of an object onto itself is refused.
    pub(super) refuses_self_copy: bool,
    /// A copy of an object onto itself succeeds and does nothing.
    pub(super) ignores_self_copy: bool,
    /// No copy is possible.
    pub(super) refuses_copy: bool,
    /// Conditions on writes are ignored.
    pub(super) ignores_conditions: bool,
    /// Whoever asks gets the lease.
    pub(super) everybody_leads: bool,
}

#[derive(Debug)]
pub(super) struct Aged {
    inner: InMemory,
    pub(super) weak: Weak,
    epoch: (SystemTime, Instant),
    times: Arc<Mutex<HashMap<Path, SystemTime>>>,
    /// Until when somebody counts on an object.
    promised: Arc<Mutex<HashMap<Path, SystemTime>>>,
    /// What was deleted in spite of that.
    pub(super) broken: Arc<Mutex<Vec<String>>>,
    /// How many milliseconds a request may take each way.
    latency_ms: u64,
    random: AtomicU64,
    pub(super) copies: AtomicU64,
    pub(super) puts: AtomicU64,
    pub(super) is_down: std::sync::atomic::AtomicBool,
}

impl Aged {
    pub(super) fn new(weak: Weak, latency_ms: u64, seed: u64) -> Arc<Self> {
        let epoch = (SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_200), Instant::now());
        Arc::new(Self {
            inner: InMemory::new(),
            weak,
            epoch,
            times: Arc::default(),
            promised: Arc::default(),
            broken: Arc::default(),
            latency_ms,
            random: AtomicU64::new(seed | 1),
            copies: AtomicU64::new(0),
            puts: AtomicU64::new(0),
            is_down: false.into(),
        })
    }

    pub(super) fn now(&self) -> SystemTime {
        self.epoch.0 + self.epoch.1.elapsed()
    }

    /// Makes an object look as old.
    pub(super) fn age(&self, key: &Path, age: Duration) {
        self.times.lock().unwrap().insert(key.clone(), self.now() - age);
    }

    pub(super) fn promise(&self, key: &Path, lasts: Duration) {
        let until = self.now() + lasts;
        let mut promised = self.promised.lock().unwrap();
        let entry = promised.entry(key.clone()).or_insert(until);
        *entry = until.max(*entry);
    }

    pub(super) fn is_promised(&self, key: &Path) -> bool {
        self.promised.lock().unwrap().get(key).is_some_and(|until| *until > self.now())
    }

    pub(super) async fn keys(&self) -> Vec<Path> {
        self.inner.list(None).map(|meta| meta.unwrap().location).collect().await
    }

    async fn pass(&self) -> Result<()> {
        let mut random = self.random.load(Relaxed);
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        self.random.store(random, Relaxed);
        // Most requests are fast, few are slow.
        let bound = if random & 0xf0 == 0 { self.latency_ms } else { self.latency_ms / 20 };
        time::sleep(Duration::from_millis((random >> 8) % (bound + 1))).await;
        if self.is_down.load(Relaxed) {
            Err(Error::Generic { store: "aged", source: "down".into() })
        } else {
            Ok(())
        }
    }

    /// Now, as servers write it: in whole seconds.
    fn touch(&self, key: &Path) {
        let secs = self.now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(secs);
        self.times.lock().unwrap().insert(key.clone(), time);
    }

    fn is_lease(&self, key: &Path) -> bool {
        self.weak.everybody_leads && key.as_ref().ends_with("meta/lease")
    }
}

fn told(times: &Mutex<HashMap<Path, SystemTime>>, mut meta: ObjectMeta) -> ObjectMeta {
    meta.last_modified = times.lock().unwrap()[&meta.location].into();
    meta
}

impl fmt::Display for Aged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a bucket in simulated time")
    }
}

#[async_trait]
impl ObjectStore for Aged {
    async fn put_opts(
        &self,
        key: &Path,
        payload: PutPayload,
        mut options: PutOptions,
    ) -> Result<PutResult> {
        self.pass().await?;
        if self.weak.ignores_conditions || self.is_lease(key) {
            options.mode = PutMode::Overwrite;
        }
        let put = self.inner.put_opts(key, payload, options).await?;
        self.puts.fetch_add(1, Relaxed);
        self.touch(key);
        self.pass().await?;
        Ok(put)
    }

    async fn put_multipart_opts(
        &self,
        _key: &Path,
        _options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Err(Error::NotSupported { source: "not in simulated time".into() })
    }

    async fn get_opts(&self, key: &Path, options: GetOptions) -> Result<GetResult> {
        self.pass().await?;
        if self.is_lease(key) {
            return Err(Error::NotFound { path: key.to_string(), source: "lawless".into() });
        }
        let mut got = self.inner.get_opts(key, options).await?;
        got.meta = told(&self.times, got.meta);
        self.pass().await?;
        Ok(got)
    }

    async fn get_ranges(&self, key: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(key, ranges).await
    }

    fn delete_stream(
        &self,
        keys: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let (promised, broken) = (Arc::clone(&self.promised), Arc::clone(&self.broken));
        let epoch = self.epoch;
        let latency = Duration::from_millis(self.latency_ms);
        let checked = keys.then(move |key| {
            let (promised, broken) = (Arc::clone(&promised), Arc::clone(&broken));
            async move {
                time::sleep(latency / 2).await;
                let key = key?;
                let now = epoch.0 + epoch.1.elapsed();
                if let Some(until) = promised.lock().unwrap().get(&key)
                    && *until > now
                {
                    let early = until.duration_since(now).unwrap();
                    broken.lock().unwrap().push(format!("{key} was deleted {early:?} too early"));
                }
                Ok(key)
            }
        });
        self.inner.delete_stream(checked.boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let times = Arc::clone(&self.times);
        self.inner.list(prefix).map(move |meta| Ok(told(&times, meta?))).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.pass().await?;
        assert_eq!(options.mode, CopyMode::Overwrite);
        if self.weak.refuses_copy || (self.weak.refuses_self_copy && from == to) {
            return Err(Error::NotSupported { source: "400 Bad Request".into() });
        }
        self.inner.copy_opts(from, to, options).await?;
        self.copies.fetch_add(1, Relaxed);
        if !(self.weak.ignores_self_copy && from == to) {
            self.touch(to);
        }
        self.pass().await
    }
}
