//! Who actions are: user namespaces and id maps.
//!
//! An action always is user and group 1000 of a user namespace without privileges outside of it, whoever runs
//! the node: outputs do not depend on that, and one road is tested instead of two. On the host this is
//! - the node's own user, if that is not root: the kernel lets it map nobody else;
//! - [`STRANGER`] if the node is root: an id that owns nothing on the host. The node's folders are shown to it
//!   through an id-mapped mount that turns root's files into the stranger's, both ways. Those of [`KEEPER`] stay
//!   what they are: an action reads them as anybody may, and can neither write to them nor change their modes;
//! - root without any capability, if the file system of a folder knows no id-mapped mounts. Then files that
//!   only root may read are covered (see `template`), as is `/proc/sys`, which the kernel gives to that id.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::mount::OpenTreeFlags;
use rustix::process::{DumpableBehavior, Pid, Signal};

use crate::fault::{During, Fault, Step};
use crate::sys::{self, Forked};

/// User and group id that an action sees itself as.
pub(crate) const ACTION_ID: u32 = 1000;

/// Host user and group id of actions of a node that is root: in no range that a distribution hands out.
const STRANGER: u32 = 0x7000_03e8;

/// Host user id of files that lie in an action's folders without being its own.
const KEEPER: u32 = STRANGER + 1;

/// A folder of the node as the launcher got hold of it.
pub(crate) enum Folder {
    /// To be bound from its path.
    Path(PathBuf),
    /// An id-mapped mount of it, not yet attached anywhere.
    Mapped(OwnedFd),
}

/// The outcome of [`assume`].
pub(crate) struct Assumed {
    pub(crate) folders: Vec<Folder>,
    /// Whether actions are the host's root, in name.
    pub(crate) is_host_root: bool,
    /// What is worse than it could be, as sentences.
    pub(crate) notes: Vec<String>,
    /// The host's user that actions are.
    pub(crate) host_user: u32,
    /// The host's user whose files actions see as somebody else's, where folders are mapped.
    pub(crate) keeper: Option<u32>,
}

/// Makes this process user [`ACTION_ID`] of a new user namespace, with all capabilities in there, and gives it
/// mounts of its own.
pub(crate) fn assume(folders: &[PathBuf]) -> Result<Assumed, Fault> {
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    let mut notes = Vec::new();
    if uid != 0 {
        sys::unshare(libc::CLONE_NEWUSER, Step::UserNamespace)?;
        write_map("self", "setgroups", "deny")?;
        write_map("self", "uid_map", &format!("{ACTION_ID} {uid} 1"))?;
        write_map("self", "gid_map", &format!("{ACTION_ID} {gid} 1"))?;
        sys::unshare(libc::CLONE_NEWNS, Step::Namespaces)?;
        let folders = folders.iter().cloned().map(Folder::Path).collect();
        let keeper = None;
        return Ok(Assumed { folders, is_host_root: false, notes, host_user: uid, keeper });
    }
    let mapped = map_folders(folders);
    let is_host_root = mapped.is_err();
    let folders = mapped.unwrap_or_else(|fault| {
        notes.push(format!(
            "actions are the host's root without its powers, since the node could not {}",
            fault.what()
        ));
        folders.iter().cloned().map(Folder::Path).collect()
    });
    let outer = if is_host_root { 0 } else { STRANGER };
    let namespace = user_namespace(&format!("{ACTION_ID} {outer} 1"), Step::UserNamespace)?;
    leave_groups()?;
    sys::enter(namespace.as_fd(), libc::CLONE_NEWUSER, Step::UserNamespace)?;
    let gid = rustix::process::Gid::from_raw(ACTION_ID);
    rustix::thread::set_thread_res_gid(gid, gid, gid).during(Step::ChangeIdentity)?;
    let uid = rustix::process::Uid::from_raw(ACTION_ID);
    rustix::thread::set_thread_res_uid(uid, uid, uid).during(Step::ChangeIdentity)?;
    sys::unshare(libc::CLONE_NEWNS, Step::Namespaces)?;
    let keeper = (!is_host_root).then_some(KEEPER);
    Ok(Assumed { folders, is_host_root, notes, host_user: outer, keeper })
}

/// Gives up all groups that this process has beside its own. Root of a user namespace in which nobody may do so keeps them: it is
/// somebody else outside, whose groups they are, as a node's that is not root.
fn leave_groups() -> Result<(), Fault> {
    match rustix::thread::set_thread_groups(&[]) {
        Err(rustix::io::Errno::PERM)
            if fs::read("/proc/self/setgroups").is_ok_and(|says| says.starts_with(b"deny")) =>
        {
            Ok(())
        }
        outcome => outcome.during(Step::ChangeIdentity),
    }
}

/// Mounts in which root's files are the stranger's, and the keeper's are the keeper's.
fn map_folders(folders: &[PathBuf]) -> Result<Vec<Folder>, Fault> {
    let map = format!("0 {STRANGER} 1\n{KEEPER} {KEEPER} 1");
    let namespace = user_namespace(&map, Step::MountUserNamespace)?;
    let map = |folder: &PathBuf| {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE;
        let tree = rustix::mount::open_tree(rustix::fs::CWD, folder, flags)
            .during(Step::OpenFolder)
            .map_err(|fault| fault.about(folder.display()))?;
        sys::set_mount_attributes(tree.as_fd(), true, 0, Some(namespace.as_fd()))
            .map_err(|fault| fault.about(format_args!("the ids of {}", folder.display())))?;
        Ok(Folder::Mapped(tree))
    };
    folders.iter().map(map).collect()
}

/// Makes a user namespace with `map` for users and groups, by way of a child that lives no longer than that.
fn user_namespace(map: &str, step: Step) -> Result<OwnedFd, Fault> {
    let (child_ready, child_says) = std::io::pipe().during(step)?;
    let (child_waits, parent_done) = std::io::pipe().during(step)?;
    match sys::fork(0)? {
        Forked::Child => {
            drop(parent_done);
            drop(child_ready);
            if sys::unshare(libc::CLONE_NEWUSER, step).is_ok() {
                let _ = (&child_says).write(b"!");
                let _ = (&child_waits).read(&mut [0]);
            }
            sys::exit(0)
        }
        Forked::Parent(pid) => {
            drop(child_says);
            let namespace = match (&child_ready).read(&mut [0]) {
                Ok(1) => describe_namespace(pid, map, step),
                _ => Err(Fault::new(step, std::io::ErrorKind::PermissionDenied.into())),
            };
            drop(parent_done);
            let _ = rustix::process::kill_process(pid, Signal::KILL);
            let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
            namespace
        }
    }
}

fn describe_namespace(pid: Pid, map: &str, step: Step) -> Result<OwnedFd, Fault> {
    let pid = pid.as_raw_nonzero().to_string();
    write_map(&pid, "uid_map", map)?;
    write_map(&pid, "gid_map", map)?;
    fs::File::open(format!("/proc/{pid}/ns/user")).map(OwnedFd::from).during(step)
}

/// Moves this process into a user namespace of its own, in which it stays who it is.
///
/// The kernel counts processes per user and namespace: so a limit on their number meets this action only.
pub(crate) fn count_alone() -> Result<(), Fault> {
    sys::unshare(libc::CLONE_NEWUSER, Step::UserNamespace)?;
    // Only the maps of a process that could be dumped are its own to write. It shares its memory with the init, for
    // which this changes nothing that the action could use: it has no process yet, nor ever the init's capabilities.
    let dumpable = rustix::process::set_dumpable_behavior;
    dumpable(DumpableBehavior::Dumpable).during(Step::IdMap)?;
    let map = format!("{ACTION_ID} {ACTION_ID} 1");
    let mapped = write_map("self", "setgroups", "deny")
        .and_then(|()| write_map("self", "uid_map", &map))
        .and_then(|()| write_map("self", "gid_map", &map));
    dumpable(DumpableBehavior::NotDumpable).during(Step::IdMap)?;
    mapped
}

fn write_map(process: &str, file: &str, content: &str) -> Result<(), Fault> {
    let path = format!("/proc/{process}/{file}");
    fs::write(&path, content).during(Step::IdMap).map_err(|fault| fault.about(path))
}
