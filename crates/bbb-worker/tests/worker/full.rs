//! A worker on a file system that is full.

use std::{fs, io, path::Path, process::Command};

use bbb_reapi::proto::reapi;
use bbb_sandbox::Mode;
use bbb_scheduler::Outcome;
use bbb_worker::{Executor as _, Report};
use prost::Message as _;

use crate::rig::{Rig, Tree, command};

/// Tells the child of the test where its file system is.
const CHILD_DIR: &str = "BBB_WORKER_FULL_TEST_DIR";

/// Takes all that is left of a file system.
fn fill(path: &Path) {
    let mut file = fs::File::options().create(true).append(true).open(path).unwrap();
    for piece in [1 << 16, 4096, 1] {
        while io::Write::write_all(&mut file, &vec![1; piece]).is_ok() {}
    }
}

async fn outcome(rig: &Rig, action: bbb_digest::Digest) -> Outcome {
    rig.local.execute(rig.task(action), Report::to(|_| {})).await
}

fn is_the_machines(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Failed(_))
}

/// Not a test of its own: what the next but one runs on a file system of 24 MiB.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by what_a_full_disk_spoils_is_left_to_other_workers"]
async fn child_on_a_small_file_system() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let foreign = Path::new(&dir).join("foreign");
    let rig = Rig::new(Mode::Namespaces).await;
    let action = async |script: &str, outputs: &[&str]| {
        let tree = Tree::default().file("input", &vec![7; 300_000]);
        rig.action(tree, &command(script, outputs), |_| {}).await
    };
    // The command fills it, and cleans up before it fails.
    let script = "head -c 100M /dev/zero > out; code=$?; sleep 0.5; rm out; exit $code";
    let filling = action(script, &["out"]).await;
    let filled = outcome(&rig, filling).await;
    assert!(is_the_machines(&filled), "{filled:?}");
    rig.is_clean().await;
    let (good, bad) = (action("cat input > out", &["out"]).await, action("exit 3", &[]).await);
    fill(&foreign);
    // Whatever phase it is that finds no room: staging, the command, or keeping its output.
    for action in [good, bad, filling] {
        let spoiled = outcome(&rig, action).await;
        assert!(is_the_machines(&spoiled), "{spoiled:?}");
    }
    fs::remove_file(&foreign).unwrap();
    for (action, code) in [(good, 0), (bad, 3)] {
        let done = rig.execute(rig.task(action)).await;
        assert_eq!(done.result().exit_code, code);
    }
    println!("all went well");
}

/// Not a test of its own: what the one after the next runs on a file system of 64 MiB and 5000 files.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by whoever_fills_a_small_disk_is_ended_and_nobody_else"]
async fn child_beside_those_who_fill_it() {
    if std::env::var_os(CHILD_DIR).is_none() {
        return;
    }
    let rig = Rig::new(Mode::Namespaces).await;
    let beside = async |script: &str| {
        let filler = rig.action(Tree::default(), &command(script, &[]), |_| {}).await;
        let good = "for i in 1 2 3 4; do sleep 0.2; echo $i >>out; done";
        let good = rig.action(Tree::default(), &command(good, &["out"]), |_| {}).await;
        let (filled, good) = tokio::join!(outcome(&rig, filler), rig.execute(rig.task(good)));
        assert_eq!((good.code(), good.result().exit_code), (0, 0), "{}", good.error());
        assert!(rig.is_cached(&good).await);
        rig.is_clean().await;
        filled
    };
    // More than half of the limit it has not: a worker with a larger disk may do it.
    for to in ["out", "/tmp/out"] {
        let script = format!("while sleep 0.01; do head -c 1M /dev/zero >>{to}; done");
        match beside(&script).await {
            Outcome::Failed(told) => {
                assert!(told.contains("the action wrote "), "{told}");
                assert!(told.contains("and the worker's disk was full"), "{told}");
            }
            decided => panic!("{decided:?}"),
        }
    }
    // More than half of all files are too many for any.
    let script = "perl -e 'for (1..1e7) { open F, qq(>/tmp/$_) or sleep 1; select undef, undef, undef, 1e-4 }'";
    match beside(script).await {
        Outcome::Decided(bytes) => {
            let response = reapi::ExecuteResponse::decode(bytes).unwrap();
            let told = &response.message;
            assert_eq!(response.result.unwrap().exit_code, 137, "{told}");
            assert!(told.starts_with("ended for what it wrote: the action wrote "), "{told}");
        }
        Outcome::Failed(told) => panic!("{told}"),
    }
    println!("all went well");
}

#[test]
fn what_a_full_disk_spoils_is_left_to_other_workers() {
    run_on_small("child_on_a_small_file_system", "size=24m");
}

#[test]
fn whoever_fills_a_small_disk_is_ended_and_nobody_else() {
    run_on_small("child_beside_those_who_fill_it", "size=64m,nr_inodes=5000");
}

/// Runs a test on a file system that only it sees.
fn run_on_small(child: &str, options: &str) {
    let dir = tempfile::tempdir().unwrap();
    let small = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-ec"]);
        command.arg(format!("mount -t tmpfs -o {options} tmpfs \"$0\"; {script}")).arg(dir.path());
        command
    };
    if !small("true").status().is_ok_and(|status| status.success()) {
        eprintln!("not tried: no file system can be mounted here");
        return;
    }
    // As someone who is not root: as root the sandbox wants users that are not to be had there.
    let not_root = "exec unshare --user --map-user=1000 --map-group=1000";
    let test = format!("--exact full::{child} --ignored --nocapture");
    let child = small(&format!("chmod 777 \"$0\"; {not_root} \"$1\" {test}"))
        .arg(std::env::current_exe().unwrap())
        .env(CHILD_DIR, dir.path())
        .env("TMPDIR", dir.path())
        .output()
        .unwrap();
    let (out, err) =
        (String::from_utf8_lossy(&child.stdout), String::from_utf8_lossy(&child.stderr));
    assert!(child.status.success() && out.contains("all went well"), "{out}\n{err}");
}
