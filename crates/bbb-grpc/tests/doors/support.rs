//! A server over stores in memory, and clients of it.

use std::{
    collections::HashMap,
    fmt, io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bbb_digest::{Digest, Function, Hasher, InstanceName};
use bbb_grpc::{Budgets, Doors, Port, Settings};
use bbb_lifecycle::TaskGroup;
use bbb_storage::{
    ActionCache, ActionResult, Blob, Cas, Complete, Content, Encoding, Error, Instances, Result,
    Source, SourceContent, Stores, TreeCache, Trees, Wanted, zstd,
};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, future::join_all, stream};
use tokio::{net::TcpListener, time::timeout};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

pub(crate) const FUNCTION: Function = Function::Sha256;

/// Blobs in memory; can be told to fail, and to give whole blobs as zstd.
#[derive(Default)]
pub(crate) struct Memory {
    pub(crate) blobs: Mutex<HashMap<Digest, Bytes>>,
    results: Mutex<HashMap<Digest, Arc<ActionResult>>>,
    pub(crate) broken: AtomicBool,
    pub(crate) as_zstd: AtomicBool,
}

impl Memory {
    fn check(&self) -> Result<()> {
        match self.broken.load(Ordering::Relaxed) {
            true => Err(Error::unavailable("reading", io::Error::other("told to fail"))),
            false => Ok(()),
        }
    }

    pub(crate) fn add(&self, data: impl Into<Bytes>) -> Digest {
        let data = data.into();
        let digest = Digest::of(FUNCTION, &data);
        self.blobs.lock().unwrap().insert(digest, data);
        digest
    }

    pub(crate) fn has(&self, digest: Digest) -> bool {
        self.blobs.lock().unwrap().contains_key(&digest)
    }
}

#[async_trait]
impl Cas for Memory {
    async fn get(&self, digest: Digest, range: Wanted) -> Result<Blob> {
        self.check()?;
        let found = self.blobs.lock().unwrap().get(&digest).cloned();
        let data = match found {
            Some(data) => data,
            None if digest == Digest::empty(digest.function()) => Bytes::new(),
            None => return Err(Error::Missing(digest)),
        };
        let size_bytes = data.len() as u64;
        if range.is_all() && self.as_zstd.load(Ordering::Relaxed) {
            let content = Content::Bytes(zstd::encode_bytes(&data).unwrap());
            return Ok(Blob { size_bytes, encoding: Encoding::Zstd, content });
        }
        let part = range.within(size_bytes);
        let content = Content::Bytes(data.slice(part.start as usize..part.end as usize));
        Ok(Blob { size_bytes, encoding: Encoding::Identity, content })
    }

    async fn put(&self, digest: Digest, source: Source) -> Result<()> {
        self.check()?;
        let stream = match source.content {
            SourceContent::Bytes(bytes) => stream::once(async { Ok(bytes) }).boxed(),
            SourceContent::Stream(stream) => stream,
            SourceContent::File(_) => unreachable!("doors have no files"),
        };
        let mut stream = match source.encoding {
            Encoding::Identity => stream,
            Encoding::Zstd => {
                zstd::decode(stream, |error| io::Error::new(io::ErrorKind::InvalidData, error))
            }
        };
        let mut hasher = Hasher::new(digest.function(), digest.size_bytes());
        let mut data = Vec::new();
        while let Some(piece) = stream.try_next().await.map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => Error::Unreadable { digest, what: error.to_string() },
            _ => Error::BrokenOff { digest, source: error },
        })? {
            hasher.update(&piece);
            data.extend_from_slice(&piece);
        }
        let found = hasher.finish();
        if found != digest {
            return Err(Error::Mismatch { expected: digest, found: found.to_string() });
        }
        self.blobs.lock().unwrap().insert(digest, data.into());
        Ok(())
    }

    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>> {
        self.check()?;
        let blobs = self.blobs.lock().unwrap();
        let mut missing: Vec<_> = digests
            .iter()
            .copied()
            .filter(|digest| !digest.is_empty() && !blobs.contains_key(digest))
            .collect();
        missing.sort();
        missing.dedup();
        Ok(missing)
    }
}

#[async_trait]
impl ActionCache for Memory {
    async fn get(&self, action: Digest) -> Result<Option<Arc<ActionResult>>> {
        self.check()?;
        Ok(self.results.lock().unwrap().get(&action).cloned())
    }

    async fn put(&self, action: Digest, result: ActionResult) -> Result<()> {
        self.check()?;
        self.results.lock().unwrap().insert(action, Arc::new(result));
        Ok(())
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory")
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory")
    }
}

/// A server that listens.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) channel: Channel,
    pub(crate) tasks: TaskGroup,
    instances: Memories,
    _known: Arc<Instances>,
}

pub(crate) fn settings() -> Settings {
    Settings {
        client_results: true,
        exec_enabled: true,
        required_header: None,
        max_blob_bytes: 1 << 30,
    }
}

/// What a server has of memory, in bytes.
#[derive(Clone, Copy)]
pub(crate) struct Room {
    pub(crate) requests: u64,
    pub(crate) uploads: u64,
    pub(crate) windows: u64,
}

impl Default for Room {
    fn default() -> Self {
        Self { requests: 64 << 20, uploads: 32 << 20, windows: 32 << 20 }
    }
}

/// What each instance has.
pub(crate) type Memories = Arc<Mutex<HashMap<InstanceName, Arc<Memory>>>>;

/// Instances that store in memory.
pub(crate) fn memories() -> (Memories, Arc<Instances>) {
    let memories = Memories::default();
    let trees = Arc::new(TreeCache::new(1 << 20));
    let of = Arc::clone(&memories);
    let instances = Instances::new(move |name| {
        let memory = Arc::clone(of.lock().unwrap().entry(name.clone()).or_default());
        let cas: Arc<dyn Cas> = Arc::clone(&memory) as Arc<dyn Cas>;
        let trees = Arc::new(Trees::new(name.clone(), Arc::clone(&cas), Arc::clone(&trees)));
        let complete = Complete::new(memory, Arc::clone(&cas), Arc::clone(&trees));
        Stores { cas, action_cache: Arc::new(complete), trees }
    });
    (memories, Arc::new(instances))
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::with(settings()).await
    }

    pub(crate) async fn with(settings: Settings) -> Self {
        Self::within(Room::default(), settings).await
    }

    pub(crate) async fn within(room: Room, settings: Settings) -> Self {
        let (memories, instances) = memories();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tasks = TaskGroup::new("doors");
        let budgets = Budgets::new(room.requests, room.uploads);
        let doors = Doors::new(settings, &budgets, Arc::clone(&instances));
        Port::new(room.windows, doors).serve(listener, &tasks);
        let channel = Endpoint::new(format!("http://{address}")).unwrap();
        let channel = channel.timeout(Duration::from_secs(30)).connect().await.unwrap();
        Self { address, channel, tasks, instances: memories, _known: instances }
    }

    /// The stores of the instance without a name.
    pub(crate) fn memory(&self) -> Arc<Memory> {
        self.instance("")
    }

    pub(crate) fn instance(&self, name: &str) -> Arc<Memory> {
        let name: InstanceName = name.parse().unwrap();
        Arc::clone(self.instances.lock().unwrap().entry(name).or_default())
    }
}

/// Bytes without any order.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let byte = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..len).map(byte).collect()
}

/// Makes calls at once that cannot all have memory at once, each again while it finds no place to wait: who finds none is told so when
/// its turn would be. Those that have their memory once waited for the window of their connection, and those that filled it for
/// memory, for ten seconds.
pub(crate) async fn all_get_their_turn<F: Future<Output = std::result::Result<(), Status>>>(
    calls: impl Iterator<Item = impl Fn() -> F>,
) {
    let calls = calls.map(|call| async move {
        while let Err(status) = call().await {
            assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        }
    });
    timeout(Duration::from_secs(8), join_all(calls)).await.unwrap();
}
