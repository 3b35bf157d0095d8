//! The task that introduces those who live and makes the view.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use bbb_lifecycle::Stop;
use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::{
    sync::{mpsc, watch},
    time::{self, Instant, MissedTickBehavior},
};

use super::{INTRODUCTION_TIMEOUT, Live, OwnProperties, admission::Admission};
use crate::{ClusterView, Introduce, IntroduceError, Load, Member, MemberId, Properties};

/// How often the view is replaced at most while nothing but load changes.
const LOAD_EVERY: Duration = Duration::from_secs(1);

/// What a running introduction gives.
type Introduction =
    Pin<Box<dyn Future<Output = (MemberId, Result<Properties, IntroduceError>)> + Send>>;

/// What the task owns.
pub(super) struct Members {
    pub(super) live: watch::Receiver<Arc<Live>>,
    /// What nodes said unasked.
    pub(super) heard: mpsc::Receiver<(MemberId, Properties)>,
    pub(super) is_leaving: watch::Receiver<bool>,
    pub(super) introduce: Arc<dyn Introduce>,
    pub(super) own: OwnProperties,
    pub(super) view: watch::Sender<Arc<ClusterView>>,
    pub(super) start: Instant,
}

impl Members {
    /// Introduces until gossip ends or the node is stopped.
    pub(super) async fn run(mut self, stop: Stop) {
        let mut admission = Admission::default();
        let mut running: FuturesUnordered<Introduction> = FuturesUnordered::new();
        let mut load = time::interval(LOAD_EVERY);
        load.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let due = admission.next_due().map(|due| self.start + due);
            let mut may_be_load_alone = false;
            tokio::select! {
                () = stop.requested() => return,
                changed = self.live.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let live = Arc::clone(&self.live.borrow_and_update());
                    admission.set_live(&live.others, self.start.elapsed());
                }
                Some((id, outcome)) = running.next() => {
                    admission.introduced(&id, outcome, self.start.elapsed(), rand::random());
                }
                Some((id, properties)) = self.heard.recv() => admission.heard(&id, properties, self.start.elapsed()),
                Ok(()) = self.is_leaving.changed() => admission.ask_all(self.start.elapsed()),
                _ = load.tick() => may_be_load_alone = true,
                () = until(due) => {}
            }
            let me = self.me();
            for id in admission.take_due(self.start.elapsed()) {
                running.push(self.introduction(me.clone(), id));
            }
            self.publish(ClusterView::new(me, admission.members()), may_be_load_alone);
        }
    }

    /// This node as others are told.
    fn me(&self) -> Member {
        let mut properties = (self.own)();
        properties.is_leaving |= *self.is_leaving.borrow();
        Member { id: self.live.borrow().me.clone(), properties }
    }

    fn introduction(&self, me: Member, id: MemberId) -> Introduction {
        let introduce = Arc::clone(&self.introduce);
        Box::pin(async move {
            let outcome = time::timeout(INTRODUCTION_TIMEOUT, introduce.introduce(&me, &id)).await;
            let outcome =
                outcome.unwrap_or_else(|elapsed| Err(IntroduceError::Unreachable(elapsed.into())));
            (id, outcome)
        })
    }

    /// Replaces the view if it is another one.
    fn publish(&self, view: ClusterView, may_be_load_alone: bool) {
        self.view.send_if_modified(|known| {
            let is_due = if may_be_load_alone {
                **known != view
            } else {
                differs_in_more_than_load(known, &view)
            };
            if is_due {
                *known = Arc::new(view);
            }
            is_due
        });
    }
}

/// Whether a watcher has to know at once.
fn differs_in_more_than_load(a: &ClusterView, b: &ClusterView) -> bool {
    let without_load = |member: &Member| Member {
        properties: Properties { load: Load::default(), ..member.properties.clone() },
        ..member.clone()
    };
    a.me() != b.me()
        || a.members().len() != b.members().len()
        || a.members()
            .iter()
            .zip(b.members())
            .any(|(a, b)| a != b && without_load(a) != without_load(b))
}

/// Waits for a moment; for ever if there is none.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
