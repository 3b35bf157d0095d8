//! The suites of the seams, through one node of three.

use std::sync::Arc;

use bbb_storage::conformance;

use crate::rig::Rig;

#[tokio::test(flavor = "multi_thread")]
async fn the_cluster_is_a_store_like_any_other() {
    let rig = Rig::of(&["a", "b", "c"]).await;
    let [one, other] = ["", "a/b"].map(|name| {
        let name = name.parse().unwrap();
        let tiered = &rig.node("b").tiered;
        (tiered.cas(&name), tiered.action_cache(&name))
    });
    conformance::cas(Arc::clone(&one.0)).await;
    conformance::action_cache(Arc::clone(&one.1)).await;
    conformance::walls(one, other).await;
}
