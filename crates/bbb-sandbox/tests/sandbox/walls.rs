//! What an action cannot see, reach or change.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use bbb_sandbox::{Actor, Error, Mode, Sandbox, Staging};

use crate::rig::Rig;

async fn walled() -> Rig {
    Rig::new(Mode::Namespaces).await
}

#[tokio::test]
async fn the_probe_says_what_there_is() {
    let rig = walled().await;
    let probe = rig.sandbox.probe();
    println!("{probe:?}");
    assert_eq!(probe.mode, Mode::Namespaces);
    assert_eq!(probe.overlay_refused.is_some(), probe.staging == Staging::Plain);
    let user = rustix::process::geteuid().as_raw();
    assert_eq!(probe.actor == Actor::Node(user), user != 0);
    let rig = Rig::new(Mode::None).await;
    let probe = rig.sandbox.probe();
    assert_eq!((probe.staging, probe.actor), (Staging::Plain, Actor::Node(user)));
    assert!(probe.overlay_refused.as_ref().unwrap().contains("no namespaces"), "{probe:?}");
    assert!(probe.keeper.is_err());
}

#[tokio::test]
async fn without_overlays_files_of_a_keeper_are_tried() {
    let rig = Rig::configured(|config| config.overlays = false).await;
    let probe = rig.sandbox.probe();
    assert_eq!(probe.staging, Staging::Plain);
    assert!(probe.overlay_refused.as_ref().unwrap().contains("not wanted"), "{probe:?}");
    // Only root can give a file to somebody else.
    let is_mapped = matches!(probe.actor, Actor::Stranger(_));
    assert_eq!(probe.keeper.is_ok(), is_mapped, "{probe:?}");
    assert_eq!(rig.script("echo x >f; chmod 600 f; cat f").await.stdout, "x\n");
    let left: Vec<_> =
        fs::read_dir(rig.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!left.iter().any(|path| path.display().to_string().contains("trial")), "{left:?}");
}

#[tokio::test]
async fn the_host_is_not_there() {
    let rig = walled().await;
    let secret = rig.path().join("secret");
    fs::write(&secret, "secret").unwrap();
    let left = rig
        .script(&format!("cat {}; ls -A / /root /home /var /sys /.folders", secret.display()))
        .await;
    assert!(!left.stdout.contains("secret"));
    for gone in ["root:", "home:", "sys:"] {
        assert!(!left.stdout.contains(gone), "{}", left.stdout);
    }
    let left = rig.script("ls -A / | tr '\\n' ' '; ls -A /.folders/* /run /tmp; pwd").await;
    println!("{}", left.stdout);
    assert!(left.stdout.trim_end().ends_with("/build"), "{}", left.stdout);
    // Mounts under the exec root tell no path of the host.
    let left = rig.script("cat /proc/self/mounts /proc/self/mountinfo").await;
    assert!(
        !left.stdout.contains(rig.path().file_name().unwrap().to_str().unwrap())
            || left.stdout.contains("overlay")
    );
}

#[tokio::test]
async fn only_own_processes_are_there() {
    let rig = walled().await;
    let left = rig.script("echo /proc/[0-9]*; hostname; id").await;
    let id = "uid=1000(build) gid=1000(build)";
    assert!(
        left.stdout.starts_with(&format!("/proc/1 /proc/2\nlocalhost\n{id}")),
        "{}",
        left.stderr
    );
}

#[tokio::test]
async fn there_is_no_network_but_loopback() {
    let rig = walled().await;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = format!(
        "tail -n +3 /proc/net/dev | wc -l; (exec 3<>/dev/tcp/127.0.0.1/{port}) 2>/dev/null && echo reached || echo not"
    );
    let staged = rig.stage();
    let left = rig.run(&staged, staged.program(&rig.sandbox, &["bash", "-c", &script])).await;
    assert_eq!(left.stdout, "1\nnot\n");
    let staged = rig.stage();
    let mut request = staged.program(&rig.sandbox, &["bash", "-c", &script]);
    request.network = true;
    assert!(rig.run(&staged, request).await.stdout.ends_with("reached\n"));
}

#[tokio::test]
async fn devices_are_minimal_and_work() {
    let rig = walled().await;
    let left = rig.script("ls /dev | tr '\\n' ' '; echo x >/dev/null; head -c 3 /dev/zero | wc -c; head -c 3 /dev/urandom | wc -c; echo y >/dev/shm/y; cat /dev/shm/y; echo z >/dev/full || echo full").await;
    assert_eq!(
        left.stdout,
        "fd full null ptmx pts random shm stderr stdin stdout tty urandom zero 3\n3\ny\nfull\n",
        "{}",
        left.stderr
    );
}

#[tokio::test]
async fn dangerous_calls_are_refused() {
    let rig = walled().await;
    let left = rig
        .script("unshare -U true && echo userns; unshare -m true && echo mountns; mount -t tmpfs x /tmp && echo mounted; umount /proc && echo unmounted; mknod b b 8 0 && echo device; dmesg | head -1; chroot . true && echo chroot; grep -h -e CapEff -e CapBnd -e NoNewPrivs -e Seccomp: /proc/self/status")
        .await;
    assert!(left.stdout.starts_with("CapEff:\t0000000000000000\n"), "{}", left.stdout);
    assert!(left.stdout.contains("NoNewPrivs:\t1\nSeccomp:\t2\n"), "{}", left.stdout);
}

#[tokio::test]
async fn system_folders_and_kernel_settings_cannot_be_changed() {
    let rig = walled().await;
    let script = "for f in /usr/x /etc/x /x /dev/x /proc/sys/kernel/core_pattern /proc/sysrq-trigger /etc/shadow; do (echo a >>$f) 2>/dev/null && echo \"wrote $f\"; done; cat /etc/shadow 2>/dev/null; echo done";
    assert_eq!(rig.script(script).await.stdout, "done\n");
}

#[tokio::test]
async fn a_folder_of_the_host_is_seen_read_only_and_nothing_beside_it() {
    let rig =
        Rig::configured(|config| config.extra_system_folders = vec!["/var/lib/dpkg".into()]).await;
    let script = "ls /var/lib; (echo harm >>/var/lib/dpkg/status) 2>/dev/null || echo kept";
    let left = rig.script(script).await;
    assert_eq!(left.stdout, "dpkg\nkept\n", "{}", left.stderr);
}

#[tokio::test]
async fn inputs_cannot_be_changed() {
    let rig = walled().await;
    if rig.sandbox.staging() == Staging::Plain {
        return;
    }
    let staged = rig.stage();
    let lower = staged.lower();
    fs::create_dir(lower.join("dir")).unwrap();
    for name in ["a", "b", "c", "dir/d", "dir/e"] {
        fs::write(lower.join(name), "input").unwrap();
        fs::set_permissions(lower.join(name), fs::Permissions::from_mode(0o444)).unwrap();
    }
    let script = "chmod -R 777 . ; echo harm >a; echo harm >>dir/d; ln b b2; echo harm >>b2; rm c; mv dir/e e; chmod 0 dir/d; rm -rf dir; mkdir dir; touch -d 1980-01-01 a; setfattr -n user.x -v y a; truncate -s 0 b; cat a b2; ls";
    let left = rig.run(&staged, staged.script(&rig.sandbox, script)).await;
    assert_eq!(left.stdout, "harm\na\nb\nb2\ndir\ne\n", "{}", left.stderr);
    for name in ["a", "b", "c", "dir/d", "dir/e"] {
        let path = lower.join(name);
        assert_eq!(fs::read_to_string(&path).unwrap(), "input", "{name}");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o444, "{name}");
    }
    assert!(!lower.join("b2").exists() && !lower.join("e").exists());
    assert_eq!(fs::read_to_string(staged.upper().join("b2")).unwrap_or_default(), "");
}

#[tokio::test]
async fn the_exec_root_may_stand_elsewhere() {
    let rig = walled().await;
    for point in ["/build", "/home/x/y", "/opt", "/tmp/in/here", "/usr/local", "/var/tmp/in/here"] {
        let staged = rig.stage();
        fs::create_dir(staged.lower().join("sub")).unwrap();
        fs::write(staged.lower().join("sub/in"), "input\n").unwrap();
        let mut request = staged.script(&rig.sandbox, "pwd; cat in; echo o >out");
        request.mount_point = point.into();
        request.working_directory = "sub".into();
        let left = rig.run(&staged, request).await;
        let real = point.replace("/var/tmp", "/tmp");
        assert_eq!(left.stdout, format!("{real}/sub\ninput\n"), "{}", left.stderr);
    }
}

#[tokio::test]
async fn an_exec_root_that_can_stand_nowhere_is_refused_as_such() {
    let rig = walled().await;
    let long = format!("/{}", "x".repeat(256));
    let deep = "/x".repeat(2000);
    for point in ["/usr/none/x", "/etc/passwd", "/bin/none", "/a\0b", &long, &deep] {
        let staged = rig.stage();
        let mut request = staged.script(&rig.sandbox, "true");
        request.mount_point = point.into();
        let error = rig.sandbox.run(request).await.unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{point}: {error:?}");
    }
}

/// Clients say where exec roots stand: what was made for them goes again, but not under those who stand there.
#[tokio::test]
async fn places_of_exec_roots_are_bounded() {
    let rig = walled().await;
    let at = |point: String, script: &str| {
        let staged = rig.stage();
        let mut request = staged.script(&rig.sandbox, script);
        request.mount_point = point.into();
        (staged, request)
    };
    let script = "echo in; until test -e /tmp/end; do sleep 0.01; done; ls -d /stays/a/b";
    let (staying, request) = at("/stays/a/b".into(), script);
    let stays = rig.run(&staying, request);
    let others = async {
        while staying.stdout().is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let mut seen = String::new();
        for number in 0.. {
            let (staged, request) =
                at(format!("/q{number}{}", "/x".repeat(1000)), "ls -d /q* /stays");
            seen = rig.run(&staged, request).await.stdout;
            assert!(seen.contains(&format!("/q{number}\n")) && seen.contains("/stays\n"), "{seen}");
            // Those before may not be known to have ended yet.
            if number > 1 && !seen.contains("/q0\n") {
                break;
            }
            assert!(number < 20, "{seen}");
        }
        fs::write(staying.folder.join("tmp/end"), "").unwrap();
        seen
    };
    let (left, seen) = tokio::join!(stays, others);
    assert_eq!(left.stdout, "in\n/stays/a/b\n", "{} {seen}", left.stderr);
}

#[tokio::test]
async fn the_exec_root_may_be_the_whole_root() {
    let rig = walled().await;
    let staged = rig.stage();
    for entry in ["bin", "lib", "lib64", "usr"] {
        let _ = std::os::unix::fs::symlink(format!("host/{entry}"), staged.lower().join(entry));
    }
    // A static program would do; the rig has none, so a copy of the shell with what it needs stands for it.
    let copy = |from: &str| {
        let to = staged.lower().join("host").join(from.trim_start_matches('/'));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, to).unwrap();
    };
    copy("/bin/sh");
    for library in ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"] {
        if fs::metadata(library).is_err() {
            return;
        }
        copy(library);
    }
    let mut request = staged.script(
        &rig.sandbox,
        "echo /*; echo >/new; echo >/tmp/t; test -e /proc/self && test -c /dev/null && pwd",
    );
    request.mount_point = "/".into();
    let left = rig.run(&staged, request).await;
    assert_eq!(left.stdout, "/bin /dev /host /lib /lib64 /proc /tmp /usr\n/\n", "{}", left.stderr);
    assert!(staged.upper().join("new").exists() || staged.lower().join("new").exists());
}

#[tokio::test]
async fn actions_do_not_see_each_other() {
    let rig = walled().await;
    rig.script("echo mine >/tmp/x; echo mine >/dev/shm/x; echo mine >/build/x; ipcmk -M 100 >/dev/null; hostname other").await;
    let left = rig.script("ls -A /tmp /dev/shm /build; ipcs -m | grep -c 0x; hostname").await;
    assert_eq!(left.stdout, "/build:\n\n/dev/shm:\n\n/tmp:\n0\nlocalhost\n", "{}", left.stderr);
}
