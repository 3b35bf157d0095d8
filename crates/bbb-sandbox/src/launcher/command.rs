//! The command itself: from a prepared order to `execve(2)`.
//!
//! All that needs memory is prepared in the init; the child borrows the init's memory (no page table is copied),
//! changes only itself, and executes. A program that cannot be run is the action's failure: 127 or 126 and a line
//! on its own stderr, as a shell does it. Where it is the machine that could not, the child leaves word of that in the
//! memory that it borrowed, and there was no run.

use std::ffi::{CString, OsStr, OsString, c_char};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::process::{Pid, Resource, Rlimit, WaitOptions};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::groups::{Group, Kept};
use super::identity;
use crate::fault::{During, Fault, Step};
use crate::request::{DEFAULT_SEARCH_PATH, Limits};
use crate::sys;

const STACK_BYTES: usize = 256 << 10;

/// Exit code for a program that was not found.
const NOT_FOUND: i32 = 127;
/// Exit code for a program that was found but could not be run.
const NOT_RUN: i32 = 126;

/// A command of which nothing is left to be prepared.
pub(crate) struct Command {
    /// Where the program may be, in order; more than one if it is searched.
    candidates: Vec<CString>,
    name: OsString,
    arguments: Strings,
    environment: Strings,
    folder: PathBuf,
    stdin: File,
    stdout: File,
    stderr: File,
    walls: Walls,
    /// What the system said to the child when it was the machine that could not go on; else 0.
    trouble: AtomicI32,
}

/// What holds a command in.
pub(crate) struct Walls {
    pub(crate) limits: Limits,
    /// Which limits a group keeps.
    pub(crate) kept: Kept,
    pub(crate) group: Option<Group>,
    /// A filter of system calls; without it there are no namespaces.
    pub(crate) filter: Option<Vec<libc::sock_filter>>,
}

/// Strings and the null-terminated array of pointers to them.
struct Strings {
    pointers: Vec<*const c_char>,
    _strings: Vec<CString>,
}

impl Strings {
    fn new(strings: impl Iterator<Item = OsString>) -> io::Result<Self> {
        let strings =
            strings.map(|s| Ok(CString::new(s.into_vec())?)).collect::<io::Result<Vec<_>>>()?;
        let pointers = strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect();
        Ok(Strings { pointers, _strings: strings })
    }
}

/// The files of a command's standard streams.
pub(crate) struct Streams {
    pub(crate) stdout: File,
    pub(crate) stderr: File,
}

impl Streams {
    /// Opens existing files to append to; never through a symbolic link.
    pub(crate) fn open(stdout: &Path, stderr: &Path) -> Result<Self, Fault> {
        let open = |path: &Path| {
            OpenOptions::new()
                .append(true)
                .custom_flags(libc::O_NOFOLLOW | libc::O_NOCTTY | libc::O_NONBLOCK)
                .open(path)
                .and_then(|file| {
                    if file.metadata()?.is_file() {
                        Ok(file)
                    } else {
                        Err(io::ErrorKind::InvalidInput.into())
                    }
                })
                .during(Step::OpenOutput)
                .map_err(|fault| fault.about(path.display()))
        };
        Ok(Streams { stdout: open(stdout)?, stderr: open(stderr)? })
    }
}

impl Command {
    /// Prepares `arguments` to be run in `folder`. NUL bytes have been refused before.
    pub(crate) fn new(
        arguments: Vec<OsString>,
        environment: Vec<(OsString, OsString)>,
        folder: PathBuf,
        streams: Streams,
        walls: Walls,
    ) -> Result<Self, Fault> {
        let name = arguments.first().cloned().unwrap_or_default();
        let candidates = candidates(&name, &environment).during(Step::Spawn)?;
        let environment = environment.into_iter().map(|(mut name, value)| {
            name.push("=");
            name.push(value);
            name
        });
        Ok(Command {
            candidates,
            name,
            arguments: Strings::new(arguments.into_iter()).during(Step::Spawn)?,
            environment: Strings::new(environment).during(Step::Spawn)?,
            folder,
            stdin: File::open("/dev/null").during(Step::Device)?,
            stdout: streams.stdout,
            stderr: streams.stderr,
            walls,
            trouble: AtomicI32::new(0),
        })
    }

    /// The control group it is in.
    pub(crate) fn group(&self) -> Option<&Group> {
        self.walls.group.as_ref()
    }

    /// Starts it; comes back when the program is executing, or has failed to.
    pub(crate) fn spawn(&self) -> Result<Pid, Fault> {
        let mut stack = vec![0; STACK_BYTES];
        let child = sys::fork_borrowing(&mut stack, self, |command| command.become_it())?;
        match self.trouble.load(Ordering::Relaxed) {
            0 => Ok(child),
            errno => {
                // It is at its end.
                let _ = rustix::process::waitpid(Some(child), WaitOptions::empty());
                Err(Fault::new(Step::Spawn, io::Error::from_raw_os_error(errno)))
            }
        }
    }

    fn become_it(&self) -> ! {
        if let Err(fault) = self.put_on() {
            self.give_up(&fault);
        }
        if let Err(error) = rustix::process::chdir(&self.folder) {
            self.complain(format_args!(
                "cannot enter the working directory: {}",
                io::Error::from(error)
            ));
            sys::exit(NOT_RUN);
        }
        if let Some(filter) = &self.walls.filter
            && let Err(fault) = sys::install_filter(filter)
        {
            self.give_up(&fault);
        }
        let mut denied = None;
        for candidate in &self.candidates {
            let error =
                sys::execute(candidate, &self.arguments.pointers, &self.environment.pointers);
            match error.raw_os_error() {
                Some(libc::ENOENT | libc::ENOTDIR) => {}
                Some(libc::EACCES) => denied = Some(error),
                Some(errno @ (libc::EIO | libc::ENOMEM | libc::ENFILE | libc::ETXTBSY)) => {
                    self.trouble.store(errno, Ordering::Relaxed);
                    sys::exit(NOT_RUN);
                }
                _ => {
                    denied = Some(error);
                    break;
                }
            }
        }
        let name = self.name.display();
        let (code, reason) = match denied {
            Some(error) => (NOT_RUN, error.to_string()),
            None if self.candidates.len() == 1 => {
                (NOT_FOUND, "no such program, or no interpreter for it".to_owned())
            }
            None => (NOT_FOUND, "no such program in PATH".to_owned()),
        };
        self.complain(format_args!("cannot run {name}: {reason}"));
        sys::exit(code)
    }

    /// Ends the child, for its walls do not stand.
    fn give_up(&self, fault: &Fault) -> ! {
        self.trouble.store(fault.errno().unwrap_or(libc::EIO), Ordering::Relaxed);
        sys::exit(NOT_RUN);
    }

    /// What the command has of its own besides its program: session, streams, limits, no privileges.
    fn put_on(&self) -> Result<(), Fault> {
        // No signal is handled or ignored here: the launcher saw to that at its start, for all that come from it.
        sys::block_signals(&[])?;
        rustix::process::setsid().during(Step::Spawn)?;
        rustix::stdio::dup2_stdin(self.stdin.as_fd()).during(Step::Spawn)?;
        rustix::stdio::dup2_stdout(self.stdout.as_fd()).during(Step::Spawn)?;
        rustix::stdio::dup2_stderr(self.stderr.as_fd()).during(Step::Spawn)?;
        sys::close_from_on_exec(3)?;
        if let Some(group) = &self.walls.group {
            group.enter()?;
        }
        let limit = |resource, value: Option<u64>| match value {
            // A hard limit that is lower already stays: it is the node's own.
            Some(value) => {
                let maximum =
                    rustix::process::getrlimit(resource).maximum.unwrap_or(u64::MAX).min(value);
                let both = Rlimit { current: Some(maximum), maximum: Some(maximum) };
                rustix::process::setrlimit(resource, both).during(Step::Spawn)
            }
            None => Ok(()),
        };
        // One byte, not none: there is no room for a file of a core then either, and what the kernel would pipe a core into, a program
        // of the host outside of all walls, is not started (core(5); the kernel takes it for that program's own crash).
        limit(Resource::Core, Some(1))?;
        limit(Resource::Nofile, self.walls.limits.open_files)?;
        if !self.walls.kept.memory {
            limit(Resource::Data, self.walls.limits.memory_bytes)?;
        }
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        rustix::thread::set_no_new_privs(true).during(Step::ChangeIdentity)?;
        if self.walls.filter.is_some() {
            if let Some(count) = self.walls.limits.processes.filter(|_| !self.walls.kept.processes)
            {
                identity::count_alone()?;
                limit(Resource::Nproc, Some(u64::from(count)))?;
            }
            let none = CapabilitySet::empty();
            let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
            rustix::thread::set_capabilities(None, sets).during(Step::ChangeIdentity)?;
        }
        Ok(())
    }

    fn complain(&self, what: std::fmt::Arguments<'_>) {
        let _ = (&self.stderr).write_all(format!("buildbuildbuild: {what}\n").as_bytes());
    }
}

/// Where `name` may be: itself if it has a slash, else in each folder of the `PATH` of `environment`.
fn candidates(name: &OsStr, environment: &[(OsString, OsString)]) -> io::Result<Vec<CString>> {
    if name.as_bytes().contains(&b'/') {
        return Ok(vec![CString::new(name.as_bytes())?]);
    }
    let path = environment
        .iter()
        .rev()
        .find(|(name, _)| name == "PATH")
        .map(|(_, value)| value.as_os_str());
    let path = path.unwrap_or(OsStr::new(DEFAULT_SEARCH_PATH));
    let join = |folder: &[u8]| {
        // An empty entry is the working directory, as every shell has it.
        let folder = if folder.is_empty() { b"." } else { folder };
        Ok(CString::new([folder, b"/", name.as_bytes()].concat())?)
    };
    let mut candidates =
        path.as_bytes().split(|byte| *byte == b':').map(join).collect::<io::Result<Vec<_>>>()?;
    // An empty name would find the folder itself.
    if name.is_empty() {
        candidates.clear();
    }
    Ok(candidates)
}
