//! Two roads over one near tier: what this node owns goes one way, what others own another.

use bbb_digest::{Digest, InstanceName};
use tempfile::TempDir;

use crate::{ActionResult, DiskSettings, Wanted, WriteBackSettings, conformance};

use super::{
    super::*,
    rig::{Remote, far_of, until},
    write_back::until_written,
};

/// A node that owns what has an even hash, with a far tier for each road.
struct Node {
    tiered: Tiered,
    own: Arc<Remote>,
    others: Arc<Remote>,
    group: TaskGroup,
    _dir: TempDir,
}

fn is_own(digest: &Digest) -> bool {
    digest.hash()[0].is_multiple_of(2)
}

impl Node {
    async fn new(write_back: Option<WriteBackSettings>) -> Self {
        let (dir, group) = (TempDir::new().unwrap(), TaskGroup::new("tiers"));
        let near = Disk::open(DiskSettings::new(dir.path(), 1 << 30), &group).unwrap();
        let (own, others) = (Remote::new(), Remote::new());
        let far = far_of(&others);
        let mut tiered = Tiered::new(&TieredSettings::default(), &near, far_of(&own), &group)
            .with_others(64 << 20, is_own, move |name, _| far(name), &group);
        if let Some(settings) = write_back {
            tiered = tiered.with_write_back(settings, &group).await.unwrap();
        }
        Self { tiered, own, others, group, _dir: dir }
    }

    fn cas(&self) -> Arc<dyn Cas> {
        self.tiered.cas(&InstanceName::default())
    }

    fn results(&self) -> Arc<dyn ActionCache> {
        self.tiered.action_cache(&InstanceName::default())
    }

    /// Writes a blob that goes the own road, or the other one.
    async fn put(&self, goes_own: bool) -> Digest {
        loop {
            let bytes = conformance::data(5_000);
            let digest = Digest::of(bbb_digest::Function::Sha256, &bytes);
            if is_own(&digest) == goes_own {
                self.cas().put(digest, bytes.into()).await.unwrap();
                return digest;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_digest_takes_its_road() {
    let node = Node::new(None).await;
    let (own, other) = (node.put(true).await, node.put(false).await);
    assert!(node.own.has(own) && !node.others.has(own));
    assert!(node.others.has(other) && !node.own.has(other));
    // Near is one: both are read without asking anyone.
    for digest in [own, other] {
        node.cas().get(digest, Wanted::ALL).await.unwrap();
    }
    assert_eq!(node.own.gets() + node.others.gets(), 0);
    let absent: Vec<Digest> =
        (0..20).map(|_| Digest::of(bbb_digest::Function::Sha256, &conformance::data(9))).collect();
    let asked: Vec<Digest> = absent.iter().chain([&own, &other]).copied().collect();
    assert_eq!(node.cas().find_missing(&asked).await.unwrap().len(), absent.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn results_are_kept_fresh_on_the_own_road_alone() {
    let node = Node::new(None).await;
    let (own, other) = (node.put(true).await, node.put(false).await);
    let answers = async |action, exit_code| {
        let found = node.results().get(action).await.unwrap();
        assert_eq!(found.map(|result| result.exit_code), exit_code);
    };
    for (action, remote) in [(own, &node.own), (other, &node.others)] {
        let result = |exit_code| ActionResult { exit_code, ..ActionResult::default() };
        node.results().put(action, result(1)).await.unwrap();
        answers(action, Some(1)).await;
        remote.set_result(action, result(2));
        answers(action, Some(if action == own { 1 } else { 2 })).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_written_along_its_road() {
    let node = Node::new(Some(WriteBackSettings::default())).await;
    node.own.hold_calls();
    node.others.hold_calls();
    let (own, other) = (node.put(true).await, node.put(false).await);
    node.results()
        .put(own, ActionResult { exit_code: 3, ..ActionResult::default() })
        .await
        .unwrap();
    assert!(node.cas().find_missing(&[own, other]).await.unwrap().is_empty());
    let waiting = node.results().get(own).await.unwrap();
    assert_eq!(waiting.map(|result| result.exit_code), Some(3));
    node.own.let_calls();
    node.others.let_calls();
    until_written(&node.tiered).await;
    until(|| node.own.result(own).is_some()).await;
    assert!(node.own.has(own) && node.others.has(other));
    let peers = node.tiered.for_peers(&InstanceName::default());
    let seen = peers.results.get(own).await.unwrap();
    assert_eq!(seen.map(|result| result.exit_code), Some(3));
    assert_eq!(node.group.shut_down(Duration::from_secs(60)).await, 0);
}
