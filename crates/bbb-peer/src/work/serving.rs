//! The scheduler's side of the stream of one node that accepts operations.
//!
//! It holds a watch for each operation that somebody watches there. States that come faster than the node hears them are left
//! out, but for the newest: nothing piles up.

use std::{
    collections::{HashMap, VecDeque},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use bbb_lifecycle::Stop;
use bbb_scheduler::{
    Dispatch as _, DispatchError, HEARTBEAT_EVERY, OperationId, OperationState, Scheduler,
    Submission, Watch,
};
use futures::{
    Stream, StreamExt as _,
    future::{AbortHandle, Abortable},
    stream::{self, FuturesUnordered},
};
use tokio::{
    sync::mpsc,
    time::{self, Instant, MissedTickBehavior},
};

use super::{Ends, FromScheduler, ToScheduler};

/// How many messages may be under way in each direction.
pub(super) const ROOM: usize = 64;

/// How many replies wait for room in the stream, before no further ones are made.
const MAX_REPLIES: usize = 64;

/// Who says nothing for so long is gone: three heartbeats.
pub(super) const SILENT_AFTER: Duration = HEARTBEAT_EVERY.saturating_mul(3);

/// What one node has watched.
struct Serving {
    scheduler: Arc<Scheduler>,
    /// The watches that there are.
    watches: HashMap<OperationId, Watching>,
    replies: VecDeque<FromScheduler>,
}

/// One of its watches.
struct Watching {
    /// What the scheduler calls the operation: work that has many names already gets no further one.
    name: OperationId,
    end: AbortHandle,
}

/// Tells that a watched operation has changed, and goes on.
type Change = Pin<Box<dyn Future<Output = Changed> + Send>>;

/// A change of a watched operation; nothing if it is not watched any more.
type Changed = Option<(OperationId, Watch, Option<Arc<OperationState>>)>;

/// What happens to the stream.
enum Event {
    Said(ToScheduler),
    Gone,
    Changed(Changed),
}

/// Serves one node until it is gone or this one stops to schedule.
pub(super) async fn run(
    scheduler: Arc<Scheduler>,
    ends: Ends<FromScheduler, ToScheduler>,
    stop: Stop,
) {
    let Ends { to, from } = ends;
    let mut serving = Serving { scheduler, watches: HashMap::new(), replies: VecDeque::new() };
    // What never comes keeps the stream of changes open.
    let never: Change = Box::pin(std::future::pending());
    let changes: FuturesUnordered<Change> = [never].into_iter().collect();
    // Both have their turns.
    let mut events = stream::select(said(from), changes.map(Event::Changed));
    let mut beat = time::interval(HEARTBEAT_EVERY);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut heard = Instant::now();
    loop {
        tokio::select! {
            biased;
            () = stop.requested() => return,
            _ = beat.tick() => {
                if heard.elapsed() > SILENT_AFTER {
                    tracing::debug!("a node that hands operations in is not heard any more");
                    return;
                }
                // A full channel says as much.
                let _ = to.try_send(FromScheduler::Alive);
            }
            permit = to.reserve(), if !serving.replies.is_empty() => {
                let Ok(permit) = permit else { return };
                if let Some(reply) = serving.replies.pop_front() {
                    permit.send(reply);
                }
            }
            Some(event) = events.next(), if serving.replies.len() < MAX_REPLIES => {
                let change = match event {
                    Event::Gone => return,
                    Event::Changed(changed) => serving.changed(changed),
                    Event::Said(message) => {
                        heard = Instant::now();
                        match serving.hear(message).await {
                            Ok(change) => change,
                            Err(Stopped) => return,
                        }
                    }
                };
                if let Some(change) = change {
                    events.get_mut().1.get_mut().push(change);
                }
            }
        }
    }
}

/// The scheduler has stopped.
struct Stopped;

impl Serving {
    /// Does what a node asks for. Gives a new watch, if one comes of it.
    async fn hear(&mut self, message: ToScheduler) -> Result<Option<Change>, Stopped> {
        match message {
            ToScheduler::Alive => {}
            ToScheduler::Submit(submission) => return self.submit(*submission).await,
            ToScheduler::Watch(id) => {
                let watch = self.scheduler.find(id).await.map_err(|_| Stopped)?;
                match watch {
                    Some(watch) => return Ok(self.watch(id, watch)),
                    None => self.replies.push_back(FromScheduler::Unknown(id)),
                }
            }
            ToScheduler::Unwatch(id) => {
                if let Some(watch) = self.watches.remove(&id) {
                    watch.end.abort();
                }
            }
            ToScheduler::Cancel(id) => {
                self.scheduler.cancel(self.name(id)).await.map_err(|_| Stopped)?;
            }
            ToScheduler::Forget(id) => {
                self.scheduler.forget(self.name(id)).await.map_err(|_| Stopped)?;
            }
        }
        Ok(None)
    }

    async fn submit(&mut self, submission: Submission) -> Result<Option<Change>, Stopped> {
        // Who hands in without a name can be told nothing.
        let Some(id) = submission.known.as_ref().map(|known| known.id) else { return Ok(None) };
        match self.scheduler.submit(submission).await {
            Ok(watch) => Ok(self.watch(id, watch)),
            Err(DispatchError::Full(why)) => {
                self.replies.push_back(FromScheduler::Refused(id, why));
                Ok(None)
            }
            Err(DispatchError::Stopped) => Err(Stopped),
        }
    }

    /// Tells how an operation stands, and watches it until it has ended.
    fn watch(&mut self, id: OperationId, mut watch: Watch) -> Option<Change> {
        let state = watch.current();
        self.tell(id, watch, state)
    }

    fn tell(
        &mut self,
        id: OperationId,
        watch: Watch,
        state: Arc<OperationState>,
    ) -> Option<Change> {
        let (name, has_ended) = (state.id, state.stage.is_completed());
        self.replies.push_back(FromScheduler::State(id, state));
        if has_ended {
            self.watches.remove(&id);
            return None;
        }
        Some(self.go_on(id, name, watch))
    }

    fn name(&self, id: OperationId) -> OperationId {
        self.watches.get(&id).map_or(id, |watching| watching.name)
    }

    fn go_on(&mut self, id: OperationId, name: OperationId, mut watch: Watch) -> Change {
        let (end, registration) = AbortHandle::new_pair();
        if let Some(before) = self.watches.insert(id, Watching { name, end }) {
            before.end.abort();
        }
        let change = async move {
            let state = watch.changed().await;
            (id, watch, state)
        };
        Box::pin(async move { Abortable::new(change, registration).await.ok() })
    }

    fn changed(&mut self, changed: Changed) -> Option<Change> {
        let (id, watch, state) = changed?;
        let Some(state) = state else {
            self.watches.remove(&id);
            self.replies.push_back(FromScheduler::Unknown(id));
            return None;
        };
        self.tell(id, watch, state)
    }
}

/// What a node says, until it is gone.
fn said(mut from: mpsc::Receiver<ToScheduler>) -> impl Stream<Item = Event> {
    let said = stream::poll_fn(move |context| from.poll_recv(context)).map(Event::Said);
    said.chain(stream::iter([Event::Gone]))
}
