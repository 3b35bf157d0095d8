use std::sync::Arc;
use std::{collections::HashMap, io::Write as _, sync::Mutex};

use bbb_digest::{Digest, Function};
use bbb_lifecycle::TaskGroup;
use futures::{StreamExt as _, TryStreamExt as _};

use super::*;
use crate::{
    ActionCache, ActionResult, CasExt as _, Complete, Disk, DiskSettings, HashedFile, Instances,
    Result as Stored, Stores, TreeCache, Trees,
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
    logs: Arc<LocalLogs>,
    group: TaskGroup,
}

impl Rig {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let group = TaskGroup::new("logs");
        let disk =
            Disk::open(DiskSettings::new(folder.path().join("store"), 1 << 30), &group).unwrap();
        let cache = Arc::new(TreeCache::new(1 << 20));
        let instances = Arc::new(Instances::new(move |name| {
            let cas = disk.cas(name);
            let trees = Arc::new(Trees::new(name.clone(), Arc::clone(&cas), Arc::clone(&cache)));
            let complete =
                Complete::new(disk.action_cache(name), Arc::clone(&cas), Arc::clone(&trees));
            Stores { cas, action_cache: Arc::new(complete), trees }
        }));
        let shelf = Arc::new(Shelf::default());
        let logs = Self::logs("a", &folder, &instances, &shelf, &group);
        Self { folder, instances, shelf, logs, group }
    }

    fn logs(
        node: &str,
        folder: &tempfile::TempDir,
        instances: &Arc<Instances>,
        shelf: &Arc<Shelf>,
        group: &TaskGroup,
    ) -> Arc<LocalLogs> {
        let shelf = Arc::clone(shelf);
        let pages = move |_: &InstanceName| Arc::clone(&shelf) as Arc<dyn ActionCache>;
        LocalLogs::start(node, folder.path().join(node), Arc::clone(instances), pages, group)
            .unwrap()
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
    let actions = rig.logs.begin(&InstanceName::default(), 7 << 90, stdout.clone(), stderr);
    let name = log(rig.logs.host(), 7 << 90, bbb_reapi::Channel::Stdout);
    let mut file = std::fs::OpenOptions::new().append(true).open(&stdout).unwrap();
    file.write_all(b"one ").unwrap();
    let mut reader = rig.logs.read(&name, 0).await.unwrap();
    let late = rig.logs.read(&name, 4).await.unwrap();
    assert_eq!(reader.next().await.unwrap().unwrap(), "one ");
    file.write_all(b"two").unwrap();
    assert_eq!(reader.next().await.unwrap().unwrap(), "two");
    let other = LogResource { instance: "x".parse().unwrap(), ..name.clone() };
    assert!(matches!(rig.logs.read(&other, 0).await, Err(LogError::Unknown)));

    let hashed = HashedFile::hash(Function::Sha256, &stdout).unwrap();
    let digest = hashed.digest();
    rig.instances.get(&InstanceName::default()).cas.put(digest, hashed.into()).await.unwrap();
    actions.end(digest, Digest::empty(Function::Sha256));
    assert!(reader.next().await.is_none());
    assert_eq!(all(late).await.unwrap(), b"two");
    assert_eq!(all(rig.logs.read(&name, 4).await.unwrap()).await.unwrap(), b"two");
    let error = rig.logs.read(&name, 8).await.err().unwrap();
    assert!(matches!(error, LogError::OutOfRange { offset: 8, len: 7 }), "{error}");
    let empty = log(rig.logs.host(), 7 << 90, bbb_reapi::Channel::Stderr);
    assert_eq!(all(rig.logs.read(&empty, 0).await.unwrap()).await.unwrap(), b"");

    rig.group.shut_down(std::time::Duration::from_secs(5)).await;
    let group = TaskGroup::new("after");
    let other = Rig::logs("b", &rig.folder, &rig.instances, &rig.shelf, &group);
    assert_eq!(rig.shelf.0.lock().unwrap().len(), 1);
    assert_eq!(all(other.read(&name, 0).await.unwrap()).await.unwrap(), b"one two");
    assert!(matches!(other.read(&empty, 0).await, Err(LogError::Unknown)));
}

#[tokio::test]
async fn what_does_not_come_to_its_end_is_cut() {
    let rig = Rig::start();
    let (stdout, stderr) = (rig.file("stdout"), rig.file("stderr"));
    std::fs::write(&stdout, "so far").unwrap();
    let actions = rig.logs.begin(&InstanceName::default(), 1, stdout, stderr);
    let name = log(rig.logs.host(), 1, bbb_reapi::Channel::Stdout);
    let mut reader = rig.logs.read(&name, 0).await.unwrap();
    assert_eq!(reader.next().await.unwrap().unwrap(), "so far");
    drop(actions);
    assert!(matches!(reader.next().await, Some(Err(LogError::Cut))));
    assert!(matches!(rig.logs.read(&name, 0).await, Err(LogError::Unknown)));
}

#[tokio::test]
async fn a_client_writes_resumes_and_ends_a_log_that_many_read() {
    let rig = Rig::start();
    let name = rig.logs.create(&InstanceName::default()).await.unwrap();
    let readers: Vec<_> = futures::future::join_all((0..20).map(|_| rig.logs.read(&name.log, 0)))
        .await
        .into_iter()
        .map(|reader| all(reader.unwrap()))
        .collect();
    let piece =
        |offset, data: &'static str, is_last| LogPiece { offset, data: data.into(), is_last };
    let forged = LogWriteResource { log: name.log.clone(), token: name.token ^ 1 };
    let error = rig.logs.append(&forged, piece(0, "x", false)).await.unwrap_err();
    assert!(matches!(error, LogError::Unknown));
    rig.logs.append(&name, piece(0, "one ", false)).await.unwrap();
    let error = rig.logs.append(&name, piece(0, "one ", false)).await.unwrap_err();
    assert!(matches!(error, LogError::WrongOffset { committed: 4 }));
    let written = rig.logs.written(&name).await.unwrap();
    assert_eq!(written, Written { committed: 4, has_ended: false });
    let written = rig.logs.append(&name, piece(4, "two", true)).await.unwrap();
    assert_eq!(written, Written { committed: 7, has_ended: true });
    for reader in futures::future::join_all(readers).await {
        assert_eq!(reader.unwrap(), b"one two");
    }
    let error = rig.logs.append(&name, piece(7, "x", false)).await.unwrap_err();
    assert!(matches!(error, LogError::Ended));
    assert_eq!(rig.logs.written(&name).await.unwrap(), written);
    assert_eq!(all(rig.logs.read(&name.log, 4).await.unwrap()).await.unwrap(), b"two");
    let digest = Digest::of(Function::Sha256, b"one two");
    let cas = rig.instances.get(&InstanceName::default()).cas;
    assert_eq!(cas.get_bytes(digest, 100).await.unwrap(), "one two");
}
