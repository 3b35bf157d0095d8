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

/// The filter as a program for the kernel.
pub(crate) fn filter() -> Vec<sock_filter> {
    let mut program = vec![
        load(ARCH),
        // A foreign architecture (32 bits on a 64-bit kernel) has other numbers: no call of it can be judged.
        jump(BPF_JEQ, ARCHITECTURE, 1, 0),
        give(SECCOMP_RET_KILL_PROCESS),
        load(NUMBER),
    ];
    if cfg!(target_arch = "x86_64") {
        program.extend([jump(BPF_JGE, X32, 0, 1), refuse(libc::ENOSYS)]);
    }
    for call in REFUSED.iter().chain(REFUSED_HERE) {
        program.extend([jump(BPF_JEQ, number(*call), 0, 1), refuse(libc::EPERM)]);
    }
    program.extend([jump(BPF_JEQ, number(libc::SYS_clone3), 0, 1), refuse(libc::ENOSYS)]);
    for call in [libc::SYS_clone, libc::SYS_unshare] {
        program.extend([
            jump(BPF_JEQ, number(call), 0, 5),
            load(FIRST_ARGUMENT),
            statement(BPF_ALU | BPF_AND | BPF_K, NAMESPACES),
            jump(BPF_JEQ, 0, 1, 0),
            refuse(libc::EPERM),
            give(SECCOMP_RET_ALLOW),
        ]);
    }
    // TIOCSTI types into a terminal, TIOCLINUX into the console.
    program.push(jump(BPF_JEQ, number(libc::SYS_ioctl), 0, 5));
    program.extend([
        load(SECOND_ARGUMENT),
        jump(BPF_JEQ, libc::TIOCSTI as u32, 1, 0),
        jump(BPF_JEQ, 0x541c, 0, 1),
        refuse(libc::EPERM),
        give(SECCOMP_RET_ALLOW),
    ]);
    program.push(give(SECCOMP_RET_ALLOW));
    program
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
