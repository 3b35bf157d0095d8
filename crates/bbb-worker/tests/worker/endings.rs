//! How actions end, and what is told, cached and left of each.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bbb_reapi::{proto::reapi, to_system_time};
use bbb_sandbox::Mode;
use bbb_scheduler::{Outcome, Progress};
use bbb_worker::{Executor as _, Keep, Report, Settings};
use prost::Message as _;

use crate::rig::{Rig, Tier, Tree, command, platform, until};

#[tokio::test]
async fn a_good_result_is_cached_with_its_story() {
    let rig = Rig::new(Mode::Namespaces).await;
    let done = rig.run(Tree::default(), &command("echo out; echo err >&2", &[])).await;
    assert_eq!(rig.stdout(&done).await, "out\n");
    assert_eq!(rig.stderr(&done).await, "err\n");
    let cached = rig.stores.action_cache.get(done.action).await.unwrap().unwrap();
    assert_eq!(&*cached, done.result());
    let metadata = cached.execution_metadata.as_ref().unwrap();
    assert_eq!(metadata.worker, "worker-1");
    let times = [
        &metadata.queued_timestamp,
        &metadata.worker_start_timestamp,
        &metadata.input_fetch_start_timestamp,
        &metadata.input_fetch_completed_timestamp,
        &metadata.execution_start_timestamp,
        &metadata.execution_completed_timestamp,
        &metadata.output_upload_start_timestamp,
        &metadata.output_upload_completed_timestamp,
        &metadata.worker_completed_timestamp,
    ]
    .map(|time| to_system_time(time.as_ref().unwrap()));
    assert!(times.is_sorted(), "{times:?}");
    assert!(metadata.virtual_execution_duration.is_some());
    let usage = prost_types::Struct::decode(metadata.auxiliary_metadata[0].value.as_slice());
    assert!(usage.unwrap().fields.contains_key("max_rss_bytes"));
    let quiet = rig.run(Tree::default(), &command("true", &[])).await;
    assert_eq!(quiet.result().stdout_digest.as_ref().unwrap().size_bytes, 0);
    assert!(quiet.result().stderr_digest.is_some());
}

#[tokio::test]
async fn a_failure_is_told_with_its_outputs_and_not_cached() {
    for rig in Rig::all().await {
        let done = rig.run(Tree::default(), &command("echo -n x > f; exit 3", &["f"])).await;
        assert_eq!((done.code(), done.result().exit_code), (0, 3));
        assert_eq!(done.result().output_files.len(), 1);
        assert!(!rig.is_cached(&done).await);
        let done = rig.run(Tree::default(), &command("kill -9 $$", &[])).await;
        assert_eq!((done.code(), done.result().exit_code), (0, 137));
        let missing =
            reapi::Command { arguments: vec!["no-such-program".into()], ..command("", &[]) };
        let done = rig.run(Tree::default(), &missing).await;
        assert_eq!((done.code(), done.result().exit_code), (0, 127));
    }
}

#[tokio::test]
async fn what_must_not_be_cached_is_not() {
    let rig = Rig::new(Mode::Namespaces).await;
    let command = command("true", &[]);
    let action = rig.action(Tree::default(), &command, |action| action.do_not_cache = true).await;
    let done = rig.execute(rig.task(action)).await;
    assert_eq!(done.result().exit_code, 0);
    assert!(!rig.is_cached(&done).await);
}

#[tokio::test]
async fn a_timeout_tells_what_there_was() {
    for rig in Rig::all().await {
        let script = "echo -n x > f; echo begun; sleep 100 & sleep 100";
        let action = rig.action(Tree::default(), &command(script, &["f"]), |_| {}).await;
        // A busy machine needs the longer one to begin at all.
        let mut timeouts = [500, 5_000, 15_000].map(Duration::from_millis).into_iter();
        let (timeout, done) = loop {
            let mut task = rig.task(action);
            task.submission.timeout = timeouts.next().unwrap();
            let timeout = task.submission.timeout;
            let begun = Instant::now();
            let done = rig.execute(task).await;
            assert!(begun.elapsed() < timeout + Duration::from_secs(30));
            if !rig.stdout(&done).await.is_empty() {
                break (timeout, done);
            }
        };
        assert_eq!(done.code(), 4);
        assert!(done.error().contains(&format!("{timeout:?}")), "{}", done.error());
        assert_eq!(rig.stdout(&done).await, "begun\n");
        assert_eq!(done.result().output_files.len(), 1);
        assert!(!rig.is_cached(&done).await);
        rig.is_clean().await;
    }
}

#[tokio::test]
async fn a_dropped_task_leaves_nothing() {
    for rig in Rig::all().await {
        let script = format!("sleep 1000 & touch {}; sleep 1000", rig.path().join("x").display());
        let action = rig.action(Tree::default(), &command(&script, &[]), |_| {}).await;
        let running = Arc::new(Mutex::new(false));
        let seen = Arc::clone(&running);
        let report =
            Report::to(move |progress| *seen.lock().unwrap() = progress == Progress::Running);
        let mut execution = Box::pin(rig.local.execute(rig.task(action), report));
        tokio::select! {
            outcome = &mut execution => panic!("{outcome:?}"),
            () = until(|| *running.lock().unwrap()) => {}
        }
        assert_eq!(rig.folders().len(), 1);
        drop(execution);
        rig.is_clean().await;
    }
}

#[tokio::test]
async fn exec_roots_are_kept_on_request() {
    let rig = Rig::with(Mode::Namespaces, |settings| settings.keep = Keep::Failed).await;
    let good = rig.run(Tree::default(), &command("true", &[])).await;
    assert_eq!(good.response.message, "");
    let below = Tree::default().file("input", b"i").file("removed", b"r").symlink("l", "input");
    let tree = Tree::default().below("d", below);
    let script = "echo -n x > f; rm d/removed; mkdir -m 500 d/new; exit 1";
    let bad = rig.run(tree, &command(script, &["f"])).await;
    let path = bad.response.message.strip_prefix("exec root kept at ").unwrap();
    until(|| Path::new(path).exists()).await;
    // One folder as the action left it, with the inputs that it shared with others.
    let root = Path::new(path).join("root");
    assert_eq!(std::fs::read(root.join("f")).unwrap(), b"x");
    assert_eq!(std::fs::read(root.join("d/l")).unwrap(), b"i");
    let names = std::fs::read_dir(root.join("d")).unwrap();
    let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["input", "l", "new"]);
    rig.is_clean().await;
}

#[tokio::test]
async fn small_trees_are_copied_and_changed_through_no_action() {
    let rig = Rig::with(Mode::Namespaces, |settings| {
        settings.keep = Keep::All;
        settings.copied_files = 1;
    })
    .await;
    let script = command("chmod 600 input; echo -n x > input", &["input"]);
    for _ in 0..2 {
        let tree = Tree::default().file("input", b"i");
        let done = rig.run(tree, &script).await;
        let path = done.response.message.strip_prefix("exec root kept at ").unwrap();
        until(|| Path::new(path).exists()).await;
        assert_eq!(std::fs::read(Path::new(path).join("root/input")).unwrap(), b"x");
    }
    let tree = Tree::default().file("input", b"i").file("other", b"o");
    let done = rig.run(tree, &command("cat input", &[])).await;
    assert_eq!(rig.stdout(&done).await, "i");
    assert!(!done.response.message.is_empty());
}

#[tokio::test]
async fn platform_properties_steer_the_sandbox() {
    let rig = Rig::new(Mode::Namespaces).await;
    let script = command("pwd", &[]);
    let root = |action: &mut reapi::Action| {
        action.platform = platform("InputRootAbsolutePath", "/some/where");
    };
    let action = rig.action(Tree::default(), &script, root).await;
    let done = rig.execute(rig.task(action)).await;
    assert_eq!(rig.stdout(&done).await, "/some/where\n");
    // Without namespaces that cannot be honoured, which another worker may be able to.
    let rig = Rig::new(Mode::None).await;
    let action = rig.action(Tree::default(), &script, root).await;
    let outcome = rig.local.execute(rig.task(action), Report::to(|_| {})).await;
    assert!(matches!(outcome, Outcome::Failed(reason) if reason.contains("InputRoot")));
}

#[tokio::test]
async fn a_workers_input_root_is_for_actions_that_do_not_ask() {
    let place = |settings: &mut Settings| settings.input_root = Some("/of/worker".into());
    let rig = Rig::with(Mode::Namespaces, place).await;
    assert_eq!(rig.stdout_of(Tree::default(), "pwd").await, "/of/worker\n");
    let asks = |action: &mut reapi::Action| {
        action.platform = platform("InputRootAbsolutePath", "/of/action");
    };
    let action = rig.action(Tree::default(), &command("pwd", &[]), asks).await;
    let done = rig.execute(rig.task(action)).await;
    assert_eq!(rig.stdout(&done).await, "/of/action\n");
}

#[tokio::test]
async fn a_workers_input_root_that_cannot_be_is_refused_at_start() {
    for (mode, point, reason) in [
        (Mode::None, "/", "needs namespaces"),
        (Mode::Namespaces, "/proc/1", "cannot stand there"),
        (Mode::Namespaces, "relative", "cannot stand there"),
    ] {
        let change = |settings: &mut Settings| settings.input_root = Some(point.into());
        let refused = Rig::start(mode, Tier::Disk, change).await.err().unwrap();
        assert!(refused.to_string().contains(reason), "{point}: {refused}");
    }
}

#[tokio::test]
async fn progress_is_reported_in_order() {
    let rig = Rig::new(Mode::Namespaces).await;
    let action = rig.action(Tree::default(), &command("true", &[]), |_| {}).await;
    let told = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&told);
    let report = Report::to(move |progress| seen.lock().unwrap().push(progress));
    rig.local.execute(rig.task(action), report).await;
    let expected = [Progress::Fetching, Progress::Running, Progress::Uploading];
    assert_eq!(*told.lock().unwrap(), expected);
}
