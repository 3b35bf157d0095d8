//! The launcher: the small process that makes the processes of all actions.
//!
//! The node executes its own binary again, once, at start, and asks this child for every action. So the cost of a
//! process does not grow with the node's memory, and no process of an action ever inherits a descriptor on which
//! the node is just writing an executable ("text file busy").
//!
//! It has one thread, knows the actions that run by number only, and ends when the node does, ending them first.
//! Its stdin is a socket from the node ([`Call`]s), its stdout a pipe to it ([`Report`]s), which every init shares.
//! One job per file: `template` and `identity` make what all actions share, `points` where exec roots stand in it; `init` is the first
//! process of each, with `mounts`, `network` and `seccomp` for its walls, `command` for the program, `tree` for its end.

mod command;
mod groups;
mod identity;
mod init;
pub(crate) mod mounts;
mod network;
mod points;
mod processes;
mod seccomp;
mod steward;
mod template;
mod tree;

pub use mounts::is_mount_point;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{PipeWriter, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions};

use crate::fault::{During, Fault, Step};
use crate::message::{Call, Facts, Order, Report, Settings};
use crate::sys::{self, Forked};
use crate::wire::{self, Wire};
use groups::{Group, Groups, Kept};
use network::Networks;
use points::Points;
use processes::Ids;
use template::Template;

/// The hidden first argument with which a binary becomes a launcher.
pub(crate) const ARGUMENT: &str = "buildbuildbuild-launcher";

/// Bytes that are read from the node at a time.
const READ_BYTES: usize = 64 << 10;

/// Turns this process into a launcher if it was started as one, and then does not return.
///
/// To be called first thing in `main`, before any thread exists. [`crate::start`] executes the own binary with a
/// hidden argument, which is why every binary that starts a sandbox this way has to call it.
pub fn main_if_launcher() {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == OsStr::new(ARGUMENT)) {
        main();
    }
}

/// Is a launcher, whatever the arguments; for a binary that is nothing else.
pub fn main() -> ! {
    let code =
        match (rustix::io::dup(rustix::stdio::stdin()), rustix::io::dup(rustix::stdio::stdout())) {
            (Ok(calls), Ok(reports)) => serve(calls, reports),
            _ => 1,
        };
    sys::exit(code)
}

/// What every init needs to know of the launcher's state.
pub(crate) struct Stage {
    /// The file system to start from; without it there are no namespaces.
    pub(crate) template: Option<Template>,
    pub(crate) shared_memory_bytes: u64,
    pub(crate) networks: Networks,
    /// What control groups can limit.
    pub(crate) kept: Kept,
    /// Bounds processes, where the kernel can do it so and there are namespaces.
    ids: Option<Ids>,
    /// Ends when the launcher does: an init that starts just then would miss the signal of it.
    alive: OwnedFd,
    alive_here: Option<OwnedFd>,
}

impl Stage {
    fn new(settings: &Settings, kept: Kept) -> Result<Self, Fault> {
        // Before the host's /proc is out of sight.
        let ids = Ids::find().filter(|_| settings.namespaces);
        let template = if settings.namespaces {
            Some(Template::enter(settings)?)
        } else {
            // What an init that was killed leaves behind comes here.
            rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
                .during(Step::ChildSubreaper)?;
            None
        };
        let (alive, here) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).during(Step::DeathSignal)?;
        Ok(Stage {
            template,
            shared_memory_bytes: settings.shared_memory_bytes,
            networks: Networks::new()?,
            kept,
            ids,
            alive,
            alive_here: Some(here),
        })
    }

    /// What the node is to know, with the version of the control groups.
    fn facts(&self, groups: Option<u32>) -> Facts {
        let Kept { memory, processes, cpu } = self.kept;
        let own = rustix::process::geteuid().as_raw();
        let (notes, user, keeper) = match &self.template {
            Some(template) => (template.notes.clone(), template.host_user, template.keeper),
            None => (Vec::new(), own, None),
        };
        Facts { notes, memory, processes, cpu, groups, user, keeper }
    }

    /// Fails if the launcher has died before this init asked for a signal of its death.
    pub(crate) fn check_launcher(&self) -> Result<(), Fault> {
        let mut events = [PollFd::new(&self.alive, PollFlags::IN)];
        match rustix::event::poll(
            &mut events,
            Some(&rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 }),
        ) {
            Ok(0) => Ok(()),
            _ => Err(Fault::new(Step::DeathSignal, std::io::ErrorKind::BrokenPipe.into())),
        }
    }
}

fn serve(calls: OwnedFd, reports: OwnedFd) -> i32 {
    let reports = PipeWriter::from(reports);
    let outcome = quiet().and_then(|()| {
        yield_memory();
        let mut calls = UnixStream::from(calls);
        let body = wire::read_body(&mut calls).during(Step::ReadSocket)?;
        let settings = match body.map(|body| Call::from_body(&body)) {
            Some(Ok(Call::Configure(settings))) => settings,
            _ => {
                return Err(Fault::new(
                    Step::ConfigurationMissing,
                    std::io::ErrorKind::InvalidData.into(),
                ));
            }
        };
        let groups = Groups::start();
        let kept = groups.as_ref().map(|groups| groups.kept).unwrap_or_default();
        let stage = Stage::new(&settings, kept)?;
        calls.set_nonblocking(true).during(Step::ReadSocket)?;
        let signals = sys::signal_descriptor()?;
        let facts = stage.facts(groups.as_ref().map(Groups::version));
        init::send(&Report::Ready(facts), &reports);
        let (points, running) = (Points::default(), HashMap::new());
        Launcher { calls, reports: &reports, signals, stage, groups, points, running }.run()
    });
    match outcome {
        Ok(()) => 0,
        Err(fault) => {
            init::send(&init::failed(0, &fault), &reports);
            1
        }
    }
}

/// How much sooner than others the processes of actions are killed when the machine runs out of memory
/// (`oom_score_adj`, proc(5)): by half of all memory.
const KILLED_SOONER: i32 = 500;

/// Has the kernel look for what to kill among the actions first, not take the node. Whatever comes from this process is meant too, of which
/// the largest is taken first.
fn yield_memory() {
    const FILE: &str = "/proc/self/oom_score_adj";
    let now = std::fs::read_to_string(FILE).ok().and_then(|text| text.trim().parse().ok());
    if now.is_none_or(|now: i32| now < KILLED_SOONER) {
        // Where it cannot be had, the kernel's choice is what it is for all programs. An action can take it back unless the node has
        // CAP_SYS_RESOURCE, and is then where it would be without this.
        let _ = std::fs::write(FILE, KILLED_SOONER.to_string());
    }
}

/// Cuts what ties this process to the node's terminal and signals.
fn quiet() -> Result<(), Fault> {
    // Fails only if this process already leads a session.
    let _ = rustix::process::setsid();
    sys::default_signals();
    sys::block_signals(&sys::WATCHED)?;
    // Standard streams that no action can inherit by mistake; what matters was duplicated, close-on-exec.
    let null = rustix::fs::open("/dev/null", rustix::fs::OFlags::RDWR, rustix::fs::Mode::empty())
        .during(Step::Device)?;
    rustix::stdio::dup2_stdin(&null).during(Step::Device)?;
    rustix::stdio::dup2_stdout(&null).during(Step::Device)?;
    sys::close_from_on_exec(3)
}

/// The number of an action, the group it is in, and where its exec root stands.
struct Running {
    id: u64,
    group: Option<Group>,
    point: PathBuf,
}

struct Launcher<'a> {
    calls: UnixStream,
    reports: &'a PipeWriter,
    signals: OwnedFd,
    stage: Stage,
    groups: Option<Groups>,
    points: Points,
    /// Inits by process, with what they run.
    running: HashMap<Pid, Running>,
}

impl Launcher<'_> {
    fn run(mut self) -> Result<(), Fault> {
        let mut received = Vec::new();
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let (called, signaled) = {
                let mut events = [
                    PollFd::new(&self.calls, PollFlags::IN),
                    PollFd::new(&self.signals, PollFlags::IN),
                ];
                match rustix::event::poll(&mut events, None) {
                    Err(Errno::INTR) => continue,
                    polled => polled.during(Step::Poll)?,
                };
                (!events[0].revents().is_empty(), !events[1].revents().is_empty())
            };
            if signaled {
                while rustix::io::read(self.signals.as_fd(), &mut buffer[..])
                    .is_ok_and(|read| read > 0)
                {}
                self.reap();
            }
            if called {
                match self.calls.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(read) => received.extend_from_slice(&buffer[..read]),
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(_) => break,
                }
                while let Some(body) = malformed(wire::next_body(&mut received))? {
                    self.obey(malformed(Call::from_body(&body))?);
                }
            }
        }
        self.end();
        Ok(())
    }

    fn obey(&mut self, call: Call) {
        match call {
            Call::Configure(_) => {}
            Call::Run(order) => self.launch(*order),
            Call::Cancel(id) => {
                let signal =
                    if self.stage.template.is_some() { Signal::KILL } else { Signal::TERM };
                for (pid, _) in self.running.iter().filter(|(_, running)| running.id == id) {
                    let _ = rustix::process::kill_process(*pid, signal);
                }
            }
        }
    }

    fn launch(&mut self, mut order: Order) {
        let id = order.id;
        let highest_id = (order.limits.processes.zip(self.stage.ids))
            .and_then(|(processes, ids)| ids.highest(processes));
        if highest_id.is_some() {
            order.limits.processes = None;
        }
        let namespaces = match &self.stage.template {
            None => 0,
            Some(template) => {
                let in_use = self.running.values().map(|running| running.point.as_path());
                if let Err(fault) = self.points.make(template, &order.mount_point, in_use) {
                    return self.refuse(id, &fault);
                }
                libc::CLONE_NEWPID
            }
        };
        let group = match self.take_group(&order) {
            Ok(group) => group,
            Err(fault) => return self.refuse(id, &fault),
        };
        self.stage.networks.collect();
        let has_own = self.stage.template.is_some() && !order.network;
        let network = if has_own { self.stage.networks.take() } else { None };
        match sys::fork(namespaces) {
            Ok(Forked::Child) => {
                self.stage.alive_here = None;
                init::run(
                    order,
                    &self.stage,
                    init::Given { group, network, highest_id },
                    self.reports,
                )
            }
            Ok(Forked::Parent(pid)) => {
                let point = order.mount_point;
                self.running.insert(pid, Running { id, group, point });
            }
            Err(fault) => {
                if let (Some(groups), Some(group)) = (&mut self.groups, group) {
                    groups.put(group);
                }
                self.refuse(id, &fault);
            }
        }
    }

    fn take_group(&mut self, order: &Order) -> Result<Option<Group>, Fault> {
        let Some(groups) = self.groups.as_mut().filter(|groups| groups.are_needed(&order.limits))
        else {
            return Ok(None);
        };
        let mut group = groups.take()?;
        match group.limit(&order.limits) {
            Ok(()) => Ok(Some(group)),
            Err(fault) => {
                groups.put(group);
                Err(fault)
            }
        }
    }

    fn refuse(&self, id: u64, fault: &Fault) {
        init::send(&init::failed(id, fault), self.reports);
        init::send(&Report::Gone(id), self.reports);
    }

    /// Takes in all inits that have ended.
    fn reap(&mut self) {
        let mut gone = Vec::new();
        while let Ok(Some((pid, _))) = rustix::process::wait(WaitOptions::NOHANG) {
            gone.extend(self.running.remove(&pid));
        }
        if self.stage.template.is_none() {
            gone.iter().filter_map(|running| running.group.as_ref()).for_each(Group::kill);
            self.kill_strays();
        }
        for Running { id, group, .. } in gone {
            init::send(&Report::Gone(id), self.reports);
            if let (Some(groups), Some(group)) = (&mut self.groups, group) {
                groups.put(group);
            }
        }
    }

    /// Kills what lost its init to a signal: without namespaces an action can do that to itself.
    fn kill_strays(&self) {
        for pid in tree::children(rustix::process::getpid()) {
            let is_known = self.running.contains_key(&pid)
                || self.groups.as_ref().is_some_and(|groups| groups.is_steward(pid));
            if !is_known {
                tree::signal_descendants(pid, Signal::KILL);
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
    }

    /// Ends all actions, since the node is gone.
    fn end(&mut self) {
        let signal = if self.stage.template.is_some() { Signal::KILL } else { Signal::TERM };
        for pid in self.running.keys() {
            let _ = rustix::process::kill_process(*pid, signal);
        }
        let has_others = |launcher: &Self| {
            !launcher.running.is_empty()
                || tree::children(rustix::process::getpid()).into_iter().any(|pid| {
                    !launcher.groups.as_ref().is_some_and(|groups| groups.is_steward(pid))
                })
        };
        while has_others(self) {
            match rustix::process::wait(WaitOptions::empty()) {
                Ok(Some((pid, _))) => self.running.remove(&pid),
                _ => break,
            };
            if self.stage.template.is_none() {
                self.kill_strays();
            }
        }
        // Last the steward, which ends when its socket does, and finds all groups empty.
        self.groups = None;
        while rustix::process::wait(WaitOptions::empty()).is_ok() {}
    }
}

fn malformed<T>(result: Result<T, wire::Malformed>) -> Result<T, Fault> {
    result.map_err(|error| {
        Fault::new(Step::ReadSocket, std::io::Error::new(std::io::ErrorKind::InvalidData, error))
    })
}
