//! The processes below an init: signals to all of them, and waiting until none is left.

use std::fs;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions};

use crate::sys;

/// How often processes that hide from a kill by forking are looked for again.
const KILL_AGAIN: Duration = Duration::from_millis(5);

/// All descendants of this process, which is the reaper of their orphans.
pub(crate) struct Tree {
    /// Whether this process is pid 1 of a namespace: then the kernel knows its descendants.
    pub(crate) is_namespace: bool,
    /// The command's own process and, once it has ended, its wait status.
    pub(crate) main: Pid,
    pub(crate) main_status: Option<i32>,
}

impl Tree {
    /// Takes in all that has ended; whether any process is left.
    pub(crate) fn reap(&mut self) -> bool {
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    if pid == self.main {
                        self.main_status = Some(status.as_raw());
                    }
                }
                Ok(None) => return true,
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }

    /// Sends `signal` to every process of the tree.
    pub(crate) fn signal(&self, signal: Signal) {
        if self.is_namespace {
            sys::kill_everyone(signal.as_raw());
        } else {
            signal_descendants(rustix::process::getpid(), signal);
        }
    }

    /// Kills every process of the tree and returns when all are gone.
    pub(crate) fn kill(&mut self) {
        while self.reap() {
            self.signal(Signal::KILL);
            if self.reap() {
                sys::wait_signal(Some(KILL_AGAIN));
            }
        }
    }

    /// Waits until `done`, the tree is empty, or `until`; whether a request to stop (SIGTERM) came.
    pub(crate) fn wait(&mut self, until: Option<Instant>, done: impl Fn(&Self) -> bool) -> Waited {
        loop {
            if !self.reap() || done(self) {
                return Waited::Done;
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            match sys::wait_signal(left) {
                // Inside a pid namespace anybody may send it; the launcher sends SIGKILL there.
                Some(libc::SIGTERM) if !self.is_namespace => return Waited::Stopped,
                None if until.is_some_and(|until| Instant::now() >= until) => return Waited::Late,
                _ => {}
            }
        }
    }
}

/// Why [`Tree::wait`] came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waited {
    Done,
    Late,
    Stopped,
}

/// Sends `signal` to all that `ancestor` has below it, parents first, so that they fork no more when it kills.
pub(crate) fn signal_descendants(ancestor: Pid, signal: Signal) {
    let mut open = children(ancestor);
    while let Some(pid) = open.pop() {
        if signal == Signal::KILL {
            let _ = rustix::process::kill_process(pid, Signal::STOP);
        }
        open.extend(children(pid));
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// The children of a process, of all its threads.
pub(crate) fn children(parent: Pid) -> Vec<Pid> {
    let tasks = format!("/proc/{}/task", parent.as_raw_nonzero());
    let Ok(tasks) = fs::read_dir(tasks) else { return Vec::new() };
    tasks
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok())
        .flat_map(|list| {
            list.split_ascii_whitespace()
                .filter_map(|pid| pid.parse().ok().and_then(Pid::from_raw))
                .collect::<Vec<_>>()
        })
        .collect()
}
