//! Tests of this binary once more as somebody else; needs root.

use std::{fs, os::unix::fs::PermissionsExt as _, process::Command};

/// Runs some tests of this binary as a user without privileges, unless this is one already.
pub(crate) fn run_as_nobody(tests: &[&str]) {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"])
        .arg(std::env::current_exe().unwrap())
        .args(tests)
        .env("TMPDIR", folder.path())
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(told.contains("test result: ok"), "{told}");
}

#[test]
fn staging_is_safe_for_a_user_without_privileges() {
    run_as_nobody(&["bases::", "inputs::"]);
}
