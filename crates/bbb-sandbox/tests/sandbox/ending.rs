//! Nothing of an action lives after its end, whatever the end was.

use std::time::Duration;

use bbb_sandbox::{Error, Mode, Sandbox, Status};

use crate::rig::{Rig, eventually, lives};
use std::sync::Arc;

/// A sleep that can be told from all others.
fn marker(number: u32) -> String {
    format!("98{}{number:03}", std::process::id())
}

#[tokio::test]
async fn what_is_left_behind_dies_with_the_command() {
    for (index, rig) in Rig::all().await.into_iter().enumerate() {
        let marker = marker(index as u32);
        let script = format!(
            "sleep {marker} & (setsid sh -c 'trap \"\" TERM HUP; (sleep {marker} &) ; sleep {marker}' &) & sleep 0.2; exit 3"
        );
        let left = rig.script(&script).await;
        assert_eq!(left.code(), 3, "{}", left.stderr);
        assert!(!lives(&marker));
    }
}

#[tokio::test]
async fn a_timeout_hits_the_whole_tree() {
    for (index, rig) in Rig::all().await.into_iter().enumerate() {
        let marker = marker(10 + index as u32);
        let script = format!(
            "(setsid sh -c 'trap \"\" TERM; sleep {marker}; sleep {marker}' &) ; echo begun; sleep {marker}"
        );
        let left = rig.timed_out(&script, Duration::from_millis(100)).await;
        assert!(left.exit.timed_out);
        assert_eq!(left.exit.status, Status::Signaled(15));
        assert_eq!(left.stdout, "begun\n");
        assert!(left.exit.usage.wall < Duration::from_secs(30), "{:?}", left.exit.usage.wall);
        assert!(!lives(&marker));
    }
}

#[tokio::test]
async fn a_timed_out_command_may_clean_up() {
    for rig in Rig::all().await {
        let script = "trap 'echo cleaned; exit 5' TERM; echo begun; sleep 50 & wait";
        let left = rig.timed_out(script, Duration::from_secs(30)).await;
        assert_eq!(
            (left.exit.timed_out, left.code(), left.stdout.as_str()),
            (true, 5, "begun\ncleaned\n")
        );
    }
}

#[tokio::test]
async fn a_dropped_run_is_killed_and_lets_go_of_its_hold() {
    for (index, rig) in Rig::all().await.into_iter().enumerate() {
        let marker = marker(20 + index as u32);
        let staged = rig.stage();
        let hold = Arc::new(());
        let mut request =
            staged.script(&rig.sandbox, &format!("(setsid sleep {marker} &); sleep {marker}"));
        request.hold = Some(hold.clone());
        let begun = eventually("the command", || lives(&marker));
        tokio::select! {
            _ = rig.sandbox.run(request) => panic!("the command ended"),
            () = begun => {}
        }
        eventually("the end of the hold", || Arc::strong_count(&hold) == 1).await;
        assert!(!lives(&marker));
    }
}

#[tokio::test]
async fn a_lost_launcher_is_an_infrastructure_error_and_comes_back() {
    for (index, rig) in Rig::all().await.into_iter().enumerate() {
        let marker = marker(30 + index as u32);
        let staged = rig.stage();
        let request =
            staged.script(&rig.sandbox, &format!("(setsid sleep {marker} &); sleep {marker}"));
        let launcher = rig.sandbox.launcher_process().await;
        let kill = async {
            eventually("the command", || lives(&marker)).await;
            let pid = rustix::process::Pid::from_raw(launcher as i32).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            std::future::pending::<()>().await;
        };
        let error = tokio::select! {
            outcome = rig.sandbox.run(request) => outcome.unwrap_err(),
            () = kill => unreachable!(),
        };
        assert!(matches!(error, Error::Lost) && error.may_have_happened(), "{error:?}");
        eventually("the end of the orphans", || !lives(&marker)).await;
        assert_eq!(rig.script("echo again").await.stdout, "again\n");
        assert_ne!(rig.sandbox.launcher_process().await, launcher);
    }
}

#[tokio::test]
async fn dropping_the_sandbox_ends_everything() {
    for (index, mode) in [Mode::Namespaces, Mode::None].into_iter().enumerate() {
        let marker = marker(40 + index as u32);
        let rig = Rig::new(mode).await;
        let staged = rig.stage();
        let request =
            staged.script(&rig.sandbox, &format!("(setsid sleep {marker} &); sleep {marker}"));
        tokio::select! {
            _ = rig.sandbox.run(request) => panic!("the command ended"),
            () = eventually("the command", || lives(&marker)) => {}
        }
        drop(rig);
        eventually("the end of the actions", || !lives(&marker)).await;
    }
}

#[tokio::test]
async fn an_action_that_attacks_its_init_harms_itself_only() {
    let rig = Rig::new(Mode::Namespaces).await;
    let left = rig.script("kill -TERM 1; kill -KILL 1; kill -STOP 1; kill -CHLD 1; cat /proc/1/environ; echo alive").await;
    assert_eq!((left.code(), left.stdout.as_str()), (0, "alive\n"), "{}", left.stderr);
    let left = rig.script("kill -KILL -1; echo unreachable").await;
    assert!(left.code() == 137 || left.code() == 0, "{left:?}");
    assert_eq!(rig.script("echo fine").await.stdout, "fine\n");
}
