//! Hostile commands on each rung of staging, and what each rung needs of a machine.
//!
//! Reflinks need a file system that has them: the test makes one of its own, which takes root, `mkfs.btrfs` or `mkfs.xfs`, and a kernel that
//! mounts it.

use std::{path::Path, process::Command};

use bbb_reapi::{ToProto as _, proto::reapi};
use bbb_sandbox::Mode;
use bbb_worker::Rung;

use super::{
    cases::{CHANGES, REFUSED_CHANGES},
    trial::try_inputs,
};
use crate::rig::{Rig, Tree, command};

/// Tells the child of a test that it is one.
const CHILD: &str = "BBB_WORKER_REFLINKS_TEST";

#[tokio::test(flavor = "multi_thread")]
async fn over_inputs_without_overlays() {
    let rig = Rig::without_overlays().await;
    let ladder = rig.local.ladder();
    let line = ladder.to_string();
    assert!(line.contains("; no overlays: they are not wanted"), "{line}");
    // Only root can have files that are neither its actions' nor anybody else's.
    let is_root = rustix::process::geteuid().is_root();
    match ladder.best() {
        Rung::HardLinks if is_root => {
            try_inputs(rig, REFUSED_CHANGES).await;
        }
        Rung::Copies if !is_root => {
            assert!(
                line.contains("; no hard links: actions are who the files belong to"),
                "{line}"
            );
            try_inputs(rig, CHANGES).await;
        }
        // The file system of the tests has them.
        Rung::Reflinks => try_inputs(rig, CHANGES).await,
        other => panic!("{other:?}: {line}"),
    }
}

/// More links than a file may have on ext4.
#[tokio::test(flavor = "multi_thread")]
async fn a_blob_has_as_many_places_as_a_tree_wants_where_places_are_links() {
    const FOLDERS: usize = 66;
    const FILES: usize = 1000;
    let rig = Rig::without_overlays().await;
    if rig.local.ladder().best() != Rung::HardLinks {
        // Others have the test `bases` for their links.
        println!("not tried: {}", rig.local.ladder());
        return;
    }
    let names = (0..FILES).map(|file| format!("f{file:03}"));
    let mut below = Tree::default();
    below.directory.files.extend(names.map(|name| Tree::node(&name, b"hot\n")));
    rig.put(&b"hot\n"[..]).await;
    let digest = rig.put_tree(below).await;
    let mut tree = Tree::default();
    tree.directory.directories.extend((0..FOLDERS).map(|folder| reapi::DirectoryNode {
        name: format!("d{folder:02}"),
        digest: Some(digest.to_proto()),
    }));
    let script = "find . -type f -exec cat {} + | sort | uniq -c; find . -type f -printf '%m\\n' | sort | uniq -c
        find . -type f -printf '%i\\n' | sort -u | wc -l";
    let done = rig.run(tree, &command(script, &[])).await;
    let said = rig.stdout(&done).await;
    let words: Vec<_> = said.split_whitespace().collect();
    let all = (FOLDERS * FILES).to_string();
    assert_eq!(words[..4], [&all, "hot", &all, "444"], "{}", rig.stderr(&done).await);
    // Links, of as few files as that takes.
    assert!(words[4].parse::<usize>().unwrap() <= 3, "{said}");
    rig.is_clean().await;
}

#[tokio::test]
async fn each_kind_of_sandbox_has_its_rung() {
    let overlays = Rig::new(Mode::Namespaces).await;
    assert_eq!(overlays.local.ladder().best(), Rung::Overlays);
    let bare = Rig::new(Mode::None).await;
    let line = bare.local.ladder().to_string();
    assert!(matches!(bare.local.ladder().best(), Rung::Copies | Rung::Reflinks), "{line}");
    assert!(line.contains("; no overlays: there are no namespaces to mount them in"), "{line}");
}

/// Not a test of its own: what the next one runs where files can share blocks.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by over_inputs_that_share_their_blocks"]
async fn child_with_reflinks() {
    let Some(kind) = std::env::var_os(CHILD) else { return };
    let rig = Rig::without_overlays().await;
    let line = rig.local.ladder().to_string();
    assert_eq!(rig.local.ladder().best(), Rung::Reflinks, "{line}");
    // Large enough not to be kept in memory, so that it is cloned: the store and the folder hold its blocks once.
    let large = vec![7; 32 << 20];
    let script =
        "cmp in copy; chmod u+w in; echo harm | dd of=in conv=notrunc 2>/dev/null; head -c 4 in";
    let done = rig
        .run(Tree::default().file("in", &large).file("copy", &large), &command(script, &[]))
        .await;
    assert_eq!(rig.stdout(&done).await, "harm");
    let free = |path: &Path| {
        rustix::fs::statvfs(path).map(|found| found.f_bavail * found.f_frsize).unwrap()
    };
    rig.is_clean().await;
    rustix::fs::sync();
    let before = free(rig.path());
    let script = "sync -f .; df --output=avail -B1 . | tail -1";
    let done = rig
        .run(Tree::default().file("in", &large).file("copy", &large), &command(script, &[]))
        .await;
    let during: u64 = rig.stdout(&done).await.trim().parse().unwrap();
    assert!(during + (16 << 20) > before, "{kind:?}: {before} bytes were free, then {during}");
    rig.is_clean().await;
    try_inputs(rig, CHANGES).await;
    // Below overlays those that ask for plain files have reflinks, too.
    let rig = Rig::new(Mode::Namespaces).await;
    assert_eq!(rig.local.ladder().best(), Rung::Overlays, "{}", rig.local.ladder());
    try_inputs(rig, CHANGES).await;
    println!("all went well");
}

#[test]
#[ignore = "needs root, and mkfs.btrfs or mkfs.xfs: run by `scripts/test reflinks`"]
fn over_inputs_that_share_their_blocks() {
    let mut tried = 0;
    for make in ["mkfs.btrfs -q", "mkfs.xfs -q -m reflink=1"] {
        let program = make.split(' ').next().unwrap();
        if Command::new(program).arg("--version").output().is_err() {
            println!("not tried: there is no {program}");
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        // The mount goes with the namespace, and the loop device with the mount.
        let script = format!(
            "cd \"$0\"; truncate -s 1G image; {make} image; mkdir on; mount -o loop image on; TMPDIR=\"$0/on\" exec \"$@\""
        );
        let child = Command::new("unshare")
            .args(["--mount", "sh", "-ec", &script])
            .arg(folder.path())
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "hostile::rungs::child_with_reflinks", "--ignored", "--nocapture"])
            .env(CHILD, program)
            .output()
            .unwrap();
        let [told, failed] =
            [child.stdout, child.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
        assert!(told.contains("all went well"), "{program}: {told}\n{failed}");
        tried += 1;
    }
    assert!(tried > 0, "neither mkfs.btrfs nor mkfs.xfs is there");
}
