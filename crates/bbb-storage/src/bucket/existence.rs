//! What the bucket is known to have.
//!
//! Only presence is remembered, never absence: another node may write at any time, but nobody takes
//! away what a node was told to be there before the time that the bucket promises is over. An entry
//! lives no longer than that, and the map is bounded.

use std::{
    collections::{HashMap, VecDeque},
    future::Future,
    io, mem,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{FutureExt as _, future::Shared};
use object_store::path::Path;
use tokio::time::Instant;

use crate::{Error, Result};

/// How many objects are remembered, in two generations.
const MAX_KNOWN: usize = 1 << 19;

/// How long it is not remembered that a damaged object was seen: longer than it takes to put it aside, and than
/// any look takes that began before that.
const SHUNNED_FOR: Duration = Duration::from_secs(180);

/// How many objects are shunned at once. Past that the first ones are remembered as others are.
const MAX_SHUNNED: usize = 4096;

/// The map is cut into so many, each with a lock of its own.
const SLICES: usize = 16;

/// An object, by the hash of its key: all that lies in the bucket is told apart by that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Id([u8; 16]);

impl Id {
    pub(super) fn of(key: &Path) -> Self {
        let hash = blake3::hash(key.as_ref().as_bytes());
        let mut id = [0; 16];
        id.copy_from_slice(&hash.as_bytes()[..16]);
        Self(id)
    }

    /// How long an id is in bytes.
    pub(super) const LEN: usize = 16;

    pub(super) const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    pub(super) const fn bytes(self) -> [u8; Self::LEN] {
        self.0
    }

    fn slice(self) -> usize {
        usize::from(self.0[0]) % SLICES
    }
}

/// What is known to be there, and the looks that are on their way.
#[derive(Debug)]
pub(super) struct Existence {
    /// How long what was seen is taken to be there.
    lifetime: Duration,
    max_per_generation: usize,
    slices: [Mutex<Slice>; SLICES],
    looks: Mutex<HashMap<Id, Look>>,
    /// Damaged objects that are on their way out, and until when.
    shunned: Mutex<VecDeque<(Id, Instant)>>,
}

/// Two generations: when the young one is full it becomes the old one, and what was not asked for since
/// goes.
#[derive(Debug, Default)]
struct Slice {
    young: HashMap<Id, Instant>,
    old: HashMap<Id, Instant>,
}

type Look = Shared<Pin<Box<dyn Future<Output = Result<bool, Fault>> + Send>>>;

/// An error that all who wait for one look can have.
#[derive(Clone, Debug)]
struct Fault {
    kind: io::ErrorKind,
    what: Arc<str>,
}

impl Existence {
    /// A map that takes what it was told to hold for `lifetime`.
    pub(super) fn new(lifetime: Duration) -> Self {
        Self::with_bound(lifetime, MAX_KNOWN)
    }

    fn with_bound(lifetime: Duration, max_known: usize) -> Self {
        let max_per_generation = max_known / SLICES / 2;
        let (slices, looks, shunned) = (Default::default(), Mutex::default(), Mutex::default());
        Self { lifetime, max_per_generation, slices, looks, shunned }
    }

    /// Whether the object is known to be there.
    pub(super) fn is_known(&self, id: Id) -> bool {
        let now = Instant::now();
        let mut slice = self.slice(id);
        if let Some(until) = slice.young.get(&id) {
            return *until > now;
        }
        match slice.old.remove(&id).filter(|until| *until > now) {
            Some(until) => {
                slice.insert(id, until, self.max_per_generation);
                true
            }
            None => false,
        }
    }

    /// The object was seen in the bucket.
    pub(super) fn saw(&self, id: Id) {
        if !self.is_shunned(id) {
            self.know(id);
        }
    }

    /// The object was written, and the bucket has acknowledged it.
    pub(super) fn wrote(&self, id: Id) {
        lock(&self.shunned).retain(|(shunned, _)| *shunned != id);
        self.know(id);
    }

    /// The object is damaged and goes: whoever still sees it is not to remember that, until it is written anew.
    pub(super) fn shun(&self, id: Id) {
        {
            let mut shunned = lock(&self.shunned);
            if shunned.len() >= MAX_SHUNNED {
                shunned.pop_front();
            }
            shunned.push_back((id, Instant::now() + SHUNNED_FOR));
        }
        self.gone(id);
    }

    /// The object was looked for and is not there.
    pub(super) fn gone(&self, id: Id) {
        let mut slice = self.slice(id);
        slice.young.remove(&id);
        slice.old.remove(&id);
    }

    /// Nothing is known any more.
    #[cfg(test)]
    pub(super) fn forget_all(&self) {
        for slice in &self.slices {
            *lock(slice) = Slice::default();
        }
    }

    /// Looks whether an object is there, by one look however many ask at once. Tells, too, whether the look had begun
    /// before: what it did not find may have been written since.
    ///
    /// # Errors
    /// What the look ended in, which everybody who waited gets.
    pub(super) async fn look(
        &self,
        id: Id,
        look: impl Future<Output = Result<bool>> + Send + 'static,
    ) -> Result<(bool, bool)> {
        let (shared, is_late) = {
            let mut looks = lock(&self.looks);
            let is_late = looks.contains_key(&id);
            let look = || {
                let look = look.map(|found| found.map_err(|error| Fault::of(&error)));
                let look: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(look);
                look.shared()
            };
            (looks.entry(id).or_insert_with(look).clone(), is_late)
        };
        // Whoever is dropped before leaves the look to the others; the last one takes it away.
        let seat = Seat { looks: &self.looks, id, look: Some(shared.clone()) };
        let found = shared.await.map_err(Fault::into_error)?;
        drop(seat);
        Ok((found, is_late))
    }

    fn is_shunned(&self, id: Id) -> bool {
        let now = Instant::now();
        let mut shunned = lock(&self.shunned);
        while shunned.front().is_some_and(|(_, until)| *until <= now) {
            shunned.pop_front();
        }
        shunned.iter().any(|(shunned, _)| *shunned == id)
    }

    fn know(&self, id: Id) {
        let until = Instant::now() + self.lifetime;
        self.slice(id).insert(id, until, self.max_per_generation);
    }

    fn slice(&self, id: Id) -> MutexGuard<'_, Slice> {
        lock(&self.slices[id.slice()])
    }
}

impl Slice {
    fn insert(&mut self, id: Id, until: Instant, max_per_generation: usize) {
        if self.young.len() >= max_per_generation {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(id, until);
    }
}

/// A place among those who wait for a look. Takes it out of the map when the first of them leaves with an answer, or the
/// last one leaves without.
struct Seat<'a> {
    looks: &'a Mutex<HashMap<Id, Look>>,
    id: Id,
    /// None only while this is being dropped.
    look: Option<Look>,
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let Some(ours) = self.look.take() else { return };
        let mut looks = lock(self.looks);
        let is_ours = looks.get(&self.id).is_some_and(|look| look.ptr_eq(&ours));
        // One in the map, and ours. Whoever waits has two, and lets go of the second one under the lock: so of those who
        // leave at once, one finds that it is the last.
        let is_last = ours.strong_count().is_none_or(|count| count <= 2);
        if is_ours && !is_last && ours.peek().is_none() {
            // Others have it as well: nothing ends here that could want the lock.
            drop(ours);
            return;
        }
        let from_map = is_ours.then(|| looks.remove(&self.id));
        drop(looks);
        drop((ours, from_map));
    }
}

impl Fault {
    fn of(error: &Error) -> Self {
        let kind = match error {
            Error::Unavailable { source, .. } => source.kind(),
            _ => io::ErrorKind::Other,
        };
        Self { kind, what: crate::bucket::retry::chain(error).into() }
    }

    fn into_error(self) -> Error {
        Error::unavailable(
            "looking into the bucket",
            io::Error::new(self.kind, self.what.to_string()),
        )
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::future;
    use tokio::sync::oneshot;

    use super::*;

    fn id(name: &str) -> Id {
        Id::of(&Path::from(name))
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_seen_is_known_for_its_time() {
        let existence = Existence::new(Duration::from_secs(60));
        existence.wrote(id("a"));
        existence.wrote(id("b"));
        assert!(existence.is_known(id("a")) && !existence.is_known(id("c")));
        existence.gone(id("b"));
        assert!(!existence.is_known(id("b")));
        tokio::time::advance(Duration::from_secs(61)).await;
        assert!(!existence.is_known(id("a")));
        existence.wrote(id("a"));
        existence.forget_all();
        assert!(!existence.is_known(id("a")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_damaged_object_that_is_still_seen_is_not_remembered() {
        let existence = Existence::new(Duration::from_secs(3600));
        existence.wrote(id("a"));
        existence.shun(id("a"));
        existence.saw(id("a"));
        assert!(!existence.is_known(id("a")));
        existence.saw(id("b"));
        assert!(existence.is_known(id("b")));
        existence.wrote(id("a"));
        assert!(existence.is_known(id("a")), "written anew");
        existence.shun(id("a"));
        tokio::time::advance(SHUNNED_FOR).await;
        existence.saw(id("a"));
        assert!(existence.is_known(id("a")));
        for count in 0..2 * MAX_SHUNNED {
            existence.shun(id(&count.to_string()));
        }
        assert_eq!(lock(&existence.shunned).len(), MAX_SHUNNED);
    }

    #[tokio::test]
    async fn it_stays_within_its_bound_and_keeps_what_is_asked_for() {
        let max_known = 16 << 10;
        let existence = Existence::with_bound(Duration::from_secs(60), max_known);
        existence.wrote(id("asked for"));
        for count in 0..3 * max_known {
            existence.wrote(id(&count.to_string()));
            if count % 100 == 0 {
                assert!(existence.is_known(id("asked for")), "after {count}");
            }
        }
        let held = |slice: &Mutex<Slice>| {
            let slice = lock(slice);
            slice.young.len() + slice.old.len()
        };
        assert!(existence.slices.iter().map(held).sum::<usize>() <= max_known);
    }

    #[tokio::test]
    async fn many_who_ask_at_once_share_one_look() {
        let existence = Existence::new(Duration::from_secs(60));
        let looks = Arc::new(AtomicUsize::new(0));
        let (answer, answered) = oneshot::channel();
        let mut answered = Some(answered);
        let mut ask = || {
            let (looks, answered) = (Arc::clone(&looks), answered.take());
            existence.look(id("a"), async move {
                looks.fetch_add(1, Ordering::Relaxed);
                Ok(answered.expect("only the first looks").await.unwrap())
            })
        };
        let mut asks: Vec<_> = (0..10).map(|_| Box::pin(ask())).collect();
        for ask in &mut asks {
            assert!(ask.now_or_never().is_none());
        }
        // The one whose look it is goes away: the others still get the answer.
        drop(asks.remove(0));
        answer.send(true).unwrap();
        // And all of them know that it had begun before they came.
        let found = future::join_all(asks).await;
        assert!(found.into_iter().all(|found| found.unwrap() == (true, true)));
        assert_eq!(looks.load(Ordering::Relaxed), 1);
        let anew = existence.look(id("a"), async { Ok(false) }).await.unwrap();
        assert_eq!(anew, (false, false), "a new look");
        assert!(lock(&existence.looks).is_empty());
    }

    #[tokio::test]
    async fn looks_that_nobody_waits_for_are_forgotten() {
        let existence = Existence::new(Duration::from_secs(60));
        let mut pending = Box::pin(existence.look(id("a"), future::pending()));
        assert!((&mut pending).now_or_never().is_none());
        drop(pending);
        assert!(lock(&existence.looks).is_empty());
    }
}
