use std::{
    collections::HashMap,
    io::Write as _,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use bbb_digest::{Digest, Function};
use bbb_lifecycle::TaskGroup;
use futures::{StreamExt as _, TryStreamExt as _};

use super::*;
use crate::{
    ActionCache, ActionResult, Blob, Cas, CasExt as _, Complete, Disk, DiskSettings, HashedFile,
    Instances, Result as Stored, Source, SourceContent, Stores, TreeCache, Trees, Wanted,
    one_thread,
};

#[derive(Debug, Default)]
struct Shelf(Mutex<HashMap<Digest, Arc<ActionResult>>>);

impl fmt::Display for Shelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("shelf")
    }
}

#[async_trait]
impl ActionCache for Shelf {
    async fn get(&self, action: Digest) -> Stored<Option<Arc<ActionResult>>> {
        Ok(self.0.lock().unwrap().get(&action).cloned())
    }

    async fn put(&self, action: Digest, result: ActionResult) -> Stored<()> {
        self.0.lock().unwrap().insert(action, Arc::new(result));
        Ok(())
    }
}

struct Rig {
    folder: tempfile::TempDir,
    instances: Arc<Instances>,
    shelf: Arc<Shelf>,
    logs: Option<Arc<LocalLogs>>,
    group: TaskGroup,
    disk: Arc<Disk>,
}

impl Rig {
    fn start() -> Self {
        Self::start_over(|cas| cas)
    }

    /// One whose blobs go through something.
    fn start_over(wrap: fn(Arc<dyn Cas>) -> Arc<dyn Cas>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let group = TaskGroup::new("logs");
        let disk =
            Disk::open(DiskSettings::new(folder.path().join("store"), 1 << 30), &group).unwrap();
        let cache = Arc::new(TreeCache::new(1 << 20));
        let (near, disk) = (Arc::clone(&disk), disk);
        let instances = Arc::new(Instances::new(move |name| {
            let cas = wrap(near.cas(name));
            let trees = Arc::new(Trees::new(name.clone(), Arc::clone(&cas), Arc::clone(&cache)));
            let complete =
                Complete::new(near.action_cache(name), Arc::clone(&cas), Arc::clone(&trees));
            Stores { cas, action_cache: Arc::new(complete), trees }
        }));
        let shelf = Arc::new(Shelf::default());
        let mut rig = Self { folder, instances, shelf, logs: None, group, disk };
        rig.logs = Some(rig.start_logs("a", &rig.group));
        rig
    }

    fn logs(&self) -> &Arc<LocalLogs> {
        self.logs.as_ref().unwrap()
    }

    /// The logs of a node in the same cluster.
    fn start_logs(&self, node: &str, group: &TaskGroup) -> Arc<LocalLogs> {
        let (shelf, folder) = (Arc::clone(&self.shelf), self.folder.path().join(node));
        let pages = move |_: &InstanceName| Arc::clone(&shelf) as Arc<dyn ActionCache>;
        let (lodging, leaving) = (self.disk.lodging(), group.stop());
        let stores = LogStores { pages: Box::new(pages), journals: self.journals(), lodging };
        let instances = Arc::clone(&self.instances);
        LocalLogs::start(node, folder, instances, stores, group, leaving).unwrap()
    }

    fn journals(&self) -> Arc<dyn JournalStore> {
        let folder = self.folder.path().join("journal");
        JournalFolder::start(folder, self.disk.lodging(), &self.group).unwrap()
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, "").unwrap();
        path
    }
}

async fn all(bytes: LogBytes) -> Result<Vec<u8>, LogError> {
    bytes
        .try_fold(Vec::new(), |mut all, piece| async move {
            all.extend_from_slice(&piece);
            Ok(all)
        })
        .await
}

fn log(host: bbb_reapi::LogHost, number: u128, channel: bbb_reapi::Channel) -> LogResource {
    let id = bbb_reapi::LogId { host, number, channel };
    LogResource { instance: InstanceName::default(), id }
}

#[tokio::test]
async fn an_action_is_followed_to_its_end_and_found_afterwards_through_another_node() {
    let rig = Rig::start();
    let (stdout, stderr) = (rig.file("stdout"), rig.file("stderr"));
    let actions = rig.logs().begin(&InstanceName::default(), 7 << 90, stdout.clone(), stderr);
    let name = log(rig.logs().host(), 7 << 90, bbb_reapi::Channel::Stdout);
    let mut file = std::fs::OpenOptions::new().append(true).open(&stdout).unwrap();
    file.write_all(b"one ").unwrap();
    let mut reader = rig.logs().read(&name, 0).await.unwrap();
    let late = rig.logs().read(&name, 4).await.unwrap();
    let beyond = rig.logs().read(&name, 8).await.unwrap();
    assert_eq!(reader.next().await.unwrap().unwrap(), "one ");
    file.write_all(b"two").unwrap();
    assert_eq!(reader.next().await.unwrap().unwrap(), "two");
    let other = LogResource { instance: "x".parse().unwrap(), ..name.clone() };
    assert!(matches!(rig.logs().read(&other, 0).await, Err(LogError::Unknown)));

    let hashed = HashedFile::hash(Function::Sha256, &stdout).unwrap();
    let digest = hashed.digest();
    rig.instances.get(&InstanceName::default()).cas.put(digest, hashed.into()).await.unwrap();
    actions.end(digest, Digest::empty(Function::Sha256));
    assert!(reader.next().await.is_none());
    assert_eq!(all(late).await.unwrap(), b"two");
    assert_eq!(all(rig.logs().read(&name, 4).await.unwrap()).await.unwrap(), b"two");
    let error = rig.logs().read(&name, 8).await.err().unwrap();
    assert!(matches!(error, LogError::OutOfRange { offset: 8, len: 7 }), "{error}");
    let error = all(beyond).await.unwrap_err();
    assert!(matches!(error, LogError::OutOfRange { offset: 8, len: 7 }), "{error}");
    let empty = log(rig.logs().host(), 7 << 90, bbb_reapi::Channel::Stderr);
    assert_eq!(all(rig.logs().read(&empty, 0).await.unwrap()).await.unwrap(), b"");

    rig.group.shut_down(std::time::Duration::from_secs(5)).await;
    let group = TaskGroup::new("after");
    let other = rig.start_logs("b", &group);
    assert_eq!(rig.shelf.0.lock().unwrap().len(), 1);
    assert_eq!(all(other.read(&name, 0).await.unwrap()).await.unwrap(), b"one two");
    assert_eq!(all(other.read(&empty, 0).await.unwrap()).await.unwrap(), b"");
}

#[tokio::test]
async fn what_does_not_come_to_its_end_is_cut() {
    let rig = Rig::start();
    let (stdout, stderr) = (rig.file("stdout"), rig.file("stderr"));
    std::fs::write(&stdout, "so far").unwrap();
    let actions = rig.logs().begin(&InstanceName::default(), 1, stdout, stderr);
    let name = log(rig.logs().host(), 1, bbb_reapi::Channel::Stdout);
    let mut reader = rig.logs().read(&name, 0).await.unwrap();
    assert_eq!(reader.next().await.unwrap().unwrap(), "so far");
    drop(actions);
    assert!(matches!(reader.next().await, Some(Err(LogError::Cut))));
    assert!(matches!(rig.logs().read(&name, 0).await, Err(LogError::Unknown)));
}

#[tokio::test]
async fn a_client_writes_resumes_and_ends_a_log_that_many_read() {
    let rig = Rig::start();
    let name = rig.logs().create(&InstanceName::default()).await.unwrap();
    let readers: Vec<_> = futures::future::join_all((0..20).map(|_| rig.logs().read(&name.log, 0)))
        .await
        .into_iter()
        .map(|reader| all(reader.unwrap()))
        .collect();
    let forged = LogWriteResource { log: name.log.clone(), token: name.token ^ 1 };
    let error = rig.logs().append(&forged, piece(0, "x", false)).await.unwrap_err();
    assert!(matches!(error, LogError::Unknown));
    rig.logs().append(&name, piece(0, "one ", false)).await.unwrap();
    let error = rig.logs().append(&name, piece(0, "one ", false)).await.unwrap_err();
    assert!(matches!(error, LogError::WrongOffset { committed: 4 }));
    let written = rig.logs().written(&name).await.unwrap();
    assert_eq!(written, Written { committed: 4, has_ended: false });
    let written = rig.logs().append(&name, piece(4, "two", true)).await.unwrap();
    assert_eq!(written, Written { committed: 7, has_ended: true });
    for reader in futures::future::join_all(readers).await {
        assert_eq!(reader.unwrap(), b"one two");
    }
    let error = rig.logs().append(&name, piece(7, "x", false)).await.unwrap_err();
    assert!(matches!(error, LogError::Ended));
    assert_eq!(rig.logs().written(&name).await.unwrap(), written);
    assert_eq!(all(rig.logs().read(&name.log, 4).await.unwrap()).await.unwrap(), b"two");
    let digest = Digest::of(Function::Sha256, b"one two");
    let cas = rig.instances.get(&InstanceName::default()).cas;
    assert_eq!(cas.get_bytes(digest, 100).await.unwrap(), "one two");
}

fn piece(offset: u64, data: &'static str, is_last: bool) -> LogPiece {
    LogPiece { offset, data: data.into(), is_last }
}

/// A client that hangs up in the middle leaves nothing that counts.
#[test]
fn what_clients_give_up_counts_no_more() {
    one_thread::run(async {
        let rig = Rig::start();
        let logs = rig.logs();
        let instance = InstanceName::default();
        let held = one_thread::hold_up();
        let mut creating = logs.create(&instance);
        assert!(futures::poll!(&mut creating).is_pending());
        drop((creating, held));
        until(|| logs.written.taken() == (0, 0) && files(&logs.folder) == 0).await;

        let log = logs.create(&InstanceName::default()).await.unwrap();
        let held = one_thread::hold_up();
        let mut appending = logs.append(&log, piece(5, "not here", false));
        assert!(futures::poll!(&mut appending).is_pending());
        drop((appending, held));
        until(|| logs.written.taken() == (1, 0)).await;
        logs.append(&log, piece(0, "here", false)).await.unwrap();
        assert_eq!(logs.written.taken(), (1, 4));
        logs.append(&log, piece(4, "", true)).await.unwrap();
        until(|| logs.written.taken() == (0, 0) && files(&logs.folder) == 0).await;
    });
}

/// A store of two tiers, of which the second one fails until it is mended, when the first has made a file its own.
#[derive(Debug)]
struct Halfway(Arc<dyn Cas>);

static IS_MENDED: AtomicBool = AtomicBool::new(false);

impl fmt::Display for Halfway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("halfway")
    }
}

#[async_trait]
impl Cas for Halfway {
    async fn get(&self, digest: Digest, wanted: Wanted) -> Stored<Blob> {
        self.0.get(digest, wanted).await
    }

    async fn put(&self, digest: Digest, source: Source) -> Stored<()> {
        let fault = || Error::unavailable("writing far", std::io::ErrorKind::NotFound.into());
        if let SourceContent::File(file) = &source.content
            && !file.path().exists()
        {
            return Err(fault());
        }
        self.0.put(digest, source).await?;
        match IS_MENDED.load(Ordering::Relaxed) {
            true => Ok(()),
            false => Err(fault()),
        }
    }

    async fn find_missing(&self, digests: &[Digest]) -> Stored<Vec<Digest>> {
        self.0.find_missing(digests).await
    }
}

#[tokio::test]
async fn a_log_ends_although_its_store_failed_halfway() {
    let rig = Rig::start_over(|cas| Arc::new(Halfway(cas)));
    let logs = rig.logs();
    let log = logs.create(&InstanceName::default()).await.unwrap();
    let failed = logs.append(&log, piece(0, "all of it", true)).await;
    assert!(matches!(failed, Err(LogError::Storage(_))), "{failed:?}");
    assert_eq!(logs.written.taken(), (1, 9));
    IS_MENDED.store(true, Ordering::Relaxed);
    for (log, growing) in logs.left() {
        logs.finish(&log, &growing).await.unwrap();
    }
    until(|| logs.written.taken() == (0, 0)).await;
    assert_eq!(all(logs.read(&log.log, 0).await.unwrap()).await.unwrap(), b"all of it");
    assert!(logs.written(&log).await.unwrap().has_ended);
}

fn files(folder: &std::path::Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

async fn until(mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), waiting).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_log_is_found_at_every_moment_of_its_end() {
    let (rig, readers) = (Rig::start(), TaskGroup::new("readers"));
    for _ in 0..200 {
        let name = rig.logs().create(&InstanceName::default()).await.unwrap();
        let (sender, mut reads) = tokio::sync::mpsc::channel(16);
        for pause in 0..16 {
            let (logs, log, sender) = (Arc::clone(rig.logs()), name.log.clone(), sender.clone());
            readers.spawn("reader", async move {
                tokio::time::sleep(std::time::Duration::from_micros(100 * pause)).await;
                let read = async { all(logs.read(&log, 0).await?).await };
                sender.send(read.await).await.unwrap();
            });
        }
        drop(sender);
        let piece = LogPiece { offset: 0, data: "all".into(), is_last: true };
        rig.logs().append(&name, piece).await.unwrap();
        for _ in 0..16 {
            assert_eq!(reads.recv().await.unwrap().unwrap(), b"all");
        }
    }
}

/// Waits until so many entries are in the journal of node `a`.
async fn entries(journals: &Arc<dyn JournalStore>, wanted: impl Fn(usize) -> bool) {
    let host = bbb_reapi::LogHost::of_node("a");
    let wait = async {
        while !wanted(journals.list(host, 0).await.unwrap().len()) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), wait).await.unwrap();
}

/// What a reader gets before it is told that the log was cut.
async fn all_that_is_left(mut bytes: LogBytes) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        match bytes.next().await {
            Some(Ok(piece)) => all.extend_from_slice(&piece),
            Some(Err(LogError::Cut)) => return all,
            other => panic!("{other:?} after {} bytes", all.len()),
        }
    }
}

/// The number of an attempt that was granted now.
fn number() -> u128 {
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    u128::from(now) << 96 | uuid::Uuid::new_v4().as_u128() >> 32
}

#[tokio::test]
async fn a_log_whose_node_died_is_read_from_its_journal() {
    let rig = Rig::start();
    let (stdout, stderr) = (rig.file("stdout"), rig.file("stderr"));
    let number = number();
    let actions = rig.logs().begin(&InstanceName::default(), number, stdout.clone(), stderr);
    let name = log(rig.logs().host(), number, bbb_reapi::Channel::Stdout);
    let mut file = std::fs::OpenOptions::new().append(true).open(&stdout).unwrap();
    let journals = rig.journals();
    file.write_all(b"one ").unwrap();
    entries(&journals, |count| count == 1).await;
    file.write_all(b"two ").unwrap();
    entries(&journals, |count| count == 2).await;

    // That node says nothing any more.
    let group = TaskGroup::new("other");
    let other = rig.start_logs("b", &group);
    assert_eq!(all_that_is_left(other.read(&name, 0).await.unwrap()).await, b"one two ");
    assert_eq!(all_that_is_left(other.read(&name, 6).await.unwrap()).await, b"o ");
    assert_eq!(all_that_is_left(other.read(&name, 100).await.unwrap()).await, b"");
    let silent = log(rig.logs().host(), number, bbb_reapi::Channel::Stderr);
    assert!(matches!(other.read(&silent, 0).await, Err(LogError::Unknown)));
    let walled = LogResource { instance: "x".parse().unwrap(), ..name.clone() };
    assert!(matches!(other.read(&walled, 0).await, Err(LogError::Unknown)));
    // Nor does it when it has come back under its name.
    let again = rig.start_logs("a", &group);
    assert_eq!(all_that_is_left(again.read(&name, 0).await.unwrap()).await, b"one two ");
    drop(actions);
}

#[tokio::test]
async fn a_journal_keeps_up_with_what_is_loud_and_is_empty_when_all_has_ended() {
    let rig = Rig::start();
    let (stdout, stderr) = (rig.file("stdout"), rig.file("stderr"));
    let (number, loud) = (number(), crate::conformance::data(9 << 20));
    let actions =
        rig.logs().begin(&InstanceName::default(), number, stdout.clone(), stderr.clone());
    std::fs::write(&stdout, &loud).unwrap();
    std::fs::write(&stderr, b"quiet").unwrap();
    let journals = rig.journals();
    // A MiB each.
    entries(&journals, |count| count == 9).await;
    let group = TaskGroup::new("other");
    let other = rig.start_logs("b", &group);
    let name = |channel| log(rig.logs().host(), number, channel);
    let stdout_name = name(bbb_reapi::Channel::Stdout);
    assert!(all_that_is_left(other.read(&stdout_name, 0).await.unwrap()).await == loud);
    let stderr_name = name(bbb_reapi::Channel::Stderr);
    assert_eq!(all_that_is_left(other.read(&stderr_name, 0).await.unwrap()).await, b"quiet");

    let cas = rig.instances.get(&InstanceName::default()).cas;
    let [stdout, stderr] =
        [stdout, stderr].map(|path| HashedFile::hash(Function::Sha256, &path).unwrap());
    let digests = [stdout.digest(), stderr.digest()];
    cas.put(digests[0], stdout.into()).await.unwrap();
    cas.put(digests[1], stderr.into()).await.unwrap();
    actions.end(digests[0], digests[1]);
    entries(&journals, |count| count == 0).await;
    assert!(all(other.read(&stdout_name, 0).await.unwrap()).await.unwrap() == loud);
}

#[tokio::test]
async fn what_a_client_writes_is_cut_when_its_node_stops_and_stays_readable() {
    let rig = Rig::start();
    let group = TaskGroup::new("a");
    let leaving = rig.start_logs("a", &group);
    let name = leaving.create(&InstanceName::default()).await.unwrap();
    let mut reader = leaving.read(&name.log, 0).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    let piece = LogPiece { offset: 0, data: "so far".into(), is_last: false };
    leaving.append(&name, piece).await.unwrap();
    assert_eq!(reader.next().await.unwrap().unwrap(), "so far");
    group.shut_down(std::time::Duration::from_secs(5)).await;
    assert!(matches!(reader.next().await, Some(Err(LogError::Leaving))));
    let read = rig.logs().read(&name.log, 0).await.unwrap();
    assert_eq!(all_that_is_left(read).await, b"so far");
    assert!(matches!(
        rig.logs().append(&name, LogPiece { offset: 6, data: Bytes::new(), is_last: true }).await,
        Err(LogError::Unknown)
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_big_log_is_read_slowly_and_quickly_while_its_blob_goes() {
    const BYTES: usize = 100 << 20;
    let rig = Rig::start();
    let (stdout, stderr) = (rig.file("stdout"), rig.file("stderr"));
    let number = number();
    let actions = rig.logs().begin(&InstanceName::default(), number, stdout.clone(), stderr);
    let name = log(rig.logs().host(), number, bbb_reapi::Channel::Stdout);
    let (mut slow, quick) =
        (rig.logs().read(&name, 0).await.unwrap(), rig.logs().read(&name, 0).await.unwrap());
    let quick = async move {
        quick
            .try_fold(0, |sum, piece| async move {
                assert!(piece.len() <= 256 << 10);
                Ok::<_, LogError>(sum + piece.len())
            })
            .await
    };
    let write = {
        let path = stdout.clone();
        tokio::task::spawn_blocking(move || {
            let mut file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
            (0..BYTES >> 20).for_each(|at| file.write_all(&[at as u8; 1 << 20]).unwrap());
        })
    };
    let end = async {
        write.await.unwrap();
        let hashed = HashedFile::hash(Function::Sha256, &stdout).unwrap();
        let digest = hashed.digest();
        rig.instances.get(&InstanceName::default()).cas.put(digest, hashed.into()).await.unwrap();
        actions.end(digest, Digest::empty(Function::Sha256));
        // As if it had to make room.
        for file in walk(&rig.folder.path().join("store").join("cas")) {
            std::fs::remove_file(file).unwrap();
        }
    };
    let first = slow.next().await.unwrap().unwrap();
    // The quick one comes to its end while the slow one stands still.
    let (sum, ()) = tokio::join!(quick, end);
    assert_eq!(sum.unwrap(), BYTES);
    let mut read = first.len();
    while let Some(piece) = slow.next().await {
        let piece = piece.unwrap();
        assert!(piece.len() <= 256 << 10);
        assert_eq!(
            (piece[0], piece[piece.len() - 1]),
            ((read >> 20) as u8, ((read + piece.len() - 1) >> 20) as u8)
        );
        read += piece.len();
    }
    assert_eq!(read, BYTES);
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}
