//! The system calls that neither `std` nor `rustix` offers as safe functions.
//!
//! The only file with `unsafe`. Each block makes one system call, has one `SAFETY` comment and fails
//! as one variant of [`Step`]. Nothing here decides anything.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use rustix::process::Pid;

use crate::fault::{Fault, Step};

/// Signals that the launcher and every init take with [`wait_signal`] or a signal descriptor.
pub(crate) const WATCHED: [c_int; 2] = [libc::SIGCHLD, libc::SIGTERM];

/// What [`fork`] returned to this process.
pub(crate) enum Forked {
    /// This is the child.
    Child,
    /// This is the parent, and this the child's id.
    Parent(Pid),
}

/// Copies this process, into new `namespaces` (`CLONE_NEW*`) if any are named.
///
/// Only for single-threaded processes: the launcher and its children.
pub(crate) fn fork(namespaces: c_int) -> Result<Forked, Fault> {
    let flags = libc::c_long::from(namespaces | libc::SIGCHLD);
    // SAFETY: a null stack with neither CLONE_VM nor CLONE_SETTLS is a plain fork, and the caller has one
    // thread, so no lock of another thread is inherited.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0usize, 0usize, 0usize, 0usize) };
    match pid {
        0 => Ok(Forked::Child),
        pid => match i32::try_from(pid)
            .ok()
            .and_then(|pid| if pid > 0 { Pid::from_raw(pid) } else { None })
        {
            Some(pid) => Ok(Forked::Parent(pid)),
            None => Err(Fault::last(Step::Fork)),
        },
    }
}

/// Runs `body` in a child that borrows this process's memory until it executes a program or exits.
///
/// It costs no copy of the page table. `body` never returns: its type says so.
pub(crate) fn fork_borrowing<T>(
    stack: &mut [u8],
    argument: &T,
    body: fn(&T) -> !,
) -> Result<Pid, Fault> {
    struct Call<'a, T> {
        argument: &'a T,
        body: fn(&T) -> !,
    }
    extern "C" fn enter<T>(call: *mut c_void) -> c_int {
        // SAFETY: `call` points to the `Call` below, which outlives the child: CLONE_VFORK holds its frame.
        let call = unsafe { &*call.cast::<Call<'_, T>>() };
        (call.body)(call.argument)
    }
    let call = Call { argument, body };
    let top = stack.as_mut_ptr_range().end;
    let top =
        top.wrapping_sub(top.align_offset(16).wrapping_add(16) % 16 + 64).map_addr(|a| a & !15);
    // SAFETY: the stack is ours and unused by anyone else, the parent sleeps until the child has left this
    // memory (CLONE_VFORK), and `enter` never returns.
    let pid = unsafe {
        libc::clone(
            enter::<T>,
            top.cast(),
            libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
            (&raw const call).cast_mut().cast(),
        )
    };
    if pid > 0 {
        Pid::from_raw(pid).ok_or_else(|| Fault::last(Step::Spawn))
    } else {
        Err(Fault::last(Step::Spawn))
    }
}

/// Replaces this process by `program`; comes back only with the error.
///
/// `arguments` and `environment` end with a null pointer, as `execve(2)` has it.
pub(crate) fn execute(
    program: &CStr,
    arguments: &[*const c_char],
    environment: &[*const c_char],
) -> io::Error {
    // SAFETY: both arrays are null-terminated and their pointers are to strings that live as long as the call.
    unsafe { libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}

/// Ends this process at once: no destructors, no buffers written.
pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: `_exit` takes any value and touches no memory of ours.
    unsafe { libc::_exit(code) }
}

fn signal_set(signals: &[c_int]) -> libc::sigset_t {
    // SAFETY: a sigset_t is plain old data for which all zeroes is the empty set on Linux.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    for signal in signals {
        // SAFETY: `set` is initialised, and a bad number would only be refused.
        unsafe { libc::sigaddset(&raw mut set, *signal) };
    }
    set
}

/// Sets the mask of blocked signals of this thread to exactly `signals`.
pub(crate) fn block_signals(signals: &[c_int]) -> Result<(), Fault> {
    let set = signal_set(signals);
    // SAFETY: `set` is a valid set; the old mask is not asked for.
    let rc = unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) };
    Fault::of(rc, Step::BlockSignals)
}

/// Gives every signal its default action.
pub(crate) fn default_signals() {
    for signal in 1..=64 {
        // SAFETY: SIG_DFL is valid for every signal; those that cannot be set are refused, which is harmless.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Waits for one of [`WATCHED`] (they must be blocked), for at most `timeout`; `None` after that.
pub(crate) fn wait_signal(timeout: Option<Duration>) -> Option<c_int> {
    let set = signal_set(&WATCHED);
    let limit = libc::timespec {
        tv_sec: timeout.map_or(i64::MAX, |t| i64::try_from(t.as_secs()).unwrap_or(i64::MAX)),
        tv_nsec: timeout.map_or(0, |t| i64::from(t.subsec_nanos())),
    };
    // SAFETY: both pointers are to locals; no information about the signal is asked for.
    let signal =
        unsafe { libc::sigtimedwait(&raw const set, std::ptr::null_mut(), &raw const limit) };
    (signal > 0).then_some(signal)
}

/// Sends `signal` to every process that this one may signal, but itself and pid 1.
pub(crate) fn kill_everyone(signal: c_int) {
    // SAFETY: no memory is involved. Only called as pid 1 of a pid namespace, so it reaches nobody else.
    unsafe { libc::kill(-1, signal) };
}

/// What all children that were waited for (and theirs) have used.
pub(crate) fn children_usage() -> libc::rusage {
    // SAFETY: a rusage is plain old data for which all zeroes is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is valid for writing; the call cannot fail with these arguments.
    unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage) };
    usage
}

/// Installs a seccomp filter on this thread; `no_new_privs` must be set.
pub(crate) fn install_filter(filter: &[libc::sock_filter]) -> Result<(), Fault> {
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len())
            .map_err(|_| Fault::new(Step::Seccomp, io::ErrorKind::InvalidInput.into()))?,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: `program` points to `filter`, which outlives the call; the kernel copies and checks it.
    let rc =
        unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    Fault::of(rc, Step::Seccomp)
}

/// Changes the attributes (`MOUNT_ATTR_*`) of the mount at `tree`, and of all below it where `recursive`.
pub(crate) fn set_mount_attributes(
    tree: BorrowedFd<'_>,
    recursive: bool,
    set: u64,
    id_map: Option<BorrowedFd<'_>>,
) -> Result<(), Fault> {
    let attributes = libc::mount_attr {
        attr_set: set | if id_map.is_some() { libc::MOUNT_ATTR_IDMAP } else { 0 },
        attr_clr: 0,
        propagation: 0,
        userns_fd: id_map.map_or(0, |fd| u64::try_from(fd.as_raw_fd()).unwrap_or(u64::MAX)),
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty constant, `attributes` is a local of the size that is given.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    Fault::of(if rc == 0 { 0 } else { -1 }, Step::MountAttributes)
}

/// Moves this process into new namespaces (`CLONE_NEW*`).
pub(crate) fn unshare(namespaces: c_int, step: Step) -> Result<(), Fault> {
    // SAFETY: no memory is involved; the caller has one thread.
    Fault::of(unsafe { libc::unshare(namespaces) }, step)
}

/// Moves this process into the namespace of type `kind` (`CLONE_NEW*`) behind `namespace`.
pub(crate) fn enter(namespace: BorrowedFd<'_>, kind: c_int, step: Step) -> Result<(), Fault> {
    // SAFETY: no memory is involved; the descriptor is borrowed, hence open.
    Fault::of(unsafe { libc::setns(namespace.as_raw_fd(), kind) }, step)
}

/// Brings the loopback interface of this network namespace up.
pub(crate) fn raise_loopback(socket: BorrowedFd<'_>) -> Result<(), Fault> {
    // SAFETY: an ifreq is plain old data for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    // SAFETY: SIOCSIFFLAGS reads an ifreq, and `request` is one.
    Fault::of(
        unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) },
        Step::Loopback,
    )
}

/// Marks every descriptor from `first` on to be closed when a program is executed.
pub(crate) fn close_from_on_exec(first: u32) -> Result<(), Fault> {
    // SAFETY: only flags of descriptors change, none is closed.
    let rc =
        unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    Fault::of(if rc == 0 { 0 } else { -1 }, Step::CloseDescriptors)
}

/// Opens a descriptor that tells when one of [`WATCHED`] (they must be blocked) has come.
pub(crate) fn signal_descriptor() -> Result<std::os::fd::OwnedFd, Fault> {
    use std::os::fd::FromRawFd;
    let set = signal_set(&WATCHED);
    // SAFETY: `set` is a valid set; -1 asks for a new descriptor.
    let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    Fault::of(fd, Step::SignalDescriptor)?;
    // SAFETY: the descriptor is new and nobody else has it.
    Ok(unsafe { std::os::fd::OwnedFd::from_raw_fd(fd) })
}
