//! Results: what one node was told, every node answers.

use bbb_digest::Digest;
use bbb_storage::ActionResult;

use crate::rig::{Rig, blob};

async fn is(rig: &Rig, node: &str, action: Digest, exit_code: Option<i32>) {
    let found = rig.node(node).results().get(action).await.unwrap();
    assert_eq!(found.map(|result| result.exit_code), exit_code, "on {node}");
}

fn result(exit_code: i32) -> ActionResult {
    ActionResult { exit_code, ..ActionResult::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_node_was_told_every_node_answers_at_once() {
    let rig = Rig::of(&["a", "b", "c"]).await;
    for owner in ["a", "b", "c"] {
        let (action, _) = rig.blob_of(&[owner], 100);
        for name in ["a", "b", "c"] {
            is(&rig, name, action, None).await;
        }
        for (exit_code, writer) in (1..).zip(["a", "b", "c", "a"]) {
            rig.node(writer).results().put(action, result(exit_code)).await.unwrap();
            let before = rig.gets();
            for name in ["c", "a", "b", "c"] {
                is(&rig, name, action, Some(exit_code)).await;
            }
            assert_eq!(rig.gets(), before + 1, "only its owner asks, and once");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_owner_results_go_to_the_bucket() {
    let rig = Rig::of(&["a", "b", "c"]).await;
    let (action, _) = rig.blob_of(&["b"], 100);
    rig.node("a").results().put(action, result(1)).await.unwrap();
    rig.kill("b");
    is(&rig, "a", action, Some(1)).await;
    rig.node("a").results().put(action, result(2)).await.unwrap();
    is(&rig, "c", action, Some(2)).await;
    is(&rig, "a", action, Some(2)).await;
    let (unknown, _) = blob(10);
    is(&rig, "a", unknown, None).await;
}
