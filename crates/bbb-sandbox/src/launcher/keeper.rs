//! The keeper of control groups: finds where they may be made, makes them, removes them.
//!
//! In the second version a group has either processes or groups below it. So where the node's own group was handed
//! over to it (see [`Base::find`]), it moves itself to one below, beside which those of actions are made.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use super::groups::{FIRST, MAX_FILES, SECOND, Use};

/// Where the hierarchies are mounted on every distribution.
const MOUNTED: &str = "/sys/fs/cgroup";

/// The group to which the node moves itself, with all else in the one that was handed over.
const LEAF: &str = "buildbuildbuild-nodes";

/// What groups are asked for in the second version.
const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];

/// How often processes that start in a group are looked for, until none is left to be moved.
const MOVES: u32 = 100;

/// How often the keeper tries to remove a group whose last processes are still going.
const REMOVAL_TRIES: u32 = 100;

/// The folders under which groups are made, one for each hierarchy.
pub(super) struct Base {
    folders: Vec<(PathBuf, Vec<(Use, &'static str)>)>,
    pub(super) is_second: bool,
}

impl Base {
    /// Finds where this process may make groups, and makes a folder for them there.
    pub(super) fn find() -> Option<Self> {
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        Base::second(&own).or_else(|| Base::first(&own))
    }

    /// The second version: below the own group, or beside it.
    fn second(own: &str) -> Option<Self> {
        let path = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
        let top = Path::new(MOUNTED);
        let own = top.join(path);
        if is_root(&own) || (is_handed_over(&own, top) && empty(&own).is_ok()) {
            return Base::below(&own);
        }
        // It is one of those below what was handed over, or the node may do what it likes.
        Base::below(own.parent().filter(|parent| parent.starts_with(top))?)
    }

    /// Has groups below this one get the controllers that it has, and makes the folder for ours.
    fn below(folder: &Path) -> Option<Self> {
        let has = fs::read_to_string(folder.join("cgroup.controllers")).ok()?;
        let enable = |name: &&str, at: &Path| {
            fs::write(at.join("cgroup.subtree_control"), format!("+{name}")).is_ok()
        };
        let wanted =
            CONTROLLERS.into_iter().filter(|name| has.split(' ').any(|has| has.trim() == *name));
        let enabled: Vec<_> = wanted.filter(|name| enable(name, folder)).collect();
        let base = folder.join(name());
        if enabled.is_empty() || fs::create_dir(&base).is_err() {
            return None;
        }
        // Below a group that has processes too, some controllers can be had and no process can go in.
        let kind = fs::read_to_string(base.join("cgroup.type")).unwrap_or_default();
        if kind.trim() != "domain" {
            remove(&base);
            return None;
        }
        for name in enabled {
            // What cannot be passed on is missing in the groups, and then said to be.
            enable(&name, &base);
        }
        Some(Base { folders: vec![(base, SECOND.to_vec())], is_second: true })
    }

    /// The first version: below the own group of each hierarchy.
    fn first(own: &str) -> Option<Self> {
        let mut folders = Vec::new();
        for (controller, files) in FIRST {
            let path = own.lines().find_map(|line| {
                let mut parts = line.splitn(3, ':').skip(1);
                let is_it = parts.next()?.split(',').any(|name| name == controller);
                if is_it { parts.next() } else { None }
            });
            let Some(path) = path else { continue };
            let base =
                Path::new(MOUNTED).join(controller).join(path.trim_start_matches('/')).join(name());
            // Hierarchies with two controllers are mounted once and named twice.
            if fs::create_dir(&base).is_ok() || base.is_dir() {
                folders.push((base, files.to_vec()));
            }
        }
        if folders.is_empty() { None } else { Some(Base { folders, is_second: false }) }
    }

    /// The keeper's life: makes a group at each request, and removes all at the end.
    pub(super) fn keep(&self, launcher: &OwnedFd) {
        let mut number = 0u32;
        loop {
            let mut request = [0u8; 1];
            match rustix::net::recv(launcher, &mut request[..], RecvFlags::empty()) {
                Ok((1, _)) => {}
                Err(rustix::io::Errno::INTR) => continue,
                _ => break,
            }
            let files = self.make(number);
            number += 1;
            let uses: Vec<u8> = files.iter().map(|(of, _)| *of as u8).collect();
            let fds: Vec<_> = files.iter().map(|(_, file)| file.as_fd()).collect();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() {
                ancillary.push(SendAncillaryMessage::ScmRights(&fds));
            }
            let uses = if uses.is_empty() { vec![u8::MAX] } else { uses };
            if rustix::net::sendmsg(
                launcher,
                &[IoSlice::new(&uses)],
                &mut ancillary,
                SendFlags::NOSIGNAL,
            )
            .is_err()
            {
                break;
            }
        }
        for (base, _) in &self.folders {
            for group in 0..number {
                remove(&base.join(group.to_string()));
            }
            remove(base);
        }
    }

    fn make(&self, number: u32) -> Vec<(Use, File)> {
        let mut files = Vec::new();
        for (base, names) in &self.folders {
            let folder = base.join(number.to_string());
            if fs::create_dir(&folder).is_err() {
                continue;
            }
            for (of, name) in names {
                let path = folder.join(name);
                let file = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .open(&path)
                    .or_else(|_| File::open(&path));
                if let Ok(file) = file {
                    files.push((*of, file));
                }
            }
        }
        files.truncate(MAX_FILES);
        files
    }
}

/// Whether this is the root of the machine's groups: alone of all it may have processes and groups below it that have controllers.
fn is_root(folder: &Path) -> bool {
    !folder.join("cgroup.type").exists()
}

/// Whether all below this group is ours to arrange, processes too: it is the first one of a container; or systemd says so of it
/// (`Delegate=yes`); or it is the first one on the way down that belongs to the node's user, who is not root.
fn is_handed_over(folder: &Path, top: &Path) -> bool {
    let says = |name| {
        let mut value = [0; 8];
        rustix::fs::getxattr(folder, name, &mut value).is_ok_and(|length| value[..length] == *b"1")
    };
    let user = rustix::process::geteuid().as_raw();
    let owned = |folder: &Path| fs::metadata(folder).is_ok_and(|found| found.uid() == user);
    folder == top
        || says("trusted.delegate")
        || says("user.delegate")
        || (user != 0 && owned(folder) && !folder.parent().is_some_and(owned))
}

/// Moves all processes of a group to one below it: in the second version only those at the ends have processes.
fn empty(folder: &Path) -> io::Result<()> {
    let leaf = folder.join(LEAF);
    if let Err(error) = fs::create_dir(&leaf)
        && error.kind() != io::ErrorKind::AlreadyExists
    {
        return Err(error);
    }
    for _ in 0..MOVES {
        let processes = fs::read_to_string(folder.join("cgroup.procs"))?;
        if processes.is_empty() {
            return Ok(());
        }
        for process in processes.lines() {
            // One that has ended meanwhile is gone; any other is found again.
            let _ = fs::write(leaf.join("cgroup.procs"), process);
        }
    }
    Err(io::ErrorKind::ResourceBusy.into())
}

fn name() -> String {
    format!("buildbuildbuild-{}", rustix::process::getpid().as_raw_nonzero())
}

fn remove(folder: &Path) {
    for _ in 0..REMOVAL_TRIES {
        match fs::remove_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            _ => return,
        }
    }
}
