//! Drives the core in this process: one task owns it, everyone else sends to that task.
//!
//! It adds what the core does without: the clock, names for operations, channels and watches, and a heartbeat for the
//! workers. It decides nothing.

use std::{collections::BTreeMap, fmt, pin::Pin, sync::Arc, time::Duration};

use async_trait::async_trait;
use bbb_lifecycle::{Stop, TaskGroup};
use futures::{
    StreamExt as _,
    stream::{self, BoxStream, SelectAll},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{self, Instant, Sleep},
};
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    Dispatch, DispatchError, Filter, FromWorker, Holding, Ids, Listing, OperationId,
    OperationState, OwnIds, Page, Snapshot, Stage, StageKind, Submission, ToWorker, Watch, Watched,
    WorkerLink, WorkerOffer,
    core::{Core, Effect, Limits, Now, WorkerId},
    link::HEARTBEAT_EVERY,
};

/// How many requests wait for the driver before their senders do.
const INBOX: usize = 1024;

/// How often the core is ticked when nothing else happens.
const TICK_EVERY: Duration = Duration::from_secs(1);

/// How much a worker may have left unread and still be told that this scheduler lives.
const UNREAD_GREETINGS: usize = 2;

/// The largest page of a list.
const MAX_PAGE: usize = 1000;

/// How many operations are looked at for one page.
const MAX_SCANNED: usize = 20_000;

/// The scheduler of this process.
pub struct Scheduler {
    inbox: mpsc::Sender<Request>,
}

enum Request {
    Submit(Submission, Reply<Result<Watch, DispatchError>>),
    Find(OperationId, Reply<Option<Watch>>),
    List(Filter, Page, Reply<Listing>),
    Cancel(OperationId, Reply<()>),
    Forget(OperationId, Reply<()>),
    Attach(WorkerOffer, Vec<Holding>, Reply<Result<WorkerLink, DispatchError>>),
    Snapshot(Reply<Snapshot>),
}

type Reply<T> = oneshot::Sender<T>;

impl Scheduler {
    /// Starts a scheduler as a task of `group`. When the group stops, all links and watches end.
    pub fn start(group: &TaskGroup, limits: Limits) -> Arc<Self> {
        Self::start_with(group, limits, Arc::new(OwnIds))
    }

    /// Like [`Scheduler::start`], with names and the time of day from elsewhere: with the same ones, a paused clock and
    /// one thread, the same happens each time.
    pub fn start_with(group: &TaskGroup, limits: Limits, ids: Arc<dyn Ids>) -> Arc<Self> {
        let (inbox, requests) = mpsc::channel(INBOX);
        let driver = Driver::new(limits, ids);
        group.spawn("scheduler", driver.run(requests, group.stop()));
        Arc::new(Self { inbox })
    }

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, DispatchError> {
        let (reply, answer) = oneshot::channel();
        self.inbox.send(request(reply)).await.map_err(|_| DispatchError::Stopped)?;
        answer.await.map_err(|_| DispatchError::Stopped)
    }
}

#[async_trait]
impl Dispatch for Scheduler {
    async fn submit(&self, submission: Submission) -> Result<Watch, DispatchError> {
        self.ask(|reply| Request::Submit(submission, reply)).await?
    }

    async fn find(&self, id: OperationId) -> Result<Option<Watch>, DispatchError> {
        self.ask(|reply| Request::Find(id, reply)).await
    }

    async fn list(&self, filter: Filter, page: Page) -> Result<Listing, DispatchError> {
        self.ask(|reply| Request::List(filter, page, reply)).await
    }

    async fn cancel(&self, id: OperationId) -> Result<(), DispatchError> {
        self.ask(|reply| Request::Cancel(id, reply)).await
    }

    async fn forget(&self, id: OperationId) -> Result<(), DispatchError> {
        self.ask(|reply| Request::Forget(id, reply)).await
    }

    async fn attach(
        &self,
        offer: WorkerOffer,
        holdings: Vec<Holding>,
    ) -> Result<WorkerLink, DispatchError> {
        self.ask(|reply| Request::Attach(offer, holdings, reply)).await?
    }

    async fn snapshot(&self) -> Result<Snapshot, DispatchError> {
        self.ask(Request::Snapshot).await
    }
}

impl fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scheduler").finish_non_exhaustive()
    }
}

/// What one worker says, and none at its end.
type Report = (WorkerId, Option<FromWorker>);

struct Driver {
    core: Core,
    ids: Arc<dyn Ids>,
    began: Instant,
    ticked: Instant,
    /// When workers were last told that this scheduler lives.
    greeted: Instant,
    states: BTreeMap<OperationId, watch::Sender<Arc<OperationState>>>,
    watched: Arc<Watched>,
    orders: BTreeMap<WorkerId, mpsc::Sender<ToWorker>>,
    reports: SelectAll<BoxStream<'static, Report>>,
    last_worker: u64,
}

impl Driver {
    fn new(limits: Limits, ids: Arc<dyn Ids>) -> Self {
        let began = Instant::now();
        Self {
            core: Core::new(limits),
            ids,
            began,
            ticked: began,
            greeted: began,
            states: BTreeMap::new(),
            watched: Arc::default(),
            orders: BTreeMap::new(),
            reports: SelectAll::new(),
            last_worker: 0,
        }
    }

    async fn run(mut self, mut requests: mpsc::Receiver<Request>, stop: Stop) {
        let mut alarm = Box::pin(time::sleep_until(self.deadline()));
        loop {
            // What workers say comes before what is asked: it is bounded by what they were given, and it frees slots.
            tokio::select! {
                biased;
                () = stop.requested() => return,
                Some((id, report)) = self.reports.next(), if !self.reports.is_empty() => {
                    self.hear(id, report);
                }
                request = requests.recv() => match request {
                    Some(request) => self.serve(request),
                    None => return,
                },
                () = &mut alarm => {}
            }
            self.apply();
            if Instant::now() >= self.deadline() {
                self.tick();
                self.apply();
            }
            self.rewind(&mut alarm);
        }
    }

    /// When the core is to be ticked.
    fn deadline(&self) -> Instant {
        let idle = (self.ticked + TICK_EVERY).min(self.greeted + HEARTBEAT_EVERY);
        match self.core.next_deadline() {
            Some(at) => idle.min(self.began + at),
            None => idle,
        }
    }

    /// Moves the alarm, where it is not early enough already.
    fn rewind(&self, alarm: &mut Pin<Box<Sleep>>) {
        let deadline = self.deadline();
        if alarm.is_elapsed() || alarm.deadline() > deadline {
            alarm.as_mut().reset(deadline);
        }
    }

    fn tick(&mut self) {
        self.ticked = Instant::now();
        let now = self.now();
        for id in self.watched.take_dropped() {
            if self.states.get(&id).is_some_and(|states| states.receiver_count() == 0) {
                self.core.watched(now, id, false);
            }
        }
        self.core.tick(now);
        if self.greeted + HEARTBEAT_EVERY <= self.ticked {
            self.greeted = self.ticked;
            self.greet();
        }
    }

    /// Tells all workers that this scheduler lives, but for those that have not read what they were told before: the
    /// rest of the room belongs to the leases.
    fn greet(&self) {
        for orders in self.orders.values() {
            if orders.max_capacity() - orders.capacity() < UNREAD_GREETINGS {
                // One that has left is found where it matters.
                let _ = orders.try_send(ToWorker::Alive);
            }
        }
    }

    fn now(&self) -> Now {
        Now { since_start: self.began.elapsed(), wall: self.ids.wall() }
    }

    fn hear(&mut self, id: WorkerId, report: Option<FromWorker>) {
        match report {
            Some(report) => self.core.hear(self.now(), id, report),
            None => {
                self.orders.remove(&id);
                self.core.leave_worker(self.now(), id);
            }
        }
    }

    /// A reply that nobody waits for any more is dropped, and with it a watch or link in it.
    fn serve(&mut self, request: Request) {
        let now = self.now();
        match request {
            Request::Submit(submission, reply) => drop(reply.send(self.submit(now, submission))),
            Request::Find(id, reply) => {
                self.core.watched(now, id, true);
                drop(reply.send(self.watch(id)));
            }
            Request::List(filter, page, reply) => drop(reply.send(self.list(&filter, page))),
            Request::Cancel(id, reply) => {
                self.core.cancel(now, id, "a client asked for it");
                self.apply();
                let _ = reply.send(());
            }
            Request::Forget(id, reply) => {
                self.core.forget(now, id);
                self.apply();
                let _ = reply.send(());
            }
            Request::Attach(offer, holdings, reply) => {
                drop(reply.send(self.attach(now, offer, holdings)));
            }
            Request::Snapshot(reply) => drop(reply.send(self.core.snapshot(now))),
        }
    }

    fn submit(&mut self, now: Now, submission: Submission) -> Result<Watch, DispatchError> {
        let id = (submission.known.as_ref()).map_or_else(|| self.ids.operation(), |known| known.id);
        let id = (self.core.submit(now, id, submission))
            .map_err(|full| DispatchError::Full(full.0.to_owned()))?;
        self.apply();
        self.watch(id).ok_or(DispatchError::Stopped)
    }

    fn watch(&self, id: OperationId) -> Option<Watch> {
        Some(Watch::new(self.states.get(&id)?.subscribe(), &self.watched))
    }

    fn list(&self, filter: &Filter, page: Page) -> Listing {
        let mut listing = Listing::default();
        let size = page.size.clamp(1, MAX_PAGE);
        let from = match page.after {
            Some(after) => (std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded),
            None => (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded),
        };
        for (scanned, (id, states)) in self.states.range(from).enumerate() {
            let state = Arc::clone(&states.borrow());
            let wanted = state.key.instance == filter.instance
                && filter.stage.is_none_or(|stage| stage == kind(&state.stage));
            if wanted {
                listing.operations.push(state);
            }
            if listing.operations.len() >= size || scanned + 1 >= MAX_SCANNED {
                listing.next = Some(*id);
                return listing;
            }
        }
        listing
    }

    fn attach(
        &mut self,
        now: Now,
        offer: WorkerOffer,
        holdings: Vec<Holding>,
    ) -> Result<WorkerLink, DispatchError> {
        let held = u32::try_from(holdings.len()).unwrap_or(u32::MAX);
        let places = offer.slots.saturating_add(offer.prefetch).saturating_add(held);
        let (link, end) = WorkerLink::pair(places);
        self.last_worker += 1;
        let id = WorkerId(self.last_worker);
        tracing::info!(worker = offer.name, slots = offer.slots, holds = held, "worker attached");
        self.core
            .join_worker(now, id, offer, holdings)
            .map_err(|full| DispatchError::Full(full.0.to_owned()))?;
        self.orders.insert(id, end.orders);
        let reports = ReceiverStream::new(end.reports).map(move |report| (id, Some(report)));
        self.reports.push(reports.chain(stream::iter([(id, None)])).boxed());
        Ok(link)
    }

    /// Does what the core decided. A worker that cannot be told has left.
    fn apply(&mut self) {
        loop {
            let mut unheard = Vec::new();
            for effect in self.core.take_effects() {
                match effect {
                    Effect::Tell(id, what) => {
                        let orders = self.orders.get(&id);
                        if orders.is_none_or(|orders| orders.try_send(what).is_err()) {
                            unheard.push(id);
                        }
                    }
                    Effect::Dismiss(id) => drop(self.orders.remove(&id)),
                    Effect::Publish(state) => self.publish(state),
                    Effect::Forget(id) => drop(self.states.remove(&id)),
                }
            }
            if unheard.is_empty() {
                return;
            }
            for id in unheard {
                self.orders.remove(&id);
                self.core.leave_worker(self.now(), id);
            }
        }
    }

    fn publish(&mut self, state: Arc<OperationState>) {
        match self.states.get(&state.id) {
            Some(states) => drop(states.send_replace(state)),
            None => drop(self.states.insert(state.id, watch::Sender::new(state))),
        }
    }
}

fn kind(stage: &Stage) -> StageKind {
    match stage {
        Stage::Queued(_) => StageKind::Queued,
        Stage::Executing { .. } => StageKind::Executing,
        Stage::Completed { .. } => StageKind::Completed,
    }
}

#[cfg(test)]
mod tests;
