//! The tests once more as somebody else, or elsewhere. Both need root.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

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
