//! The one task that looks at what running actions write, and whoever is watched by it.

use std::{
    collections::HashMap,
    future,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    time::{Duration, Instant},
};

use bbb_lifecycle::{Stop, TaskGroup};
use bbb_storage::{Error as Storage, Lodging};
use tokio::{
    sync::{Notify, oneshot},
    time::{self, MissedTickBehavior},
};

use crate::{
    error::{Error, blocking, chain},
    room::{ROOM_BYTES, Seen},
};

use super::{
    Claim, Excess, Number,
    measure::{Taken, measure},
    pace::{Due, Pace, to_blame},
};

/// How often the file system is looked at while anything runs.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// So many looks' worth of writing is kept free on the file system beside the reserve: until the next look, and until whoever is ended has
/// ended.
const LOOKS_AHEAD: u64 = 2;

/// Nobody is ended for the limit who wrote less than this: it would help nobody.
const LITTLE_BYTES: u64 = ROOM_BYTES;

/// One action is ended at a time: when its folder has been emptied, or this has passed, the next one may be.
const ENDING: Duration = Duration::from_secs(30);

/// Watches what the actions of a worker write.
#[derive(Debug)]
pub(crate) struct Watch(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    /// Where what is written counts.
    lodging: OnceLock<Arc<dyn Lodging>>,
    running: Mutex<Running>,
    /// Someone came.
    came: Notify,
}

#[derive(Debug, Default)]
struct Running {
    all: HashMap<Number, Entry>,
    last: Number,
}

#[derive(Debug)]
struct Entry {
    folder: PathBuf,
    began: Instant,
    claim: Arc<Claim>,
    was_full: bool,
    /// Taken when it is ended.
    end: Option<oneshot::Sender<Excess>>,
}

/// One action whose command runs.
#[derive(Debug)]
pub(crate) struct Watched {
    shared: Arc<Shared>,
    number: Number,
    folder: PathBuf,
    claim: Arc<Claim>,
    ended: oneshot::Receiver<Excess>,
}

impl Watch {
    /// Watches actions whose folders lie in `folder`, as a task of `tasks`.
    pub(crate) fn start(folder: PathBuf, tasks: &TaskGroup) -> Self {
        let shared = Arc::new(Shared {
            folder,
            lodging: OnceLock::new(),
            running: Mutex::default(),
            came: Notify::new(),
        });
        let round = Round { shared: Arc::clone(&shared), pace: Pace::default(), ending: None };
        tasks.spawn("scratch", round.run(tasks.stop()));
        Self(shared)
    }

    /// Has what is written count in the store in whose folder it lies.
    pub(crate) fn count_in(&self, lodging: Arc<dyn Lodging>) {
        // A worker has one store.
        let _ = self.0.lodging.set(lodging);
    }

    /// A command begins to write into the folder of its action.
    pub(crate) fn begin(&self, folder: &Path, claim: Arc<Claim>) -> Watched {
        let (end, ended) = oneshot::channel();
        let entry = Entry {
            folder: folder.to_owned(),
            began: Instant::now(),
            claim: Arc::clone(&claim),
            was_full: false,
            end: Some(end),
        };
        let number = {
            let mut running = self.0.running();
            running.last += 1;
            let number = running.last;
            running.all.insert(number, entry);
            number
        };
        self.0.came.notify_one();
        let (shared, folder) = (Arc::clone(&self.0), folder.to_owned());
        Watched { shared, number, folder, claim, ended }
    }
}

impl Watched {
    /// Resolves when the action is to be ended.
    pub(crate) async fn exceeded(&mut self) -> Excess {
        match (&mut self.ended).await {
            Ok(excess) => excess,
            // Whoever watched is gone.
            Err(_) => future::pending().await,
        }
    }

    /// What the action has taken, if the file system is full or was while it ran; for a command that has ended.
    ///
    /// # Errors
    /// If the folder cannot be looked at.
    pub(crate) async fn found_full(&self) -> Result<Option<Excess>, Error> {
        let seen = Seen::of(&self.shared.folder)?;
        let was_full = self.shared.running().all.get(&self.number).is_some_and(|it| it.was_full);
        if !was_full && !seen.is_full() {
            return Ok(None);
        }
        Ok(Some(Excess { full: Some(seen), ..self.excess().await? }))
    }

    /// What the action has taken, as more than there was room for.
    ///
    /// # Errors
    /// If the folder cannot be looked at.
    pub(crate) async fn excess(&self) -> Result<Excess, Error> {
        let folder = self.folder.clone();
        let taken = blocking("measure the folder of an action", move || {
            measure(&folder).map_err(|error| Error::fault("measure the folder of an action", error))
        })
        .await?;
        let limit_bytes = self.shared.lodging.get().map(|lodging| lodging.limit_bytes());
        Ok(Excess { taken, limit_bytes, full: None })
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.claim.close();
        self.shared.running().all.remove(&self.number);
    }
}

impl Shared {
    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_idle(&self) -> bool {
        self.running().all.is_empty()
    }

    /// How long the oldest runs; none if nobody does.
    fn oldest(&self, now: Instant) -> Option<Duration> {
        let began = self.running().all.values().map(|entry| entry.began).min();
        began.map(|began| now.saturating_duration_since(began))
    }

    fn note_full(&self) {
        self.running().all.values_mut().for_each(|entry| entry.was_full = true);
    }

    /// Those that have run for so long.
    fn older_than(&self, age: Duration) -> Vec<(Number, PathBuf)> {
        let running = self.running();
        let old = running.all.iter().filter(|(_, entry)| entry.began.elapsed() >= age);
        old.map(|(number, entry)| (*number, entry.folder.clone())).collect()
    }

    /// What each of those takes that have run for so long.
    async fn measure(&self, age: Duration) -> Result<Vec<(Number, Taken)>, Error> {
        let folders = self.older_than(age);
        blocking("measure what actions write", move || {
            let taken = |folder: &Path| match measure(folder) {
                Ok(taken) => Some(taken),
                // Most likely it has ended. Anything else is as good as not measured.
                Err(error) => {
                    tracing::debug!(folder = %folder.display(), %error, "folder is not measured");
                    None
                }
            };
            let measured = folders.into_iter();
            Ok(measured.filter_map(|(number, folder)| Some((number, taken(&folder)?))).collect())
        })
        .await
    }

    fn claim(&self, number: Number) -> Option<Arc<Claim>> {
        self.running().all.get(&number).map(|entry| Arc::clone(&entry.claim))
    }
}

/// What the task knows from look to look.
struct Round {
    shared: Arc<Shared>,
    pace: Pace,
    /// What was ended last, and when.
    ending: Option<(Weak<Claim>, Instant)>,
}

impl Round {
    async fn run(mut self, stop: Stop) {
        loop {
            tokio::select! {
                () = self.shared.came.notified() => {}
                () = stop.requested() => return,
            }
            let mut looks = time::interval_at(time::Instant::now() + LOOK_EVERY, LOOK_EVERY);
            looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while !self.shared.is_idle() {
                tokio::select! {
                    _ = looks.tick() => {}
                    () = stop.requested() => return,
                }
                if let Err(error) = self.look().await {
                    // Whatever is wrong with the file system shows to those who use it.
                    tracing::debug!(error = chain(&error), "cannot look at what actions write");
                }
            }
            self.pace.rest();
        }
    }

    async fn look(&mut self) -> Result<(), Error> {
        let seen = Seen::of(&self.shared.folder)?;
        if seen.is_full() {
            self.shared.note_full();
        }
        let written = self.pace.look(seen);
        let lack = seen.lacks(written.saturating_mul(LOOKS_AHEAD));
        let now = Instant::now();
        let Some(oldest) = self.shared.oldest(now) else { return Ok(()) };
        let limit_bytes = self.shared.lodging.get().map(|lodging| lodging.limit_bytes());
        let due = self.pace.due(now, oldest, limit_bytes.unwrap_or(u64::MAX), lack);
        let Due::Measure(age) = due else { return Ok(()) };
        let measured = self.shared.measure(age).await?;
        self.pace.measured(Instant::now(), now.elapsed());
        let (victim, full) = match self.hold(&measured).await? {
            true => (to_blame(&measured, lack), Some(seen)),
            false => (most(&measured), None),
        };
        let Some(number) = victim else { return Ok(()) };
        let taken = measured.iter().find(|(of, _)| *of == number).map(|(_, taken)| *taken);
        let taken = taken.unwrap_or_default();
        self.end(number, Excess { taken, limit_bytes, full });
        Ok(())
    }

    /// Has what was measured count. False if there was no room for all of it.
    async fn hold(&self, measured: &[(Number, Taken)]) -> Result<bool, Error> {
        let Some(lodging) = self.shared.lodging.get() else { return Ok(true) };
        let mut fits = true;
        for (number, taken) in measured {
            let Some(claim) = self.shared.claim(*number) else { continue };
            match claim.hold(taken.bytes, lodging).await {
                Ok(()) => {}
                Err(Storage::Full { .. }) => fits = false,
                Err(error) => return Err(Error::storage("take room for what is written", error)),
            }
        }
        Ok(fits)
    }

    /// Ends an action, unless another one is about to end.
    fn end(&mut self, number: Number, excess: Excess) {
        let is_ending = |(claim, since): &(Weak<Claim>, Instant)| {
            claim.strong_count() > 0 && since.elapsed() < ENDING
        };
        if self.ending.as_ref().is_some_and(is_ending) {
            return;
        }
        let mut running = self.shared.running();
        let Some(entry) = running.all.get_mut(&number) else { return };
        let Some(end) = entry.end.take() else { return };
        self.ending = Some((Arc::downgrade(&entry.claim), Instant::now()));
        // Whoever ended meanwhile hears it no more.
        let _ = end.send(excess);
    }
}

/// Who has most of what was measured, if that is not little.
fn most(measured: &[(Number, Taken)]) -> Option<Number> {
    let (number, taken) = measured.iter().max_by_key(|(_, taken)| taken.bytes)?;
    (taken.bytes >= LITTLE_BYTES).then_some(*number)
}
