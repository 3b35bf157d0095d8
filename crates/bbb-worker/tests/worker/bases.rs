//! Trees that are staged once for many actions: each action sees its own tree and nothing else, and what is staged for
//! it is what differs.

use std::{fs, path::Path};

use bbb_reapi::{
    proto::{protobuf, reapi},
    status::PreconditionFailure,
};
use bbb_sandbox::Mode;
use bbb_worker::Keep;
use prost::Message as _;

use crate::rig::{Rig, Tree, at, command, until};

/// Tells all that an action can see of its inputs, but the times that nobody set.
const TELL: &str = "find . -printf '%P %y %m %l\\n' | sort
    find . ! -newermt 1970-01-02 -printf '%P %T@\\n' | sort
    find . -type f | sort | xargs -r md5sum
    find . -type d | sort | while read d; do echo $d $(ls -A $d | wc -l); done";

/// A rig whose actions stand on what others staged, and one where each is staged alone.
async fn rigs() -> [Rig; 2] {
    let shared = Rig::with(Mode::Namespaces, |settings| settings.keep = Keep::All).await;
    let alone = Rig::with(Mode::Namespaces, |settings| settings.shared_nodes = u64::MAX).await;
    [shared, alone]
}

/// How many entries of a tree were made for an action alone; its exec root was kept.
async fn made(message: &str) -> usize {
    let path = message.strip_prefix("exec root kept at ").unwrap();
    until(|| Path::new(path).exists()).await;
    count(&Path::new(path).join("lower"))
}

fn count(folder: &Path) -> usize {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .map(|entry| {
            let entry = entry.unwrap();
            let is_directory = entry.file_type().unwrap().is_dir();
            1 + if is_directory { count(&entry.path()) } else { 0 }
        })
        .sum()
}

/// What an action sees of a tree, and how many entries were made for it alone.
async fn seen(rig: &Rig, tree: &Tree) -> (String, usize) {
    let done = rig.run(tree.clone(), &command(TELL, &[])).await;
    let stderr = rig.stderr(&done).await;
    assert_eq!((done.code(), stderr.as_str()), (0, ""), "{}", done.error());
    let made = match done.response.message.as_str() {
        "" => 0,
        message => made(message).await,
    };
    (rig.stdout(&done).await, made)
}

fn properties(mode: u32, seconds: i64) -> Option<reapi::NodeProperties> {
    Some(reapi::NodeProperties {
        properties: Vec::new(),
        mtime: at(seconds),
        unix_mode: Some(protobuf::UInt32Value { value: mode }),
    })
}

/// So many files, enough for what stands beside them to be little.
fn bulk(count: usize) -> Tree {
    (0..count).fold(Tree::default(), |tree, file| {
        tree.file(&format!("f{file}"), format!("{file}").as_bytes())
    })
}

/// A tree with a node of each kind and much that stays as it is.
fn tree() -> Tree {
    let deep = Tree::default().file("x", b"x").below("empty", Tree::default());
    Tree::default()
        .below("bulk", bulk(200))
        .below("deep", Tree::default().below("a", Tree::default().below("b", deep)))
        .below("gone", Tree::default().file("one", b"1").file("two", b"2"))
        .file("file", b"old")
        .executable("run", b"#!/bin/sh")
        .symlink("link", "file")
}

#[tokio::test]
async fn every_kind_of_change_is_seen_and_nothing_else() {
    let [shared, alone] = rigs().await;
    assert_eq!(seen(&shared, &tree()).await, (seen(&alone, &tree()).await.0, 0));
    let with = |change: fn(Tree) -> Tree| change(tree());
    let mut directory_changed = tree();
    directory_changed.directory.node_properties = properties(0o750, 1000);
    let (deep, a) = (Tree::default(), Tree::default());
    let mut b = Tree::default().file("x", b"y").below("empty", Tree::default());
    b.directory.node_properties = properties(0o700, 3000);
    let changed_deep = tree().below("deep", deep.below("a", a.below("b", b)));
    let timed = reapi::FileNode { node_properties: properties(0o640, 5), ..Tree::node("f7", b"7") };
    let mut other_bulk = bulk(200);
    other_bulk.directory.files.retain(|file| file.name != "f7");
    let file_becomes = |node: Tree| {
        let mut tree = tree();
        tree.directory.files.retain(|file| file.name != "file");
        tree.below("file", node)
    };
    let mut link_becomes = tree();
    link_becomes.directory.symlinks.clear();
    // The way to the change counts, and the root does not.
    let cases = [
        ("the same", tree(), 0),
        ("a new file", tree().file("new", b"new"), 1),
        ("a new directory", tree().below("new", bulk(3)), 4),
        ("a changed file below", with(|tree| tree.below("gone", bulk(1))), 4),
        ("a removed file", tree().below("bulk", other_bulk.clone()), 2),
        ("a file with properties", tree().below("bulk", other_bulk.with(b"7", timed)), 2),
        ("a root with properties", directory_changed, 0),
        ("a changed file far below", changed_deep, 4),
        ("a file becomes a directory", file_becomes(bulk(2)), 3),
        ("a symlink becomes a file", link_becomes.clone().file("link", b"file"), 1),
        ("a symlink becomes a directory", link_becomes.clone().below("link", bulk(1)), 2),
        ("a symlink goes", link_becomes.clone(), 1),
        ("a symlink leads elsewhere", link_becomes.symlink("link", "run"), 1),
    ];
    for (name, tree, entries) in cases {
        assert_eq!(seen(&shared, &tree).await, (seen(&alone, &tree).await.0, entries), "{name}");
    }
    let mut directory_becomes = tree();
    for (name, file) in [("gone", "a directory becomes a file"), ("deep", "another")] {
        directory_becomes = directory_becomes.without(name).file(name, file.as_bytes());
        let (told, _) = seen(&alone, &directory_becomes).await;
        assert_eq!(seen(&shared, &directory_becomes).await.0, told, "{file}");
    }
    assert_eq!(shared.trees(), 1);
}

#[tokio::test]
async fn trees_that_change_from_action_to_action_are_seen_as_they_are() {
    let [shared, alone] = rigs().await;
    // A simple generator: the same numbers in each run.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let mut tree = tree();
    let mut made = 0;
    for _ in 0..40 {
        for _ in 0..=random(3) {
            let name = ["file", "run", "link", "deep", "gone", "new"][random(6) as usize];
            tree = tree.without(name);
            let content = random(3).to_string();
            tree = match random(6) {
                0 => tree,
                1 => tree.symlink(name, &content),
                2 => tree.executable(name, content.as_bytes()),
                3 => tree.file(name, content.as_bytes()),
                _ => {
                    let below = bulk(random(4) as usize).file("other", content.as_bytes());
                    let mut below = below.below("d", bulk(random(3) as usize));
                    if content == "1" {
                        below.directory.node_properties = properties(0o711, 1);
                    }
                    tree.below(name, below)
                }
            };
        }
        let (told, entries) = seen(&shared, &tree).await;
        assert_eq!(told, seen(&alone, &tree).await.0);
        made += entries;
    }
    // Of some 220 nodes a few are made for each, and now and then a base nearer to what the tree has become.
    assert!(shared.trees() <= 4 && made < 40 * 30, "{} {made}", shared.trees());
}

#[tokio::test]
async fn one_new_file_of_ten_thousand_is_one_file() {
    let [shared, _] = rigs().await;
    let mut tree = Tree::default();
    for directory in 0..100 {
        let files = (0..100).fold(Tree::default(), |tree, file| {
            tree.file(&format!("f{file}"), format!("{directory} {file}").as_bytes())
        });
        tree = tree.below(&format!("d{directory}"), files);
    }
    let script = command("cat d*/f* | wc -c; cat d7/f7", &[]);
    shared.run(tree.clone(), &script).await;
    let changed = bulk(100).file("new", b"new");
    let done = shared.run(tree.below("d7", changed.without("f7")), &script).await;
    assert_eq!(done.result().exit_code, 1);
    assert!(made(&done.response.message).await <= 102);
    assert_eq!(shared.trees(), 1);
}

#[tokio::test]
async fn inputs_that_are_outputs_are_those_of_the_action() {
    let [shared, alone] = rigs().await;
    seen(&shared, &tree()).await;
    let changed = tree().below("bulk", bulk(199).file("new", b"new").symlink("l", "new"));
    let script = command("rm bulk/f3; echo x > bulk/x; rm -f deep/a/b/x", &["bulk", "deep", "run"]);
    let mut outputs = Vec::new();
    for rig in [&shared, &alone] {
        let result = rig.run(changed.clone(), &script).await.response.result.unwrap();
        outputs.push((result.output_directories, result.output_files));
    }
    assert_eq!(outputs[0].0.len(), 2);
    assert_eq!(outputs[0], outputs[1]);
    assert_eq!(shared.trees(), 1);
}

#[tokio::test]
async fn all_that_is_missing_above_another_tree_is_named() {
    let [shared, _] = rigs().await;
    seen(&shared, &tree()).await;
    let mut changed = tree().file("new", b"new");
    for name in ["one", "two"] {
        changed.directory.files.push(Tree::node(name, name.as_bytes()));
    }
    let done = shared.run(changed.clone(), &command("true", &[])).await;
    assert_eq!(done.code(), 9);
    let detail = &done.response.status.as_ref().unwrap().details[0];
    let failure = PreconditionFailure::decode(detail.value.as_slice()).unwrap();
    assert_eq!(failure.violations.len(), 2, "{failure:?}");
    for content in ["one", "two"] {
        shared.put(content).await;
    }
    assert!(seen(&shared, &changed).await.0.contains("two f 444"));
    assert_eq!(shared.trees(), 1);
}

#[tokio::test]
async fn actions_at_one_time_share_one_tree() {
    let rig = Rig::new(Mode::Namespaces).await;
    let runs = (0..16).map(|number| {
        let tree = tree().file("mine", format!("{}", number % 4).as_bytes());
        let script = "set -e; chmod +w mine; echo changed >> mine; rm -r bulk/f1 gone; chmod 777 deep; sleep 0.1; ls bulk | wc -l; cat mine";
        let rig = &rig;
        async move { rig.stdout_of(tree, script).await }
    });
    for (number, stdout) in futures::future::join_all(runs).await.iter().enumerate() {
        assert_eq!(*stdout, format!("199\n{}changed\n", number % 4));
    }
    assert!(rig.trees() <= 4, "{}", rig.trees());
    rig.is_clean().await;
}

#[tokio::test]
async fn what_an_action_does_to_its_inputs_no_other_sees() {
    let rig = Rig::new(Mode::Namespaces).await;
    let before = rig.stdout_of(tree(), TELL).await;
    let hostile = [
        "echo x >> file || true; chmod 777 file bulk/* deep gone; echo x > file; echo x >> run",
        "truncate -s 0 bulk/f1; truncate -s 100 bulk/f2; : > bulk/f3",
        "rm -rf bulk gone deep; mkdir bulk; echo x > bulk/f1",
        "mv bulk/f1 bulk/f2; mv file bulk/f3; mv run file; ln -sf run link",
        "for f in 1 2 3; do ln bulk/f$f linked$f; chmod 666 linked$f; echo x >> linked$f; done",
        "touch -d @7 bulk/* file run deep gone; touch -h -d @7 link",
        "chown 0:0 file bulk || true; chmod u+s run; setfattr -n user.x -v y file || true",
        "cp --reflink=auto bulk/f1 c; chmod 600 c; cat c bulk/f2 > bulk/f3 || cat c > bulk/f4x",
        "exec 3<> file || exec 3< file; (echo x >&3) 2>&1; exec 4>> /proc/self/fd/3 || true; echo x >&4",
        "python3 -c 'import mmap, os
os.chmod(\"bulk/f100\", 0o600)
f = open(\"bulk/f100\", \"r+b\"); m = mmap.mmap(f.fileno(), 0); m[0] = 65; m.flush()
g = os.open(\"bulk/f101\", os.O_RDONLY); os.fchmod(g, 0o777)
h = open(f\"/proc/self/fd/{g}\", \"r+b\"); h.write(b\"x\"); h.truncate(1)'",
        "mkdir -p gone/more/d; rm gone/one; mknod gone/two2 p; rmdir deep/a/b/empty; mv deep other",
    ];
    for script in hostile {
        rig.run(tree(), &command(script, &[])).await;
        assert_eq!(rig.stdout_of(tree(), TELL).await, before, "{script}");
        // Above another layer, too.
        let other = || tree().file("new", b"n").without("link");
        let seen = rig.stdout_of(other(), TELL).await;
        rig.run(other(), &command(script, &[])).await;
        assert_eq!(rig.stdout_of(other(), TELL).await, seen, "{script}");
    }
    assert_eq!((rig.trees(), rig.disk.stats().damaged), (1, 0));
    // What the store has is as it was, too: nothing of it is staged anew here.
    let alone = Rig::with(Mode::Namespaces, |settings| settings.shared_nodes = u64::MAX).await;
    assert_eq!(alone.stdout_of(tree(), TELL).await, before);
}
