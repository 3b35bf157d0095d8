//! What hostile and odd commands do, and what comes of each: a table.
//!
//! Every command finds the input tree of `trial::tree`, and in its environment `SECRET` (a file of the host), `OUTSIDE` (a folder of the
//! host), `NODE` (the node's process) and `MARK`, by which its processes are told. Those that are not tried without walls could reach the
//! machine that the tests run on.

use Ends::{Exits, Lost, Refused, Says, TimesOut, Untried};

/// One command.
pub(super) struct Case {
    pub(super) what: &'static str,
    pub(super) script: &'static str,
    pub(super) outputs: &'static [&'static str],
    /// What comes of it with namespaces.
    pub(super) walled: Ends,
    /// What comes of it without.
    pub(super) bare: Ends,
}

/// What comes of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ends {
    /// It ends well, and this is its standard output.
    Says(&'static str),
    /// It exits with this code.
    Exits(i32),
    /// There is no good result; this is part of what the client is told.
    Refused(&'static str),
    /// Its timeout ends it.
    TimesOut,
    /// The worker gives it back.
    Lost,
    /// Not tried.
    Untried,
}

pub(super) const fn both(
    what: &'static str,
    script: &'static str,
    outputs: &'static [&'static str],
    ends: Ends,
) -> Case {
    Case { what, script, outputs, walled: ends, bare: ends }
}

pub(super) const fn walled(what: &'static str, script: &'static str, ends: Ends) -> Case {
    Case { what, script, outputs: &[], walled: ends, bare: Untried }
}

/// What they say that come to their end as if nothing had been.
pub(super) const DONE: Ends = Says("done\n");

/// Ways out, and ways to what belongs to others.
pub(super) const ESCAPES: &[Case] = &[
    Case {
        what: "follows a symlink to the host",
        script: r#"ln -s / root; cat "root$SECRET" 2>/dev/null || echo none"#,
        outputs: &[],
        walled: Says("none\n"),
        bare: Says("secret\n"),
    },
    Case {
        what: "climbs above its root",
        script: r#"cat "../../../../../../../../../../../..$SECRET" 2>/dev/null || echo none"#,
        outputs: &[],
        walled: Says("none\n"),
        bare: Says("secret\n"),
    },
    walled(
        "goes through /proc",
        r#"for p in /proc/[0-9]* /proc/self /proc/thread-self; do
            cat "$p/root$SECRET" "$p/cwd/../../..$SECRET"
            for fd in "$p"/fd/*; do cat "$fd/../secret"; done
        done 2>/dev/null
        cat /proc/1/environ /proc/1/maps /proc/1/mem /proc/kcore 2>/dev/null | head -c 1
        ls /proc/1/fd /proc/1/ns/ 2>/dev/null; ls -d "/proc/$NODE" 2>/dev/null; echo done"#,
        DONE,
    ),
    walled(
        "changes kernel settings",
        r"for f in sys/kernel/core_pattern sys/kernel/hostname sys/vm/drop_caches sysrq-trigger 1/oom_score_adj 1/uid_map; do
            (echo 1 >/proc/$f) 2>/dev/null && echo $f
        done; echo done",
        DONE,
    ),
    walled(
        "traces its init",
        r"case $(uname -m) in x86_64) ;; *) echo done; exit ;; esac
        perl -e 'print syscall(101, 16, 1, 0, 0) == 0 ? qq(traced\n) : qq(done\n)'",
        DONE,
    ),
    walled(
        "signals everyone",
        r#"for s in STOP TERM CHLD KILL; do kill -$s 1; done; kill -KILL "$NODE" 2>/dev/null && echo killed
        (sleep 1000; echo lives) & kill -KILL -1; echo done"#,
        DONE,
    ),
    Case {
        what: "kills its parent",
        script: "(setsid sleep 1000 &); kill -KILL $PPID; sleep 0.3; echo done",
        outputs: &[],
        walled: DONE,
        bare: Lost,
    },
    walled(
        "mounts and makes namespaces",
        r"mkdir m
        for n in U m p n i u C; do unshare -$n true 2>/dev/null && echo $n; done
        mount -t tmpfs x m 2>/dev/null && echo tmpfs; mount --bind /etc m 2>/dev/null && echo bind
        mount -o remount,rw / 2>/dev/null && echo remount; umount -l /proc 2>/dev/null && echo umount
        pivot_root . m 2>/dev/null && echo pivot; chroot . /bin/true 2>/dev/null && echo chroot
        nsenter -t 1 -m true 2>/dev/null && echo nsenter; echo done",
        DONE,
    ),
    walled(
        "makes devices",
        r"mknod b b 8 0 2>/dev/null && echo block; mknod c c 1 1 2>/dev/null && echo character
        for d in mem kmsg port kvm fuse loop0 vda sda mapper net/tun; do [ -e /dev/$d ] && echo $d; done; echo done",
        DONE,
    ),
    walled(
        "writes to the host's folders",
        r#"for d in / /usr /usr/bin /etc /opt /dev /proc "$OUTSIDE" "$(dirname "$SECRET")"; do
            (echo x >"$d/harm") 2>/dev/null && echo "$d"
        done; chmod -R 777 /usr/bin /etc 2>/dev/null && echo changed; rm -rf /etc/passwd 2>/dev/null && echo removed
        echo done"#,
        DONE,
    ),
    walled(
        "reaches the network",
        r"grep -c : /proc/net/dev
        perl -MSocket -e 'socket(S, PF_INET, SOCK_DGRAM, 0); print connect(S, sockaddr_in(53, inet_aton(q(192.0.2.1)))) ? qq(reached\n) : qq(done\n)'",
        Says("1\ndone\n"),
    ),
    both(
        "has two names for one of its outputs",
        r#"echo good >out; ln out "$OUTSIDE/later" 2>/dev/null || ln out /tmp/later; ln out other; echo done"#,
        &["out"],
        DONE,
    ),
    Case {
        what: "puts a symlink in the place of its standard output",
        script: r#"ln -sf "$SECRET" ../stdout 2>/dev/null; echo done"#,
        outputs: &[],
        walled: DONE,
        bare: Lost,
    },
];

/// What they do to inputs that are their own, or seem to be.
pub(super) const CHANGES: &[Case] = &[
    both(
        "writes through a hard link",
        "ln in link; chmod 666 link; echo harm >>link; cat in",
        &["link"],
        Says("input\nharm\n"),
    ),
    both(
        "writes through an open file",
        "chmod u+w in; exec 4<>in; rm in; echo harm >&4; (sleep 1000; echo late >&4) & echo done",
        &[],
        DONE,
    ),
    both(
        "writes in place, truncates and touches",
        r"chmod -R u+w .; dd if=/dev/zero of=in bs=1 count=3 conv=notrunc 2>/dev/null
        : >dir/a; touch -d 1980-01-01 dir/sub/b run.sh; echo harm >>run.sh; echo done",
        &["in", "dir"],
        DONE,
    ),
    both("changes all modes", "chmod -R 777 .; chmod -R a-rwx .; echo done", &[], DONE),
];

/// The same where inputs are somebody else's: nothing comes of it.
pub(super) const REFUSED_CHANGES: &[Case] = &[
    both(
        "writes through a hard link",
        "exec 2>/dev/null; ln in link; chmod 666 in link; echo harm >>link; echo harm >>in; cat in",
        &["link"],
        Says("input\n"),
    ),
    both(
        "writes through an open file",
        r"exec 2>/dev/null; chmod u+w in; (exec 4<>in) && echo open; exec 5<in; rm in; (echo harm >&5) && echo written
        (echo harm >>/dev/fd/5) && echo reopened; echo done",
        &[],
        DONE,
    ),
    both(
        "writes in place, truncates and touches",
        r"exec 2>/dev/null; chmod -R u+w .; dd if=/dev/zero of=in bs=1 count=3 conv=notrunc && echo written
        (: >dir/a) && echo truncated; truncate -s 0 dir/a && echo truncated; touch -d 1980-01-01 dir/sub/b && echo touched
        touch run.sh && echo touched; chown 1000 in && echo owned; cat in dir/a dir/sub/b",
        &["in", "dir"],
        Says("input\na\nb\n"),
    ),
    both(
        "changes all modes",
        "exec 2>/dev/null; chmod -R 777 .; stat -c %a in run.sh dir; chmod -R a-rwx .; echo done",
        &[],
        Says("444\n555\n777\ndone\n"),
    ),
    both(
        "renames over an input, and to an output",
        "echo new >n; mv -f n dir/a; mv -f in out; mv -f run.sh dir/sub/b; cat dir/a out; dir/sub/b",
        &["out", "dir"],
        Says("new\ninput\nran\n"),
    ),
    both(
        "gives a directory away and takes it back",
        "mv dir d; mkdir dir; mv d/a dir/a; rm -rf d; chmod 0 dir; chmod 700 dir; cat dir/a",
        &["dir"],
        Says("a\n"),
    ),
    both("keeps others from an input by a lock", "flock in true && echo done", &[], DONE),
];

/// What they do to the names of their inputs, and to what is theirs.
pub(super) const INPUTS: &[Case] = &[
    both(
        "renames inputs",
        "mv dir moved; mv in moved/in; mv moved/sub sub; cat moved/a moved/in sub/b",
        &["moved", "sub"],
        Says("a\ninput\nb\n"),
    ),
    both("removes everything", "rm -rf ./* ./.[!.]*; ls -A; echo done", &["dir"], DONE),
    both(
        "puts a file where a directory was, and the reverse",
        "rm -rf dir; echo file >dir; rm in; mkdir in; echo x >in/x; cat dir in/x",
        &["dir", "in"],
        Says("file\nx\n"),
    ),
    both(
        "makes a whiteout of its own",
        "mknod dir/a2 c 0 0 2>/dev/null; mknod /tmp/w c 0 0 2>/dev/null; rm -f dir/a2; ls dir",
        &["dir"],
        Says("a\nsub\n"),
    ),
    both(
        "sets attributes that overlays use",
        // setxattr(2): the folder below would be hidden, or another one shown.
        r#"case $(uname -m) in x86_64) ;; *) echo done; exit ;; esac
        perl -e 'for $n (qw(user trusted)) { for $k (qw(opaque redirect whiteout origin)) {
            ($a, $v) = ("$n.overlay.$k", $k eq "redirect" ? "/etc" : "y"); syscall(188, "dir", $a, $v, length $v, 0) } }'
        cat dir/a dir/sub/b >/dev/null && echo done"#,
        &["dir"],
        DONE,
    ),
];

/// What lives on when its command has ended, or tries to.
pub(super) const DAEMONS: &[Case] = &[
    both("leaves a session", r#"setsid sleep 1000 & echo done"#, &[], DONE),
    both(
        "leaves what forked twice and ignores signals",
        r#"( (setsid sh -c 'trap "" TERM HUP INT QUIT; sleep 1000; sleep 1000' &) &); sleep 0.1; echo done"#,
        &[],
        DONE,
    ),
    both("leaves a stopped process", "(sleep 1000 & kill -STOP $!); echo done", &[], DONE),
    both(
        "leaves a process without its environment",
        r#"env -i setsid sleep "$MARK" & sleep 0.1; echo done"#,
        &[],
        DONE,
    ),
    both(
        "leaves a parent that waits for its vfork",
        r"case $(uname -m) in x86_64) ;; *) echo done; exit ;; esac
        perl -e 'if (syscall(58) == 0) { sleep 1000 }' & sleep 0.1; echo done",
        &[],
        DONE,
    ),
    both(
        "leaves a reaper of its own",
        r"case $(uname -m) in x86_64) ;; *) echo done; exit ;; esac
        perl -e 'syscall(157, 36, 1, 0, 0, 0); if (!fork) { if (!fork) { sleep 1000 } exit } sleep 1000' & sleep 0.1; echo done",
        &[],
        DONE,
    ),
    both(
        "leaves a traced process",
        r"case $(uname -m) in x86_64) ;; *) echo done; exit ;; esac
        perl -e 'if (!fork) { syscall(101, 0, 0, 0, 0); kill STOP => $$; sleep 1000 } sleep 1000' & sleep 0.1; echo done",
        &[],
        DONE,
    ),
    both("leaves who waits for a FIFO", "mkfifo f; cat f & echo done", &[], DONE),
    both(
        "leaves what forks all the time",
        "for i in 1 2 3; do (while :; do (:); done) & done; echo done",
        &[],
        DONE,
    ),
    both(
        "ignores its timeout",
        r#"trap "" TERM INT HUP; (setsid sleep 1000 &); while :; do sleep 1; done"#,
        &[],
        TimesOut,
    ),
    both("is stopped when its time is over", "kill -STOP $$; echo lives", &[], TimesOut),
];

/// Outputs of all kinds.
pub(super) const OUTPUTS: &[Case] = &[
    both(
        "leaves a socket and a FIFO",
        r"mkdir d; mkfifo d/f
        perl -MSocket -e 'socket(S, PF_UNIX, SOCK_STREAM, 0); bind(S, sockaddr_un(q(d/s))) or die'; echo x >d/x; echo done",
        &["d", "d/f", "d/s"],
        DONE,
    ),
    both(
        "leaves what nobody may read",
        "mkdir -p d/e; echo x >d/e/f; echo y >g; chmod 0 d/e/f d/e d g; echo done",
        &["d", "g"],
        DONE,
    ),
    both(
        "names outputs by line ends and spaces",
        "mkdir d; printf x >'d/a\nb'; printf y >'d/ '; printf z >'d/\\'; ls d | wc -l",
        &["d"],
        Says("4\n"),
    ),
    both(
        "names outputs as long as names may be",
        r"mkdir d; n=$(printf %0255d 0); echo x >d/$n; mkdir -p e/$n/$n; echo y >e/$n/$n/$n; (echo z >d/${n}0) 2>/dev/null; ls d e/$n/$n | wc -c",
        &["d", "e"],
        Says("1031\n"),
    ),
    both(
        "leaves links that lead out",
        r#"ln -s "$SECRET" out; ln -s ../../../.. up; mkdir d; ln -s "$OUTSIDE" d/o; ln -s /proc/self/root d/r; ln -s d/o/x in-o; echo done"#,
        &["out", "up", "d", "in-o"],
        DONE,
    ),
    both(
        "names an output by what is no UTF-8",
        r#"mkdir d; echo x >"d/$(printf '\377')""#,
        &["d"],
        Refused("not UTF-8"),
    ),
    both(
        "leaves paths longer than a path may be",
        r"mkdir d; perl -e 'chdir q(d); $n = q(n) x 200; for (1..40) { mkdir $n; chdir $n or die } open F, q(>f); print F q(x)'; echo done",
        &["d"],
        Refused("a path of over"),
    ),
    both(
        "leaves such paths where nobody looks",
        r"mkdir d; perl -e 'for $d (qw(d /tmp)) { chdir $d; $n = q(n) x 200; for (1..40) { mkdir $n; chdir $n } chdir q(/build) }'; echo done",
        &[],
        DONE,
    ),
    both(
        "leaves thousands of outputs",
        r"perl -e 'mkdir q(d); for $i (1..20) { mkdir qq(d/$i); for $j (1..100) { open F, qq(>d/$i/$j); print F qq($i $j) } }'; echo done",
        &["d"],
        DONE,
    ),
    both(
        "leaves a sparse file and a large one",
        "truncate -s 64M sparse; head -c 8000000 /dev/zero >large; ls sparse large",
        &["sparse", "large"],
        Says("large\nsparse\n"),
    ),
    both(
        "says much",
        "head -c 8000000 /dev/zero; head -c 8000000 /dev/zero >&2; exit 3",
        &[],
        Exits(3),
    ),
];
