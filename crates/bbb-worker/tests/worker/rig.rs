//! A worker with a store and a sandbox of its own, and actions for it.

use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bbb_digest::{Digest, Function, InstanceName};
use bbb_lifecycle::TaskGroup;
use bbb_reapi::{
    ToProto as _,
    proto::{protobuf, reapi},
};
use bbb_sandbox::{Config, Launched, Mode};
use bbb_scheduler::{ActionKey, AttemptId, OperationId, Outcome, Submission, Task};
use bbb_storage::{
    Blob, Cas, CasExt as _, Complete, Content, Disk, DiskSettings, Encoding, Error, Instances,
    LocalFile, LocalFiles, Result, Source, Stores, TreeCache, Trees, Wanted,
};
use bbb_worker::{Executor as _, Local, Report, Settings};
use prost::Message as _;

pub(crate) const FUNCTION: Function = Function::Sha256;

/// A worker at work.
pub(crate) struct Rig {
    pub(crate) local: Arc<Local>,
    pub(crate) stores: Stores,
    pub(crate) disk: Arc<Disk>,
    pub(crate) sandbox: Arc<Launched>,
    pub(crate) tasks: TaskGroup,
    folder: tempfile::TempDir,
}

/// In which form a store gives its blobs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Tier {
    /// As the disk tier does.
    Disk,
    /// As compressed streams, and as files that cannot be linked to.
    Remote,
}

/// A layer that gives every blob as a compressed stream.
#[derive(Debug)]
struct Remote(Arc<dyn Cas>);

#[async_trait]
impl Cas for Remote {
    async fn get(&self, digest: Digest, range: Wanted) -> Result<Blob> {
        let blob = self.0.get(digest, range).await?;
        if !range.is_all() {
            return Ok(blob);
        }
        let size_bytes = blob.size_bytes;
        let bad = |error| Error::unavailable("encoding", error);
        let stream = bbb_storage::zstd::encode(blob.into_stream(), bad);
        Ok(Blob { size_bytes, encoding: Encoding::Zstd, content: Content::Stream(stream) })
    }

    async fn put(&self, digest: Digest, source: Source) -> Result<()> {
        self.0.put(digest, source).await
    }

    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>> {
        self.0.find_missing(digests).await
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "remote({})", self.0)
    }
}

/// Files that are on another file system than the worker's folder, or not on this machine at all.
#[derive(Debug)]
struct Unlinkable(Arc<dyn LocalFiles>);

#[derive(Debug)]
struct Elsewhere;

#[async_trait]
impl LocalFiles for Unlinkable {
    async fn pin(&self, digest: Digest, executable: bool) -> Result<Arc<dyn LocalFile>> {
        self.0.pin(digest, executable).await?;
        match digest.hash()[0] % 2 {
            0 => Ok(Arc::new(Elsewhere)),
            _ => Err(Error::Missing(digest)),
        }
    }
}

impl LocalFile for Elsewhere {
    fn link(&self, _: &Path) -> Result<()> {
        Err(Error::unavailable("linking", io::ErrorKind::CrossesDevices.into()))
    }
}

impl fmt::Display for Unlinkable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unlinkable({})", self.0)
    }
}

/// An input tree that is being put together.
#[derive(Default, Clone)]
pub(crate) struct Tree {
    pub(crate) directory: reapi::Directory,
    below: BTreeMap<String, Tree>,
    blobs: Vec<Vec<u8>>,
}

/// What came of an action.
pub(crate) struct Done {
    pub(crate) response: reapi::ExecuteResponse,
    pub(crate) action: Digest,
}

impl Done {
    pub(crate) fn result(&self) -> &reapi::ActionResult {
        self.response.result.as_ref().unwrap()
    }

    pub(crate) fn code(&self) -> i32 {
        self.response.status.as_ref().unwrap().code
    }

    pub(crate) fn error(&self) -> &str {
        &self.response.status.as_ref().unwrap().message
    }
}

impl Tree {
    pub(crate) fn node(name: &str, content: &[u8]) -> reapi::FileNode {
        reapi::FileNode {
            name: name.into(),
            digest: Some(Digest::of(FUNCTION, content).to_proto()),
            ..reapi::FileNode::default()
        }
    }

    pub(crate) fn file(mut self, name: &str, content: &[u8]) -> Self {
        self.directory.files.push(Self::node(name, content));
        self.blobs.push(content.to_vec());
        self
    }

    pub(crate) fn executable(self, name: &str, content: &[u8]) -> Self {
        self.with(content, reapi::FileNode { is_executable: true, ..Self::node(name, content) })
    }

    pub(crate) fn with(mut self, content: &[u8], node: reapi::FileNode) -> Self {
        self.directory.files.push(node);
        self.blobs.push(content.to_vec());
        self
    }

    pub(crate) fn symlink(mut self, name: &str, target: &str) -> Self {
        let (name, target) = (name.into(), target.into());
        let node = reapi::SymlinkNode { name, target, ..reapi::SymlinkNode::default() };
        self.directory.symlinks.push(node);
        self
    }

    /// The same without what stands under a name.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.directory.files.retain(|node| node.name != name);
        self.directory.symlinks.retain(|node| node.name != name);
        self.below.remove(name);
        self
    }

    pub(crate) fn below(mut self, name: &str, tree: Tree) -> Self {
        self.below.insert(name.into(), tree);
        self
    }
}

pub(crate) fn command(script: &str, outputs: &[&str]) -> reapi::Command {
    reapi::Command {
        arguments: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        environment_variables: vec![reapi::command::EnvironmentVariable {
            name: "PATH".into(),
            value: "/usr/bin:/bin".into(),
        }],
        output_paths: outputs.iter().map(|path| (*path).to_owned()).collect(),
        ..reapi::Command::default()
    }
}

impl Rig {
    pub(crate) async fn new(mode: Mode) -> Self {
        Self::with(mode, |_| {}).await
    }

    /// A rig whose worker has other settings.
    pub(crate) async fn with(mode: Mode, change: impl FnOnce(&mut Settings)) -> Self {
        Self::over(mode, Tier::Disk, change).await
    }

    /// A rig whose store gives its blobs in another form.
    pub(crate) async fn over(mode: Mode, tier: Tier, change: impl FnOnce(&mut Settings)) -> Self {
        Self::start(mode, tier, change).await.unwrap()
    }

    /// A rig with namespaces, on what could be a machine without overlays.
    pub(crate) async fn without_overlays() -> Self {
        let mut config = Config::new(PathBuf::new());
        config.mode = Mode::Namespaces;
        config.overlays = false;
        Self::build(config, Tier::Disk, |_| {}).await.unwrap()
    }

    /// A rig, unless its worker refuses its settings.
    pub(crate) async fn start(
        mode: Mode,
        tier: Tier,
        change: impl FnOnce(&mut Settings),
    ) -> io::Result<Self> {
        let mut config = Config::new(PathBuf::new());
        config.mode = mode;
        Self::build(config, tier, change).await
    }

    async fn build(
        mut config: Config,
        tier: Tier,
        change: impl FnOnce(&mut Settings),
    ) -> io::Result<Self> {
        let folder = tempfile::tempdir().unwrap();
        let tasks = TaskGroup::new("test");
        let disk = DiskSettings::new(folder.path().join("store"), 4 << 30);
        let disk = Disk::open(disk, &tasks).unwrap();
        let cache = Arc::new(TreeCache::new(16 << 20));
        let build = {
            let disk = Arc::clone(&disk);
            move |name: &InstanceName| {
                let cas: Arc<dyn Cas> = match tier {
                    Tier::Disk => disk.cas(name),
                    Tier::Remote => Arc::new(Remote(disk.cas(name))),
                };
                let trees = Trees::new(name.clone(), Arc::clone(&cas), Arc::clone(&cache));
                let trees = Arc::new(trees);
                let results = disk.action_cache(name);
                let complete = Complete::new(results, Arc::clone(&cas), Arc::clone(&trees));
                Stores { cas, action_cache: Arc::new(complete), trees }
            }
        };
        let instances = Arc::new(Instances::new(build));
        let stores = instances.get(&InstanceName::default());
        config.folders = vec![disk.scratch()];
        config.launcher = Some(env!("CARGO_BIN_EXE_bbb-worker-launcher").into());
        let sandbox = Arc::new(bbb_sandbox::start(config).await.unwrap());
        let mut settings = Settings::new("worker-1", disk.scratch().join("actions"));
        // The small trees of tests stand below overlays too, as those of most actions do.
        settings.copied_files = 0;
        settings.shared_nodes = 0;
        // So that a test sees when a folder is done with; tests of these spare folders ask for some.
        settings.spare_folders = 0;
        change(&mut settings);
        let local = Local::new(settings, instances, Arc::clone(&sandbox) as _, &tasks)?;
        let links = Arc::clone(&disk);
        let local = local.linking(move |instance| match tier {
            Tier::Disk => links.local_files(instance),
            Tier::Remote => Arc::new(Unlinkable(links.local_files(instance))),
        });
        let local = Arc::new(local.keeping_trees(disk.lodging(), &tasks)?);
        Ok(Rig { local, stores, disk, sandbox, tasks, folder })
    }

    /// One rig for each kind of sandbox and of exec root.
    pub(crate) async fn all() -> [Self; 3] {
        let copying = Self::with(Mode::Namespaces, |settings| settings.copied_files = 8).await;
        [Self::new(Mode::Namespaces).await, copying, Self::new(Mode::None).await]
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The folders of actions that are there now.
    pub(crate) fn folders(&self) -> Vec<PathBuf> {
        let folders = std::fs::read_dir(self.disk.scratch().join("actions")).unwrap();
        folders
            .map(|entry| entry.unwrap().path())
            .filter(|path| !path.ends_with("kept") && !path.ends_with("trees"))
            .collect()
    }

    /// How many trees are staged for all actions.
    pub(crate) fn trees(&self) -> usize {
        std::fs::read_dir(self.disk.scratch().join("actions/trees")).unwrap().count()
    }

    /// Waits until nothing of any action is left.
    pub(crate) async fn is_clean(&self) {
        until(|| self.folders().is_empty()).await;
    }

    pub(crate) async fn put(&self, content: impl Into<Vec<u8>>) -> Digest {
        let content = content.into();
        let digest = Digest::of(FUNCTION, &content);
        self.stores.cas.put(digest, content.into()).await.unwrap();
        digest
    }

    pub(crate) async fn get(&self, digest: Option<&reapi::Digest>) -> Vec<u8> {
        let digest = bbb_reapi::digest(FUNCTION, digest.unwrap()).unwrap();
        self.stores.cas.get_bytes(digest, 1 << 30).await.unwrap().to_vec()
    }

    pub(crate) async fn stdout(&self, done: &Done) -> String {
        String::from_utf8(self.get(done.result().stdout_digest.as_ref()).await).unwrap()
    }

    pub(crate) async fn stderr(&self, done: &Done) -> String {
        String::from_utf8(self.get(done.result().stderr_digest.as_ref()).await).unwrap()
    }

    /// Stores a tree and returns the digest of its root.
    pub(crate) async fn put_tree(&self, tree: Tree) -> Digest {
        let mut directory = tree.directory;
        for blob in tree.blobs {
            self.put(blob).await;
        }
        for (name, below) in tree.below {
            let digest = Some(Box::pin(self.put_tree(below)).await.to_proto());
            directory.directories.push(reapi::DirectoryNode { name, digest });
        }
        self.put(directory.encode_to_vec()).await
    }

    /// Stores all that an action consists of.
    pub(crate) async fn action(
        &self,
        tree: Tree,
        command: &reapi::Command,
        change: impl FnOnce(&mut reapi::Action),
    ) -> Digest {
        let input_root = self.put_tree(tree).await;
        let command = self.put(command.encode_to_vec()).await;
        let mut action = reapi::Action {
            command_digest: Some(command.to_proto()),
            input_root_digest: Some(input_root.to_proto()),
            ..reapi::Action::default()
        };
        change(&mut action);
        self.put(action.encode_to_vec()).await
    }

    pub(crate) fn task(&self, action: Digest) -> Task {
        Task {
            operation: OperationId(u128::from(action.hash()[0])),
            submission: Submission {
                timeout: Duration::from_secs(60),
                ..Submission::of(ActionKey { instance: InstanceName::default(), action })
            },
            queued_at: SystemTime::now(),
            attempt: 1,
            attempt_id: AttemptId(u128::from(action.hash()[0])),
        }
    }

    pub(crate) async fn execute(&self, task: Task) -> Done {
        let action = task.submission.key.action;
        match self.local.execute(task, Report::to(|_| {})).await {
            Outcome::Decided(bytes) => {
                Done { response: reapi::ExecuteResponse::decode(bytes).unwrap(), action }
            }
            Outcome::Failed(reason) => panic!("the worker failed: {reason}"),
        }
    }

    /// Runs a command over a tree.
    pub(crate) async fn run(&self, tree: Tree, command: &reapi::Command) -> Done {
        let action = self.action(tree, command, |_| {}).await;
        self.execute(self.task(action)).await
    }

    pub(crate) async fn is_cached(&self, done: &Done) -> bool {
        self.stores.action_cache.get(done.action).await.unwrap().is_some()
    }

    /// Runs a command over a tree that must end well, and returns its stdout.
    pub(crate) async fn stdout_of(&self, tree: Tree, script: &str) -> String {
        let done = self.run(tree, &command(script, &[])).await;
        assert_eq!(done.code(), 0, "{}", done.error());
        let stderr = self.stderr(&done).await;
        assert_eq!(done.result().exit_code, 0, "{stderr}");
        self.stdout(&done).await
    }
}

pub(crate) fn platform(name: &str, value: &str) -> Option<reapi::Platform> {
    let property = reapi::platform::Property { name: name.into(), value: value.into() };
    Some(reapi::Platform { properties: vec![property] })
}

pub(crate) fn at(seconds: i64) -> Option<protobuf::Timestamp> {
    Some(protobuf::Timestamp { seconds, nanos: 0 })
}

/// Waits for a condition, for at most half a minute.
pub(crate) async fn until(mut is_met: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if is_met() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("condition was not met in time");
}
