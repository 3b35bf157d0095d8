//! What this machine lets a sandbox do, and how that is said to a person.

use std::fmt;

use crate::Mode;
use crate::request::Staging;

/// Host folders that actions see, read-only, where they exist. Those that are links stay links.
pub const SYSTEM_FOLDERS: [&str; 9] =
    ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/opt"];

/// What was found at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// What actions get: [`Mode::Namespaces`] or [`Mode::None`].
    pub mode: Mode,
    /// How exec roots are to be staged.
    pub staging: Staging,
    /// Why exec roots cannot be overlays; none where they can.
    pub overlay_refused: Option<String>,
    /// A user of this host whose files in a plain exec root an action can read, rename and remove, but never change: not their
    /// content and not their modes. Tried where there are no overlays; else why there is none.
    pub keeper: Result<u32, String>,
    /// Who actions are.
    pub actor: Actor,
    /// How far each limit of a request is kept.
    pub limits: Enforcement,
    /// The version of the control groups that keep them, where groups can be made.
    pub groups: Option<u32>,
    /// Why it is not better than this, as sentences without a full stop; empty if there is nothing better.
    pub notes: Vec<String>,
}

/// Who the processes of actions are on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actor {
    /// The user that the node runs as, by number.
    Node(u32),
    /// A user that owns nothing on this host, by number; shown the node's files as its own.
    Stranger(u32),
    /// root, without any of its capabilities.
    PowerlessRoot,
}

/// How far limits are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enforcement {
    /// [`crate::Limits::memory_bytes`]; per process, it bounds the data that a process may write to.
    pub memory: Enforced,
    /// [`crate::Limits::processes`].
    pub processes: Enforced,
    /// [`crate::Limits::cpu_thousandths`].
    pub cpu: Enforced,
}

/// How far one limit is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enforced {
    /// For all processes of an action together.
    Action,
    /// For each of its processes.
    Process,
    /// Not at all.
    Not,
}

impl fmt::Display for Enforced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Enforced::Action => "per action",
            Enforced::Process => "per process",
            Enforced::Not => "without limit",
        })
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Actor::Node(0) => f.write_str("root"),
            Actor::Node(user) => write!(f, "the node's own user ({user})"),
            Actor::Stranger(user) => write!(f, "a user who owns nothing here ({user})"),
            Actor::PowerlessRoot => f.write_str("root without its powers"),
        }
    }
}
