//! The init of one action: sets its sandbox up, runs the command, ends what is left, reports.
//!
//! With namespaces it is pid 1 of the action's pid namespace: when it dies, the kernel kills all others. Without,
//! it is the reaper of the action's orphans, and kills whatever it finds below itself until nothing is left.

use std::io::{PipeWriter, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{DumpableBehavior, Signal};

use super::command::{Command, Streams, Walls};
use super::groups::Group;
use super::template::Template;
use super::tree::{Tree, Waited};
use super::{Stage, mounts, seccomp};
use crate::fault::{During, Fault, Step};
use crate::message::{Ending, Order, Report};
use crate::sys;
use crate::wire::Wire;

/// Host name inside of a sandbox.
const HOST_NAME: &[u8] = b"localhost";

/// What the launcher hands to one init.
pub(crate) struct Given {
    pub(crate) group: Option<Group>,
    /// A network that was used before; without it, a new one is made.
    pub(crate) network: Option<OwnedFd>,
    /// The highest id of a process of it.
    pub(crate) highest_id: Option<u32>,
}

/// Runs `order` to its end.
pub(crate) fn run(order: Order, stage: &Stage, given: Given, reports: &PipeWriter) -> ! {
    let id = order.id;
    let report = match prepare(order, stage, given) {
        Ok(prepared) => match supervise(prepared, stage) {
            Ok(Some(ending)) => Report::Ended { id, ending: Box::new(ending) },
            Ok(None) => sys::exit(0),
            Err(fault) => failed(id, &fault),
        },
        Err(fault) => failed(id, &fault),
    };
    send(&report, reports);
    sys::exit(0)
}

/// The report of a step that failed.
pub(crate) fn failed(id: u64, fault: &Fault) -> Report {
    let mut what = fault.what();
    // Reports share a pipe, whose writes are whole up to a page.
    what.truncate(what.floor_char_boundary(2048));
    Report::Failed { id, what, code: fault.code() }
}

/// Writes one report in one piece.
pub(crate) fn send(report: &Report, mut reports: &PipeWriter) {
    if let Ok(frame) = report.to_frame() {
        // When the node is gone there is nobody to tell.
        let _ = reports.write_all(&frame);
    }
}

struct Prepared {
    command: Command,
    network: Option<OwnedFd>,
    timeout: Option<Duration>,
    grace: Duration,
}

fn prepare(order: Order, stage: &Stage, given: Given) -> Result<Prepared, Fault> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .during(Step::ChangeIdentity)?;
    let death = if stage.template.is_some() { Signal::KILL } else { Signal::TERM };
    rustix::process::set_parent_process_death_signal(Some(death)).during(Step::DeathSignal)?;
    stage.check_launcher()?;
    let Isolated { streams, folder, filter, network } = match &stage.template {
        Some(template) => isolate(&order, template, stage, given.network, given.highest_id)?,
        None => {
            rustix::process::setsid().during(Step::Spawn)?;
            rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
                .during(Step::ChildSubreaper)?;
            let streams = Streams::open(&order.stdout, &order.stderr)?;
            Isolated {
                streams,
                folder: order.root.plain()?.to_owned(),
                filter: None,
                network: None,
            }
        }
    };
    let folder = folder.join(&order.working_directory);
    let walls = Walls { limits: order.limits, kept: stage.kept, group: given.group, filter };
    let command = Command::new(order.arguments, order.environment, folder, streams, walls)?;
    Ok(Prepared { command, network, timeout: order.timeout, grace: order.grace })
}

/// What is left to hand to the command after its walls stand.
struct Isolated {
    streams: Streams,
    folder: PathBuf,
    filter: Option<Vec<libc::sock_filter>>,
    network: Option<OwnedFd>,
}

fn isolate(
    order: &Order,
    template: &Template,
    stage: &Stage,
    network: Option<OwnedFd>,
    highest_id: Option<u32>,
) -> Result<Isolated, Fault> {
    sys::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS, Step::Namespaces)?;
    let network = if order.network { None } else { Some(stage.networks.enter(network)?) };
    rustix::system::sethostname(HOST_NAME).during(Step::HostName)?;
    let streams =
        Streams::open(&template.locate(&order.stdout)?, &template.locate(&order.stderr)?)?;
    mounts::add(order, template, stage.shared_memory_bytes, highest_id)?;
    let filter = Some(seccomp::filter());
    Ok(Isolated { streams, folder: order.mount_point.clone(), filter, network })
}

/// Runs the command and ends its tree; `None` if the run was cancelled.
fn supervise(prepared: Prepared, stage: &Stage) -> Result<Option<Ending>, Fault> {
    let is_namespace = stage.template.is_some();
    let started = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let start = Instant::now();
    let main = prepared.command.spawn()?;
    let mut tree = Tree { is_namespace, main, main_status: None };
    let deadline = prepared.timeout.and_then(|timeout| start.checked_add(timeout));
    let mut waited = tree.wait(deadline, |tree| tree.main_status.is_some());
    let timed_out = waited == Waited::Late;
    if timed_out {
        tree.signal(Signal::TERM);
        // A stopped process takes no SIGTERM before it goes on.
        tree.signal(Signal::CONT);
        waited = tree.wait(Instant::now().checked_add(prepared.grace), |_| false);
    }
    let wall = start.elapsed();
    if !is_namespace && let Some(group) = prepared.command.group() {
        // At once: what forks all the time can win against looking for its children.
        group.kill();
    }
    tree.kill();
    if waited == Waited::Stopped {
        return Ok(None);
    }
    if let Some(network) = &prepared.network {
        stage.networks.give_back(network);
    }
    let usage = sys::children_usage();
    let group = prepared.command.group();
    let time = |time: libc::timeval| {
        Duration::from_secs(number(time.tv_sec)) + Duration::from_micros(number(time.tv_usec))
    };
    Ok(Some(Ending {
        wait_status: tree.main_status.unwrap_or(Signal::KILL.as_raw()),
        timed_out,
        out_of_memory: group.is_some_and(Group::ran_out_of_memory),
        started,
        wall,
        user: time(usage.ru_utime),
        system: time(usage.ru_stime),
        max_rss_bytes: number(usage.ru_maxrss) * 1024,
        peak_memory_bytes: group.and_then(Group::peak_bytes),
        // The kernel counts in units of 512 bytes.
        read_bytes: number(usage.ru_inblock) * 512,
        written_bytes: number(usage.ru_oublock) * 512,
        minor_faults: number(usage.ru_minflt),
        major_faults: number(usage.ru_majflt),
        voluntary_switches: number(usage.ru_nvcsw),
        involuntary_switches: number(usage.ru_nivcsw),
    }))
}

fn number(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
