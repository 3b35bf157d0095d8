//! Processes of tests that are killed while they store things.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use bbb_digest::{Digest, Function};

/// Runs the ignored test `child` in a process of its own, with `dir` in the environment as `variable`, until it
/// has said of `count` digests "stored HASH SIZE", and then kills it: all that it said, which may be more.
pub(crate) fn after(count: usize, child: &str, variable: &str, dir: &Path) -> Vec<Digest> {
    let mut process = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", child, "--ignored", "--nocapture"])
        .env(variable, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let mut acknowledged = Vec::new();
    for line in lines.map_while(Result::ok) {
        // The harness may say something on the same line before.
        let Some((_, stored)) = line.split_once("stored ") else { continue };
        let (hex, size) = stored.split_once(' ').unwrap();
        acknowledged.push(Digest::parse(Function::Sha256, hex, size.parse().unwrap()).unwrap());
        if acknowledged.len() == count {
            // SIGKILL; what is in the pipe already is read to its end.
            process.kill().unwrap();
        }
    }
    process.wait().unwrap();
    acknowledged
}
