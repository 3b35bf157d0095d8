//! Drives the [`Table`]: one task owns it and the stream to the scheduler, everyone else sends to that task.
//!
//! It adds what the table does without: the clock, names, watches, and who the scheduler is. A stream that breaks is made
//! anew, to whoever schedules then; clients meanwhile see operations as they were last known.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use bbb_cluster::{ClusterView, MemberId};
use bbb_lifecycle::Stop;
use bbb_scheduler::{
    DispatchError, HEARTBEAT_EVERY, Ids, OperationId, OperationState, Submission, Watch, Watched,
};
use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{self, Instant},
};

use super::{
    Answer, Counts, Ends, Found, FromScheduler, Question, Reach, ToScheduler, WorkError,
    serving::SILENT_AFTER,
    table::{Effect, Full, Table, TableLimits},
    tag::Tag,
    terms::Terms,
};

/// How many requests wait for the task before their senders do.
pub(super) const INBOX: usize = 1024;

/// How many requests are served, or messages heard, before the other kind has its turn.
const BURST: usize = 64;

/// How long the scheduler may take to open a stream.
pub(super) const OPEN_WITHIN: Duration = Duration::from_secs(3);

/// How long after a stream broke, or was not opened, another try is made; up to as much again is added.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// How long another node may take to say what it knows of an operation.
pub(super) const ASK_WITHIN: Duration = Duration::from_secs(2);

/// How many operations other nodes are asked for at a time; further ones wait.
const MAX_ASKED: usize = 32;

/// How many may wait for one operation that is looked for.
const MAX_SEEKERS: usize = 1024;

/// What is asked of the task.
#[derive(Debug)]
pub(super) enum Request {
    Submit(Submission, Reply<Result<Watch, DispatchError>>),
    Find(OperationId, Seeker),
    Cancel(OperationId, Reply<bool>),
    Forget(OperationId, Reply<bool>),
    /// Another node wants to know.
    Tell(OperationId, Reply<Option<Found>>),
    Count(Reply<Counts>),
}

pub(super) type Reply<T> = oneshot::Sender<T>;

/// Who waits to see an operation.
type Seeker = Reply<Result<Option<Watch>, DispatchError>>;

/// The task's ends of the stream.
type Stream = Ends<ToScheduler, FromScheduler>;

/// How the stream to the scheduler is.
enum Line {
    /// There is none; one is opened then.
    Down { again_at: Instant },
    /// It is being opened.
    Opening(Pin<Box<dyn Future<Output = Result<Stream, WorkError>> + Send>>),
    /// There is one.
    Up { stream: Stream, heard: Instant },
}

/// What happens to the stream.
enum Event {
    Due,
    Opened(Result<Stream, WorkError>),
    HasRoom,
    Heard(Option<FromScheduler>),
}

/// What the node says that accepted an operation, and whether it may still hand it in.
type Asked = Pin<Box<dyn Future<Output = (OperationId, Option<Found>, bool)> + Send>>;

/// What the task owns.
pub(super) struct Accepting {
    table: Table,
    began: Instant,
    states: HashMap<OperationId, watch::Sender<Arc<OperationState>>>,
    watched: Arc<Watched>,
    /// Who waits to see operations of which nothing is known yet.
    seekers: HashMap<OperationId, Vec<Seeker>>,
    to_ask: VecDeque<OperationId>,
    asked: FuturesUnordered<Asked>,
    line: Line,
    /// Whether the last try to open it came to nothing.
    is_missed: bool,
    /// Whom the line leads to.
    scheduler: MemberId,
    /// The names of all nodes that are there.
    names: BTreeSet<Arc<str>>,
    beat: Instant,
    tag: Tag,
    view: watch::Receiver<Arc<ClusterView>>,
    terms: Arc<Terms>,
    reach: Arc<dyn Reach>,
    ids: Arc<dyn Ids>,
}

impl Accepting {
    pub(super) fn new(
        limits: TableLimits,
        view: watch::Receiver<Arc<ClusterView>>,
        terms: Arc<Terms>,
        reach: Arc<dyn Reach>,
        ids: Arc<dyn Ids>,
    ) -> Self {
        let (began, seen) = (Instant::now(), Arc::clone(&view.borrow()));
        Self {
            table: Table::new(limits),
            began,
            states: HashMap::new(),
            watched: Arc::default(),
            seekers: HashMap::new(),
            to_ask: VecDeque::new(),
            asked: FuturesUnordered::new(),
            line: Line::Down { again_at: began },
            is_missed: false,
            scheduler: seen.scheduler().id.clone(),
            names: names(&seen),
            beat: began,
            tag: Tag::of_node(&seen.me().name),
            view,
            terms,
            reach,
            ids,
        }
    }

    pub(super) async fn run(mut self, mut requests: mpsc::Receiver<Request>, stop: Stop) {
        loop {
            let (has_something_to_say, deadline) =
                (self.table.has_something_to_say(), self.deadline());
            tokio::select! {
                biased;
                () = stop.requested() => return,
                changed = self.view.changed() => match changed {
                    Ok(()) => self.look_around(),
                    Err(_) => return,
                },
                event = self.line.next(has_something_to_say) => {
                    self.happened(event);
                    // Both have their turns.
                    for _ in 0..BURST {
                        let Ok(request) = requests.try_recv() else { break };
                        self.serve(request);
                    }
                }
                Some((id, found, may_hand_in)) = self.asked.next(), if !self.asked.is_empty() => {
                    let now = self.now();
                    self.table.answered(now, id, found, may_hand_in);
                }
                request = requests.recv() => match request {
                    Some(request) => self.serve(request),
                    None => return,
                },
                () = time::sleep_until(deadline) => {}
            }
            if Instant::now() >= self.deadline() {
                self.tick();
            }
            self.apply();
        }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// When the task has to do something by itself.
    fn deadline(&self) -> Instant {
        match self.table.next_deadline() {
            Some(at) => self.beat.min(self.began + at),
            None => self.beat,
        }
    }

    /// The view has changed.
    fn look_around(&mut self) {
        let view = Arc::clone(&self.view.borrow_and_update());
        self.names = names(&view);
        let scheduler = &view.scheduler().id;
        if self.scheduler != *scheduler {
            tracing::debug!(node = %scheduler.name, "operations go to another scheduler");
            self.scheduler = scheduler.clone();
            self.hang_up(Instant::now());
        }
    }

    /// There is no stream any more; another one is opened then.
    fn hang_up(&mut self, again_at: Instant) {
        self.line = Line::Down { again_at };
        self.table.disconnected();
    }

    fn soon(&self) -> Instant {
        let spread = AGAIN_AFTER.as_millis().max(1);
        let jitter = Duration::from_millis((self.ids.operation().0 % spread) as u64);
        Instant::now() + AGAIN_AFTER + jitter
    }

    fn happened(&mut self, event: Event) {
        match event {
            Event::Due => self.open(),
            Event::Opened(Ok(stream)) => {
                self.line = Line::Up { stream, heard: Instant::now() };
                self.is_missed = false;
                let now = self.now();
                self.table.connected(now);
            }
            Event::Opened(Err(error)) => {
                if !std::mem::replace(&mut self.is_missed, true) {
                    let node = &self.scheduler.name;
                    let error = &error as &dyn std::error::Error;
                    tracing::debug!(%node, error, "no scheduler; it is tried again and again");
                }
                self.hang_up(self.soon());
            }
            Event::HasRoom => self.say(),
            Event::Heard(Some(message)) => self.hear(message),
            Event::Heard(None) => self.hang_up(self.soon()),
        }
    }

    fn open(&mut self) {
        let is_here = *self.view.borrow().me() == self.scheduler;
        let opening: Pin<Box<dyn Future<Output = _> + Send>> = if is_here {
            let terms = Arc::clone(&self.terms);
            Box::pin(async move { terms.operations() })
        } else {
            let node = self.reach.to(&self.scheduler);
            Box::pin(async move {
                let opened = time::timeout(OPEN_WITHIN, node.operations()).await;
                opened.unwrap_or_else(|late| Err(WorkError::Unreachable(late.into())))
            })
        };
        self.line = Line::Opening(opening);
    }

    /// Says what there is to say, as far as there is room.
    fn say(&mut self) {
        let Line::Up { stream, .. } = &self.line else { return };
        for _ in 0..BURST {
            let Ok(permit) = stream.to.try_reserve() else { return };
            let names = &self.names;
            let Some(message) = self.table.next_message(|name| names.contains(name)) else {
                return;
            };
            permit.send(message);
        }
    }

    /// Takes note of what the scheduler says, and of more that came meanwhile.
    fn hear(&mut self, message: FromScheduler) {
        let now = self.now();
        self.table.heard(now, message);
        let Line::Up { stream, heard } = &mut self.line else { return };
        *heard = Instant::now();
        for _ in 0..BURST {
            let Ok(message) = stream.from.try_recv() else { return };
            self.table.heard(now, message);
        }
    }

    /// A reply that nobody waits for any more is dropped, and with it a watch in it.
    fn serve(&mut self, request: Request) {
        match request {
            Request::Submit(submission, reply) => drop(reply.send(self.submit(submission))),
            Request::Find(id, reply) => self.find(id, reply),
            Request::Cancel(id, reply) => drop(reply.send(self.table.cancel(id))),
            Request::Forget(id, reply) => drop(reply.send(self.table.forget(id))),
            Request::Tell(id, reply) => drop(reply.send(self.table.found(id))),
            Request::Count(reply) => drop(reply.send(self.table.counts())),
        }
    }

    fn submit(&mut self, submission: Submission) -> Result<Watch, DispatchError> {
        let id = self.tag.name(self.ids.operation());
        let id = self.table.accept(self.ids.wall(), id, submission).map_err(full)?;
        self.apply();
        self.watch(id).ok_or(DispatchError::Stopped)
    }

    fn find(&mut self, id: OperationId, reply: Seeker) {
        let now = self.now();
        match self.table.look(now, id) {
            Err(error) => drop(reply.send(Err(full(error)))),
            Ok(()) => match self.watch(id) {
                Some(watch) => drop(reply.send(Ok(Some(watch)))),
                None => {
                    let seekers = self.seekers.entry(id).or_default();
                    match seekers.len() < MAX_SEEKERS {
                        true => seekers.push(reply),
                        false => drop(reply.send(Err(full(Full("too many look for it"))))),
                    }
                }
            },
        }
    }

    fn watch(&self, id: OperationId) -> Option<Watch> {
        Some(Watch::new(self.states.get(&id)?.subscribe(), &self.watched))
    }

    fn tick(&mut self) {
        let (now, at) = (self.now(), Instant::now());
        for id in self.watched.take_dropped() {
            if self.states.get(&id).is_some_and(|states| states.receiver_count() == 0) {
                self.table.unwatched(now, id);
            }
        }
        self.table.tick(now);
        if at < self.beat {
            return;
        }
        self.beat = at + HEARTBEAT_EVERY;
        let Line::Up { stream, heard } = &self.line else { return };
        if heard.elapsed() > SILENT_AFTER {
            tracing::debug!(node = %self.scheduler.name, "the scheduler is not heard any more");
            self.hang_up(at);
        } else {
            // A full channel says as much.
            let _ = stream.to.try_send(ToScheduler::Alive);
        }
    }

    /// Does what the table decided.
    fn apply(&mut self) {
        for effect in self.table.take_effects() {
            match effect {
                Effect::Publish(state) => self.publish(state),
                Effect::Forget(id) => {
                    self.states.remove(&id);
                    for seeker in self.seekers.remove(&id).unwrap_or_default() {
                        let _ = seeker.send(Ok(None));
                    }
                }
                Effect::GiveUp(id) => {
                    for seeker in self.seekers.remove(&id).unwrap_or_default() {
                        let _ = seeker.send(Err(DispatchError::Stopped));
                    }
                }
                Effect::Ask(id) => self.to_ask.push_back(id),
            }
        }
        while self.asked.len() < MAX_ASKED
            && let Some(id) = self.to_ask.pop_front()
        {
            self.ask(id);
        }
    }

    fn publish(&mut self, state: Arc<OperationState>) {
        let id = state.id;
        match self.states.get(&id) {
            Some(states) => drop(states.send_replace(state)),
            None => drop(self.states.insert(id, watch::Sender::new(state))),
        }
        for seeker in self.seekers.remove(&id).unwrap_or_default() {
            let _ = seeker.send(Ok(self.watch(id)));
        }
    }

    /// Asks the node that accepted an operation.
    fn ask(&self, id: OperationId) {
        let accepting = accepted_by(&self.view.borrow(), id).map(|node| self.reach.to(node));
        let asked: Asked = match accepting {
            Some(node) => Box::pin(async move {
                let answer = time::timeout(ASK_WITHIN, node.ask(Question::Find(id))).await;
                match answer {
                    // One that does not know it was started again since.
                    Ok(Ok(Answer::Found(found))) => {
                        let may_hand_in = found.is_some();
                        (id, found, may_hand_in)
                    }
                    _ => (id, None, true),
                }
            }),
            None => Box::pin(std::future::ready((id, None, false))),
        };
        self.asked.push(asked);
    }
}

impl Line {
    /// What happens next. Nothing is lost when this is dropped.
    async fn next(&mut self, has_something_to_say: bool) -> Event {
        match self {
            Self::Down { again_at } => {
                time::sleep_until(*again_at).await;
                Event::Due
            }
            Self::Opening(opening) => Event::Opened(opening.await),
            Self::Up { stream: Ends { to, from }, .. } => tokio::select! {
                biased;
                permit = to.reserve(), if has_something_to_say => match permit {
                    Ok(_) => Event::HasRoom,
                    Err(_) => Event::Heard(None),
                },
                message = from.recv() => Event::Heard(message),
            },
        }
    }
}

/// The other member that accepted an operation, if it is there.
pub(super) fn accepted_by(view: &ClusterView, id: OperationId) -> Option<&MemberId> {
    let tag = Tag::of_operation(id);
    let mut others = view.others().map(|member| &member.id);
    others.find(|node| Tag::of_node(&node.name) == tag)
}

fn names(view: &ClusterView) -> BTreeSet<Arc<str>> {
    view.members().iter().map(|member| Arc::clone(&member.id.name)).collect()
}

fn full(Full(what): Full) -> DispatchError {
    DispatchError::Full(what.to_owned())
}
