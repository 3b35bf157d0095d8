//! The tests once more as somebody else, or elsewhere. Most need root.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use bbb_sandbox::{Mode, Sandbox as _};

use crate::rig::Rig;

/// What a shell script below says where this machine lets it make no mount.
const CANNOT: i32 = 77;

fn run(command: &mut Command) {
    let output = command.env("RUST_BACKTRACE", "0").output().unwrap();
    if output.status.code() == Some(CANNOT) {
        return;
    }
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(told.contains("test result: ok"), "{told}");
}

#[test]
fn all_tests_pass_as_a_user_without_privileges() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    run(Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"])
        .arg(std::env::current_exe().unwrap())
        .args(["--skip", "unprivileged::"])
        .env("TMPDIR", folder.path()));
}

/// An overlay takes no id-mapped mount and no other overlay on top: the worst that a node that is root meets.
#[test]
fn walls_stand_where_ids_cannot_be_mapped() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for name in ["lower", "upper", "work", "merged"] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
    }
    let script = "cd $0 && mount -t overlay x -o lowerdir=lower,upperdir=upper,workdir=work merged || exit 77; \
                  TMPDIR=$0/merged exec $1 walls::";
    run(Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script])
        .arg(folder.path())
        .arg(std::env::current_exe().unwrap()));
}

/// Runs a script as what containers call root: it is root of user, mount and pid namespaces of its own, and may drop no groups.
fn run_as_root_of_a_container(script: &str, test: &str) {
    let folder = tempfile::tempdir().unwrap();
    run(Command::new("unshare")
        .args([
            "--user",
            "--map-root-user",
            "--mount",
            "--pid",
            "--fork",
            "--mount-proc",
            "sh",
            "-c",
            script,
        ])
        .arg(std::env::current_exe().unwrap())
        .arg(test)
        .env(INSIDE, "1")
        .env("TMPDIR", folder.path()));
}

/// Set for a test that has started itself again.
const INSIDE: &str = "BBB_INSIDE";

#[test]
fn walls_stand_for_the_root_of_a_container() {
    run_as_root_of_a_container("exec $0 $1", "walls::");
}

/// Docker and its like cover parts of /proc, and the kernel then lets nobody in there have a new one.
#[tokio::test]
async fn where_a_container_has_no_proc_to_give_it_is_said() {
    if std::env::var_os(INSIDE).is_none() {
        let cover =
            "mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys || exit 77";
        let name = "where_a_container_has_no_proc_to_give_it_is_said";
        return run_as_root_of_a_container(&format!("{cover}; exec $0 $1"), name);
    }
    let rig = Rig::new(Mode::Auto).await;
    let probe = rig.sandbox.probe();
    assert_eq!(probe.mode, Mode::None);
    assert!(probe.notes.iter().any(|note| note.contains("/proc: parts of")), "{:?}", probe.notes);
    assert_eq!(rig.script("echo fine").await.stdout, "fine\n");
}
