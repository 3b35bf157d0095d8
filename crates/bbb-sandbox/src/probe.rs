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
    /// Why it is not better than this, as sentences without a full stop; empty if there is nothing better.
    pub notes: Vec<String>,
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
        for note in &self.notes {
            write!(f, "; {note}")?;
        }
        Ok(())
    }
}
