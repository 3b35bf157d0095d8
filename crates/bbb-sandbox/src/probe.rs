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
    /// How far each limit of a request is kept.
    pub limits: Enforcement,
    /// Why it is not better than this, as sentences without a full stop; empty if there is nothing better.
    pub notes: Vec<String>,
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

impl fmt::Display for Probe {
    /// One line for the log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.mode {
            Mode::None => "actions run without a sandbox, in sessions of their own",
            _ => "actions run in namespaces of their own",
        })?;
        f.write_str(match self.staging {
            Staging::Overlay => ", exec roots are overlays",
            Staging::Plain => ", exec roots are plain folders",
        })?;
        let Enforcement { memory, processes, cpu } = self.limits;
        write!(f, "; memory {memory}, processes {processes}, processors {cpu}")?;
        for note in &self.notes {
            write!(f, "; {note}")?;
        }
        Ok(())
    }
}
