use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bbb_digest::InstanceName;
use bbb_lifecycle::TaskGroup;
use bbb_reapi::proto::reapi;
use bbb_sandbox::{Limits, Mode, Sandbox};
use bbb_scheduler::{Outcome, Progress, Task, steering::INPUT_ROOT};
use bbb_storage::{ActionLogs, Instances, LocalFiles, LocalLogs, Lodging};
use prost::Message as _;

use crate::{
    Executor, Report,
    bases::Bases,
    cleanup::{Cleaner, TREES},
    error::Error,
    fetch::Lease,
    ladder::Ladder,
    renewal::Part,
    room,
    stage::{Prepared, Staging},
    times::{Clock, Times},
};

/// How a worker runs actions.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The worker's name, as results show it.
    pub worker: String,
    /// An absolute folder that belongs to this worker alone: whatever lies in it at start is removed, but
    /// for `kept`. It is one of the sandbox's folders and best on the file system of the store.
    pub folder: PathBuf,
    /// How many blobs of one action are transferred at once, either way.
    pub download_concurrency: usize,
    /// How many files an input tree may have to be copied into a plain folder instead of standing below an
    /// overlay, where that is possible.
    pub copied_files: usize,
    /// How many nodes an input tree must have to be staged for other actions, too, where that is possible.
    pub shared_nodes: u64,
    /// How much memory all that is known of staged trees may take, in bytes.
    pub staged_bytes: u64,
    /// How many emptied folders wait for their next action, which is then spared making one; with namespaces
    /// only.
    pub spare_folders: usize,
    /// What one action may take; the memory and the processors that it asks for are upper bounds too, where control groups can keep
    /// them.
    pub limits: Limits,
    /// Whether all actions see the host's network; else those with the platform property `network=on`.
    pub network: bool,
    /// Where the input root stands for commands that do not ask for a place by the platform property
    /// `InputRootAbsolutePath`; needs namespaces.
    pub input_root: Option<PathBuf>,
    /// Which exec roots are kept for people.
    pub keep: Keep,
    /// How long fetching and staging may take.
    pub fetch_deadline: Duration,
    /// How long hashing and storing of outputs may take.
    pub upload_deadline: Duration,
}

/// Which exec roots are kept for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// None.
    None,
    /// Those of commands that failed or timed out.
    Failed,
    /// All.
    All,
}

/// How long fetching may take, and storing of outputs, unless the settings say otherwise: ten times what
/// the largest actions need over a slow network.
const DEADLINE: Duration = Duration::from_secs(30 * 60);

/// Usually fewer files than an overlay costs the kernel to make for itself.
const COPIED_FILES: usize = 8;

/// To look for a tree that is staged costs about as much as to stage fewer.
const SHARED_NODES: u64 = 64;

/// Enough for 50 trees of 10,000 files.
const STAGED_BYTES: u64 = 64 << 20;

/// About as many as most machines run actions at a time.
const SPARE_FOLDERS: usize = 64;

/// As many processes and threads as one action may have: several times what the largest tests start, and few enough for the machine to live
/// with.
const PROCESSES: u32 = 4096;

impl Settings {
    /// The usual settings.
    pub fn new(worker: impl Into<String>, folder: impl Into<PathBuf>) -> Self {
        Self {
            worker: worker.into(),
            folder: folder.into(),
            download_concurrency: 10,
            copied_files: COPIED_FILES,
            shared_nodes: SHARED_NODES,
            staged_bytes: STAGED_BYTES,
            spare_folders: SPARE_FOLDERS,
            limits: Limits { processes: Some(PROCESSES), ..Limits::default() },
            network: false,
            input_root: None,
            keep: Keep::None,
            fetch_deadline: DEADLINE,
            upload_deadline: DEADLINE,
        }
    }
}

/// Runs tasks on this machine, in a sandbox.
pub struct Local {
    settings: Settings,
    instances: Arc<Instances>,
    sandbox: Arc<dyn Sandbox>,
    ladder: Ladder,
    cleaner: Cleaner,
    links: Option<LinksOf>,
    bases: Option<Arc<Bases>>,
    /// Where what commands print can be read while they run.
    logs: Option<Arc<LocalLogs>>,
}

/// Tells where the blobs of an instance lie as files.
type LinksOf = Box<dyn Fn(&InstanceName) -> Arc<dyn LocalFiles> + Send + Sync>;

impl Local {
    /// An executor of actions of these instances. What it leaves behind is removed by a task of `tasks`,
    /// which so has to outlive the executor's work.
    ///
    /// # Errors
    /// If the folder cannot be made or read, or the sandbox cannot put input roots where the settings want
    /// them.
    pub fn new(
        settings: Settings,
        instances: Arc<Instances>,
        sandbox: Arc<dyn Sandbox>,
        tasks: &TaskGroup,
    ) -> io::Result<Self> {
        if let Some(point) = &settings.input_root {
            check_input_root(point, sandbox.probe().mode)?;
        }
        let spare = match sandbox.probe().mode {
            // An action reaches nothing of its folder but what it is given.
            Mode::Namespaces => settings.spare_folders,
            Mode::None | Mode::Auto => 0,
        };
        let cleaner = Cleaner::start(settings.folder.clone(), spare, tasks)?;
        let ladder = Ladder::find(&settings.folder, sandbox.probe());
        let (links, bases, logs) = (None, None, None);
        Ok(Self { settings, instances, sandbox, ladder, cleaner, links, bases, logs })
    }

    /// How inputs get where actions find them.
    pub fn ladder(&self) -> &Ladder {
        &self.ladder
    }

    /// Stages inputs as links to files of a store where no action can change these. The worker's folder has to be on the store's file system.
    #[must_use]
    pub fn linking(
        mut self,
        links: impl Fn(&InstanceName) -> Arc<dyn LocalFiles> + Send + Sync + 'static,
    ) -> Self {
        self.links = Some(Box::new(links));
        self
    }

    /// Keeps staged trees in the store's folder, for all actions to stand above; needs links. They are removed by a task of
    /// `tasks`.
    ///
    /// # Errors
    /// If a folder for them cannot be made or read.
    pub fn keeping_trees(
        mut self,
        lodging: Arc<dyn Lodging>,
        tasks: &TaskGroup,
    ) -> io::Result<Self> {
        let folder = self.settings.folder.join(TREES);
        let (min_nodes, memory_bytes) = (self.settings.shared_nodes, self.settings.staged_bytes);
        self.bases = Some(Bases::start(folder, lodging, min_nodes, memory_bytes, tasks)?);
        Ok(self)
    }

    /// Lets what commands print be read while they run.
    #[must_use]
    pub fn showing(mut self, logs: Arc<LocalLogs>) -> Self {
        self.logs = Some(logs);
        self
    }

    /// Begins to show what a command prints.
    fn show(&self, prepared: &Prepared) -> Option<ActionLogs> {
        let (task, folder) = (&prepared.lease.task, &prepared.folder);
        let (stdout, stderr) = (folder.part(Part::Stdout), folder.part(Part::Stderr));
        let instance = &task.submission.key.instance;
        Some(self.logs.as_ref()?.begin(instance, task.attempt_id.0, stdout, stderr))
    }

    /// The way of a task from stage to stage.
    async fn stages(&self, task: Task, report: &Report) -> Result<Outcome, Error> {
        let settings = &self.settings;
        let clock = Clock::start();
        let mode = self.sandbox.probe().mode;
        report.progress(Progress::Fetching);
        let prepared = within("fetching inputs", settings.fetch_deadline, async {
            let stores = self.instances.get(&task.submission.key.instance);
            let links = self.links.as_ref().map(|links| links(&task.submission.key.instance));
            let folder_name = format!("{}-{}", task.operation, task.attempt);
            let lease = Lease::read(task, stores).await?;
            let folder = Arc::new(self.cleaner.folder(&folder_name, report).await?);
            let staging = Staging {
                ladder: &self.ladder,
                copied_files: settings.copied_files,
                concurrency: settings.download_concurrency,
                links: links.as_deref(),
                bases: self.bases.as_ref(),
            };
            Prepared::stage(lease, folder, staging).await
        })
        .await?;
        let fetched = clock.now();
        report.staged(prepared.staged);
        report.turn().await;
        room::check(&settings.folder)?;
        // Who hears that it runs may read what it prints.
        let shown = self.show(&prepared);
        report.progress(Progress::Running);
        let input_root = settings.input_root.as_deref();
        let running = prepared.run(&*self.sandbox, settings.limits, settings.network, input_root);
        let ran = running.await?;
        if ran.exit.status.code() != 0 {
            // What it made is still there.
            room::check(&settings.folder)?;
        }
        let times = Times { fetched, ran: clock.now() };
        report.progress(Progress::Uploading);
        let settled = ran.settle(settings, mode, clock, times, shown);
        within("storing outputs", settings.upload_deadline, settled).await
    }
}

/// Refuses what would fail every action that does not ask for another place.
fn check_input_root(point: &Path, mode: Mode) -> io::Result<()> {
    let refused = |reason: &str| {
        let story = format!("{INPUT_ROOT}={}: {reason}", point.display());
        Err(io::Error::new(io::ErrorKind::InvalidInput, story))
    };
    match mode {
        Mode::None => refused("needs namespaces, which the sandbox does without"),
        _ if !bbb_sandbox::is_mount_point(point) => refused("an input root cannot stand there"),
        _ => Ok(()),
    }
}

async fn within<T>(
    phase: &'static str,
    limit: Duration,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done,
        Err(_) => Err(Error::Late { phase, limit }),
    }
}

#[async_trait]
impl Executor for Local {
    async fn execute(&self, task: Task, report: Report) -> Outcome {
        let (operation, action) = (task.operation, task.submission.key.action);
        let outcome = self.stages(task, &report).await.unwrap_or_else(|error| {
            error.into_outcome(|status| {
                let response = reapi::ExecuteResponse {
                    status: Some(status),
                    ..reapi::ExecuteResponse::default()
                };
                Outcome::Decided(response.encode_to_vec().into())
            })
        });
        match &outcome {
            Outcome::Decided(_) => tracing::debug!(%operation, %action, "task is decided"),
            Outcome::Failed(reason) => {
                tracing::warn!(%operation, %action, reason, "task failed here");
            }
        }
        outcome
    }
}

impl fmt::Display for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "local({})", self.settings.worker)
    }
}

impl fmt::Debug for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Local").field("settings", &self.settings).finish_non_exhaustive()
    }
}
