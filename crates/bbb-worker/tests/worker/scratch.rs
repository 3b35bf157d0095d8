//! Actions that write more than there is room for, beside others that do not.

use bbb_digest::Digest;
use bbb_reapi::ToProto as _;
use bbb_sandbox::Mode;
use bbb_worker::Keep;

use crate::rig::{Done, FUNCTION, Rig, Tree, command, until};

/// What all together may take on disk.
const LIMIT_BYTES: u64 = 32 << 20;

/// Commands that fill what they can reach, and go on.
const FILLERS: &[(&str, &str)] = &[
    ("files", "i=0; while :; do head -c 8M /dev/zero >f$i; i=$((i+1)); done"),
    ("stdout", "while :; do head -c 8M /dev/zero; done"),
    ("stderr", "while :; do head -c 8M /dev/zero >&2; done"),
    // Last: some file systems find new files slowly after many were removed.
    ("small files", "perl -e 'for (1..1e7) { open F, qq(>f$_) or sleep 1 }'"),
];

async fn rig(mode: Mode) -> Rig {
    Rig::within(LIMIT_BYTES, mode, |settings| settings.keep = Keep::Failed).await
}

async fn action(rig: &Rig, script: &str, outputs: &[&str]) -> Digest {
    let tree = Tree::default().file("input", b"input");
    rig.action(tree, &command(script, outputs), |action| action.do_not_cache = true).await
}

/// Runs a command that goes too far beside one that does not, and looks after both.
async fn fills(rig: &Rig, what: &str, script: &str) -> Done {
    let before = rig.disk.stats().taken_bytes;
    let filler = action(rig, script, &["f0"]).await;
    let neighbour =
        action(rig, "for i in 1 2 3 4; do sleep 0.2; cat input; done >out", &["out"]).await;
    let (filled, beside) =
        tokio::join!(rig.execute(rig.task(filler)), rig.execute(rig.task(neighbour)));
    assert_eq!((beside.code(), beside.result().exit_code), (0, 0), "{what}: {}", beside.error());
    // Its blob may have had to make room since.
    let expected = Digest::of(FUNCTION, b"inputinputinputinput").to_proto();
    assert_eq!(beside.result().output_files[0].digest.as_ref(), Some(&expected), "{what}");
    rig.is_clean().await;
    // What is there more are the actions themselves, and what they printed.
    until(|| rig.disk.stats().taken_bytes <= before + (3 << 20)).await;
    assert_eq!(rig.stdout_of(Tree::default(), "echo fine").await, "fine\n", "{what}");
    filled
}

fn was_ended(done: &Done, what: &str) {
    // It was killed, or began a file that was to become larger than all there may be.
    let code = done.result().exit_code;
    assert!(done.code() == 0 && [137, 153].contains(&code), "{what}: {code} {}", done.error());
    let told = &done.response.message;
    assert!(told.starts_with("ended for what it wrote: the action wrote "), "{what}: {told}");
    assert!(told.contains("its --cache_size is 32.0 MiB"), "{what}: {told}");
    assert!(!told.contains("kept"), "{what}: {told}");
    assert!(done.result().output_files.is_empty(), "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_fills_the_disk_is_ended_and_nobody_else() {
    for mode in [Mode::Namespaces, Mode::None] {
        let rig = rig(mode).await;
        for (what, script) in FILLERS {
            let done = fills(&rig, what, script).await;
            was_ended(&done, what);
            assert!(!rig.is_cached(&done).await);
            let told_bytes = done.result().stdout_digest.as_ref().unwrap().size_bytes;
            assert_eq!(told_bytes, if *what == "stdout" { 1 << 20 } else { 0 }, "{what}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_roots_are_kept_until_their_room_is_needed() {
    for mode in [Mode::Namespaces, Mode::None] {
        let rig = rig(mode).await;
        let fails = async |script: &str| {
            let done = rig.execute(rig.task(action(&rig, script, &[]).await)).await;
            assert_eq!(done.result().exit_code, 1, "{}", done.response.message);
            let path = done.response.message.strip_prefix("exec root kept at ").unwrap();
            let path = std::path::PathBuf::from(path);
            until(|| path.exists()).await;
            path
        };
        let first = fails("head -c 12M /dev/zero >f; exit 1").await;
        assert!(rig.disk.stats().lodged_bytes >= 12 << 20, "it is counted");
        assert_eq!(std::fs::metadata(first.join("root/f")).unwrap().len(), 12 << 20);
        let second = fails("head -c 10M /dev/zero >f; cat input; exit 1").await;
        assert!(first.exists() && second.exists());
        let third = fails("head -c 11M /dev/zero >f; exit 1").await;
        until(|| !first.exists()).await;
        assert!(second.exists() && third.exists());
        rig.is_clean().await;
    }
}
