//! A bound on an action's processes that costs next to nothing: the highest id that its namespace gives to one.
//!
//! Since Linux 6.14 each pid namespace has a `pid_max` of its own. Ids are given out in circles, and once the circle is
//! closed the lowest ones stay unused, so that this bounds processes by some hundreds more or less. A bound that is lower than
//! [`EXACT_BELOW`] is kept by a control group or by counting per user, which cost an action up to a millisecond.

use std::path::Path;

use crate::fault::{During, Fault, Step};

/// Ids that the kernel does not give out again (`RESERVED_PIDS`).
const RESERVED: u32 = 300;

/// Bounds below this are kept to the process.
const EXACT_BELOW: u32 = 1000;

/// What the machine has of this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ids {
    /// The machine's highest id, which no namespace can have higher.
    machine: u32,
}

impl Ids {
    /// `None` where the kernel has one bound for all: then nothing may be written there.
    pub(crate) fn find() -> Option<Self> {
        let release = rustix::system::uname();
        if !has_own(release.release().to_str().ok()?) {
            return None;
        }
        let machine = std::fs::read_to_string("/proc/sys/kernel/pid_max").ok()?;
        Some(Self { machine: machine.trim().parse().ok()? })
    }

    /// The highest id for an action that may have so many processes, if that is what is to bound them.
    pub(crate) fn highest(self, processes: u32) -> Option<u32> {
        (processes >= EXACT_BELOW).then(|| processes.saturating_add(RESERVED).min(self.machine))
    }
}

/// Sets the highest id of the namespace that this process is in, by way of its `/proc`.
pub(crate) fn set_highest(id: u32, proc: &Path) -> Result<(), Fault> {
    std::fs::write(proc.join("sys/kernel/pid_max"), id.to_string()).during(Step::Processes)
}

/// Whether this release of the kernel has a `pid_max` for each namespace.
fn has_own(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= (6, 14),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_told_apart() {
        for (release, has) in [
            ("6.14.0", true),
            ("6.18.44-fc-v509", true),
            ("7.0-rc1", true),
            ("6.13.12", false),
            ("5.15.0-1084-aws", false),
            ("linux", false),
            ("6", false),
        ] {
            assert_eq!(has_own(release), has, "{release}");
        }
    }

    #[test]
    fn low_bounds_are_left_to_others_and_no_id_is_above_the_machines() {
        let ids = Ids { machine: 32768 };
        assert_eq!(ids.highest(4096), Some(4396));
        assert_eq!(ids.highest(u32::MAX), Some(32768));
        assert_eq!(ids.highest(999), None);
    }
}
