//! The house: every crate stands on a floor, and an arrow between two points to a lower one only.
//!
//! The floors are those of `ARCHITECTURE.md`. A new crate must be given one here.

#![expect(clippy::expect_used, reason = "a test")]

use std::{collections::BTreeMap, process::Command};

use serde_json::Value;

const FLOORS: [(&str, u8); 17] = [
    ("bbb-digest", 0),
    ("bbb-lifecycle", 0),
    ("bbb-sandbox", 0),
    ("bbb-sockaddr", 0),
    ("bbb-cluster", 1),
    ("bbb-reapi", 1),
    ("bbb-scheduler", 1),
    ("bbb-storage", 2),
    ("bbb-asset", 3),
    ("bbb-peer", 3),
    ("bbb-worker", 3),
    ("bbb-grpc", 4),
    ("bbb-bench", 4),
    ("bbb-trial", 4),
    ("bbb-sim", 5),
    ("bbb-fuzz", 5),
    ("buildbuildbuild", 5),
];

/// Outside crates that a room must not know, with the reason.
const UNKNOWN_TO: [(&str, &[&str], &str); 6] = [
    ("bbb-asset", &["tonic"], "RPC stops at the doors; only stored messages go lower"),
    ("bbb-cluster", &["tonic", "prost"], "membership speaks by gossip; calls are bbb-peer's"),
    ("bbb-digest", &["tokio"], "digests are values; nothing in them waits"),
    ("bbb-scheduler", &["tonic", "prost"], "a result is bytes to the scheduler"),
    ("bbb-storage", &["tonic"], "RPC stops at the doors; only stored messages go lower"),
    ("bbb-worker", &["tonic"], "RPC stops at the doors; only stored messages go lower"),
];

#[test]
fn arrows_point_down() {
    let floors = BTreeMap::from(FLOORS);
    let crates = dependencies();
    let mut arrows = 0;
    for (name, dependencies) in &crates {
        let floor = floors.get(name.as_str()).unwrap_or_else(|| panic!("{name} has no floor"));
        for dependency in dependencies.iter().filter(|dependency| crates.contains_key(*dependency))
        {
            let below = floors[dependency.as_str()];
            assert!(
                below < *floor,
                "{name} (floor {floor}) depends on {dependency} (floor {below})"
            );
            arrows += 1;
        }
    }
    assert_eq!(crates.len(), floors.len(), "FLOORS names a crate that is gone");
    assert!(arrows > 10, "only {arrows} arrows were seen: cargo metadata was not understood");
}

#[test]
fn rooms_do_not_know_what_they_must_not() {
    let crates = dependencies();
    for (name, unknown, reason) in UNKNOWN_TO {
        for dependency in unknown {
            let known = crates[name].iter().any(|known| known == dependency);
            assert!(!known, "{name} depends on {dependency}, but {reason}");
        }
    }
}

#[test]
fn only_the_sandbox_may_be_unsafe() {
    // What libFuzzer calls from C is in no program of ours.
    for (name, _) in FLOORS.into_iter().filter(|(name, _)| *name != "bbb-fuzz") {
        let path = format!("{}/../{name}/Cargo.toml", env!("CARGO_MANIFEST_DIR"));
        let manifest = std::fs::read_to_string(&path).expect("every crate has a manifest");
        let inherits = manifest.contains("[lints]\nworkspace = true");
        assert_eq!(inherits, name != "bbb-sandbox", "{name} and the workspace's lints");
    }
    let workspace = concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.toml");
    let workspace = std::fs::read_to_string(workspace).expect("the workspace has a manifest");
    assert!(workspace.contains("unsafe_code = \"forbid\""));
}

/// The direct dependencies of every crate of the workspace, those for tests left out.
fn dependencies() -> BTreeMap<String, Vec<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version=1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("metadata is JSON");
    let name = |value: &Value| value["name"].as_str().expect("has a name").to_owned();
    let packages = metadata["packages"].as_array().expect("has packages");
    let dependencies = |package: &Value| {
        let all = package["dependencies"].as_array().expect("has dependencies");
        all.iter()
            .filter(|dependency| dependency["kind"].as_str() != Some("dev"))
            .map(name)
            .collect()
    };
    packages.iter().map(|package| (name(package), dependencies(package))).collect()
}
