//! CPU time and memory of processes, read from `/proc` (source: proc(5)).
//!
//! Times are sums since the process started, in ticks of 10 ms; the difference of two readings is what counts.

use std::collections::{HashMap, HashSet};
use std::time::Duration;
use std::{fs, io};

/// A tick of `/proc`: `USER_HZ` is 100 on every architecture that Rust's standard library supports on Linux.
const TICK: Duration = Duration::from_millis(10);
/// `/proc/PID/status` speaks of KiB.
const KIB: u64 = 1024;

/// CPU time of a process tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cpu {
    /// Of the process itself, all its threads.
    pub(crate) own: Duration,
    /// Of its descendants that live, and of those that they waited for.
    pub(crate) living: Duration,
    /// Of its children that are gone and were waited for.
    pub(crate) reaped: Duration,
}

impl Cpu {
    /// Reads the times of process `pid` and of everything below it.
    ///
    /// # Errors
    /// When `/proc` cannot be read or has no such process.
    pub(crate) fn of_tree(pid: u32) -> io::Result<Self> {
        let root = read_stat(pid)?;
        let mut cpu = Self { own: root.own, living: Duration::ZERO, reaped: root.reaped };
        for stat in descendants(pid)? {
            cpu.living += stat.own + stat.reaped;
        }
        Ok(cpu)
    }

    /// What was used between `earlier` and this reading.
    ///
    /// A child that ends moves from `living` to `reaped`; the sum of both is kept by it, so it is that sum which is
    /// exact, unless a child was left to the init process: then nothing is counted for it rather than less than nothing.
    pub(crate) fn since(self, earlier: Self) -> CpuUsed {
        let children = (self.living + self.reaped).saturating_sub(earlier.living + earlier.reaped);
        CpuUsed { own: self.own.saturating_sub(earlier.own), children }
    }
}

/// CPU time used between two readings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CpuUsed {
    /// By the process itself.
    pub(crate) own: Duration,
    /// By everything below it, living or gone.
    pub(crate) children: Duration,
}

impl CpuUsed {
    /// By the process and everything below it.
    pub(crate) fn total(self) -> Duration {
        self.own + self.children
    }
}

/// Memory of a process tree in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Resident now, the process itself.
    pub(crate) resident: u64,
    /// The most that was ever resident, the process itself.
    pub(crate) peak: u64,
    /// Resident now, its descendants together (shared pages counted for each).
    pub(crate) descendants: u64,
}

impl Memory {
    /// Reads the memory of process `pid` and of everything below it.
    ///
    /// # Errors
    /// When `/proc` cannot be read or has no such process.
    pub(crate) fn of_tree(pid: u32) -> io::Result<Self> {
        let root = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let mut memory = Self {
            resident: status_bytes(&root, "VmRSS").unwrap_or_default(),
            peak: status_bytes(&root, "VmHWM").unwrap_or_default(),
            descendants: 0,
        };
        for stat in descendants(pid)? {
            if let Ok(status) = fs::read_to_string(format!("/proc/{}/status", stat.pid)) {
                memory.descendants += status_bytes(&status, "VmRSS").unwrap_or_default();
            }
        }
        Ok(memory)
    }
}

/// CPU time of this process.
///
/// # Errors
/// When `/proc` cannot be read.
pub(crate) fn own_cpu() -> io::Result<Duration> {
    Ok(read_stat(std::process::id())?.own)
}

/// CPU time that the whole machine was busy since it started, all processors together.
///
/// # Errors
/// When `/proc` cannot be read.
pub(crate) fn machine_busy() -> io::Result<Duration> {
    let text = fs::read_to_string("/proc/stat")?;
    parse_machine(&text).ok_or_else(|| malformed("/proc/stat"))
}

/// One line of `/proc/PID/stat`, as far as it is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    pid: u32,
    parent: u32,
    own: Duration,
    reaped: Duration,
}

fn read_stat(pid: u32) -> io::Result<Stat> {
    let path = format!("/proc/{pid}/stat");
    parse_stat(&fs::read_to_string(&path)?).ok_or_else(|| malformed(&path))
}

/// Parses a line of `/proc/PID/stat`. The second field, the command in parentheses, may hold spaces and parentheses.
fn parse_stat(line: &str) -> Option<Stat> {
    let (pid, rest) = line.split_once(' ')?;
    let fields: Vec<&str> = rest.get(rest.rfind(')')? + 1..)?.split_ascii_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    // After the command come state, ppid (field 4 of proc(5)), ...; utime is field 14, so index 11 here.
    Some(Stat {
        pid: pid.parse().ok()?,
        parent: u32::try_from(number(1)?).ok()?,
        own: ticks(number(11)? + number(12)?),
        reaped: ticks(number(13)? + number(14)?),
    })
}

/// Every process below `pid`. Processes that end meanwhile are left out.
fn descendants(pid: u32) -> io::Result<Vec<Stat>> {
    let mut children: HashMap<u32, Vec<Stat>> = HashMap::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(found) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        if let Ok(stat) = read_stat(found) {
            children.entry(stat.parent).or_default().push(stat);
        }
    }
    let mut below = Vec::new();
    let mut seen = HashSet::from([pid]);
    let mut todo = vec![pid];
    while let Some(parent) = todo.pop() {
        for stat in children.remove(&parent).unwrap_or_default() {
            if seen.insert(stat.pid) {
                todo.push(stat.pid);
                below.push(stat);
            }
        }
    }
    Ok(below)
}

/// The value of a line such as `VmRSS:   1234 kB` in bytes.
fn status_bytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.split_ascii_whitespace().next()?.parse::<u64>().ok()? * KIB)
}

/// Busy time out of the first line of `/proc/stat`: user, nice, system, irq, softirq and stolen.
fn parse_machine(stat: &str) -> Option<Duration> {
    let fields: Vec<u64> = stat
        .lines()
        .next()?
        .strip_prefix("cpu ")?
        .split_ascii_whitespace()
        .map(|field| field.parse().ok())
        .collect::<Option<_>>()?;
    let [user, nice, system, _idle, _iowait, irq, softirq, steal, ..] = fields[..] else {
        return None;
    };
    Some(ticks(user + nice + system + irq + softirq + steal))
}

fn ticks(count: u64) -> Duration {
    TICK * u32::try_from(count).unwrap_or(u32::MAX)
}

fn malformed(path: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{path} is not what proc(5) describes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str =
        "42 (a (b) c) S 7 42 42 0 -1 4194560 100 200 0 0 11 22 33 44 20 0 3 0 500 1 2 3";

    #[test]
    fn stat_lines_with_odd_names() {
        let ms = Duration::from_millis;
        let stat = parse_stat(LINE).unwrap();
        assert_eq!(stat, Stat { pid: 42, parent: 7, own: ms(330), reaped: ms(770) });
        assert_eq!(parse_stat("42 (x) S 7"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn status_lines() {
        let status = "Name:\tx\nVmHWM:\t  20 kB\nVmRSS:\t   3 kB\n";
        assert_eq!(status_bytes(status, "VmRSS"), Some(3072));
        assert_eq!(status_bytes(status, "VmSwap"), None);
    }

    #[test]
    fn machine_lines() {
        let busy = parse_machine("cpu  1 2 3 400 500 6 7 8 0 0\ncpu0 1").unwrap();
        assert_eq!(busy, Duration::from_millis(270));
        assert_eq!(parse_machine("cpu0 1 2"), None);
    }

    #[test]
    fn a_child_that_ends_is_not_counted_twice() {
        let ms = Duration::from_millis;
        let before = Cpu { own: ms(10), living: ms(500), reaped: ms(100) };
        let after = Cpu { own: ms(40), living: ms(0), reaped: ms(620) };
        assert_eq!(after.since(before), CpuUsed { own: ms(30), children: ms(20) });
        let vanished = Cpu { own: ms(40), living: ms(0), reaped: ms(100) };
        assert_eq!(vanished.since(before).children, ms(0));
    }

    #[test]
    fn this_process_and_its_children_are_found() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let below = descendants(std::process::id()).unwrap();
        let found = below.iter().any(|stat| stat.pid == child.id());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found);
        assert!(Memory::of_tree(std::process::id()).unwrap().resident > 0);
        assert!(Cpu::of_tree(u32::MAX).is_err());
    }
}
