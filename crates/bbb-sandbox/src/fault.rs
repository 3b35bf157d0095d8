//! What can go wrong in the launcher and its children: the step, and what the system said.

use std::fmt;
use std::io;

/// A step of setting a sandbox up; each system call of `sys` has its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    BindFolder,
    BlockSignals,
    ChangeIdentity,
    ChildSubreaper,
    CloseDescriptors,
    ConfigurationMissing,
    DeathSignal,
    Device,
    Fork,
    Group,
    HostName,
    IdMap,
    Layers,
    Loopback,
    MountAttributes,
    MountDevpts,
    MountOverlay,
    MountPlain,
    MountPoint,
    MountProc,
    MountRoot,
    MountShm,
    MountTemporary,
    MountUserNamespace,
    NetworkNamespace,
    Namespaces,
    OpenFolder,
    OpenOutput,
    PathOutside,
    PivotRoot,
    Poll,
    PrivateMounts,
    Processes,
    ReadSocket,
    Seccomp,
    SignalDescriptor,
    Spawn,
    SystemFolder,
    UnmountFolders,
    UserNamespace,
}

impl Step {
    fn describe(self) -> &'static str {
        match self {
            Step::BindFolder => "show a folder of the node to the launcher",
            Step::BlockSignals => "block signals",
            Step::ChangeIdentity => "change user and group",
            Step::ChildSubreaper => "become the reaper of orphans",
            Step::CloseDescriptors => "mark descriptors to be closed",
            Step::ConfigurationMissing => "read the launcher's configuration",
            Step::DeathSignal => "ask for a signal at the launcher's death",
            Step::Device => "make a device",
            Step::Fork => "make a process",
            Step::Group => "set up a control group",
            Step::HostName => "set the host name",
            Step::IdMap => "map user and group ids",
            Step::Layers => "name all layers of the exec root within one page",
            Step::Loopback => "bring the loopback interface up",
            Step::MountAttributes => "change attributes of a mount",
            Step::MountDevpts => "mount /dev/pts",
            Step::MountOverlay => "mount the overlay of the exec root",
            Step::MountPlain => "mount the plain exec root",
            Step::MountPoint => "make the mount point of the exec root",
            Step::MountProc => "mount /proc",
            Step::MountRoot => "mount the root of the sandbox",
            Step::MountShm => "mount /dev/shm",
            Step::MountTemporary => "mount /tmp",
            Step::MountUserNamespace => "make a user namespace for mapped mounts",
            Step::NetworkNamespace => "make or enter a network namespace",
            Step::Namespaces => "make namespaces",
            Step::OpenFolder => "open a folder of the node",
            Step::OpenOutput => "open the file for stdout or stderr",
            Step::PathOutside => "find a path in the folders that the sandbox was told of",
            Step::PivotRoot => "change the root",
            Step::Poll => "wait for events",
            Step::PrivateMounts => "make mounts private",
            Step::Processes => "limit the number of processes",
            Step::ReadSocket => "read from the node",
            Step::Seccomp => "install the system call filter",
            Step::SignalDescriptor => "make a signal descriptor",
            Step::Spawn => "make the process of the command",
            Step::SystemFolder => "show a system folder",
            Step::UnmountFolders => "hide the folders of the node",
            Step::UserNamespace => "make a user namespace",
        }
    }
}

/// A failed [`Step`].
#[derive(Debug)]
pub(crate) struct Fault {
    step: Step,
    detail: String,
    source: io::Error,
}

impl Fault {
    pub(crate) fn new(step: Step, source: io::Error) -> Self {
        Fault { step, detail: String::new(), source }
    }

    /// The last system call's error.
    pub(crate) fn last(step: Step) -> Self {
        Fault::new(step, io::Error::last_os_error())
    }

    /// The last system call's error if it returned a negative number.
    pub(crate) fn of(returned: i32, step: Step) -> Result<(), Self> {
        if returned < 0 { Err(Fault::last(step)) } else { Ok(()) }
    }

    /// Says which of several things the step was about.
    pub(crate) fn about(mut self, detail: impl fmt::Display) -> Self {
        self.detail = detail.to_string();
        self
    }

    /// What the system said, as a number.
    pub(crate) fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }

    /// What was tried, without what the system said.
    pub(crate) fn what(&self) -> String {
        match self.detail.as_str() {
            "" => self.step.describe().to_owned(),
            detail => format!("{}: {detail}", self.step.describe()),
        }
    }

    /// The number of the system's error, 0 where there is none.
    pub(crate) fn code(&self) -> i32 {
        self.source.raw_os_error().unwrap_or(0)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}: {}", self.what(), self.source)
    }
}

/// Names the step in which a call failed.
pub(crate) trait During<T> {
    fn during(self, step: Step) -> Result<T, Fault>;
}

impl<T> During<T> for io::Result<T> {
    fn during(self, step: Step) -> Result<T, Fault> {
        self.map_err(|source| Fault::new(step, source))
    }
}

impl<T> During<T> for rustix::io::Result<T> {
    fn during(self, step: Step) -> Result<T, Fault> {
        self.map_err(|source| Fault::new(step, source.into()))
    }
}
