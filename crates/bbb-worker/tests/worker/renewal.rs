//! Folders that are used again: nothing of one action is there for the next.

use bbb_sandbox::Mode;

use crate::rig::{Rig, Tree, command, until};

/// Leaves something wherever an action can.
const DIRTY: &str = "echo x > made; mkdir -p a/b; echo x > a/b/c; echo x > /tmp/left; \
    mkdir /tmp/a; chmod 700 /tmp; chmod 555 .; echo out; echo err >&2";

/// Shows all that there is.
const LOOK: &str = "stat -c '%n %a %s' . /tmp; ls -A /tmp; ls -A";

async fn rig(copied_files: usize) -> Rig {
    Rig::with(Mode::Namespaces, |settings| {
        settings.copied_files = copied_files;
        settings.spare_folders = 2;
    })
    .await
}

#[tokio::test]
async fn an_action_sees_nothing_of_the_one_before() {
    // With plain exec roots and with overlays.
    for copied_files in [8, 0] {
        let (rig, fresh) = (rig(copied_files).await, rig(copied_files).await);
        let looked = fresh.run(Tree::default(), &command(LOOK, &[])).await;
        let expected = fresh.stdout(&looked).await;
        for _ in 0..3 {
            let tree = Tree::default().file("input", b"i");
            let dirty = rig.run(tree, &command(DIRTY, &["made"])).await;
            assert_eq!(dirty.result().exit_code, 0);
            // Only an emptied folder is taken again; until then another one would be made.
            until(|| rig.folders().iter().all(|folder| !folder.join("root/made").exists())).await;
            let looked = rig.run(Tree::default(), &command(LOOK, &[])).await;
            assert_eq!(rig.stdout(&looked).await, expected);
            assert_eq!(rig.stderr(&looked).await, "");
        }
        // One too many is there for as long as an emptied one is looked over.
        until(|| rig.folders().len() <= 2).await;
    }
}

#[tokio::test]
async fn what_had_a_network_is_not_used_again() {
    let rig = Rig::with(Mode::Namespaces, |settings| {
        settings.spare_folders = 2;
        settings.network = true;
    })
    .await;
    rig.run(Tree::default(), &command("true", &[])).await;
    rig.is_clean().await;
}
