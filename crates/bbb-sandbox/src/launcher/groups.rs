//! Control groups: what an action may take, all its processes together. Version 2, or 1 where that has the controllers.
//!
//! Groups are made by a keeper (`keeper`): a child that stays who the node is while the launcher becomes somebody else,
//! waits for the launcher's end, and then removes them. The launcher gets their files opened, and uses a group again for
//! the next action: making and removing them is what is slow about them. Only the command goes in, not its init:
//! that must not be the one to die when memory is short.

use std::fs::File;
use std::io::{self, IoSliceMut, Read, Seek, SeekFrom, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketFlags,
    SocketType,
};
use rustix::process::Pid;

use super::keeper::Base;
use crate::fault::{During, Fault, Step};
use crate::request::Limits;
use crate::sys::{self, Forked};

/// The period over which a share of processors is measured, in microseconds.
const PERIOD_US: u64 = 100_000;

/// Files of one group at most: three hierarchies, and what is written and read in them.
pub(super) const MAX_FILES: usize = 12;

/// What a file of a group is for; the name of each in version 1 and 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Use {
    Enter,
    Memory,
    Swap,
    Peak,
    Events,
    Processes,
    Cpu,
    Kill,
}

const USES: [Use; 8] = [
    Use::Enter,
    Use::Memory,
    Use::Swap,
    Use::Peak,
    Use::Events,
    Use::Processes,
    Use::Cpu,
    Use::Kill,
];

/// Controllers with their files; version 1 has a hierarchy for each.
pub(super) const FIRST: [(&str, &[(Use, &str)]); 3] = [
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

pub(super) const SECOND: [(Use, &str); 8] = [
    (Use::Enter, "cgroup.procs"),
    (Use::Memory, "memory.max"),
    (Use::Swap, "memory.swap.max"),
    (Use::Peak, "memory.peak"),
    (Use::Events, "memory.events"),
    (Use::Processes, "pids.max"),
    (Use::Cpu, "cpu.max"),
    (Use::Kill, "cgroup.kill"),
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
    /// What the peak is counted from.
    floor: Floor,
}

/// What a group's peak says before its next action begins.
#[derive(Clone, Copy, Debug)]
enum Floor {
    /// What is there now: files that are still cached from actions before, which are none of this one's.
    Present(u64),
    /// A peak of actions before: kernels before 6.12 do not forget it in the second version.
    Past(u64),
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
        Ok(Group { files, is_second: self.is_second, kills_before: 0, floor: Floor::Present(0) })
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
        let forgets = self.write(Use::Peak, "0").is_ok();
        let peak = self.peak().unwrap_or(0);
        self.floor = if forgets { Floor::Present(peak) } else { Floor::Past(peak) };
        self.kills_before = self.kills();
        Ok(())
    }

    /// Moves this process, and what it starts, into the group.
    pub(crate) fn enter(&self) -> Result<(), Fault> {
        self.write(Use::Enter, "0")
    }

    /// The most memory at one time since [`Group::limit`], in bytes, beyond what was there; `None` where the kernel cannot tell.
    pub(crate) fn peak_bytes(&self) -> Option<u64> {
        let peak = self.peak()?;
        match self.floor {
            Floor::Present(bytes) => Some(peak.saturating_sub(bytes)),
            Floor::Past(bytes) => (peak > bytes).then_some(peak),
        }
    }

    fn peak(&self) -> Option<u64> {
        self.read(Use::Peak)?.trim().parse().ok()
    }

    /// Kills all that is in the group, and what is just being forked there; nothing where the kernel has no such file (before 5.14,
    /// and in the first version).
    pub(crate) fn kill(&self) {
        let _ = self.write(Use::Kill, "1");
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
