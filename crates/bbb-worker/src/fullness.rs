//! Whether the file system under the actions is full while a command runs.
//!
//! A command that finds it full fails like any other, and nothing in its exit code tells why; often it removes what it
//! wrote before it ends. So the file system is looked at while the command runs: a failure that came while it was full
//! is this machine's, and is tried elsewhere.

use std::{path::Path, time::Duration};

use tokio::time::{self, MissedTickBehavior};

/// How often it is looked at: one system call that waits for no disk.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// It is full when less is free than this, or than [`FULL_BELOW_SHARE`] of it if that is less: what a command wants to
/// write at a time is not there then.
const FULL_BELOW_BYTES: u64 = 16 << 20;
const FULL_BELOW_SHARE: u64 = 64;

/// So many files more are always there, on a file system that has a bound for them.
const FULL_BELOW_FILES: u64 = 64;

/// Does something on the file system of `folder`. Gives whether that was full meanwhile, or is when it is done.
pub(crate) async fn watching<T>(folder: &Path, work: impl Future<Output = T>) -> (T, bool) {
    let mut was_full = false;
    let mut looks = time::interval_at(time::Instant::now() + LOOK_EVERY, LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tokio::pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return (done, was_full || is_full(folder)),
            _ = looks.tick() => was_full |= is_full(folder),
        }
    }
}

/// One that cannot be asked is not taken for full: whatever is wrong with it shows elsewhere.
fn is_full(folder: &Path) -> bool {
    rustix::fs::statvfs(folder).is_ok_and(|stat| {
        let free_bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
        let all_bytes = stat.f_blocks.saturating_mul(stat.f_frsize);
        let lacks_bytes = free_bytes < FULL_BELOW_BYTES.min(all_bytes / FULL_BELOW_SHARE);
        // Those that make them as they are needed say that there are none.
        let lacks_files = stat.f_files > 0 && stat.f_favail < FULL_BELOW_FILES;
        lacks_bytes || lacks_files
    })
}
