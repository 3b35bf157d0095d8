//! The system calls that no action needs and that have been ways out of sandboxes.
//!
//! A list of refusals, not of permissions: actions run any compiler, interpreter and test there is, and namespaces
//! without capabilities already hold what they may reach. The list takes away the parts of the kernel where most
//! escapes were found. Refused with EPERM; `clone3` with ENOSYS, since its flags cannot be read by a filter and C
//! libraries then use `clone`, whose flags can.

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W,
    SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, SECCOMP_RET_KILL_PROCESS, sock_filter,
};

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// Bit of the numbers of the x32 calls, an unused second way to every call.
const X32: u32 = 0x4000_0000;

/// Namespaces are not to be nested: they are the widest door into the kernel for an unprivileged process.
const NAMESPACES: u32 = (libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP) as u32;

/// `open_tree_attr(2)`, of Linux 6.15, by the number that it has everywhere.
const OPEN_TREE_ATTR: libc::c_long = 467;

const REFUSED: &[libc::c_long] = &[
    // Mounts, both interfaces, and changes of root.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    OPEN_TREE_ATTR,
    libc::SYS_setns,
    // Kernel, modules and machine.
    libc::SYS_kexec_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_syslog,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    // Interfaces with a history.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_open_by_handle_at,
    libc::SYS_vhangup,
];

#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: &[libc::c_long] = &[
    libc::SYS_kexec_file_load,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_uselib,
];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: &[libc::c_long] = &[libc::SYS_kexec_file_load];

// Offsets in the kernel's `seccomp_data`; both architectures are little-endian.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;
const SECOND_ARGUMENT: u32 = 24;
const THIRD_ARGUMENT: u32 = 32;

/// What becomes of a call: the place, behind the search, of the instructions that see to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Allow = 0,
    Refuse = 1,
    /// As if the kernel did not know it.
    Unknown = 2,
    /// Refused if its flags make a namespace.
    Flags = 3,
    /// Refused if it is one of two requests to a terminal.
    Request = 8,
    /// Refused if it sets a limit of another process: its init's are the only ones that matter, and without processor time or files
    /// that could not tell how the action ended.
    Limits = 13,
}

/// Calls from one number on, up to the next segment, that share a verdict.
#[derive(Clone, Copy, Debug)]
struct Segment {
    from: u32,
    verdict: Verdict,
}

/// The filter as a program for the kernel.
///
/// The kernel translates it for each action anew and asks it about every number there is, so that it can pass over it
/// later where the answer is always yes. A search by halves keeps that short.
pub(crate) fn filter() -> Vec<sock_filter> {
    let segments = segments();
    let mut program = vec![
        load(ARCH),
        // A foreign architecture (32 bits on a 64-bit kernel) has other numbers: no call of it can be judged.
        jump(BPF_JEQ, ARCHITECTURE, 1, 0),
        give(SECCOMP_RET_KILL_PROCESS),
        load(NUMBER),
    ];
    let end = program.len() + segments.len() - 1;
    search(&mut program, &segments, end);
    program.extend([
        give(SECCOMP_RET_ALLOW),
        refuse(libc::EPERM),
        refuse(libc::ENOSYS),
        // The flags of clone and unshare.
        load(FIRST_ARGUMENT),
        statement(BPF_ALU | BPF_AND | BPF_K, NAMESPACES),
        jump(BPF_JEQ, 0, 1, 0),
        refuse(libc::EPERM),
        give(SECCOMP_RET_ALLOW),
        // TIOCSTI types into a terminal, TIOCLINUX into the console.
        load(SECOND_ARGUMENT),
        jump(BPF_JEQ, libc::TIOCSTI as u32, 1, 0),
        jump(BPF_JEQ, 0x541c, 0, 1),
        refuse(libc::EPERM),
        give(SECCOMP_RET_ALLOW),
        // Process 0 is the caller itself; where no limit comes in, one is asked for. A pointer has two halves.
        load(FIRST_ARGUMENT),
        jump(BPF_JEQ, 0, 5, 0),
        load(THIRD_ARGUMENT),
        jump(BPF_JEQ, 0, 0, 2),
        load(THIRD_ARGUMENT + 4),
        jump(BPF_JEQ, 0, 1, 0),
        refuse(libc::EPERM),
        give(SECCOMP_RET_ALLOW),
    ]);
    program
}

/// Every number there is, in order.
fn segments() -> Vec<Segment> {
    let refused = REFUSED.iter().chain(REFUSED_HERE).map(|call| (*call, Verdict::Refuse));
    let mut calls: Vec<_> = refused.collect();
    calls.extend([
        (libc::SYS_clone3, Verdict::Unknown),
        (libc::SYS_clone, Verdict::Flags),
        (libc::SYS_unshare, Verdict::Flags),
        (libc::SYS_ioctl, Verdict::Request),
        (libc::SYS_prlimit64, Verdict::Limits),
    ]);
    calls.sort_unstable_by_key(|(call, _)| *call);
    let mut segments = Vec::new();
    let mut next = 0;
    for (call, verdict) in calls {
        let from = number(call);
        if from > next {
            segments.push(Segment { from: next, verdict: Verdict::Allow });
        }
        segments.push(Segment { from, verdict });
        next = from + 1;
    }
    segments.push(Segment { from: next, verdict: Verdict::Allow });
    if cfg!(target_arch = "x86_64") {
        segments.push(Segment { from: X32, verdict: Verdict::Unknown });
    }
    segments.dedup_by_key(|segment| segment.verdict);
    segments
}

/// Writes the jumps that find the segment of a number, one fewer than there are segments. `end` is the place behind
/// the whole search. A jump reaches 255 instructions ahead, and there are fewer in all.
fn search(program: &mut Vec<sock_filter>, segments: &[Segment], end: usize) {
    if segments.len() < 2 {
        return;
    }
    let (below, above) = segments.split_at(segments.len() / 2);
    let next = program.len() + 1;
    let distance = |part: &[Segment], place: usize| match part {
        [only] => (end + only.verdict as usize - next) as u8,
        _ => (place - next) as u8,
    };
    let (yes, no) = (distance(above, next + below.len() - 1), distance(below, next));
    program.push(jump(BPF_JGE, above[0].from, yes, no));
    search(program, below, end);
    search(program, above, end);
}

fn number(call: libc::c_long) -> u32 {
    call as u32
}

fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

fn load(offset: u32) -> sock_filter {
    statement(BPF_LD | BPF_W | BPF_ABS, offset)
}

fn jump(test: u32, k: u32, yes: u8, no: u8) -> sock_filter {
    sock_filter { code: (BPF_JMP | test | BPF_K) as u16, jt: yes, jf: no, k }
}

fn give(result: u32) -> sock_filter {
    statement(BPF_RET | BPF_K, result)
}

fn refuse(errno: i32) -> sock_filter {
    give(SECCOMP_RET_ERRNO | errno as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel does with a program.
    fn run(program: &[sock_filter], arch: u32, call: u32, arguments: [u64; 3]) -> u32 {
        let (mut at, mut value) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            let code = u32::from(code);
            let is_met = match code {
                _ if code == BPF_JMP | BPF_JEQ | BPF_K => value == k,
                _ if code == BPF_JMP | BPF_JGE | BPF_K => value >= k,
                _ if code == BPF_LD | BPF_W | BPF_ABS => {
                    value = match k {
                        NUMBER => call,
                        ARCH => arch,
                        FIRST_ARGUMENT.. if k % 4 == 0 => {
                            let (index, half) =
                                ((k - FIRST_ARGUMENT) / 8, (k - FIRST_ARGUMENT) % 8);
                            (arguments[index as usize] >> (half * 8)) as u32
                        }
                        _ => panic!("loads from {k}"),
                    };
                    continue;
                }
                _ if code == BPF_ALU | BPF_AND | BPF_K => {
                    value &= k;
                    continue;
                }
                _ if code == BPF_RET | BPF_K => return k,
                _ => panic!("code {code}"),
            };
            at += usize::from(if is_met { jt } else { jf });
        }
    }

    #[test]
    fn every_call_gets_its_verdict() {
        let program = filter();
        assert!(program.len() < 256, "{} instructions", program.len());
        let refused = SECCOMP_RET_ERRNO | libc::EPERM as u32;
        let unknown = SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
        let plain = |call| run(&program, ARCHITECTURE, call, [0; 3]);
        for call in 0..2000 {
            let is_listed = REFUSED.iter().chain(REFUSED_HERE).any(|other| number(*other) == call);
            let expected = match i64::from(call) {
                _ if is_listed => refused,
                libc::SYS_clone3 => unknown,
                _ => SECCOMP_RET_ALLOW,
            };
            assert_eq!(plain(call), expected, "{call}");
        }
        if cfg!(target_arch = "x86_64") {
            for call in [X32, X32 + 1, X32 + 512, u32::MAX] {
                assert_eq!(plain(call), unknown, "{call:#x}");
            }
        }
        assert_eq!(run(&program, ARCHITECTURE ^ 1, 0, [0; 3]), SECCOMP_RET_KILL_PROCESS);
    }

    #[test]
    fn arguments_count_where_they_matter() {
        let program = filter();
        let refused = SECCOMP_RET_ERRNO | libc::EPERM as u32;
        let with = |call, arguments| run(&program, ARCHITECTURE, number(call), arguments);
        for call in [libc::SYS_clone, libc::SYS_unshare] {
            assert_eq!(with(call, [libc::CLONE_NEWUSER as u64, 0, 0]), refused);
            let harmless = (libc::CLONE_VM | libc::SIGCHLD) as u64;
            assert_eq!(with(call, [harmless, 0, 0]), SECCOMP_RET_ALLOW);
        }
        for request in [libc::TIOCSTI, 0x541c] {
            assert_eq!(with(libc::SYS_ioctl, [0, request, 0]), refused);
        }
        assert_eq!(with(libc::SYS_ioctl, [0, libc::TCGETS, 0]), SECCOMP_RET_ALLOW);
        for (process, limit, verdict) in [
            (0, 0x7fff_0000_1000, SECCOMP_RET_ALLOW),
            (1, 0, SECCOMP_RET_ALLOW),
            (1, 0x1000, refused),
            (1, 0x1_0000_0000, refused),
            (7, 0x7fff_0000_1000, refused),
        ] {
            assert_eq!(
                with(libc::SYS_prlimit64, [process, 0, limit]),
                verdict,
                "{process} {limit:x}"
            );
        }
    }
}
