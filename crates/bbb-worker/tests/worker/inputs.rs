//! Every kind of input, and that an action harms nothing but itself.

use std::sync::{Arc, Mutex};

use bbb_digest::Digest;
use bbb_reapi::proto::{protobuf, reapi};
use bbb_sandbox::Mode;
use bbb_scheduler::Staged;
use bbb_worker::{Executor as _, Report, Said};
use tokio::sync::watch;

use crate::rig::{FUNCTION, Rig, Tier, Tree, at, command};

#[tokio::test]
async fn inputs_are_where_and_as_they_were_declared() {
    for rig in Rig::all().await {
        let tree = Tree::default()
            .file("plain", b"p")
            .file("copy", b"p")
            .file("none", b"")
            .executable("run", b"#!/bin/sh\necho ran")
            .symlink("relative", "a/b/deep")
            .symlink("absolute", "/etc/hostname")
            .symlink("dangling", "nowhere")
            .below("empty", Tree::default())
            .below(
                "a",
                Tree::default().below("b", Tree::default().file("deep", b"d").file("p", b"p")),
            );
        let script = "set -e; ./run; cat plain copy none relative a/b/p; echo
            readlink absolute dangling; ls empty | wc -l; stat -c %a plain run none
            cat; env | cut -d= -f1 | sort | tr '\\n' ' '";
        let stdout = rig.stdout_of(tree, script).await;
        let lines: Vec<_> = stdout.lines().collect();
        let expected = ["ran", "ppdp", "/etc/hostname", "nowhere", "0", "444", "555", "444"];
        assert_eq!(lines[..8], expected, "{stdout}");
        // The shell itself adds `PWD`, and `_` in some shells.
        assert!(["PATH PWD ", "PATH PWD _ "].contains(&lines[8]), "{stdout}");
    }
}

#[tokio::test]
async fn node_properties_are_honoured() {
    for rig in Rig::all().await {
        let properties = |mode, seconds| {
            Some(reapi::NodeProperties {
                properties: Vec::new(),
                mtime: at(seconds),
                unix_mode: Some(protobuf::UInt32Value { value: mode }),
            })
        };
        let node =
            reapi::FileNode { node_properties: properties(0o640, 1000), ..Tree::node("f", b"x") };
        let mut below = Tree::default().file("g", b"x");
        below.directory.node_properties = properties(0o750, 2000);
        let tree = Tree::default().with(b"x", node).below("d", below);
        // `d/out/file` makes the worker create a folder below `d`.
        let script = "stat -c '%a %Y' f d; stat -c %a d/g";
        let done = rig.run(tree, &command(script, &["d/out/file"])).await;
        assert_eq!(rig.stdout(&done).await, "640 1000\n750 2000\n444\n");
    }
}

#[tokio::test]
async fn an_action_that_changes_its_inputs_harms_nothing_else() {
    for rig in Rig::all().await {
        let large = vec![b'l'; 100_000];
        let tree = Tree::default()
            .file("small", b"small")
            .file("twin", b"small")
            .file("large", &large)
            .executable("run", b"#!/bin/true\n")
            .below("d", Tree::default().file("inside", b"inside"));
        let script = "set -e; chmod +w small large run d/inside
            for f in small large run d/inside; do echo changed >> $f; done; touch -d @5 large
            cat twin; rm small run; rm -r d; mkdir d; echo mine > d/mine";
        for _ in 0..2 {
            // The second run finds everything as the first one did.
            let done = rig.run(tree.clone(), &command(script, &["large"])).await;
            assert_eq!(done.result().exit_code, 0, "{}", rig.stderr(&done).await);
            assert_eq!(rig.stdout(&done).await, "small");
            let size_bytes = done.result().output_files[0].digest.as_ref().unwrap().size_bytes;
            assert_eq!(size_bytes, 100_008);
        }
        for content in [&b"small"[..], &large, b"#!/bin/true\n", b"inside"] {
            let digest = Digest::of(FUNCTION, content);
            let wire = bbb_reapi::ToProto::to_proto(&digest);
            assert!(rig.get(Some(&wire)).await == content, "{digest}");
        }
        assert_eq!(rig.disk.stats().damaged, 0);
    }
}

#[tokio::test]
async fn output_parents_are_made_but_not_outputs() {
    for rig in Rig::all().await {
        let script = "ls -d a/b a/b/c d e/f; cd a/b && ls | wc -l";
        let done = rig.run(Tree::default(), &command(script, &["a/b/c", "d", "e/f/g"])).await;
        let stdout = rig.stdout(&done).await;
        assert_eq!(stdout, "a/b\ne/f\n0\n");
    }
}

#[tokio::test]
async fn ten_thousand_inputs_are_staged() {
    for rig in Rig::all().await {
        let mut tree = Tree::default();
        for directory in 0..100 {
            let mut below = Tree::default();
            for file in 0..100 {
                below = below.file(&format!("f{file}"), format!("{directory} {file}").as_bytes());
            }
            tree = tree.below(&format!("d{directory}"), below);
        }
        let stdout = rig.stdout_of(tree, "find . -type f | wc -l; cat d*/f* | cksum").await;
        assert!(stdout.starts_with("10000\n"), "{stdout}");
        rig.is_clean().await;
    }
}

#[tokio::test]
async fn actions_do_not_see_each_other() {
    for rig in Rig::all().await {
        let runs = (0..8).map(|number| {
            let rig = &rig;
            async move {
                let tree = Tree::default().file("shared", b"shared").file("mine", &[b'0' + number]);
                let script = "ls | tr '\\n' ' '; cat mine > out; sleep 0.1; ls | wc -l; cat out";
                rig.stdout_of(tree, script).await
            }
        });
        let all = futures::future::join_all(runs).await;
        for (number, stdout) in all.iter().enumerate() {
            assert_eq!(*stdout, format!("mine shared 3\n{number}"));
        }
    }
}

#[tokio::test]
async fn temporary_files_are_of_the_action_alone() {
    let rig = Rig::new(Mode::Namespaces).await;
    let script = "ls /tmp | wc -l; echo x > /tmp/mine; ls /build | wc -l; pwd";
    for _ in 0..2 {
        assert_eq!(rig.stdout_of(Tree::default(), script).await, "0\n0\n/build\n");
    }
    rig.is_clean().await;
}

#[tokio::test]
async fn inputs_that_come_as_streams_or_cannot_be_linked_are_staged() {
    for mode in [Mode::Namespaces, Mode::None] {
        let rig = Rig::over(mode, Tier::Remote, |_| {}).await;
        let mut tree = Tree::default();
        for number in 0..16 {
            let content = format!("{number}\n").repeat(40_000);
            tree = tree
                .file(&format!("f{number:02}"), content.as_bytes())
                .executable(&format!("x{number:02}"), content.as_bytes());
        }
        let script = "cat f* | md5sum; cat x* | md5sum; stat -c %a f* x* | sort | uniq -c";
        let stdout = rig.stdout_of(tree, script).await;
        let lines: Vec<_> = stdout.lines().map(str::trim).collect();
        assert_eq!(lines[0], lines[1]);
        assert_eq!(lines[2..], ["16 444", "16 555"]);
    }
}

#[tokio::test]
async fn what_staging_took_is_measured() {
    for (tier, share) in [(Tier::Disk, 0), (Tier::Remote, 1)] {
        let rig = Rig::over(Mode::Namespaces, tier, |settings| settings.copied_files = 8).await;
        let tree = Tree::default().file("a", &[1; 1000]).file("b", &[2; 500]).file("c", &[1; 1000]);
        let action = rig.action(tree, &command("true", &[]), |_| {}).await;
        let told = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&told);
        let (_turn, has_turn) = watch::channel(true);
        let report = Report::in_turn(move |said| seen.lock().unwrap().push(said), has_turn);
        rig.local.execute(rig.task(action), report).await;
        // A blob counts at each of its places.
        let expected = Staged { needed_bytes: 2500, fetched_bytes: share * 2500 };
        assert!(told.lock().unwrap().contains(&Said::Staged(expected)), "{tier:?}: {told:?}");
    }
}

/// Answered with EXDEV by an overlay whose lower layer has the directory.
#[expect(deprecated, reason = "older clients say it in the command")]
#[tokio::test]
async fn an_action_that_asks_for_plain_files_may_rename_input_directories() {
    let rig = Rig::new(Mode::Namespaces).await;
    let tree = || {
        let files = (0..40).fold(Tree::default(), |tree, at| tree.file(&format!("f{at}"), b"same"));
        Tree::default().below("dir", files)
    };
    // No tool: they copy where a rename fails.
    let rename = "perl -e 'rename(\"dir\", \"moved\") or die' && chmod 666 moved/f0 && echo changed > moved/f0";
    let mut asked = command(rename, &["moved/f39"]);
    asked.platform = crate::rig::platform("staging", "plain");
    for _ in 0..2 {
        let done = rig.run(tree(), &asked).await;
        let stderr = rig.stderr(&done).await;
        assert_eq!((done.code(), stderr.as_str()), (0, ""), "{}", done.error());
        assert_eq!(done.result().output_files.len(), 1);
    }
    // What the store has is as it was.
    assert_eq!(rig.stdout_of(tree(), "cat dir/*; echo").await, "same".repeat(40) + "\n");
}
