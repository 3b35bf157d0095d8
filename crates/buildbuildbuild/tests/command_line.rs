//! The real binary, as far as it goes without running a node.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::process::{Command, Output};

fn run(line: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_buildbuildbuild")).args(line).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn a_wrong_command_line_is_refused_in_one_line() {
    for line in [
        &["--prot=1"][..],
        &["--port=x"],
        &["--bucket=b"],
        &["--port"],
        &["nope"],
        &["sockaddr"],
        &["sockaddr", "a", "b"],
        &["sockaddr", "{{ nope }}"],
    ] {
        let output = run(line);
        assert_eq!(output.status.code(), Some(2), "{line:?}");
        let told = text(&output.stderr);
        assert!(
            told.starts_with("buildbuildbuild: ") && told.lines().count() == 1,
            "{line:?}: {told}"
        );
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn sockaddr_prints_what_a_template_gives() {
    let output = run(&[
        "sockaddr",
        r#"{{ GetAllInterfaces | include "address" "^127.0.0.1/" | attr "mask_bits" }}-x"#,
    ]);
    assert_eq!(text(&output.stdout), "8-x\n");
    assert!(output.status.success());
}

#[test]
fn help_is_no_error() {
    let output = run(&["--help"]);
    assert!(output.status.success() && output.stderr.is_empty());
    assert!(text(&output.stdout).contains("--worker_slots"));
}
