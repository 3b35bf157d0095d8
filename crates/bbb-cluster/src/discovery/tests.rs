use bbb_lifecycle::TaskGroup;

use super::*;
use crate::{Member, Properties};

/// How long somebody may take to be found.
const PATIENCE: Duration = Duration::from_secs(200);

/// A node with its view, and a way to meet that runs.
pub(super) struct Bed {
    pub(super) view: watch::Sender<Arc<ClusterView>>,
    pub(super) found: mpsc::Receiver<SocketAddr>,
    group: TaskGroup,
}

impl Bed {
    /// A node of this name, alone, that meets by `way`.
    pub(super) fn new(me: MemberId, way: impl Discovery + 'static) -> Self {
        let group = TaskGroup::new("bed");
        let (view, found, meeting) = meeting(me, group.stop());
        group.spawn("way", async move { way.run(meeting).await });
        Self { view, found, group }
    }

    /// The next address that was found.
    pub(super) async fn next(&mut self) -> SocketAddr {
        let found = tokio::time::timeout(PATIENCE, self.found.recv()).await;
        found.expect("somebody is found").expect("the way to meet goes on")
    }

    /// Nothing is found for so long.
    pub(super) async fn quiet(&mut self, pause: Duration) {
        if let Ok(found) = tokio::time::timeout(pause, self.found.recv()).await {
            panic!("found {found:?}");
        }
    }

    /// The cluster is this node and `others`.
    pub(super) fn sees(&self, others: impl IntoIterator<Item = MemberId>) {
        let me = self.view.borrow().me().clone();
        self.view
            .send_replace(Arc::new(ClusterView::new(member(me), others.into_iter().map(member))));
    }

    /// This node is another one, and alone.
    pub(super) fn becomes(&self, me: MemberId) {
        self.view.send_replace(Arc::new(ClusterView::new(member(me), [])));
    }

    /// Asks the way to stop and waits until it has.
    pub(super) async fn stop(self) {
        assert_eq!(self.group.shut_down(Duration::from_secs(60)).await, 0);
    }
}

/// What a way needs of a node that is alone, with the other ends.
pub(super) fn meeting(
    me: MemberId,
    stop: Stop,
) -> (watch::Sender<Arc<ClusterView>>, mpsc::Receiver<SocketAddr>, Meeting) {
    let (view, watched) = watch::channel(Arc::new(ClusterView::new(member(me), [])));
    let (offers, found) = mpsc::channel(16);
    (view, found, Meeting::new(watched, offers, stop))
}

/// A node of this name at this gossip address.
pub(super) fn node(name: &str, gossip: &str) -> MemberId {
    let gossip = gossip.parse().unwrap();
    MemberId { name: name.into(), generation: 7, gossip, port: gossip }
}

fn member(id: MemberId) -> Member {
    Member { id, properties: Properties::default() }
}

const SHORT: Duration = Duration::from_secs(2);
const LONG: Duration = Duration::from_secs(60);

/// How long a rest took while the view was changed after a second.
async fn rested(before: bool, after: bool) -> Duration {
    let (me, other) = (node("me", "127.0.0.1:1"), node("other", "127.0.0.1:2"));
    let view = |alone: bool| {
        Arc::new(ClusterView::new(member(me.clone()), (!alone).then(|| member(other.clone()))))
    };
    let (sender, _found, mut meeting) = meeting(me.clone(), Stop::default());
    sender.send_replace(view(before));
    let from = Instant::now();
    let change = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        sender.send_replace(view(after));
    };
    let (rest, ()) = tokio::join!(meeting.rest(SHORT, LONG), change);
    assert!(rest.is_continue());
    from.elapsed()
}

#[tokio::test(start_paused = true)]
async fn rests_short_while_alone_and_long_in_company() {
    for _ in 0..20 {
        let within = |rest: Duration, of: Duration| {
            (of.mul_f64(0.8)..=of.mul_f64(1.2) + Duration::from_millis(1)).contains(&rest)
        };
        assert!(within(rested(true, true).await, SHORT));
        assert!(within(rested(false, false).await, LONG));
        assert!(within(rested(true, false).await, LONG), "company comes");
        assert!(within(rested(false, true).await, SHORT), "company goes");
    }
}

#[tokio::test]
async fn a_rest_ends_with_the_node() {
    let group = TaskGroup::new("test");
    let (_view, _found, mut meeting) = meeting(node("me", "127.0.0.1:1"), group.stop());
    group.shut_down(Duration::ZERO).await;
    assert!(meeting.rest(LONG, LONG).await.is_break());
}
