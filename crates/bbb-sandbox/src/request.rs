//! What a caller asks of a sandbox and what it gets back: plain data.

use std::any::Any;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::fault::{Fault, Step};

/// Where an action's exec root stands unless the request says otherwise.
pub const DEFAULT_MOUNT_POINT: &str = "/build";

/// The `PATH` in which a program without a slash is searched when the environment of the request has none.
/// It is for this search only: the action's environment stays without it.
pub const DEFAULT_SEARCH_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// How long after SIGTERM a timed-out action is killed, unless the request says otherwise.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(2);

/// One command to run. All host paths lie in the folders of [`crate::Config::folders`] and belong to the caller.
#[derive(Clone)]
pub struct Request {
    /// The program and its arguments; at least one. The program is absolute, or relative to the working
    /// directory (with a slash), or searched in `PATH` of `environment` (REAPI `Command.arguments`).
    pub arguments: Vec<OsString>,
    /// Exactly the environment of the command. Names have no `=`.
    pub environment: Vec<(OsString, OsString)>,
    /// The files that the action finds.
    pub root: ExecRoot,
    /// Where it finds them: absolute, [`DEFAULT_MOUNT_POINT`] by default; `/` makes them the whole system.
    /// Without namespaces this has no effect: they are where they are.
    pub mount_point: PathBuf,
    /// Relative to the exec root; empty for the exec root itself. It must be there.
    pub working_directory: PathBuf,
    /// A folder that becomes `/tmp`: on disk, so that what an action leaves there costs no memory.
    pub temporary: PathBuf,
    /// An existing file to which stdout is appended.
    pub stdout: PathBuf,
    /// An existing file to which stderr is appended; may be the same.
    pub stderr: PathBuf,
    /// Whether the action sees the host's network; loopback is there always.
    pub network: bool,
    /// After this the whole tree gets SIGTERM, and SIGKILL after `grace`; none if `None`.
    pub timeout: Option<Duration>,
    /// Time between SIGTERM and SIGKILL.
    pub grace: Duration,
    /// What the action may take.
    pub limits: Limits,
    /// Dropped when nothing of the action lives any more, also if the run is cancelled: the owner of its
    /// folders, for example, so that they are not removed under its feet.
    pub hold: Option<Arc<dyn Any + Send + Sync>>,
}

impl Request {
    /// A request with defaults for all that is not given here: no environment, network, timeout or limits.
    #[must_use]
    pub fn new(
        arguments: Vec<OsString>,
        root: ExecRoot,
        temporary: PathBuf,
        stdout: PathBuf,
        stderr: PathBuf,
    ) -> Self {
        Request {
            arguments,
            environment: Vec::new(),
            root,
            mount_point: DEFAULT_MOUNT_POINT.into(),
            working_directory: PathBuf::new(),
            temporary,
            stdout,
            stderr,
            network: false,
            timeout: None,
            grace: DEFAULT_GRACE,
            limits: Limits::default(),
            hold: None,
        }
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("arguments", &self.arguments)
            .field("root", &self.root)
            .field("working_directory", &self.working_directory)
            .finish_non_exhaustive()
    }
}

/// The files of an action.
///
/// They belong to the user and group that the node runs as: only these become the action's own. An action may then do
/// with them what their modes let an owner do, so folders in which it is to make files need write permission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecRoot {
    /// One folder, used as it is.
    Plain(PathBuf),
    /// An overlay, see [`crate::Staging::Overlay`].
    Overlay {
        /// Read-only trees, the uppermost first; at least one. Many actions may share them at once.
        lowers: Vec<PathBuf>,
        /// An empty folder that takes all changes.
        upper: PathBuf,
        /// An empty folder on the same file system as `upper`, for the kernel's own use.
        work: PathBuf,
    },
}

impl ExecRoot {
    /// The folder, where nothing is to be mounted.
    pub(crate) fn plain(&self) -> Result<&Path, Fault> {
        match self {
            ExecRoot::Plain(folder) => Ok(folder),
            ExecRoot::Overlay { .. } => {
                Err(Fault::new(Step::MountOverlay, io::ErrorKind::Unsupported.into()))
            }
        }
    }
}

/// How exec roots are to be staged for a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Staging {
    /// Both kinds of [`ExecRoot`] work; `Overlay` is the cheap one.
    Overlay,
    /// Only [`ExecRoot::Plain`] works.
    Plain,
}

/// Upper bounds; `None` is none. Which of them can be kept is in [`crate::Probe::limits`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Memory of all processes together, in bytes, page cache included.
    pub memory_bytes: Option<u64>,
    /// Processes and threads at one time. From 1,000 on it may be kept to within some hundreds.
    pub processes: Option<u32>,
    /// Share of processors, in thousandths of one.
    pub cpu_thousandths: Option<u32>,
    /// Open files per process.
    pub open_files: Option<u64>,
    /// Size of any one file, in bytes, holes included: whoever would make a larger one gets SIGXFSZ.
    pub file_bytes: Option<u64>,
}

/// How a command came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It exited with this code. 127 and 126, with a line on its stderr, also stand for a program that was not
    /// found or could not be executed.
    Exited(i32),
    /// This signal killed it.
    Signaled(i32),
}

impl Status {
    /// The exit code as a shell would give it: 128 and the signal for one that was killed.
    #[must_use]
    pub fn code(self) -> i32 {
        match self {
            Status::Exited(code) => code,
            Status::Signaled(signal) => 128 + signal,
        }
    }
}

/// A command that ran to its end, its own or ours; nothing of it is left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// What became of the command's own process.
    pub status: Status,
    /// Whether it was ended because its timeout was over.
    pub timed_out: bool,
    /// Whether the memory limit killed a process of it (known with control groups only).
    pub out_of_memory: bool,
    /// When the command was started, by the host's clock.
    pub started: SystemTime,
    /// What it used.
    pub usage: Usage,
}

/// What an action used, all its processes together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// From the command's start to its end.
    pub wall: Duration,
    /// Processor time in user mode.
    pub user: Duration,
    /// Processor time in the kernel.
    pub system: Duration,
    /// The largest resident set of any one process, in bytes.
    pub max_rss_bytes: u64,
    /// The most memory that all processes had at one time (known with control groups only), in bytes.
    pub peak_memory_bytes: Option<u64>,
    /// Bytes read from block devices.
    pub read_bytes: u64,
    /// Bytes written to block devices.
    pub written_bytes: u64,
    /// Page faults without I/O.
    pub minor_faults: u64,
    /// Page faults with I/O.
    pub major_faults: u64,
    /// Context switches to wait for something.
    pub voluntary_switches: u64,
    /// Context switches forced by the scheduler.
    pub involuntary_switches: u64,
}
