//! A child process and all that it starts, which end when nobody wants them any more.

use std::{
    io,
    os::unix::process::CommandExt as _,
    process::{Child, Command, ExitStatus},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions, kill_process_group, prlimit, waitid,
};

/// Holds one child after the other, each in a group of its own. Clones are the same leash.
#[derive(Clone, Default)]
pub(super) struct Leash(Arc<Mutex<State>>);

#[derive(Default)]
enum State {
    #[default]
    Idle,
    Running(Pid),
    /// No child is started any more.
    Cut,
}

/// Ends the child of a leash when it is dropped, and starts no other.
pub(super) struct Cut(Leash);

/// What a child and each that it starts may have.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    /// Of one file, in bytes.
    pub(super) file_bytes: u64,
    /// Of address space, in bytes.
    pub(super) memory_bytes: u64,
}

/// A child that is ended, with all that it has started, when this is dropped.
pub(super) struct Held {
    pub(super) child: Child,
    pid: Pid,
    leash: Leash,
    is_reaped: bool,
}

impl Leash {
    pub(super) fn cut_on_drop(&self) -> Cut {
        Cut(self.clone())
    }

    /// Starts a child.
    pub(super) fn start(&self, command: &mut Command, bounds: Bounds) -> io::Result<Held> {
        let mut state = self.lock();
        if matches!(*state, State::Cut) {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "nobody waits any more"));
        }
        let child = command.process_group(0).spawn()?;
        // A child that was just started has a number.
        let pid = Pid::from_child(&child);
        *state = State::Running(pid);
        drop(state);
        let held = Held { child, pid, leash: self.clone(), is_reaped: false };
        for (resource, most) in
            [(Resource::Fsize, bounds.file_bytes), (Resource::As, bounds.memory_bytes)]
        {
            prlimit(Some(pid), resource, Rlimit { current: Some(most), maximum: Some(most) })?;
        }
        Ok(held)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        if let State::Running(pid) = *state {
            let _ = kill_process_group(pid, Signal::KILL);
        }
        *state = State::Cut;
    }
}

impl Held {
    /// Waits until it ends, and ends what it leaves behind.
    pub(super) fn wait(mut self) -> io::Result<ExitStatus> {
        self.reap()
    }

    fn reap(&mut self) -> io::Result<ExitStatus> {
        // Until it is reaped, its number is nobody else's: only then is the group of that name certainly its own.
        while let Err(error) =
            waitid(WaitId::Pid(self.pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)
        {
            if error != rustix::io::Errno::INTR {
                return Err(error.into());
            }
        }
        let mut state = self.leash.lock();
        let _ = kill_process_group(self.pid, Signal::KILL);
        if matches!(*state, State::Running(_)) {
            *state = State::Idle;
        }
        self.is_reaped = true;
        self.child.wait()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.is_reaped {
            let _ = kill_process_group(self.pid, Signal::KILL);
            let _ = self.reap();
        }
    }
}
