//! What one action's file system has of its own, added to a copy of the `template`.
//!
//! Runs in the action's init, in a mount namespace of its own, and ends with the init (and with it the command)
//! seeing nothing else.

use std::ffi::{CString, OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use super::processes;
use super::template::{self, Template};
use crate::fault::{During, Fault, Step};
use crate::message::Order;
use crate::request::ExecRoot;

/// Parts of `/proc` that the kernel lets the host's root change, whatever capabilities it lacks.
const WRITABLE_PROC: [&str; 5] = ["sys", "sysrq-trigger", "irq", "bus", "fs"];

/// Where the exec root is put together when it becomes the whole root.
const STAGE: &str = "/build";

/// Gives this mount namespace what `order` asks for.
pub(crate) fn add(
    order: &Order,
    template: &Template,
    shared_memory_bytes: u64,
    highest_id: Option<u32>,
) -> Result<(), Fault> {
    let is_whole = order.mount_point == Path::new("/");
    let point = if is_whole { Path::new(STAGE) } else { &order.mount_point };
    let root = if is_whole { point } else { Path::new("/") };
    if is_whole {
        mount_exec_root(&order.root, template, point)?;
        make_whole(root)?;
    }
    rustix::mount::mount_bind(template.locate(&order.temporary)?, root.join("tmp"))
        .during(Step::MountTemporary)?;
    if !is_whole {
        if is_temporary(point) {
            fs::create_dir_all(point).during(Step::MountPoint)?;
        }
        mount_exec_root(&order.root, template, point)?;
    }
    template::set_attributes(
        &root.join("tmp"),
        false,
        libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV,
    )?;
    let quiet = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("proc", root.join("proc"), "proc", quiet, None).map_err(|errno| {
        let fault = Fault::new(Step::MountProc, errno.into());
        // The kernel shows nobody a new one who sees only parts of the one that is there: most containers.
        if errno == Errno::PERM {
            fault.about("parts of the node's own are covered or read-only")
        } else {
            fault
        }
    })?;
    if let Some(id) = highest_id {
        processes::set_highest(id, &root.join("proc"))?;
    }
    if template.is_host_root {
        protect_proc(&root.join("proc"))?;
    }
    let size = cstring(format!("mode=1777,size={shared_memory_bytes}").into())?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("shm", root.join("dev/shm"), "tmpfs", flags, size.as_c_str())
        .during(Step::MountShm)?;
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    rustix::mount::mount(
        "devpts",
        root.join("dev/pts"),
        "devpts",
        flags,
        c"newinstance,ptmxmode=0666,mode=0620",
    )
    .during(Step::MountDevpts)?;
    if is_whole {
        return change_root(root);
    }
    for folder in template.located_folders() {
        rustix::mount::unmount(&folder, UnmountFlags::DETACH).during(Step::UnmountFolders)?;
    }
    Ok(())
}

fn mount_exec_root(root: &ExecRoot, template: &Template, point: &Path) -> Result<(), Fault> {
    match root {
        ExecRoot::Plain(folder) => {
            rustix::mount::mount_bind(template.locate(folder)?, point).during(Step::MountPlain)?;
        }
        ExecRoot::Overlay { lowers, upper, work } => {
            let mut options =
                OsString::from("userxattr,volatile,index=off,xino=off,metacopy=off,lowerdir=");
            for (index, lower) in lowers.iter().enumerate() {
                if index > 0 {
                    options.push(":");
                }
                push_escaped(&mut options, template.locate(lower)?.as_os_str());
            }
            options.push(",upperdir=");
            push_escaped(&mut options, template.locate(upper)?.as_os_str());
            options.push(",workdir=");
            push_escaped(&mut options, template.locate(work)?.as_os_str());
            // mount(2) reads one page of options.
            if options.len() >= 4096 {
                return Err(Fault::new(Step::Layers, io::ErrorKind::ArgumentListTooLong.into()));
            }
            let flags = MountFlags::NOSUID | MountFlags::NODEV;
            rustix::mount::mount("overlay", point, "overlay", flags, cstring(options)?.as_c_str())
                .during(Step::MountOverlay)?;
        }
    }
    Ok(())
}

/// Makes the exec root at `root` fit to be the whole root: with the folders on which the rest is mounted.
fn make_whole(root: &Path) -> Result<(), Fault> {
    for name in ["proc", "dev", "tmp"] {
        let folder = root.join(name);
        match fs::symlink_metadata(&folder) {
            // Never mount through a link that the action brought: it leads anywhere.
            Ok(found) if found.is_dir() => {}
            Ok(_) => {
                return Err(
                    Fault::new(Step::MountPoint, io::ErrorKind::NotADirectory.into()).about(name)
                );
            }
            Err(_) => fs::create_dir(&folder)
                .during(Step::MountPoint)
                .map_err(|fault| fault.about(name))?,
        }
    }
    rustix::mount::mount_bind_recursive("/dev", root.join("dev")).during(Step::Device)
}

fn change_root(root: &Path) -> Result<(), Fault> {
    rustix::process::chdir(root).during(Step::PivotRoot)?;
    rustix::process::pivot_root(".", ".").during(Step::PivotRoot)?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).during(Step::PivotRoot)?;
    rustix::process::chdir("/").during(Step::PivotRoot)
}

fn protect_proc(proc: &Path) -> Result<(), Fault> {
    for name in WRITABLE_PROC {
        let path = proc.join(name);
        if fs::metadata(&path).is_ok() {
            rustix::mount::mount_bind(&path, &path).during(Step::MountProc)?;
            template::set_attributes(&path, false, libc::MOUNT_ATTR_RDONLY)?;
        }
    }
    Ok(())
}

/// The longest path of an exec root, in bytes: as much is left for paths in it, of what the kernel takes (`PATH_MAX`).
const MAX_POINT_LEN: usize = 2048;

/// The longest name in it, in bytes (`NAME_MAX`).
const MAX_NAME_LEN: usize = 255;

/// Whether an exec root may stand at `point`: absolute, plain, not too long, and not where the sandbox has its own things.
pub fn is_mount_point(point: &Path) -> bool {
    let mut parts = point.components();
    let reserved = ["proc", "dev", "sys", ".folders"].map(OsStr::new);
    let is_name = |part: Component<'_>| match part {
        Component::Normal(name) => name.len() <= MAX_NAME_LEN && !name.as_bytes().contains(&0),
        _ => false,
    };
    point.as_os_str().len() <= MAX_POINT_LEN
        && parts.next() == Some(Component::RootDir)
        && parts.clone().all(is_name)
        && parts.next().is_none_or(|first| !reserved.contains(&first.as_os_str()))
}

/// Whether `point` is in an action's own `/tmp`, to which the other leads too.
pub(super) fn is_temporary(point: &Path) -> bool {
    ["/tmp", "/var/tmp"].iter().any(|folder| point.starts_with(folder))
}

/// Overlay options end at commas, and lists of layers at colons, unless escaped.
fn push_escaped(options: &mut OsString, path: &OsStr) {
    for byte in path.as_bytes() {
        if matches!(byte, b',' | b':' | b'\\') {
            options.push("\\");
        }
        options.push(OsStr::from_bytes(&[*byte]));
    }
}

fn cstring(text: OsString) -> Result<CString, Fault> {
    CString::new(text.into_encoded_bytes())
        .map_err(|_| Fault::new(Step::MountOverlay, io::ErrorKind::InvalidInput.into()))
}
