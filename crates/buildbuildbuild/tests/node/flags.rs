//! Flags about actions, as far as actions notice them.

use std::{fs, path::Path, process::Command};

use crate::rig::{Node, files, root_with_shell, until};

#[tokio::test]
async fn a_folder_of_the_host_is_seen_and_cannot_be_changed() {
    // Not below /tmp, of which actions have their own and where the project may lie.
    let shown = tempfile::tempdir_in("/var/tmp").unwrap();
    let path = shown.path().display();
    fs::write(shown.path().join("tool"), "tool\n").unwrap();
    let node = Node::start(&[&format!("--sandbox_folder={path}")]).await;
    let script = format!(
        "cat {path}/tool; exec 2>/dev/null; (echo x >{path}/new) && echo made; (echo x >>{path}/tool) && echo written
        rm -f {path}/tool && echo removed; chmod 777 {path} && echo changed; ls -A $(dirname {path})"
    );
    let done = node.run(&files([]), &script).await;
    let name = shown.path().file_name().unwrap().to_str().unwrap();
    // Of the folder above nothing else is there.
    assert_eq!(done.stdout, format!("tool\n{name}\n"), "{done:?}");
    assert_eq!(fs::read_dir(shown.path()).unwrap().count(), 1);
}

#[test]
fn a_folder_that_is_not_there_is_refused_before_anything_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let output = Command::new(env!("CARGO_BIN_EXE_buildbuildbuild"))
        .args(["--listen=127.0.0.1", "--port=0", "--autojoin_udp=false", "--worker_slots=1"])
        .arg(format!("--cache_dir={}", store.display()))
        .arg("--sandbox_folder=/no/such/folder")
        .output()
        .unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    let line = "buildbuildbuild: --sandbox_folder=/no/such/folder: cannot be looked at: No such file or directory";
    assert!(told.starts_with(line) && told.lines().count() == 1, "{told}");
    assert!(output.stdout.is_empty() && !store.exists());
}

#[tokio::test]
async fn a_worker_has_a_place_of_its_own_for_input_roots() {
    let node = Node::start(&["--platform=InputRootAbsolutePath=/home/builder/src"]).await;
    let done = node.run(&files([("dir/in", "input\n")]), "pwd; cat /home/builder/src/dir/in").await;
    assert_eq!((done.code, &*done.stdout), (0, "/home/builder/src\ninput\n"), "{done:?}");
}

#[tokio::test]
async fn an_input_root_can_be_the_whole_system() {
    let node = Node::start(&["--platform=InputRootAbsolutePath=/"]).await;
    let mut inputs = root_with_shell();
    inputs.extend(files([("etc/own", "own\n")]));
    let script =
        "pwd; read own </etc/own; echo $own; for f in /*; do echo $f; done; : </usr/bin/env";
    let done = node.run(&inputs, script).await;
    assert!(done.stdout.starts_with("/\nown\n") && done.code != 0, "{done:?}");
    assert!(done.stdout.contains("/proc\n") && !done.stdout.contains("/opt"), "{done:?}");
}

#[test]
fn a_place_without_namespaces_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_buildbuildbuild"))
        .args(["--listen=127.0.0.1", "--port=0", "--autojoin_udp=false", "--worker_slots=1"])
        .arg(format!("--cache_dir={}", folder.path().join("store").display()))
        .args(["--sandbox=none", "--platform=InputRootAbsolutePath=/src"])
        .output()
        .unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{told}");
    assert!(told.contains("InputRootAbsolutePath=/src: needs namespaces"), "{told}");
}

/// Where the log says that an exec root was kept, for each that was.
fn kept(log: &str) -> Vec<&Path> {
    let lines = log.lines().filter(|line| line.contains("exec root is kept"));
    lines
        .map(|line| {
            let path = line.split("path=").nth(1).unwrap();
            Path::new(path.split_whitespace().next().unwrap())
        })
        .collect()
}

#[tokio::test]
async fn exec_roots_are_kept_where_the_log_says() {
    for (flag, good) in [("--no_cleanup_execroot=fail", 0), ("--no_cleanup_execroot=all", 1)] {
        for sandbox in ["--sandbox=auto", "--sandbox=none"] {
            let node = Node::start(&[flag, sandbox]).await;
            let inputs = files([("in", "input\n"), ("dir/a", "a\n")]);
            let done = node.run(&inputs, "echo made >out").await;
            assert_eq!(done.code, 0, "{done:?}");
            assert_eq!(kept(&node.log()).len(), good, "{}", node.log());
            let done = node.run(&inputs, "echo made >dir/out; exit 3").await;
            assert_eq!(done.code, 3, "{done:?}");
            let log = node.log();
            let kept = kept(&log);
            assert_eq!(kept.len(), good + 1, "{log}");
            let last = kept.last().unwrap();
            assert!(last.starts_with(node.actions().join("kept")), "{log}");
            assert!(done.message.contains(&last.display().to_string()), "{done:?}");
            // It is moved there when nothing of the action lives any more.
            assert!(until(|| last.exists()).await, "{log}");
            let read = |path: &str| fs::read_to_string(last.join("root").join(path)).unwrap();
            assert_eq!(
                (read("in"), read("dir/a"), read("dir/out")),
                ("input\n".into(), "a\n".into(), "made\n".into())
            );
        }
    }
}
