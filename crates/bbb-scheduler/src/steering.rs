//! The platform properties that steer how an action runs, rather than where: no worker need offer them.
//!
//! Everything else asks for a worker that offers the same pair, `container-image` too: a worker that does not know it
//! could not honour it.

/// Whether the action sees the host's network: `on`.
pub const NETWORK: &str = "network";

/// Where the input root stands for the command. A worker's own value is the default for actions without: BuildStream
/// means `/` and does not say so.
pub const INPUT_ROOT: &str = "InputRootAbsolutePath";

/// How inputs are staged: [`AUTO`] or [`PLAIN`].
pub const STAGING: &str = "staging";

/// As the worker likes.
pub const AUTO: &str = "auto";

/// As plain files: an overlay answers `rename(2)` of an input directory with EXDEV.
pub const PLAIN: &str = "plain";

/// How many processors are reserved for the action, and are all that it gets.
pub const CPUS: &str = "cpus";

/// How much memory is reserved for the action, and is all that it gets.
pub const MEMORY: &str = "memory";

/// Known from other servers; what counts is the `ExecutionPolicy`.
pub const PRIORITY: &str = "priority";

/// Whether a platform property is one of these.
pub fn is_steering(name: &str) -> bool {
    matches!(name, NETWORK | INPUT_ROOT | STAGING | CPUS | MEMORY | PRIORITY)
}
