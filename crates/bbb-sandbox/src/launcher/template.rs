//! The file system that all actions have in common, made once at start.
//!
//! The launcher itself lives in it: a small root with the host's system folders (read-only), a minimal `/dev`,
//! and the node's folders under [`FOLDERS`]. An action gets a copy of this mount namespace, adds its exec root,
//! `/tmp`, `/proc`, and loses [`FOLDERS`] (see `mounts`). So the many mounts are made once, not per action, and
//! the rest of the host is not just hidden but not there.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};

use super::identity::{self, Folder};
use crate::fault::{During, Fault, Step};
use crate::message::Settings;
use crate::sys;

/// Where the node's folders are while an action is set up: `/.folders/0` and so on.
pub(crate) const FOLDERS: &str = "/.folders";

/// Existing folders on which the root may be built; what they hold is covered while that lasts.
const BASES: [&str; 6] = ["/tmp", "/mnt", "/media", "/srv", "/run", "/home"];

const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

const DEVICE_LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Covered where actions are the host's root in name, and could read them.
const SECRETS: [&str; 6] =
    ["etc/shadow", "etc/shadow-", "etc/gshadow", "etc/gshadow-", "etc/ssh", "etc/ssl/private"];

/// Names the servers that are asked for host names.
const RESOLVER: &str = "/etc/resolv.conf";

/// Shown instead of the host's, so that an action has a name and the same one everywhere.
const ACCOUNTS: [(&str, &str); 2] = [
    (
        "etc/passwd",
        "root:x:0:0:root:/:/bin/sh\nbuild:x:1000:1000:build:/build:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    ),
    ("etc/group", "root:x:0:\nbuild:x:1000:\nnogroup:x:65534:\n"),
];

/// The finished file system.
pub(crate) struct Template {
    folders: Vec<PathBuf>,
    /// Its root, writable; everybody else has it read-only.
    pub(super) root: OwnedFd,
    /// Whether actions are the host's root in name.
    pub(crate) is_host_root: bool,
    /// What is worse than it could be, as sentences.
    pub(crate) notes: Vec<String>,
    /// The host's user that actions are.
    pub(crate) host_user: u32,
    /// The host's user whose files actions see as somebody else's.
    pub(crate) keeper: Option<u32>,
}

impl Template {
    /// Moves this process into a new file system as `settings` say.
    pub(crate) fn enter(settings: &Settings) -> Result<Self, Fault> {
        let assumed = identity::assume(&settings.folders)?;
        rustix::mount::mount_change(
            "/",
            MountPropagationFlags::REC | MountPropagationFlags::PRIVATE,
        )
        .during(Step::PrivateMounts)?;
        let sources = Sources::open(settings, assumed.folders)?;
        let base = BASES
            .iter()
            .find(|base| fs::symlink_metadata(base).is_ok_and(|found| found.is_dir()))
            .ok_or_else(|| Fault::new(Step::MountRoot, io::ErrorKind::NotFound.into()))?;
        rustix::mount::mount(
            "tmpfs",
            *base,
            "tmpfs",
            MountFlags::NOSUID | MountFlags::NODEV,
            c"mode=0755,size=4m",
        )
        .during(Step::MountRoot)?;
        let base = Path::new(base);
        furnish(base, &sources, assumed.is_host_root)?;
        rustix::process::chdir(base).during(Step::PivotRoot)?;
        rustix::process::pivot_root(".", ".").during(Step::PivotRoot)?;
        rustix::mount::unmount(".", UnmountFlags::DETACH).during(Step::PivotRoot)?;
        rustix::process::chdir("/").during(Step::PivotRoot)?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let root = rustix::mount::open_tree(rustix::fs::CWD, "/", flags).during(Step::MountRoot)?;
        set_attributes(Path::new("/"), false, libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID)?;
        Ok(Template {
            folders: settings.folders.clone(),
            root,
            is_host_root: assumed.is_host_root,
            notes: assumed.notes,
            host_user: assumed.host_user,
            keeper: assumed.keeper,
        })
    }

    /// Where a path of the node is in here, while the node's folders are.
    pub(crate) fn locate(&self, path: &Path) -> Result<PathBuf, Fault> {
        let outside =
            || Fault::new(Step::PathOutside, io::ErrorKind::NotFound.into()).about(path.display());
        let (index, rest) = self
            .folders
            .iter()
            .enumerate()
            .filter_map(|(index, folder)| Some((index, path.strip_prefix(folder).ok()?)))
            .min_by_key(|(_, rest)| rest.components().count())
            .ok_or_else(outside)?;
        if rest.components().any(|part| !matches!(part, Component::Normal(_))) {
            return Err(outside());
        }
        Ok(Path::new(FOLDERS).join(index.to_string()).join(rest))
    }

    /// Paths of the node's folders in here.
    pub(crate) fn located_folders(&self) -> impl Iterator<Item = PathBuf> {
        (0..self.folders.len()).map(|index| Path::new(FOLDERS).join(index.to_string()))
    }
}

/// What is to be shown, held open since the base may cover its path.
struct Sources {
    system: Vec<(PathBuf, System)>,
    folders: Vec<Folder>,
    opened_folders: Vec<Option<OwnedFd>>,
}

enum System {
    Link(PathBuf),
    Folder(OwnedFd),
    File(OwnedFd),
}

impl Sources {
    fn open(settings: &Settings, folders: Vec<Folder>) -> Result<Self, Fault> {
        let mut system = Vec::new();
        // Often a link to where no system folder is; without it an action with network finds no host by name.
        let resolver = fs::canonicalize(RESOLVER)
            .ok()
            .filter(|path| !settings.system_folders.iter().any(|folder| path.starts_with(folder)));
        for path in settings.system_folders.iter().chain(&resolver) {
            let Ok(found) = fs::symlink_metadata(path) else { continue };
            let source = if found.is_symlink() {
                System::Link(fs::read_link(path).during(Step::SystemFolder)?)
            } else if found.is_dir() {
                System::Folder(open_path(path, Step::SystemFolder)?)
            } else {
                System::File(open_path(path, Step::SystemFolder)?)
            };
            system.push((path.clone(), source));
        }
        let opened_folders = folders
            .iter()
            .map(|folder| match folder {
                Folder::Path(path) => open_path(path, Step::OpenFolder).map(Some),
                Folder::Mapped(_) => Ok(None),
            })
            .collect::<Result<_, _>>()?;
        Ok(Sources { system, folders, opened_folders })
    }
}

fn open_path(path: &Path, step: Step) -> Result<OwnedFd, Fault> {
    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .during(step)
        .map_err(|fault| fault.about(path.display()))
}

fn through(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Fills the new root at `base`.
fn furnish(base: &Path, sources: &Sources, is_host_root: bool) -> Result<(), Fault> {
    for folder in ["dev", "proc", "tmp", "build", "var", "run", FOLDERS] {
        make_folder(&inside(base, Path::new(folder)))?;
    }
    for (path, source) in &sources.system {
        show_system(&inside(base, path), source).map_err(|fault| fault.about(path.display()))?;
    }
    // Absolute links are fine: they are followed in the finished root.
    let _ = symlink("/tmp", base.join("var/tmp"));
    furnish_dev(&base.join("dev"))?;
    show_accounts(base)?;
    let proc = base.join("proc");
    rustix::mount::mount_bind_recursive("/proc", &proc).during(Step::MountProc)?;
    if is_host_root {
        cover_secrets(base)?;
    }
    for (index, (folder, opened)) in sources.folders.iter().zip(&sources.opened_folders).enumerate()
    {
        let target = inside(base, Path::new(FOLDERS)).join(index.to_string());
        make_folder(&target)?;
        show_folder(folder, opened.as_ref(), &target)?;
    }
    Ok(())
}

fn show_system(target: &Path, source: &System) -> Result<(), Fault> {
    if let Some(parent) = target.parent() {
        make_folder(parent)?;
    }
    let fd = match source {
        System::Link(to) => {
            return match symlink(to, target) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    Err(Fault::new(Step::SystemFolder, error))
                }
                _ => Ok(()),
            };
        }
        System::Folder(fd) => {
            make_folder(target)?;
            fd
        }
        System::File(fd) => {
            fs::write(target, b"").during(Step::SystemFolder)?;
            fd
        }
    };
    rustix::mount::mount_bind_recursive(through(fd), target).during(Step::SystemFolder)?;
    set_attributes(target, true, libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID)
}

fn show_folder(folder: &Folder, opened: Option<&OwnedFd>, target: &Path) -> Result<(), Fault> {
    match (folder, opened) {
        (Folder::Mapped(tree), _) => rustix::mount::move_mount(
            tree,
            "",
            rustix::fs::CWD,
            target,
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
        )
        .during(Step::BindFolder)?,
        (Folder::Path(_), Some(fd)) => {
            rustix::mount::mount_bind_recursive(through(fd), target).during(Step::BindFolder)?;
        }
        (Folder::Path(path), None) => {
            return Err(
                Fault::new(Step::BindFolder, io::ErrorKind::NotFound.into()).about(path.display())
            );
        }
    }
    set_attributes(target, true, libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV)
}

/// The devices that a program may expect anywhere; a user namespace cannot make them, so the host's are shown.
fn furnish_dev(dev: &Path) -> Result<(), Fault> {
    for device in DEVICES {
        let target = dev.join(device);
        fs::write(&target, b"").during(Step::Device)?;
        rustix::mount::mount_bind(Path::new("/dev").join(device), &target)
            .during(Step::Device)
            .map_err(|fault| fault.about(device))?;
    }
    for (name, to) in DEVICE_LINKS {
        symlink(to, dev.join(name)).during(Step::Device)?;
    }
    for folder in ["shm", "pts"] {
        make_folder(&dev.join(folder))?;
    }
    Ok(())
}

fn show_accounts(base: &Path) -> Result<(), Fault> {
    for (path, content) in ACCOUNTS {
        let target = base.join(path);
        if fs::symlink_metadata(&target).is_ok_and(|found| found.is_file()) {
            show_content(content, base, &target)?;
        }
    }
    Ok(())
}

/// Puts a read-only file with `content` over the file at `target`.
fn show_content(content: &str, base: &Path, target: &Path) -> Result<(), Fault> {
    let source = base.join("run/content");
    fs::write(&source, content).during(Step::SystemFolder)?;
    rustix::mount::mount_bind(&source, target).during(Step::SystemFolder)?;
    set_attributes(target, false, libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID)?;
    // The mount keeps it.
    fs::remove_file(&source).during(Step::SystemFolder)
}

fn cover_secrets(base: &Path) -> Result<(), Fault> {
    for secret in SECRETS {
        let path = base.join(secret);
        match fs::metadata(&path) {
            Ok(found) if found.is_dir() => {
                rustix::mount::mount_bind(base.join("run"), &path).during(Step::SystemFolder)?;
                set_attributes(&path, false, libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID)?;
            }
            Ok(_) => show_content("", base, &path)?,
            Err(_) => {}
        }
    }
    Ok(())
}

fn inside(base: &Path, path: &Path) -> PathBuf {
    base.join(path.strip_prefix("/").unwrap_or(path))
}

fn make_folder(path: &Path) -> Result<(), Fault> {
    fs::create_dir_all(path).during(Step::MountRoot).map_err(|fault| fault.about(path.display()))
}

/// Adds attributes to the mount at `path`, and to all below it where `recursive`.
pub(crate) fn set_attributes(path: &Path, recursive: bool, attributes: u64) -> Result<(), Fault> {
    let fd = open_path(path, Step::MountAttributes)?;
    sys::set_mount_attributes(fd.as_fd(), recursive, attributes, None)
        .map_err(|fault| fault.about(path.display()))
}
