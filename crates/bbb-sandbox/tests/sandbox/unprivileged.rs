//! All tests once more as a user without privileges.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

#[test]
fn all_tests_pass_as_a_user_without_privileges() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"])
        .arg(std::env::current_exe().unwrap())
        .args(["--skip", "all_tests_pass_as_a_user_without_privileges"])
        .env("TMPDIR", folder.path())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(told.contains("test result: ok"), "{told}");
}
