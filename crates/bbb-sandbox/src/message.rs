//! What the node and its launcher say to each other, over [`crate::wire`].

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::request::{ExecRoot, Limits};
use crate::wire::{Malformed, Wire, fields};

/// The first message to a launcher: what holds for all actions.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Whether actions get namespaces of their own; else process groups only.
    pub(crate) namespaces: bool,
    /// The only folders of the node that the launcher may touch.
    pub(crate) folders: Vec<PathBuf>,
    /// Host folders that actions see, read-only.
    pub(crate) system_folders: Vec<PathBuf>,
    /// Limit of `/dev/shm` of one action.
    pub(crate) shared_memory_bytes: u64,
}

fields!(Settings { namespaces, folders, system_folders, shared_memory_bytes });

/// One command to run.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) id: u64,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) environment: Vec<(OsString, OsString)>,
    pub(crate) root: ExecRoot,
    pub(crate) mount_point: PathBuf,
    pub(crate) working_directory: PathBuf,
    pub(crate) temporary: PathBuf,
    pub(crate) stdout: PathBuf,
    pub(crate) stderr: PathBuf,
    pub(crate) network: bool,
    pub(crate) timeout: Option<Duration>,
    pub(crate) grace: Duration,
    pub(crate) limits: Limits,
}

fields!(Order {
    id,
    arguments,
    environment,
    root,
    mount_point,
    working_directory,
    temporary,
    stdout,
    stderr,
    network,
    timeout,
    grace,
    limits,
});

fields!(Limits { memory_bytes, processes, cpu_thousandths, open_files });

impl Wire for ExecRoot {
    fn put(&self, to: &mut Vec<u8>) {
        match self {
            ExecRoot::Plain(folder) => {
                0u8.put(to);
                folder.put(to);
            }
            ExecRoot::Overlay { lowers, upper, work } => {
                1u8.put(to);
                lowers.put(to);
                upper.put(to);
                work.put(to);
            }
        }
    }
    fn take(from: &mut &[u8]) -> Result<Self, Malformed> {
        match u8::take(from)? {
            0 => Ok(ExecRoot::Plain(Wire::take(from)?)),
            1 => Ok(ExecRoot::Overlay {
                lowers: Wire::take(from)?,
                upper: Wire::take(from)?,
                work: Wire::take(from)?,
            }),
            _ => Err(Malformed),
        }
    }
}

/// To the launcher.
#[derive(Debug)]
pub(crate) enum Call {
    Configure(Settings),
    Run(Box<Order>),
    /// Kill what runs under this id, if it does.
    Cancel(u64),
}

impl Wire for Call {
    fn put(&self, to: &mut Vec<u8>) {
        match self {
            Call::Configure(settings) => {
                0u8.put(to);
                settings.put(to);
            }
            Call::Run(order) => {
                1u8.put(to);
                order.put(to);
            }
            Call::Cancel(id) => {
                2u8.put(to);
                id.put(to);
            }
        }
    }
    fn take(from: &mut &[u8]) -> Result<Self, Malformed> {
        match u8::take(from)? {
            0 => Wire::take(from).map(Call::Configure),
            1 => Order::take(from).map(|order| Call::Run(Box::new(order))),
            2 => Wire::take(from).map(Call::Cancel),
            _ => Err(Malformed),
        }
    }
}

/// How a command ended, as its init saw it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ending {
    /// As `wait(2)` gives it.
    pub(crate) wait_status: i32,
    pub(crate) timed_out: bool,
    pub(crate) out_of_memory: bool,
    /// Since 1970-01-01T00:00:00Z.
    pub(crate) started: Duration,
    pub(crate) wall: Duration,
    pub(crate) user: Duration,
    pub(crate) system: Duration,
    pub(crate) max_rss_bytes: u64,
    pub(crate) peak_memory_bytes: Option<u64>,
    pub(crate) read_bytes: u64,
    pub(crate) written_bytes: u64,
    pub(crate) minor_faults: u64,
    pub(crate) major_faults: u64,
    pub(crate) voluntary_switches: u64,
    pub(crate) involuntary_switches: u64,
}

fields!(Ending {
    wait_status,
    timed_out,
    out_of_memory,
    started,
    wall,
    user,
    system,
    max_rss_bytes,
    peak_memory_bytes,
    read_bytes,
    written_bytes,
    minor_faults,
    major_faults,
    voluntary_switches,
    involuntary_switches,
});

/// What a launcher found out at its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// What it could not have, as sentences.
    pub(crate) notes: Vec<String>,
    /// Whether control groups limit memory, processes, processors; and their version, where there are any.
    pub(crate) memory: bool,
    pub(crate) processes: bool,
    pub(crate) cpu: bool,
    pub(crate) groups: Option<u32>,
    /// The host's user that actions are.
    pub(crate) user: u32,
    /// The host's user whose files actions can read and not own, where folders are mapped.
    pub(crate) keeper: Option<u32>,
}

fields!(Facts { notes, memory, processes, cpu, groups, user, keeper });

/// From the launcher or one of its inits. Short: it is written to a shared pipe in one piece.
#[derive(Debug)]
pub(crate) enum Report {
    /// The launcher can take orders.
    Ready(Facts),
    /// A step failed before the command ran; id 0 is the launcher itself.
    Failed { id: u64, what: String, code: i32 },
    /// The command ended, and nothing of it lives any more.
    Ended { id: u64, ending: Box<Ending> },
    /// The init is gone, whether it reported or not, and all below it.
    Gone(u64),
}

impl Wire for Report {
    fn put(&self, to: &mut Vec<u8>) {
        match self {
            Report::Ready(facts) => {
                0u8.put(to);
                facts.put(to);
            }
            Report::Failed { id, what, code } => {
                1u8.put(to);
                id.put(to);
                what.put(to);
                code.put(to);
            }
            Report::Ended { id, ending } => {
                2u8.put(to);
                id.put(to);
                ending.put(to);
            }
            Report::Gone(id) => {
                3u8.put(to);
                id.put(to);
            }
        }
    }
    fn take(from: &mut &[u8]) -> Result<Self, Malformed> {
        match u8::take(from)? {
            0 => Wire::take(from).map(Report::Ready),
            1 => Ok(Report::Failed {
                id: Wire::take(from)?,
                what: Wire::take(from)?,
                code: Wire::take(from)?,
            }),
            2 => Ok(Report::Ended { id: Wire::take(from)?, ending: Box::new(Wire::take(from)?) }),
            3 => Wire::take(from).map(Report::Gone),
            _ => Err(Malformed),
        }
    }
}
