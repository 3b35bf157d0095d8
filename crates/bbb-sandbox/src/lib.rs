//! Runs one command in a sandbox: namespaces, mounts, limits, and the launcher child that does it.
//!
//! Knows paths, arguments, environments and limits. Refuses to know of digests, storage and remote execution: the
//! caller stages files and owns all folders; this crate shows them to a command and lets nothing else happen.
//!
//! # Roads
//! - [`start`] probes the machine, starts the launcher ([`launcher`]) and gives a [`Sandbox`].
//! - [`Sandbox::run`] runs one [`Request`] to its [`Exit`]. Dropping its future kills the action.
//! - [`View`] reads what an action left behind, from outside, without following it anywhere.
//!
//! # What an action gets ([`Mode::Namespaces`])
//! User, mount, pid, ipc, uts and network namespaces, whoever runs the node (one road instead of two; see
//! `launcher::identity` for who the action is on the host). It is user and group 1000. Its root has the exec root
//! at [`Request::mount_point`], read-only [`SYSTEM_FOLDERS`] of the host, `/tmp` from [`Request::temporary`], a new
//! `/proc`, and `/dev` with null, zero, full, random, urandom, tty, shm (bounded), pts. Nothing else of the host is
//! there, above all not the node's cache. `/etc/passwd` and `/etc/group` name `root`, `build` (1000) and `nobody`. No new privileges, no capability, a filter of system calls
//! (`launcher::seccomp`), no core files. Loopback is up; the host's network is there only on request.
//!
//! # What it gets without namespaces ([`Mode::None`])
//! Its own session, exactly the environment that was asked for, no new privileges, and the end of all that it
//! started. Nothing is hidden from it: it is for machines where namespaces are forbidden.
//!
//! # Ending
//! Before a run ends, all processes of the action are gone: those that left the session, lost their parents or
//! ignore signals too. A timeout is SIGTERM to all, then SIGKILL. If the node dies, its launcher ends all actions.
//!
//! Only `sys` has `unsafe`: one system call to a block, one `SAFETY` comment, one named step that failed.

mod error;
mod fault;
mod launched;
pub mod launcher;
mod link;
mod message;
mod probe;
pub mod removal;
mod request;
mod sys;
mod trial;
mod view;
mod wire;

use std::path::PathBuf;

use async_trait::async_trait;

pub use error::{Error, StartError};
pub use launched::{Launched, start};
pub use launcher::is_mount_point;
pub use probe::{Actor, Enforced, Enforcement, Probe, SYSTEM_FOLDERS};
pub use removal::remove_tree;
pub use request::{
    DEFAULT_GRACE, DEFAULT_MOUNT_POINT, DEFAULT_SEARCH_PATH, ExecRoot, Exit, Limits, Request,
    Staging, Status, Usage,
};
pub use view::{Entry, Kind, Origin, View, ViewError};

/// Runs commands.
#[async_trait]
pub trait Sandbox: Send + Sync {
    /// Runs one command to its end.
    ///
    /// When it returns, nothing of the action lives any more. When its future is dropped, the action is killed in
    /// the background; [`Request::hold`] tells when that is done.
    ///
    /// # Errors
    /// Never for what the command did: that is in the [`Exit`]. [`Error::may_have_happened`] tells whether the
    /// command can have run.
    async fn run(&self, request: Request) -> Result<Exit, Error>;

    /// How exec roots are to be staged.
    fn staging(&self) -> Staging {
        self.probe().staging
    }

    /// What was found at start.
    fn probe(&self) -> &Probe;
}

/// Which walls an action gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Namespaces, or no start.
    Namespaces,
    /// None but its own session.
    None,
    /// Namespaces where they work, else none.
    Auto,
}

/// What holds for all actions of a node.
#[derive(Clone, Debug)]
pub struct Config {
    /// Which walls actions get.
    pub mode: Mode,
    /// Absolute folders, at least one: every path of a [`Request`] lies in one of them, and the launcher sees
    /// nothing else of the node. The first must be writable: the probe makes and removes a folder in it.
    /// If the node is root, put them on a file system that knows id-mapped mounts (all common ones but overlays and
    /// network file systems); else actions stay the host's root in name.
    pub folders: Vec<PathBuf>,
    /// Host folders (or files) that actions see read-only, besides [`SYSTEM_FOLDERS`].
    pub extra_system_folders: Vec<PathBuf>,
    /// Whether overlays may be used; without, exec roots are plain folders as on a machine that has none.
    pub overlays: bool,
    /// Limit of one action's `/dev/shm`, in bytes. It is memory.
    pub shared_memory_bytes: u64,
    /// The binary that becomes the launcher; `None` is the own one, whose `main` then calls
    /// [`launcher::main_if_launcher`].
    pub launcher: Option<PathBuf>,
}

impl Config {
    /// The settings for a node whose paths all lie in `folder`.
    #[must_use]
    pub fn new(folder: PathBuf) -> Self {
        Config {
            mode: Mode::Auto,
            folders: vec![folder],
            extra_system_folders: Vec::new(),
            overlays: true,
            shared_memory_bytes: 64 << 20,
            launcher: None,
        }
    }
}
