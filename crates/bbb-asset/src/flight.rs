//! Fetches under way: one for all who want the same, which goes on when nobody waits any more.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use bbb_digest::Digest;
use bbb_lifecycle::TaskGroup;
use tokio::{
    sync::{Semaphore, watch},
    time::{self, Instant},
};

/// How many fetches run at a time, and how many more may wait for their turn.
const MAX_RUNNING: usize = 32;
const MAX_UNDER_WAY: usize = 1024;

/// How old a fetch may be that is joined by somebody whom nothing could be young enough for.
const JOINED_WITHIN: Duration = Duration::from_secs(10);

/// The fetches that are under way on this node.
pub(crate) struct Flights<T> {
    running: Arc<Mutex<HashMap<Digest, Flight<T>>>>,
    turns: Arc<Semaphore>,
    tasks: TaskGroup,
}

#[derive(Clone)]
struct Flight<T> {
    since: SystemTime,
    deadline: Instant,
    outcome: watch::Receiver<Landed<T>>,
}

/// None while it is under way.
type Landed<T> = Option<Result<T, NoOutcome>>;

/// What there is instead of an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoOutcome {
    /// Too many are under way, or so many that its turn did not come in time.
    Busy,
    /// The fetch of somebody else goes on for longer than this one may take.
    Late,
    /// The node stops.
    Stopping,
}

impl<T: Clone + Send + Sync + 'static> Flights<T> {
    pub(crate) fn new(tasks: TaskGroup) -> Self {
        let turns = Arc::new(Semaphore::new(MAX_RUNNING));
        Self { running: Arc::default(), turns, tasks }
    }

    /// The outcome of the fetch that `key` names: of one that is under way if its result is young enough for whoever
    /// takes what is no older than `oldest`, else of the one that `start` begins, if its turn comes before `deadline`.
    ///
    /// Who waits for the fetch of somebody with less time than he has does not end with it.
    pub(crate) async fn join<F>(
        &self,
        key: Digest,
        now: SystemTime,
        oldest: Option<SystemTime>,
        deadline: Instant,
        start: impl FnOnce() -> F,
    ) -> Result<T, NoOutcome>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let (sender, own) = loop {
            let flight = {
                let mut running = lock(&self.running);
                let joined = running.get(&key).filter(|flight| is_young(flight.since, now, oldest));
                match joined {
                    Some(flight) => flight.clone(),
                    None if self.tasks.len() >= MAX_UNDER_WAY => return Err(NoOutcome::Busy),
                    None => {
                        let (sender, outcome) = watch::channel(None);
                        let own = Flight { since: now, deadline, outcome: outcome.clone() };
                        running.insert(key, own);
                        break (sender, outcome);
                    }
                }
            };
            let landed = time::timeout_at(deadline, landed(flight.outcome)).await;
            let is_cut_short = flight.deadline < deadline && flight.deadline <= Instant::now();
            match landed {
                Err(_) => return Err(NoOutcome::Late),
                Ok(Err(NoOutcome::Stopping)) => return Err(NoOutcome::Stopping),
                Ok(_) if is_cut_short => {}
                Ok(outcome) => return outcome,
            }
        };
        let landing = Landing { running: Arc::clone(&self.running), key, own: own.clone() };
        // Not under the lock: a runtime that ends drops the task at once, which takes itself off the table.
        self.spawn(landing, sender, deadline, start());
        landed(own).await
    }

    fn spawn(
        &self,
        landing: Landing<T>,
        sender: watch::Sender<Landed<T>>,
        deadline: Instant,
        work: impl Future<Output = T> + Send + 'static,
    ) {
        let (turns, stop) = (Arc::clone(&self.turns), self.tasks.stop());
        self.tasks.spawn("fetch", async move {
            let fetched = stop.until_requested(async {
                // They are closed by nobody.
                let turn = time::timeout_at(deadline, turns.acquire()).await;
                let _turn = turn.map_err(|_| NoOutcome::Busy)?;
                Ok(work.await)
            });
            let fetched = fetched.await;
            drop(landing);
            sender.send_replace(fetched);
        });
    }
}

async fn landed<T: Clone>(mut outcome: watch::Receiver<Landed<T>>) -> Result<T, NoOutcome> {
    let ended = outcome.wait_for(Option::is_some).await;
    let ended = ended.ok().and_then(|outcome| outcome.clone());
    ended.unwrap_or(Err(NoOutcome::Stopping))
}

fn is_young(since: SystemTime, now: SystemTime, oldest: Option<SystemTime>) -> bool {
    match oldest {
        None => true,
        Some(oldest) if oldest <= now => since >= oldest,
        Some(_) => now.duration_since(since).unwrap_or_default() <= JOINED_WITHIN,
    }
}

fn lock<T>(
    running: &Mutex<HashMap<Digest, Flight<T>>>,
) -> MutexGuard<'_, HashMap<Digest, Flight<T>>> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes a flight off the table when it is over, unless a younger one has its place.
struct Landing<T> {
    running: Arc<Mutex<HashMap<Digest, Flight<T>>>>,
    key: Digest,
    own: watch::Receiver<Landed<T>>,
}

impl<T> Drop for Landing<T> {
    fn drop(&mut self) {
        let mut running = lock(&self.running);
        if running.get(&self.key).is_some_and(|flight| flight.outcome.same_channel(&self.own)) {
            running.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::UNIX_EPOCH,
    };

    use bbb_digest::Function;
    use futures::future::join_all;

    use super::*;

    /// Far off.
    fn later() -> Instant {
        Instant::now() + Duration::from_secs(3600)
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_that_comes_too_late_is_none() {
        let tasks = TaskGroup::new("assets");
        let flights = Flights::<()>::new(tasks.clone());
        let (now, soon) = (SystemTime::now(), Instant::now() + Duration::from_secs(5));
        let join = |number: usize, deadline| {
            let key = Digest::of(Function::Sha256, &number.to_le_bytes());
            flights.join(key, now, None, deadline, std::future::pending)
        };
        let running = join_all((0..MAX_RUNNING).map(|number| join(number, later())));
        let waiting = join(MAX_RUNNING, soon);
        tokio::select! {
            biased;
            _ = running => panic!("they end never"),
            outcome = waiting => assert_eq!(outcome, Err(NoOutcome::Busy)),
        }
        assert_eq!(lock(&flights.running).len(), MAX_RUNNING);
    }

    #[tokio::test(start_paused = true)]
    async fn everybody_has_his_own_time() {
        let tasks = TaskGroup::new("assets");
        let flights = Flights::new(tasks.clone());
        let (key, now) = (Digest::of(Function::Sha256, b"a"), SystemTime::now());
        let begun = Arc::new(AtomicUsize::new(0));
        let after = |seconds| Instant::now() + Duration::from_secs(seconds);
        // Each fetch would take twenty seconds.
        let join = |deadline: Instant| {
            let begun = Arc::clone(&begun);
            flights.join(key, now, None, deadline, move || async move {
                begun.fetch_add(1, Ordering::Relaxed);
                let work = time::timeout_at(deadline, time::sleep(Duration::from_secs(20)));
                work.await.is_ok()
            })
        };
        let (short, long, other) = tokio::join!(join(after(10)), join(after(60)), join(after(60)));
        assert_eq!((short, long, other), (Ok(false), Ok(true), Ok(true)));
        assert_eq!(begun.load(Ordering::Relaxed), 2, "those who have time share the second one");
        let (long, short) = tokio::join!(join(after(60)), join(after(10)));
        assert_eq!((long, short), (Ok(true), Err(NoOutcome::Late)));
    }

    #[tokio::test]
    async fn all_who_want_the_same_share_one() {
        let tasks = TaskGroup::new("assets");
        let flights = Flights::new(tasks.clone());
        let (begun, now) = (Arc::new(AtomicUsize::new(0)), SystemTime::now());
        let join = |key: &'static [u8]| {
            let begun = Arc::clone(&begun);
            flights.join(
                Digest::of(Function::Sha256, key),
                now,
                None,
                later(),
                move || async move {
                    tokio::task::yield_now().await;
                    begun.fetch_add(1, Ordering::Relaxed)
                },
            )
        };
        let outcomes = join_all((0..50).map(|_| join(b"a"))).await;
        assert!(outcomes.iter().all(|outcome| *outcome == Ok(0)), "{outcomes:?}");
        assert_eq!(join(b"a").await, Ok(1), "it had landed");
        let (a, b) = tokio::join!(join(b"a"), join(b"b"));
        assert_ne!(a, b);
        assert!(lock(&flights.running).is_empty());
    }

    #[tokio::test]
    async fn a_fetch_goes_on_without_those_who_wait() {
        let tasks = TaskGroup::new("assets");
        let flights = Arc::new(Flights::new(tasks.clone()));
        let (go, gone) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
        let key = Digest::of(Function::Sha256, b"a");
        {
            let (go, gone) = (Arc::clone(&go), Arc::clone(&gone));
            let work = || async move {
                let _turn = go.acquire().await;
                gone.fetch_add(1, Ordering::Relaxed)
            };
            let joined = flights.join(key, SystemTime::now(), None, later(), work);
            assert!(futures::FutureExt::now_or_never(joined).is_none());
        }
        go.add_permits(1);
        let second = flights.join(key, SystemTime::now(), None, later(), || async { 100 }).await;
        assert_eq!((second, gone.load(Ordering::Relaxed)), (Ok(0), 1));
    }

    #[tokio::test]
    async fn who_waits_is_told_when_the_node_stops() {
        let tasks = TaskGroup::new("assets");
        let flights = Arc::new(Flights::<()>::new(tasks.clone()));
        let key = Digest::of(Function::Sha256, b"a");
        let waits = flights.join(key, SystemTime::now(), None, later(), std::future::pending);
        let (outcome, _) = tokio::join!(waits, tasks.shut_down(Duration::from_secs(5)));
        assert_eq!(outcome, Err(NoOutcome::Stopping));
    }

    #[test]
    fn a_runtime_that_ends_takes_nobody_with_it() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let handle = runtime.handle().clone();
        runtime.shutdown_background();
        let _within = handle.enter();
        let flights = Flights::<()>::new(TaskGroup::new("assets"));
        let key = Digest::of(Function::Sha256, b"a");
        let waits = flights.join(key, SystemTime::now(), None, later(), std::future::pending);
        assert_eq!(futures::executor::block_on(waits), Err(NoOutcome::Stopping));
        assert!(lock(&flights.running).is_empty());
    }

    #[test]
    fn nobody_joins_what_is_too_old_for_him() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        assert!(is_young(at(100), at(900), None));
        assert!(is_young(at(100), at(900), Some(at(100))));
        assert!(!is_young(at(100), at(900), Some(at(101))));
        // A time to come asks for what is as new as can be.
        assert!(is_young(at(890), at(900), Some(at(4500))));
        assert!(!is_young(at(889), at(900), Some(at(4500))));
    }
}
