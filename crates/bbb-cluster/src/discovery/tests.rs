use std::{error::Error, time::SystemTime};

use bbb_lifecycle::TaskGroup;

use super::*;
use crate::{Member, Properties};

/// A node with its view, and a way to meet that runs.
pub(super) struct Bed {
    pub(super) view: watch::Sender<Arc<ClusterView>>,
    pub(super) found: mpsc::Receiver<SocketAddr>,
    group: TaskGroup,
}

impl Bed {
    /// A node of this name, alone, that meets by `way`.
    pub(super) fn new(me: MemberId, way: impl Discovery + 'static) -> Self {
        let (view, watched) = watch::channel(Arc::new(ClusterView::new(member(me), [])));
        let (offers, found) = mpsc::channel(16);
        let group = TaskGroup::new("bed");
        let meeting = Meeting::new(watched, offers, group.stop());
        group.spawn("way", async move { way.run(meeting).await });
        Self { view, found, group }
    }

    /// The next address that was found.
    pub(super) async fn next(&mut self) -> SocketAddr {
        self.found.recv().await.expect("the way to meet goes on")
    }

    /// Nothing is found for so long.
    pub(super) async fn quiet(&mut self, pause: Duration) {
        if let Ok(found) = tokio::time::timeout(pause, self.next()).await {
            panic!("found {found}");
        }
    }

    /// The cluster is this node and `others`.
    pub(super) fn sees(&self, others: impl IntoIterator<Item = MemberId>) {
        let me = self.view.borrow().me().clone();
        self.view
            .send_replace(Arc::new(ClusterView::new(member(me), others.into_iter().map(member))));
    }

    /// Asks the way to stop and waits until it has.
    pub(super) async fn stop(self) {
        assert_eq!(self.group.shut_down(Duration::from_secs(60)).await, 0);
    }
}

/// A node of this name at this gossip address.
pub(super) fn node(name: &str, gossip: &str) -> MemberId {
    let gossip = gossip.parse().unwrap();
    MemberId { name: name.into(), generation: 7, gossip, port: gossip }
}

fn member(id: MemberId) -> Member {
    Member { id, properties: Properties::default() }
}

/// An envelope that shows whose it is, and keeps nobody out who writes the same.
pub(super) struct Clear(pub(super) &'static str);

impl Envelope for Clear {
    fn seal(&self, _: SystemTime, bytes: &[u8]) -> Vec<u8> {
        [self.0.as_bytes(), bytes].concat()
    }

    fn open(&self, _: SystemTime, sealed: &[u8]) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> {
        Ok(sealed.strip_prefix(self.0.as_bytes()).ok_or("of another cluster")?.to_owned())
    }
}

const SHORT: Duration = Duration::from_secs(2);
const LONG: Duration = Duration::from_secs(60);

/// How long a rest took while the view was changed after a second.
async fn rested(before: bool, after: bool) -> Duration {
    let (me, other) = (node("me", "127.0.0.1:1"), node("other", "127.0.0.1:2"));
    let view = |alone: bool| {
        Arc::new(ClusterView::new(member(me.clone()), (!alone).then(|| member(other.clone()))))
    };
    let (sender, watched) = watch::channel(view(before));
    let (offers, _found) = mpsc::channel(1);
    let mut meeting = Meeting::new(watched, offers, Stop::default());
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
    let (_sender, watched) =
        watch::channel(Arc::new(ClusterView::new(member(node("me", "127.0.0.1:1")), [])));
    let (offers, _found) = mpsc::channel(1);
    let mut meeting = Meeting::new(watched, offers, group.stop());
    group.shut_down(Duration::ZERO).await;
    assert!(meeting.rest(LONG, LONG).await.is_break());
}
