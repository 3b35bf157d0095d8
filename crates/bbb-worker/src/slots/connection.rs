//! The worker's connection to whoever schedules: attached, on the way there, or resting before the next try.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use bbb_scheduler::{Dispatch, FromWorker, Holding, ToWorker, WorkerLink, WorkerOffer};
use futures::future::BoxFuture;
use tokio::time::{self, Instant, Sleep};

/// How long the first rest after a failed attempt to attach is; twice as long after each further one.
const FIRST_REST: Duration = Duration::from_millis(50);

/// The longest rest.
const LONGEST_REST: Duration = Duration::from_secs(1);

/// How long one attempt may take: what the worker has changes meanwhile, and the scheduler may have moved.
const ATTACH_WITHIN: Duration = Duration::from_secs(5);

/// A connection that lasted for so long was a good one: the next is asked for at once.
const GOOD_AFTER: Duration = Duration::from_secs(1);

/// A connection, of which there is always some kind.
pub(super) struct Connection {
    dispatch: Arc<dyn Dispatch>,
    offer: WorkerOffer,
    state: State,
    /// How many attempts in a row came to nothing.
    failures: u32,
}

enum State {
    /// Until then the scheduler is left in peace.
    Resting(Pin<Box<Sleep>>),
    Attaching(BoxFuture<'static, Option<WorkerLink>>),
    Attached(WorkerLink, Instant),
}

/// What came over a connection, or became of it.
#[derive(Debug)]
pub(super) enum News {
    /// It is time to [`attach`](Connection::attach).
    Due,
    /// The scheduler has taken the worker on.
    Attached,
    /// The scheduler wants something.
    Order(ToWorker),
    /// The scheduler is gone.
    Lost,
}

impl Connection {
    /// A connection that is due at once.
    pub(super) fn new(dispatch: Arc<dyn Dispatch>, offer: WorkerOffer) -> Self {
        let state = State::Resting(Box::pin(time::sleep(Duration::ZERO)));
        Self { dispatch, offer, state, failures: 0 }
    }

    /// The next news. May be dropped and asked for again; must be polled all the time.
    pub(super) async fn next(&mut self) -> News {
        loop {
            match &mut self.state {
                State::Resting(rest) => {
                    rest.await;
                    return News::Due;
                }
                State::Attaching(attempt) => match attempt.await {
                    Some(link) => {
                        self.state = State::Attached(link, Instant::now());
                        return News::Attached;
                    }
                    None => self.rest(),
                },
                State::Attached(link, since) => match link.order().await {
                    Some(order) => return News::Order(order),
                    None => {
                        let was_good = since.elapsed() >= GOOD_AFTER;
                        self.lose(was_good);
                        return News::Lost;
                    }
                },
            }
        }
    }

    /// Asks the scheduler to take the worker on, with all that it has.
    pub(super) fn attach(&mut self, holdings: Vec<Holding>) {
        let (dispatch, offer) = (Arc::clone(&self.dispatch), self.offer.clone());
        self.state = State::Attaching(Box::pin(async move {
            match time::timeout(ATTACH_WITHIN, dispatch.attach(offer, holdings)).await {
                Ok(Ok(link)) => Some(link),
                Ok(Err(error)) => {
                    tracing::debug!(%error, "worker is not taken on");
                    None
                }
                Err(_) => {
                    tracing::debug!(within = ?ATTACH_WITHIN, "no scheduler answers");
                    None
                }
            }
        }));
    }

    /// Tells the scheduler something. False if it does not hear.
    pub(super) fn report(&self, report: FromWorker) -> bool {
        match &self.state {
            State::Attached(link, _) => link.report(report),
            State::Resting(_) | State::Attaching(_) => false,
        }
    }

    /// Leaves a scheduler that does not hear.
    pub(super) fn hang_up(&mut self) {
        self.lose(false);
    }

    fn lose(&mut self, was_good: bool) {
        match was_good {
            true => {
                self.failures = 0;
                self.state = State::Resting(Box::pin(time::sleep(Duration::ZERO)));
            }
            false => self.rest(),
        }
    }

    fn rest(&mut self) {
        let rest = FIRST_REST.saturating_mul(1 << self.failures.min(16)).min(LONGEST_REST);
        self.failures = self.failures.saturating_add(1);
        let rest = rest.mul_f64(spread(&self.offer.name, self.failures));
        self.state = State::Resting(Box::pin(time::sleep(rest)));
    }
}

/// Between a half and one: workers that lost their scheduler together do not come back together.
fn spread(worker: &str, attempt: u32) -> f64 {
    let mut hasher = DefaultHasher::new();
    (worker, attempt).hash(&mut hasher);
    0.5 + (hasher.finish() % 1024) as f64 / 2048.0
}
