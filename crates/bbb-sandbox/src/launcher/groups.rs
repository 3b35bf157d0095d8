//! Control groups: what an action may take, all its processes together. Version 2, or 1 where that has the controllers.
//!
//! Groups are made by a keeper: a child that stays who the node is while the launcher becomes somebody else, waits
//! for the launcher's end, and then removes them. The launcher gets their files opened, and uses a group again for
//! the next action: making and removing them is what is slow about them. Only the command goes in, not its init:
//! that must not be the one to die when memory is short.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut, Read, Seek, SeekFrom, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use rustix::process::Pid;

use crate::fault::{During, Fault, Step};
use crate::request::Limits;
use crate::sys::{self, Forked};

/// Where the hierarchies are mounted on every distribution.
const MOUNTED: &str = "/sys/fs/cgroup";

/// The period over which a share of processors is measured, in microseconds.
const PERIOD_US: u64 = 100_000;

/// Files of one group at most: three hierarchies, and what is written and read in them.
const MAX_FILES: usize = 12;

/// How often the keeper tries to remove a group whose last processes are still going.
const REMOVAL_TRIES: u32 = 100;

/// What a file of a group is for; the name of each in version 1 and 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Use {
    Enter,
    Memory,
    Swap,
    Peak,
    Events,
    Processes,
    Cpu,
}

const USES: [Use; 7] =
    [Use::Enter, Use::Memory, Use::Swap, Use::Peak, Use::Events, Use::Processes, Use::Cpu];

/// Controllers with their files; version 1 has a hierarchy for each.
const FIRST: [(&str, &[(Use, &str)]); 3] = [
    (
        "memory",
        &[
            (Use::Enter, "cgroup.procs"),
            (Use::Memory, "memory.limit_in_bytes"),
            (Use::Swap, "memory.memsw.limit_in_bytes"),
            (Use::Peak, "memory.max_usage_in_bytes"),
            (Use::Events, "memory.oom_control"),
        ],
    ),
    ("pids", &[(Use::Enter, "cgroup.procs"), (Use::Processes, "pids.max")]),
    ("cpu", &[(Use::Enter, "cgroup.procs"), (Use::Cpu, "cpu.cfs_quota_us")]),
];

const SECOND: [(Use, &str); 7] = [
    (Use::Enter, "cgroup.procs"),
    (Use::Memory, "memory.max"),
    (Use::Swap, "memory.swap.max"),
    (Use::Peak, "memory.peak"),
    (Use::Events, "memory.events"),
    (Use::Processes, "pids.max"),
    (Use::Cpu, "cpu.max"),
];

/// Which limits groups can keep here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) memory: bool,
    pub(crate) processes: bool,
    pub(crate) cpu: bool,
}

/// The launcher's end: free groups, and the way to get more.
pub(crate) struct Groups {
    keeper: OwnedFd,
    keeper_process: Pid,
    is_second: bool,
    pub(crate) kept: Kept,
    free: Vec<Group>,
}

/// One group, for one action at a time.
pub(crate) struct Group {
    files: Vec<(Use, File)>,
    is_second: bool,
    kills_before: u64,
}

/// The folders under which groups are made, one for each hierarchy.
struct Base {
    folders: Vec<(PathBuf, Vec<(Use, &'static str)>)>,
    is_second: bool,
}

impl Groups {
    /// Starts the keeper, while this process still is who the node is; `None` where no group can be made.
    pub(crate) fn start() -> Option<Self> {
        let base = Base::find()?;
        let is_second = base.is_second;
        let (keeper, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .ok()?;
        let keeper_process = match sys::fork(0).ok()? {
            Forked::Child => {
                drop(keeper);
                base.keep(&theirs);
                sys::exit(0)
            }
            Forked::Parent(pid) => pid,
        };
        drop(theirs);
        let mut groups =
            Groups { keeper, keeper_process, is_second, kept: Kept::default(), free: Vec::new() };
        let group = groups.take().ok()?;
        let has = |wanted| group.files.iter().any(|(has, _)| *has == wanted);
        groups.kept =
            Kept { memory: has(Use::Memory), processes: has(Use::Processes), cpu: has(Use::Cpu) };
        groups.free.push(group);
        Some(groups)
    }

    /// Which version of control groups these are.
    pub(crate) fn version(&self) -> u32 {
        if self.is_second { 2 } else { 1 }
    }

    /// Whether any of `limits` needs a group.
    pub(crate) fn are_needed(&self, limits: &Limits) -> bool {
        (limits.memory_bytes.is_some() && self.kept.memory)
            || (limits.processes.is_some() && self.kept.processes)
            || (limits.cpu_thousandths.is_some() && self.kept.cpu)
    }

    /// Whether `pid` is the keeper.
    pub(crate) fn is_keeper(&self, pid: Pid) -> bool {
        pid == self.keeper_process
    }

    /// A group that nobody uses.
    pub(crate) fn take(&mut self) -> Result<Group, Fault> {
        if let Some(group) = self.free.pop() {
            return Ok(group);
        }
        rustix::net::send(&self.keeper, b"+", SendFlags::NOSIGNAL).during(Step::Group)?;
        let (uses, files) = receive(&self.keeper, RecvFlags::empty()).during(Step::Group)?;
        let files: Vec<_> = uses
            .iter()
            .filter_map(|byte| USES.into_iter().find(|of| *of as u8 == *byte))
            .zip(files.into_iter().map(File::from))
            .collect();
        if files.is_empty() {
            return Err(Fault::new(Step::Group, io::ErrorKind::PermissionDenied.into()));
        }
        Ok(Group { files, is_second: self.is_second, kills_before: 0 })
    }

    /// Gives a group back whose processes are all gone.
    pub(crate) fn put(&mut self, group: Group) {
        self.free.push(group);
    }
}

impl Group {
    /// Sets `limits` and forgets what was before.
    pub(crate) fn limit(&mut self, limits: &Limits) -> Result<(), Fault> {
        let none = if self.is_second { "max" } else { "-1" };
        let or_none =
            |value: Option<u64>| value.map_or_else(|| none.to_owned(), |value| value.to_string());
        let memory = or_none(limits.memory_bytes);
        // Both at their top first: the first version wants memory to be the lower one at any time.
        if !self.is_second {
            self.write(Use::Swap, "-1")?;
        }
        self.write(Use::Memory, &memory)?;
        let swap = if self.is_second && limits.memory_bytes.is_some() { "0" } else { &memory };
        self.write(Use::Swap, swap)?;
        let processes =
            limits.processes.map_or_else(|| "max".to_owned(), |count| count.to_string());
        self.write(Use::Processes, &processes)?;
        let quota = or_none(
            limits.cpu_thousandths.map(|share| (u64::from(share) * PERIOD_US / 1000).max(1000)),
        );
        let cpu = if self.is_second { format!("{quota} {PERIOD_US}") } else { quota };
        self.write(Use::Cpu, &cpu)?;
        // Kernels before 6.12 do not forget the peak in the second version: then it is none of this action's.
        let _ = self.write(Use::Peak, "0");
        self.kills_before = self.kills();
        Ok(())
    }

    /// Moves this process, and what it starts, into the group.
    pub(crate) fn enter(&self) -> Result<(), Fault> {
        self.write(Use::Enter, "0")
    }

    /// The most memory at one time since [`Group::limit`], in bytes.
    pub(crate) fn peak_bytes(&self) -> Option<u64> {
        self.read(Use::Peak)?.trim().parse().ok()
    }

    /// Whether the limit on memory has killed a process since [`Group::limit`].
    pub(crate) fn ran_out_of_memory(&self) -> bool {
        self.kills() > self.kills_before
    }

    fn kills(&self) -> u64 {
        let events = self.read(Use::Events).unwrap_or_default();
        let count =
            events.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok());
        count.unwrap_or(0)
    }

    fn write(&self, wanted: Use, text: &str) -> Result<(), Fault> {
        for (_, file) in self.files.iter().filter(|(of, _)| *of == wanted) {
            let mut file = file;
            file.write_all(text.as_bytes())
                .during(Step::Group)
                .map_err(|fault| fault.about(format_args!("{wanted:?} {text}")))?;
        }
        Ok(())
    }

    fn read(&self, wanted: Use) -> Option<String> {
        let (_, file) = self.files.iter().find(|(of, _)| *of == wanted)?;
        let mut file = file;
        file.seek(SeekFrom::Start(0)).ok()?;
        let mut text = String::new();
        file.read_to_string(&mut text).ok()?;
        Some(text)
    }
}

impl Base {
    /// Finds where this process may make groups, and makes a folder for them there.
    fn find() -> Option<Self> {
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        Base::second(&own).or_else(|| Base::first(&own))
    }

    /// The second version: the own group, or its parent if that was handed over empty.
    fn second(own: &str) -> Option<Self> {
        let path = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
        let top = Path::new(MOUNTED);
        let own = top.join(path);
        for folder in [Some(own.as_path()), own.parent()]
            .into_iter()
            .flatten()
            .filter(|path| path.starts_with(top))
        {
            let has = fs::read_to_string(folder.join("cgroup.controllers")).unwrap_or_default();
            let wanted = ["memory", "pids", "cpu"]
                .into_iter()
                .filter(|name| has.split_whitespace().any(|has| has == *name));
            let enabled = wanted
                .filter(|name| {
                    fs::write(folder.join("cgroup.subtree_control"), format!("+{name}")).is_ok()
                })
                .collect::<Vec<_>>();
            let base = folder.join(name());
            if enabled.is_empty() || fs::create_dir(&base).is_err() {
                continue;
            }
            for name in enabled {
                // What cannot be passed on is missing in the groups, and then said to be.
                let _ = fs::write(base.join("cgroup.subtree_control"), format!("+{name}"));
            }
            return Some(Base { folders: vec![(base, SECOND.to_vec())], is_second: true });
        }
        None
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
    fn keep(&self, launcher: &OwnedFd) {
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

/// Receives one message and the descriptors that came with it.
pub(super) fn receive(
    socket: &OwnedFd,
    flags: RecvFlags,
) -> rustix::io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut bytes = [0u8; MAX_FILES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let message =
        rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags)?;
    let fds = ancillary
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    Ok((bytes[..message.bytes].to_vec(), fds))
}
