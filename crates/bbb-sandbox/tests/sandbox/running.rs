//! What a command gets and gives: codes, environment, streams, folders.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use bbb_sandbox::{Error, Mode, Sandbox, Status};

use crate::rig::Rig;

#[tokio::test]
async fn codes_and_signals_are_told() {
    for rig in Rig::all().await {
        assert_eq!(rig.script("exit 0").await.exit.status, Status::Exited(0));
        assert_eq!(rig.script("exit 42").await.exit.status, Status::Exited(42));
        let killed = rig.script("kill -9 $$").await;
        assert_eq!(killed.exit.status, Status::Signaled(9));
        assert_eq!(killed.code(), 137);
        assert_eq!(rig.script("kill -TERM $$").await.code(), 143);
        assert!(!killed.exit.timed_out);
    }
}

#[tokio::test]
async fn environment_is_exact() {
    for rig in Rig::all().await {
        let staged = rig.stage();
        let mut request = staged.program(&rig.sandbox, &["/usr/bin/env"]);
        request.environment = vec![("ONE".into(), "1".into()), ("EMPTY".into(), "".into())];
        assert_eq!(rig.run(&staged, request).await.stdout, "ONE=1\nEMPTY=\n");
        let staged = rig.stage();
        let mut request = staged.program(&rig.sandbox, &["env"]);
        request.environment.clear();
        let left = rig.run(&staged, request).await;
        assert_eq!((left.code(), left.stdout.as_str()), (0, ""));
    }
}

#[tokio::test]
async fn streams_are_the_given_files_and_nothing_else_is_open() {
    for rig in Rig::all().await {
        let left = rig.script("wc -c; echo out; echo err >&2").await;
        assert_eq!((left.stdout.as_str(), left.stderr.as_str()), ("0\nout\n", "err\n"));
        let left = rig.script("ls /proc/self/fd | wc -l").await;
        assert_eq!(left.stdout, "4\n", "three streams and the folder that ls reads");
    }
}

#[tokio::test]
async fn output_is_never_appended_to_through_a_link() {
    for rig in Rig::all().await {
        let staged = rig.stage();
        let victim = staged.folder.join("victim");
        fs::write(&victim, b"").unwrap();
        fs::remove_file(staged.folder.join("stdout")).unwrap();
        symlink(&victim, staged.folder.join("stdout")).unwrap();
        let error = rig.sandbox.run(staged.script(&rig.sandbox, "echo harm")).await.unwrap_err();
        assert!(matches!(error, Error::Setup { .. }) && !error.may_have_happened(), "{error:?}");
        assert_eq!(fs::read(&victim).unwrap(), b"");
    }
}

#[tokio::test]
async fn programs_are_found_as_the_specification_says() {
    for rig in Rig::all().await {
        let staged = rig.stage();
        for (path, text, mode) in [
            ("tool", "#!/bin/sh\necho from the root", 0o755),
            ("sub/tool", "#!/bin/sh\necho from the folder", 0o755),
            ("sub/plain", "no program", 0o644),
            ("sub/broken", "#!/no/interpreter", 0o755),
            ("sub/garbage", "\u{1}\u{2}", 0o755),
        ] {
            let path = staged.lower().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        for (program, path, code, stdout) in [
            ("./tool", "/bin", 0, "from the folder\n"),
            ("../tool", "/bin", 0, "from the root\n"),
            ("tool", "/bin:.", 0, "from the folder\n"),
            ("tool", "/bin", 127, ""),
            ("sh-that-is-not", "/bin", 127, ""),
            ("./missing", "/bin", 127, ""),
            ("./plain", "/bin", 126, ""),
            ("./broken", "/bin", 127, ""),
            ("./garbage", "/bin", 126, ""),
            ("", "/bin", 127, ""),
        ] {
            fs::write(staged.folder.join("stdout"), b"").unwrap();
            fs::write(staged.folder.join("stderr"), b"").unwrap();
            let mut request = staged.program(&rig.sandbox, &[program]);
            request.working_directory = "sub".into();
            request.environment = vec![("PATH".into(), path.into())];
            for name in ["upper", "work"] {
                bbb_sandbox::remove_tree(&staged.folder.join(name)).unwrap();
                fs::create_dir(staged.folder.join(name)).unwrap();
            }
            let left = rig.run(&staged, request).await;
            assert_eq!(
                (left.code(), left.stdout.as_str()),
                (code, stdout),
                "{program} in {path}: {}",
                left.stderr
            );
            assert_eq!(left.stderr.is_empty(), code == 0, "{}", left.stderr);
        }
    }
}

#[tokio::test]
async fn requests_that_can_never_be_run_are_refused() {
    let rig = Rig::new(Mode::None).await;
    let staged = rig.stage();
    let good = || staged.script(&rig.sandbox, "true");
    let mut bad = vec![good(), good(), good(), good(), good(), good(), good()];
    bad[0].arguments.clear();
    bad[1].arguments.push("a\0b".into());
    bad[2].environment.push(("A=B".into(), "".into()));
    bad[3].working_directory = "../..".into();
    bad[4].stdout = "/etc/passwd".into();
    bad[5].mount_point = "/proc/self".into();
    bad[6].temporary = rig.path().join("../x");
    let mut long = good();
    long.arguments.push("x".repeat(5 << 20).into());
    bad.push(long);
    for request in bad {
        let error = rig.sandbox.run(request).await.unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{error:?}");
    }
}

#[tokio::test]
async fn usage_is_measured() {
    for rig in Rig::all().await {
        let left = rig.script("i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; (head -c 50000000 /dev/zero | tail -c 40000000 >/dev/null)").await;
        let usage = left.exit.usage;
        assert!(usage.user.as_millis() > 5 && usage.wall.as_millis() > 5, "{usage:?}");
        assert!(usage.max_rss_bytes > 30_000_000, "{usage:?}");
        assert!(usage.minor_faults > 100, "{usage:?}");
    }
}

#[tokio::test]
async fn many_run_at_once() {
    for rig in Rig::all().await {
        let runs = (0..64).map(|number| {
            let staged = rig.stage();
            let request = staged
                .script(&rig.sandbox, &format!("echo {number} > out; cat out; exit {number}"));
            let rig = &rig;
            async move {
                let left = rig.run(&staged, request).await;
                assert_eq!((left.code(), left.stdout), (number, format!("{number}\n")));
            }
        });
        let runs: Vec<_> = runs.collect();
        join_all(runs).await;
    }
}

/// Polls all futures to their ends.
pub(crate) async fn join_all<F: Future<Output = ()>>(futures: Vec<F>) {
    let mut futures: Vec<_> = futures.into_iter().map(Box::pin).collect();
    std::future::poll_fn(|context| {
        futures.retain_mut(|future| future.as_mut().poll(context).is_pending());
        if futures.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

#[tokio::test]
async fn long_arguments_arrive_and_too_long_ones_are_the_actions_failure() {
    for rig in Rig::all().await {
        let argument = "x".repeat(100_000);
        let staged = rig.stage();
        let mut arguments = vec!["/bin/sh", "-c", "echo $#", "name"];
        arguments.extend(std::iter::repeat_n(argument.as_str(), 15));
        assert_eq!(rig.run(&staged, staged.program(&rig.sandbox, &arguments)).await.stdout, "15\n");
        let staged = rig.stage();
        let argument = "x".repeat(3 << 20);
        let left = rig.run(&staged, staged.program(&rig.sandbox, &["/bin/true", &argument])).await;
        assert_eq!(left.code(), 126, "{}", left.stderr);
    }
}

#[tokio::test]
async fn a_program_that_the_machine_cannot_execute_is_no_failure_of_the_command() {
    // An overlay would not show that the file below is open.
    let rig = Rig::new(Mode::None).await;
    let staged = rig.stage();
    let program = staged.lower().join("program");
    fs::copy("/bin/true", &program).unwrap();
    let request = staged.program(&rig.sandbox, &["./program"]);
    let writing = fs::File::options().append(true).open(&program).unwrap();
    let error = rig.sandbox.run(request.clone()).await.unwrap_err();
    assert!(matches!(error, Error::Setup { .. }), "{error:?}");
    drop(writing);
    assert_eq!(rig.run(&staged, request).await.code(), 0);
}
