//! Actions that are incomplete, wrong or mean harm.
//!
//! Those whose clients are wrong are here; what is done by commands is in `cases` and `kernel`, which `trial` runs in every way there is.

mod cases;
mod hogs;
mod kernel;
mod rungs;
mod trial;

use bbb_digest::Digest;
use bbb_reapi::{
    ToProto as _,
    proto::reapi,
    status::{BadRequest, PreconditionFailure},
};
use bbb_sandbox::Mode;
use prost::Message as _;

use crate::rig::{Done, FUNCTION, Rig, Tree, command};

fn subjects(done: &Done) -> Vec<String> {
    assert_eq!(done.code(), 9, "{}", done.error());
    let detail = &done.response.status.as_ref().unwrap().details[0];
    let failure = PreconditionFailure::decode(detail.value.as_slice()).unwrap();
    failure.violations.into_iter().map(|violation| violation.subject).collect()
}

fn wrong_field(done: &Done) -> String {
    assert_eq!(done.code(), 3, "{}", done.error());
    let detail = &done.response.status.as_ref().unwrap().details[0];
    let bad = BadRequest::decode(detail.value.as_slice()).unwrap();
    bad.field_violations[0].field.clone()
}

#[tokio::test]
async fn everything_that_is_missing_is_named() {
    let rig = Rig::new(Mode::Namespaces).await;
    let digest = |content: &[u8]| Digest::of(FUNCTION, content);
    let subject = |digest: Digest| format!("blobs/{digest}");
    let done = rig.execute(rig.task(digest(b"no action"))).await;
    assert_eq!(subjects(&done), [subject(digest(b"no action"))]);

    let mut tree = Tree::default().file("there", b"there");
    for name in ["one", "two"] {
        tree.directory.files.push(Tree::node(name, name.as_bytes()));
    }
    let node = |name: &str| reapi::DirectoryNode {
        name: name.into(),
        digest: Some(digest(b"three").to_proto()),
    };
    let names = |digests: &[Digest]| {
        let mut digests = digests.to_vec();
        digests.sort();
        digests.into_iter().map(subject).collect::<Vec<_>>()
    };
    let done = rig.run(tree.clone(), &command("true", &[])).await;
    assert_eq!(subjects(&done), names(&[digest(b"one"), digest(b"two")]));
    tree.directory.directories.push(node("d"));
    let done = rig.run(tree.clone(), &command("true", &[])).await;
    assert_eq!(subjects(&done), names(&[digest(b"one"), digest(b"two"), digest(b"three")]));
    let action = rig
        .action(tree, &command("true", &[]), |action| {
            action.command_digest = Some(digest(b"no command").to_proto());
        })
        .await;
    let done = rig.execute(rig.task(action)).await;
    let all = [digest(b"one"), digest(b"two"), digest(b"three"), digest(b"no command")];
    assert_eq!(subjects(&done), names(&all));
    rig.is_clean().await;
}

#[tokio::test]
async fn what_can_never_run_is_refused_with_the_field() {
    let rig = Rig::new(Mode::Namespaces).await;
    let done = rig.run(Tree::default(), &reapi::Command::default()).await;
    assert_eq!(wrong_field(&done), "command.arguments");
    let elsewhere = reapi::Command { working_directory: "d".into(), ..command("true", &[]) };
    for tree in
        [Tree::default(), Tree::default().symlink("d", "/etc"), Tree::default().file("d", b"")]
    {
        let done = rig.run(tree, &elsewhere).await;
        assert_eq!(wrong_field(&done), "command.working_directory");
    }
    for name in ["..", "a/b", ""] {
        let done = rig.run(Tree::default().file(name, b"x"), &command("true", &[])).await;
        assert_eq!(wrong_field(&done), "action.input_root_digest.files[0].name");
    }
    let bytes = rig.put(&b"\xff\xff no action"[..]).await;
    assert_eq!(wrong_field(&rig.execute(rig.task(bytes)).await), "action");
}

#[tokio::test]
async fn outputs_cannot_be_led_astray_by_inputs() {
    for rig in Rig::all().await {
        let outside = rig.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        let target = outside.to_str().unwrap();
        for tree in [Tree::default().symlink("d", target), Tree::default().file("d", b"")] {
            for output in ["d/x", "d/x/y"] {
                let done = rig.run(tree.clone(), &command("true", &[output])).await;
                assert_eq!(wrong_field(&done), "command.output_paths");
            }
        }
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    }
}

#[tokio::test]
async fn an_output_behind_a_symlink_to_the_host_is_not_there() {
    for rig in Rig::all().await {
        let secret = rig.path().join("secret");
        std::fs::create_dir(&secret).unwrap();
        std::fs::write(secret.join("x"), "secret").unwrap();
        let script = format!("rmdir d; ln -s {} d", secret.display());
        let done = rig.run(Tree::default(), &command(&script, &["d/x"])).await;
        assert_eq!((done.code(), done.result().exit_code), (0, 0));
        assert!(done.result().output_files.is_empty());
    }
}

#[tokio::test]
async fn a_tree_that_unfolds_without_end_is_refused() {
    let rig = Rig::new(Mode::Namespaces).await;
    let mut digest = rig.put_tree(Tree::default()).await;
    for _ in 0..40 {
        let nodes = ["a", "b"].map(|name| reapi::DirectoryNode {
            name: name.into(),
            digest: Some(digest.to_proto()),
        });
        let directory =
            reapi::Directory { directories: nodes.to_vec(), ..reapi::Directory::default() };
        digest = rig.put(directory.encode_to_vec()).await;
    }
    let action = rig
        .action(Tree::default(), &command("true", &[]), |action| {
            action.input_root_digest = Some(digest.to_proto());
        })
        .await;
    assert_eq!(wrong_field(&rig.execute(rig.task(action)).await), "action.input_root_digest");
}

#[tokio::test]
async fn outputs_nested_without_end_are_refused_and_removed() {
    for rig in Rig::all().await {
        let script = "mkdir d; cd d; i=0; while [ $i -lt 700 ]; do mkdir n; cd n; i=$((i+1)); done";
        let done = rig.run(Tree::default(), &command(script, &["d"])).await;
        assert_eq!((done.code(), done.result().exit_code), (9, 0));
        assert!(done.error().contains("deeper"), "{}", done.error());
        rig.is_clean().await;
    }
}
