//! What commands ask of the kernel that is not theirs to have, and what they leave in it. Continues the table of `cases`.
//!
//! Calls are made by number, on the one architecture whose numbers are here; elsewhere those cases say that they are done.

use super::cases::{Case, DONE, Ends::Says, both, walled};

/// Calls, privileges and things that belong to the machine.
pub(super) const KERNEL: &[Case] = &[
    walled(
        "asks for what has been a way out of sandboxes",
        // One that is not refused says its number. Arguments are such that nothing comes of most of them.
        r#"case $(uname -m) in x86_64) ;; *) echo done; exit ;; esac
        perl -e '$b = qq(\0) x 256; for (
            [250, 0, -3, 0], [248, "user", "x", "y", 1, -2], [249, "user", "x", 0, -2],      # keyctl, add_key, request_key
            [323, 0], [425, 1, $b], [426, 0, 0, 0, 0, 0, 0], [427, 0, 0, 0, 0],               # userfaultfd, io_uring
            [321, 0, $b, 48], [298, $b, 0, -1, -1, 0], [304, -100, $b, 0],                    # bpf, perf_event_open, open_by_handle_at
            [165, "x", "/tmp", "tmpfs", 0, 0], [166, "/tmp", 2], [155, ".", "."],             # mount, umount2, pivot_root
            [428, -100, "/", 1], [429, -100, "/", -100, "/tmp", 0], [430, "tmpfs", 0],        # open_tree, move_mount, fsopen
            [432, 3, 0, 0], [433, -100, "/", 0], [442, -100, "/", 0, $b, 32], [467, -100, "/", 1, $b, 32],
            [308, 3, 0], [272, 0x10000000], [435, $b, 88], [56, 0x10000011, 0, 0, 0, 0],      # setns, unshare, clone3, clone
            [175, $b, 1, ""], [313, 0, "", 0], [176, "x", 0], [246, 0, 0, 0, 0],              # modules, kexec
            [169, 0xfee1dead, 672274793, 0, 0], [167, "x", 0], [168, "x"], [163, "x"],        # reboot, swap, acct
            [179, 0, 0, 0, 0], [443, 0, 0, 0, 0], [103, 3, $b, 1], [153],                     # quotactl, syslog, vhangup
            [164, $b, 0], [227, 0, $b], [159, $b], [305, 0, $b],                              # clocks
            [172, 3], [173, 0, 1, 1], [154, 0, $b, 16], [134, "x"]) {                         # ports, LDT, uselib
            $r = syscall(shift @$_, @$_) if ($n = $$_[0]) + 1; next if $r == -1; exit if $r == 0 && $n == 56; print "$n\n" }'
        echo done"#,
        DONE,
    ),
    walled(
        "reads and changes the memory of others",
        // ptrace seize, process_vm_readv, process_vm_writev, kcmp, pidfd_getfd by pidfd_open, of its init and of the node.
        r#"case $(uname -m) in x86_64) ;; *) echo done; exit ;; esac
        perl -e '$b = qq(\0) x 64; for $p (1, $ENV{NODE} + 0) {
            print qq(seized $p\n) if syscall(101, 0x4206, $p, 0, 0) == 0;
            $v = pack(q(QQ), unpack(q(Q), pack(q(P), $b)), 8); $w = pack(q(QQ), 0x400000, 8);
            print qq(read $p\n) if syscall(310, $p, $v, 1, $w, 1, 0) > 0;
            print qq(wrote $p\n) if syscall(311, $p, $v, 1, $w, 1, 0) > 0;
            print qq(compared $p\n) if syscall(312, $$, $p, 0, 0, 0) >= 0;
            $f = syscall(434, $p, 0); print qq(took $p\n) if $f >= 0 && syscall(438, $f, 0, 0) >= 0 }'
        echo done"#,
        DONE,
    ),
    walled(
        "holds its init short",
        // prlimit: an init that may use no processor time or open no file could report nothing.
        r#"case $(uname -m) in x86_64) ;; *) echo done; exit ;; esac
        perl -e '$z = pack(q(QQ), 0, 0); for $r (0, 1, 2, 3, 5, 6, 7, 8, 9) { syscall(302, 1, $r, $z, 0) == 0 and print qq($r\n) }
            syscall(302, 0, 7, $z, 0) == 0 or print qq(not even its own\n)'
        echo done"#,
        DONE,
    ),
    walled(
        "writes to programs that run",
        r"for p in 1 self; do (echo harm >/proc/$p/exe) 2>/dev/null && echo $p; done
        for p in /proc/1/exe /proc/self/exe /bin/sh; do (exec 3<>$p) 2>/dev/null && echo $p; done; echo done",
        DONE,
    ),
    walled(
        "takes rights from set-user-id programs",
        r"cp /usr/bin/id ./id; chmod 6755 id; ./id -u; ./id -g
        for f in /bin/su /usr/bin/passwd /usr/bin/chsh /usr/bin/sudo; do
            [ -u $f ] && $f </dev/null >/dev/null 2>&1 && echo $f
        done; su -c 'id -u' </dev/null 2>/dev/null; grep -c 'NoNewPrivs:.1' /proc/self/status; grep -c 'CapEff:.0*$' /proc/self/status",
        Says("1000\n1000\n1\n1\n"),
    ),
    walled(
        "raises its limits and its rank",
        r"for l in n c; do ulimit -H$l unlimited 2>/dev/null && echo $l; done
        nice -n -20 true 2>/dev/null; [ $(nice -n -20 nice 2>/dev/null) -lt $(nice) ] && echo nice
        chrt -f 99 true 2>/dev/null && echo fifo; chrt -r 1 true 2>/dev/null && echo rr
        ionice -c 1 true 2>/dev/null && echo io; (echo -1000 >/proc/self/oom_score_adj) 2>/dev/null && echo oom; echo done",
        DONE,
    ),
    walled(
        "sets the clock",
        r"date -s 1980-01-01 >/dev/null 2>&1 && echo set; [ $(date +%Y) -ge 2024 ] && echo done",
        DONE,
    ),
    walled(
        "reaches an abstract socket of the host",
        r#"perl -MSocket -e 'socket(S, PF_UNIX, SOCK_STREAM, 0); print connect(S, pack(q(Sa*), AF_UNIX, qq(\0$ENV{MARK}))) ? qq(reached\n) : qq(done\n)'"#,
        DONE,
    ),
    walled(
        "leaves memory, queues and semaphores of System V",
        "ipcmk -M 1000000 >/dev/null && ipcmk -Q >/dev/null && ipcmk -S 3 >/dev/null && echo done",
        DONE,
    ),
    walled(
        "fills the memory that is shared",
        "head -c 100000000 /dev/zero >/dev/shm/x 2>/dev/null; stat -c %s /dev/shm/x",
        Says("67108864\n"),
    ),
    both(
        "crashes",
        // No core, neither beside it nor for a program of the host: `RLIMIT_CORE` is one byte, not none.
        r"ulimit -c; ulimit -Sc unlimited 2>/dev/null && echo unlimited; mkdir d; cd d; (kill -SEGV $(exec sh -c 'echo $PPID')) 2>/dev/null
        ls; echo done",
        &["d"],
        Says("0\ndone\n"),
    ),
    both(
        "uses up what it may open and watch",
        r"case $(uname -m) in x86_64) ;; *) echo done; exit ;; esac
        perl -e '1 while syscall(294, 0) >= 0; 1 while open $f[$i++], q(<), q(/dev/null); 1 while $i++ < 2000 && syscall(319, q(m), 0) >= 0'
        perl -e '1 while syscall(22, $b = qq(\0) x 8) == 0'; echo done",
        &[],
        DONE,
    ),
    both(
        "makes what it leaves immutable",
        // FS_IOC_SETFLAGS with FS_IMMUTABLE_FL, and FS_APPEND_FL.
        r"case $(uname -m) in x86_64) ;; *) echo done; exit ;; esac
        mkdir -p d/e n/m; echo x >d/e/f; echo y >n/m/f; echo z >n/a
        perl -e 'for ([q(d/e/f), 16], [q(d/e), 16], [q(n/m/f), 16], [q(n/m), 16], [q(n/a), 32], [q(n), 32]) {
            open F, q(<), $$_[0] or next; ioctl(F, 0x40086602, $f = pack(q(l!), $$_[1] | 0x80000)) }'
        echo done",
        &["d"],
        DONE,
    ),
    both(
        "leaves a device",
        r"mkdir d; mknod d/null c 1 3 2>/dev/null; mknod d/disk b 7 250 2>/dev/null; mknod n c 1 3 2>/dev/null; echo x >d/x; echo done",
        &["d", "n"],
        DONE,
    ),
];
