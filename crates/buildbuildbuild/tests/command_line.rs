//! The real binary, as far as it goes without a client.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Command, Output, Stdio},
};

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
        &["--region=eu-west-1"],
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

#[test]
fn a_fresh_folder_does_not_cost_the_sandbox() {
    let folder = tempfile::tempdir().unwrap();
    let mut node = Command::new(env!("CARGO_BIN_EXE_buildbuildbuild"))
        .args(["--listen=127.0.0.1", "--port=0", "--autojoin_udp=false", "--worker_slots=1"])
        .arg(format!("--cache_dir={}", folder.path().join("new").display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(node.stdout.take().unwrap()).lines().map_while(Result::ok);
    let greeting: Vec<_> =
        lines.by_ref().take_while(|line| !line.starts_with("listens on")).collect();
    node.kill().unwrap();
    let mut log = String::new();
    node.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    node.wait().unwrap();
    let walls = greeting.iter().find(|line| line.starts_with("actions run"));
    assert!(walls.is_some_and(|line| !line.contains("No such file")), "{greeting:?} {log}");
    assert!(!log.contains("No such file"), "{log}");
}
