//! Actions that want too much, and races that many of them could win.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use bbb_sandbox::{Enforced, Error, Mode, Sandbox};

use crate::rig::{Rig, lives};

#[tokio::test]
async fn a_fork_bomb_is_bounded_and_dies() {
    for rig in Rig::all().await {
        if rig.sandbox.probe().limits.processes == Enforced::Not {
            continue;
        }
        let staged = rig.stage();
        let marker = format!("97{}", std::process::id());
        // Tries far more than it may; each that comes to life tells so.
        let script = format!(
            "for i in $(seq 60); do (echo alive; exec sleep {marker}) 2>/dev/null & done; sleep 0.5; exit 0"
        );
        let mut request = staged.program(&rig.sandbox, &["/bin/bash", "-c", &script]);
        request.limits.processes = Some(20);
        let left = rig.run(&staged, request).await;
        let alive = left.stdout.lines().count();
        assert!((5..20).contains(&alive), "{alive} of 60 {:?} {}", left.exit, left.stderr);
        assert!(!lives(&marker));
        assert_eq!(rig.script("echo fine").await.stdout, "fine\n");
    }
}

#[tokio::test]
async fn a_high_bound_on_processes_holds_too() {
    for rig in Rig::all().await {
        if rig.sandbox.probe().limits.processes == Enforced::Not {
            continue;
        }
        let staged = rig.stage();
        let script = "$n = 0; while ($n < 3000) { $p = fork; last unless defined $p; if (!$p) { sleep 1000; exit } $n++ } print $n";
        let mut request = staged.program(&rig.sandbox, &["perl", "-e", script]);
        request.limits.processes = Some(1200);
        let left = rig.run(&staged, request).await;
        let made: u32 = left.stdout.parse().unwrap();
        assert!((1000..1600).contains(&made), "{made} of 3000 {}", left.stderr);
        assert_eq!(rig.script("echo fine").await.stdout, "fine\n");
    }
}

#[tokio::test]
async fn actions_yield_memory_before_the_node_does() {
    for rig in Rig::all().await {
        let left = rig.script("cat /proc/self/oom_score_adj").await;
        assert!(left.stdout.trim().parse::<i32>().unwrap() >= 500, "{}", left.stdout);
    }
}

#[tokio::test]
async fn an_endless_fork_bomb_ends_with_its_timeout() {
    let rig = Rig::new(Mode::Namespaces).await;
    let staged = rig.stage();
    let mut request = staged.script(&rig.sandbox, "b() { b | b & }; b; sleep 100");
    request.limits.processes = Some(100);
    request.timeout = Some(std::time::Duration::from_millis(500));
    request.grace = std::time::Duration::from_millis(100);
    let _ = rig.run(&staged, request).await;
    assert_eq!(rig.script("echo fine").await.stdout, "fine\n");
}

#[tokio::test]
async fn a_memory_hog_is_stopped() {
    for rig in Rig::all().await {
        let staged = rig.stage();
        let script = "head -c 200000000 /dev/zero | tail -c 150000000 >/dev/null";
        let mut request =
            staged.program(&rig.sandbox, &["/bin/bash", "-o", "pipefail", "-c", script]);
        request.limits.memory_bytes = Some(50_000_000);
        let left = rig.run(&staged, request).await;
        assert_ne!(left.code(), 0);
        if rig.sandbox.probe().limits.memory == Enforced::Action {
            assert!(left.exit.out_of_memory, "{:?}", left.exit);
            let peak = left.exit.usage.peak_memory_bytes.unwrap();
            assert!((40_000_000..60_000_000).contains(&peak), "{peak}");
        }
        // The next one in the same group starts from nothing.
        let staged = rig.stage();
        let mut request = staged.script(&rig.sandbox, "echo fine");
        request.limits.memory_bytes = Some(60_000_000);
        let left = rig.run(&staged, request).await;
        assert_eq!((left.code(), left.exit.out_of_memory), (0, false));
    }
}

#[tokio::test]
async fn open_files_are_limited() {
    for rig in Rig::all().await {
        let staged = rig.stage();
        let mut request = staged.script(&rig.sandbox, "ulimit -n; ulimit -c");
        request.limits.open_files = Some(77);
        assert_eq!(rig.run(&staged, request).await.stdout, "77\n0\n");
    }
}

#[tokio::test]
async fn no_file_becomes_larger_than_it_may() {
    for rig in Rig::all().await {
        let staged = rig.stage();
        let script = "truncate -s 1000000 a || echo refused; truncate -s 1000001 b || echo refused; exec head -c 2000000 /dev/zero >c";
        let mut request = staged.script(&rig.sandbox, script);
        request.limits.file_bytes = Some(1_000_000);
        let left = rig.run(&staged, request).await;
        assert_eq!(left.stdout, "refused\n", "{}", left.stderr);
        assert_eq!(
            left.exit.status,
            bbb_sandbox::Status::Signaled(rustix::process::Signal::XFSZ.as_raw())
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn freshly_written_programs_are_never_busy() {
    for rig in Rig::all().await {
        let rig = Arc::new(rig);
        let lanes = (0..8).map(|_| {
            let rig = rig.clone();
            async move {
                for _ in 0..25 {
                    let staged = rig.stage();
                    let program = staged.lower().join("program");
                    let mut file = fs::File::create(&program).unwrap();
                    file.write_all(&fs::read("/bin/true").unwrap()).unwrap();
                    file.set_permissions(fs::Permissions::from_mode(0o755)).unwrap();
                    drop(file);
                    let left = rig.run(&staged, staged.program(&rig.sandbox, &["./program"])).await;
                    assert_eq!(left.code(), 0, "{}", left.stderr);
                }
            }
        });
        let mut running = tokio::task::JoinSet::new();
        for lane in lanes {
            running.spawn(lane);
        }
        running.join_all().await;
    }
}

#[tokio::test]
async fn an_action_that_kills_its_init_is_lost_and_leaves_nothing() {
    let rig = Rig::new(Mode::None).await;
    let marker = format!("96{}", std::process::id());
    let staged = rig.stage();
    let script = format!("(setsid sleep {marker} &); kill -KILL $PPID; sleep {marker}");
    let error = rig.sandbox.run(staged.script(&rig.sandbox, &script)).await.unwrap_err();
    assert!(matches!(error, Error::Lost), "{error:?}");
    crate::rig::eventually("the end of the strays", || !lives(&marker)).await;
    assert_eq!(rig.script("echo fine").await.stdout, "fine\n");
}

#[tokio::test]
async fn a_used_network_is_as_good_as_new() {
    let rig = Rig::new(Mode::Namespaces).await;
    let serve = "import socket\ns=socket.socket(); s.bind(('127.0.0.1', 4000)); s.listen()\nc=socket.create_connection(('127.0.0.1', 4000)); a,_=s.accept(); a.close(); c.close(); print('served')";
    for _ in 0..3 {
        let staged = rig.stage();
        let left = rig.run(&staged, staged.program(&rig.sandbox, &["python3", "-c", serve])).await;
        if left.code() == 127 {
            return;
        }
        assert_eq!(left.stdout, "served\n", "{}", left.stderr);
    }
}
