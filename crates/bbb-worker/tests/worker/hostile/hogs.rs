//! Commands that want more than there is.

use bbb_reapi::proto::reapi;
use bbb_sandbox::{Enforced, Mode, Sandbox as _};
use bbb_scheduler::Demand;

use crate::rig::{Done, Rig, Tree, command};

/// Runs a command for which so much of the worker was reserved.
async fn with_demand(rig: &Rig, command: &reapi::Command, demand: Demand) -> Done {
    let mut task = rig.task(rig.action(Tree::default(), command, |_| {}).await);
    task.submission.demand = demand;
    rig.execute(task).await
}

#[tokio::test]
async fn more_processes_than_a_machine_takes_are_not_to_be_had() {
    let rig = Rig::new(Mode::Namespaces).await;
    let script = "perl -e 'while ($n < 10000) { $p = fork; last unless defined $p; if (!$p) { sleep 1000; exit } $n++ } print $n'";
    let said = rig.stdout_of(Tree::default(), script).await;
    assert!((3000..4500).contains(&said.parse().unwrap()), "{said}");
    rig.is_clean().await;
    assert_eq!(rig.stdout_of(Tree::default(), "echo fine").await, "fine\n");
}

#[tokio::test]
async fn an_action_gets_the_memory_that_it_asks_for_and_no_more() {
    for mode in [Mode::Namespaces, Mode::None] {
        let rig = Rig::new(mode).await;
        if rig.sandbox.probe().limits.memory != Enforced::Action {
            continue;
        }
        let hog = command("perl -e '$x = q(x) x (200 << 20); print length $x'", &[]);
        let demand = |mebibytes: u64| Demand { millicpus: 0, memory_bytes: mebibytes << 20 };
        let done = with_demand(&rig, &hog, demand(64)).await;
        assert_eq!((done.code(), done.result().exit_code), (0, 137), "{}", done.error());
        assert!(done.response.message.contains("memory limit"), "{}", done.response.message);
        assert!(!rig.is_cached(&done).await);
        let done = with_demand(&rig, &hog, demand(1024)).await;
        assert_eq!(done.result().exit_code, 0, "{}", done.response.message);
        let done = with_demand(&rig, &command("echo fine", &[]), Demand::default()).await;
        assert_eq!(rig.stdout(&done).await, "fine\n");
    }
}

#[tokio::test]
async fn an_action_gets_the_processors_that_it_asks_for_and_no_more() {
    let rig = Rig::new(Mode::Namespaces).await;
    if rig.sandbox.probe().limits.cpu != Enforced::Action {
        return;
    }
    // A fifth of one: what takes 300 ms of it cannot be over before one and a half seconds, less a period's worth.
    let spin = "perl -e '1 while (times)[0] < 0.3'";
    let demand = Demand { millicpus: 200, memory_bytes: 0 };
    let done = with_demand(&rig, &command(spin, &[]), demand).await;
    let metadata = done.result().execution_metadata.as_ref().unwrap();
    let took = metadata.virtual_execution_duration.unwrap();
    assert!(took.seconds * 1000 + i64::from(took.nanos) / 1_000_000 >= 1000, "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gigabyte_of_standard_output_is_kept_whole() {
    const BYTES: i64 = 1 << 30;
    let rig = Rig::new(Mode::Namespaces).await;
    let done = rig.run(Tree::default(), &command(&format!("head -c {BYTES} /dev/zero"), &[])).await;
    assert_eq!((done.code(), done.result().exit_code), (0, 0), "{}", done.error());
    assert_eq!(done.result().stdout_digest.as_ref().unwrap().size_bytes, BYTES);
    rig.is_clean().await;
    assert_eq!(rig.stdout_of(Tree::default(), "echo fine").await, "fine\n");
}
