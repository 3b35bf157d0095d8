//! Every kind of output, as clients of API 2.0 and 2.1 declare them.
#![allow(deprecated)]

use bbb_digest::Digest;
use bbb_reapi::ToProto as _;
use bbb_reapi::proto::reapi::{self, command::OutputDirectoryFormat};
use bbb_sandbox::Mode;
use prost::Message as _;

use crate::rig::{FUNCTION, Rig, Tree, command};

fn digest(content: &[u8]) -> Option<reapi::Digest> {
    Some(Digest::of(FUNCTION, content).to_proto())
}

const MAKE_ALL: &str = "set -e
    mkdir -p out/dir/sub out/dir/empty
    echo -n file > out/file; echo -n run > out/run; chmod +x out/run
    echo -n deep > out/dir/sub/deep; ln -s sub/deep out/dir/link
    ln -s file out/relative; ln -s /etc/passwd out/absolute; ln -s nowhere out/dangling
    ln -s dir out/todir";

#[tokio::test]
async fn output_paths_tell_files_directories_and_symlinks_apart() {
    for rig in Rig::all().await {
        let outputs = [
            "out/file",
            "out/run",
            "out/dir",
            "out/relative",
            "out/absolute",
            "out/dangling",
            "out/todir",
            "out/missing",
            "nowhere/at/all",
        ];
        let done = rig.run(Tree::default(), &command(MAKE_ALL, &outputs)).await;
        let result = done.result();
        assert_eq!((done.code(), result.exit_code), (0, 0), "{}", rig.stderr(&done).await);
        let mut files: Vec<_> = (result.output_files.iter())
            .map(|file| (file.path.as_str(), file.digest.clone(), file.is_executable))
            .collect();
        files.sort_by_key(|file| file.0);
        let expected = [("out/file", digest(b"file"), false), ("out/run", digest(b"run"), true)];
        assert_eq!(files, expected);
        let mut symlinks: Vec<_> = (result.output_symlinks.iter())
            .map(|link| (link.path.as_str(), link.target.as_str()))
            .collect();
        symlinks.sort_unstable();
        let expected = [
            ("out/absolute", "/etc/passwd"),
            ("out/dangling", "nowhere"),
            ("out/relative", "file"),
            ("out/todir", "dir"),
        ];
        assert_eq!(symlinks, expected);
        assert!(result.output_file_symlinks.is_empty());
        let [directory] = result.output_directories.as_slice() else { panic!("{result:?}") };
        assert!(directory.is_topologically_sorted && directory.path == "out/dir");
        assert_eq!(directory.root_directory_digest, None);
        let bytes = rig.get(directory.tree_digest.as_ref()).await;
        let tree = reapi::Tree::decode(bytes.as_slice()).unwrap();
        let root = tree.root.unwrap();
        let names: Vec<_> = root.directories.iter().map(|node| node.name.as_str()).collect();
        assert_eq!(names, ["empty", "sub"]);
        assert_eq!(root.symlinks[0].target, "sub/deep");
        assert_eq!(tree.children.len(), 2);
        assert!(rig.is_cached(&done).await);
        assert_eq!(rig.get(digest(b"deep").as_ref()).await, b"deep");
        rig.is_clean().await;
    }
}

fn legacy(script: &str, files: &[&str], directories: &[&str]) -> reapi::Command {
    let owned = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect();
    reapi::Command {
        output_files: owned(files),
        output_directories: owned(directories),
        ..command(script, &[])
    }
}

#[tokio::test]
async fn legacy_outputs_have_fields_of_their_own() {
    let rig = Rig::new(Mode::Namespaces).await;
    let files = ["out/file", "out/relative", "out/absolute", "out/dangling"];
    let done = rig.run(Tree::default(), &legacy(MAKE_ALL, &files, &["out/dir", "out/todir"])).await;
    let result = done.result();
    assert_eq!(done.code(), 0, "{}", done.error());
    assert_eq!(result.output_files.len(), 1);
    assert_eq!(result.output_directories.len(), 1);
    let targets: Vec<_> = result.output_file_symlinks.iter().map(|link| &link.target).collect();
    assert_eq!(targets, ["/etc/passwd", "nowhere", "file"]);
    assert_eq!(result.output_directory_symlinks[0].target, "dir");
    assert!(result.output_symlinks.is_empty());
}

#[tokio::test]
async fn outputs_of_the_wrong_kind_are_refused() {
    let rig = Rig::new(Mode::Namespaces).await;
    for (files, directories) in [
        (&["out/dir"][..], &[][..]),
        (&["out/todir"], &[]),
        (&[], &["out/file"]),
        (&[], &["out/relative"]),
    ] {
        let done = rig.run(Tree::default(), &legacy(MAKE_ALL, files, directories)).await;
        assert_eq!(done.code(), 9, "{files:?} {directories:?}");
        assert!(done.error().contains("declared"), "{}", done.error());
        assert!(!rig.is_cached(&done).await);
    }
}

#[tokio::test]
async fn the_whole_working_directory_can_be_an_output() {
    for rig in Rig::all().await {
        let tree = Tree::default().below("work", Tree::default().file("input", b"i"));
        let command = reapi::Command {
            working_directory: "work".into(),
            ..legacy("echo -n o > output", &[], &[""])
        };
        let done = rig.run(tree, &command).await;
        let [directory] = done.result().output_directories.as_slice() else { panic!() };
        assert_eq!(directory.path, "");
        let bytes = rig.get(directory.tree_digest.as_ref()).await;
        let root = reapi::Tree::decode(bytes.as_slice()).unwrap().root.unwrap();
        let names: Vec<_> = root.files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, ["input", "output"]);
        assert_eq!(root.files[0].digest, digest(b"i"));
    }
}

#[tokio::test]
async fn directories_come_in_the_format_that_is_asked_for() {
    let rig = Rig::new(Mode::Namespaces).await;
    for format in [OutputDirectoryFormat::DirectoryOnly, OutputDirectoryFormat::TreeAndDirectory] {
        let command = reapi::Command {
            output_directory_format: format as i32,
            ..command("mkdir -p d/e; echo x > d/e/f", &["d"])
        };
        let done = rig.run(Tree::default(), &command).await;
        let directory = &done.result().output_directories[0];
        let has_tree = format == OutputDirectoryFormat::TreeAndDirectory;
        assert_eq!(directory.tree_digest.is_some(), has_tree);
        let root = directory.root_directory_digest.as_ref().unwrap();
        let root = bbb_reapi::digest(FUNCTION, root).unwrap();
        assert_eq!(rig.stores.trees.missing(root).await.unwrap(), []);
        assert_eq!(rig.stores.trees.walk(root).await.unwrap().directories.len(), 2);
    }
}

#[tokio::test]
async fn properties_are_told_when_asked_for() {
    for rig in Rig::all().await {
        let command = reapi::Command {
            output_node_properties: vec!["mtime".into(), "unix_mode".into()],
            ..command(
                "mkdir d; echo x > d/f; chmod 640 d/f; touch -d @1234567890 d/f; cp -p d/f f",
                &["d", "f"],
            )
        };
        let done = rig.run(Tree::default(), &command).await;
        let file = &done.result().output_files[0];
        let properties = file.node_properties.as_ref().unwrap();
        assert_eq!(properties.unix_mode.as_ref().unwrap().value, 0o640);
        assert_eq!(properties.mtime.as_ref().unwrap().seconds, 1_234_567_890);
        let bytes = rig.get(done.result().output_directories[0].tree_digest.as_ref()).await;
        let root = reapi::Tree::decode(bytes.as_slice()).unwrap().root.unwrap();
        assert_eq!(root.files[0].node_properties, file.node_properties);
        assert!(root.node_properties.is_some());
    }
}

#[tokio::test]
async fn inputs_are_outputs_too_changed_or_not() {
    for rig in Rig::all().await {
        let tree =
            Tree::default().file("same", b"same").executable("run", b"run").file("gone", b"gone");
        let script =
            "chmod u+w same; cp same other; chmod u+w other; echo -n more >> other; rm gone";
        let done = rig.run(tree, &command(script, &["same", "run", "other", "gone"])).await;
        let mut files: Vec<_> = (done.result().output_files.iter())
            .map(|file| (file.path.as_str(), file.digest.clone(), file.is_executable))
            .collect();
        files.sort_by_key(|file| file.0);
        let expected = [
            ("other", digest(b"samemore"), false),
            ("run", digest(b"run"), true),
            ("same", digest(b"same"), false),
        ];
        assert_eq!(files, expected);
    }
}

#[tokio::test]
async fn what_no_message_can_carry_is_stated() {
    for rig in Rig::all().await {
        let special = "mkdir d; mkfifo d/fifo fifo; echo x > d/f";
        let done = rig.run(Tree::default(), &command(special, &["d", "fifo"])).await;
        assert_eq!(done.code(), 0);
        assert!(done.response.message.contains("d/fifo is a socket, FIFO or device"));
        assert_eq!(done.response.message.lines().count(), 2);
        assert_eq!(done.result().output_directories.len(), 1);
        assert!(done.result().output_files.is_empty());

        let odd = r#"mkdir d; echo x > "d/$(printf '\377')""#;
        let done = rig.run(Tree::default(), &command(odd, &["d"])).await;
        assert_eq!((done.code(), done.result().exit_code), (9, 0));
        assert!(done.error().contains("not UTF-8"), "{}", done.error());
        assert!(!rig.is_cached(&done).await);
    }
}

#[tokio::test]
async fn outputs_that_nobody_may_read_are_read() {
    for rig in Rig::all().await {
        let script = "mkdir d; echo -n x > d/f; chmod 0 d/f d";
        let done = rig.run(Tree::default(), &command(script, &["d"])).await;
        assert_eq!(done.result().output_directories.len(), 1);
        assert_eq!(rig.get(digest(b"x").as_ref()).await, b"x");
        rig.is_clean().await;
    }
}

#[tokio::test]
async fn large_streams_and_many_files_come_whole() {
    let rig = Rig::new(Mode::Namespaces).await;
    let script =
        "head -c 20000000 /dev/zero; mkdir d; cd d; seq 3000 | while read i; do echo $i > $i; done";
    let done = rig.run(Tree::default(), &command(script, &["d"])).await;
    assert_eq!(rig.get(done.result().stdout_digest.as_ref()).await.len(), 20_000_000);
    let bytes = rig.get(done.result().output_directories[0].tree_digest.as_ref()).await;
    assert_eq!(reapi::Tree::decode(bytes.as_slice()).unwrap().root.unwrap().files.len(), 3000);
    assert!(rig.is_cached(&done).await);
}
