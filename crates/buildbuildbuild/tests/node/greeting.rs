//! What a node says of how it runs actions, in each kind of sandbox.

use crate::rig::{Node, User, files};

fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Whether this is root, so that a node can be somebody else; says so if not.
fn is_root(test: &str) -> bool {
    if user() != 0 {
        println!("not tried, for it needs root: {test}");
    }
    user() == 0
}

/// The lines on actions, of which there are as many as promised.
fn told(node: &Node) -> [&str; 4] {
    let begins = ["actions run ", "memory", "inputs are ", "actions work in "];
    begins.map(|begin| match begin {
        "memory" => node
            .greeting
            .iter()
            .find(|line| line.contains("memory") && line.contains("limited"))
            .unwrap(),
        begin => node.line(begin),
    })
}

#[tokio::test]
async fn namespaces_are_found_and_said() {
    for flag in ["--sandbox=auto", "--sandbox=namespaces"] {
        let node = Node::start(&[flag]).await;
        let [walls, limits, inputs, folders] = told(&node);
        let whom = match user() {
            0 => "as a user who owns nothing here (1879049192)".to_owned(),
            user => format!("as the node's own user ({user})"),
        };
        let line = "actions run in namespaces of their own, behind a filter of system calls, ";
        assert_eq!(walls, format!("{line}{whom}"));
        assert!(
            limits.contains("cgroup v") || limits.contains("(no control groups can be made here)"),
            "{limits}"
        );
        assert!(limits.ends_with("; no network but for those that ask (network=on)"), "{limits}");
        assert_eq!(
            inputs,
            "inputs are seen through overlays, above trees of hard links that actions share"
        );
        assert_eq!(folders, format!("actions work in {}", node.actions().display()));
        let done = node
            .run(&files([("in", "input\n")]), "cat in; id -u; cat /proc/net/dev | grep -c :")
            .await;
        assert_eq!((done.code, &*done.stdout), (0, "input\n1000\n1\n"), "{done:?}");
    }
}

#[tokio::test]
async fn no_sandbox_is_said_with_what_it_means() {
    let node = Node::start(&["--sandbox=none"]).await;
    let [walls, limits, inputs, _] = told(&node);
    let whom = match user() {
        0 => "root".to_owned(),
        user => format!("the node's own user ({user})"),
    };
    let line = format!(
        "actions run without a sandbox (--sandbox=none), as {whom}, and reach all that the node reaches"
    );
    assert_eq!(walls, line);
    assert!(limits.ends_with("; the machine's network is there for all"), "{limits}");
    assert!(inputs.starts_with("inputs are copies"), "{inputs}");
    assert!(inputs.contains("; no overlays: there are no namespaces to mount them in"), "{inputs}");
    let done = node.run(&files([("in", "input\n")]), "cat in; id -u").await;
    assert_eq!(done.stdout, format!("input\n{}\n", user()));
}

#[tokio::test]
async fn a_user_without_privileges_is_named() {
    if !is_root("a_user_without_privileges_is_named") {
        return;
    }
    let node = Node::start_as(User::Nobody, &[]).await;
    let [walls, limits, inputs, _] = told(&node);
    assert!(walls.ends_with("filter of system calls, as the node's own user (65534)"), "{walls}");
    assert!(limits.contains("processes"), "{limits}");
    assert!(inputs.starts_with("inputs are seen through overlays"), "{inputs}");
    let done = node.run(&files([("in", "input\n")]), "cat in; id -u").await;
    assert_eq!(done.stdout, "input\n1000\n");
}

#[tokio::test]
async fn where_namespaces_are_forbidden_auto_says_why_there_are_none() {
    if !is_root("where_namespaces_are_forbidden_auto_says_why_there_are_none") {
        return;
    }
    // In a user namespace that may have no other below it.
    let forbid = "echo 0 >/proc/sys/user/max_user_namespaces && exec \"$0\" \"$@\"";
    let line = [
        "unshare",
        "--user",
        "--map-root-user",
        "sh",
        "-ec",
        forbid,
        env!("CARGO_BIN_EXE_buildbuildbuild"),
    ];
    let node = Node::start_by(&line, tempfile::tempdir().unwrap(), &["--sandbox=auto"]).await;
    let [walls, _, inputs, _] = told(&node);
    let begin = "actions run without a sandbox, as root, and reach all that the node reaches; namespaces do not work here: ";
    assert!(walls.starts_with(begin), "{walls}");
    assert!(walls.len() > begin.len() + 10, "{walls}");
    assert!(inputs.starts_with("inputs are copies; no overlays: "), "{inputs}");
    let done = node.run(&files([("in", "input\n")]), "cat in").await;
    assert_eq!(done.stdout, "input\n");
}

#[tokio::test]
async fn on_a_file_system_without_overlays_as_in_a_container_inputs_are_copies() {
    if !is_root("on_a_file_system_without_overlays_as_in_a_container_inputs_are_copies") {
        return;
    }
    // The store is on an overlay, above which there can be no other. The mount goes with its namespace.
    let script = "cd \"$STORE\"; mkdir a b c store; mount -t overlay -o lowerdir=a,upperdir=b,workdir=c overlay store; exec \"$0\" \"$@\"";
    let folder = tempfile::tempdir().unwrap();
    let store = format!("STORE={}", folder.path().display());
    let line = [
        "env",
        &store,
        "unshare",
        "--mount",
        "sh",
        "-ec",
        script,
        env!("CARGO_BIN_EXE_buildbuildbuild"),
    ];
    let node = Node::start_by(&line, folder, &["--sandbox=namespaces"]).await;
    let [walls, _, inputs, _] = told(&node);
    assert!(walls.contains(", as root without its powers; actions are the host's root"), "{walls}");
    assert!(inputs.starts_with("inputs are copies"), "{inputs}");
    assert!(
        inputs.contains("; no overlays: cannot mount the overlay of the exec root: "),
        "{inputs}"
    );
    let inputs = files([("in", "input\n"), ("dir/a", "a\n"), ("dir/b", "b\n")]);
    let harm = "chmod -R u+w .; echo harm >>in; mv dir d; ln in link; echo harm >>link; exec 4<>d/a; rm d/a; echo harm >&4; cat in d/b";
    let done = node.run(&inputs, harm).await;
    assert_eq!((&*done.stdout, &*done.stderr), ("input\nharm\nharm\nb\n", ""), "{done:?}");
    let done = node.run(&inputs, "cat in dir/a dir/b; stat -c %a in").await;
    assert_eq!((done.code, &*done.stdout), (0, "input\na\nb\n444\n"), "{done:?}");
}

#[tokio::test]
async fn what_was_asked_for_is_said_back() {
    let node = Node::start(&[
        "--sandbox_network",
        "--sandbox_folder=/var/lib/dpkg",
        "--no_cleanup_execroot=fail",
    ])
    .await;
    let [_, limits, _, folders] = told(&node);
    assert!(
        limits.ends_with("; the machine's network is there for all (--sandbox_network)"),
        "{limits}"
    );
    let at = node.actions().display().to_string();
    let line = format!(
        "actions work in {at}; those of failed ones are kept in {at}/kept; they see /var/lib/dpkg too"
    );
    assert_eq!(folders, line);
}
