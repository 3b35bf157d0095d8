//! The server's clock, as far as a node can know it.
//!
//! Ages are told by the bucket's clock, since it is what writes `Last-Modified`, and since it is the one
//! clock that all nodes share. No answer of the object store library carries it, so a small object is
//! written now and then, and looked at.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use bbb_lifecycle::Stop;
use object_store::path::Path;
use tokio::time::{self, Instant};

use super::super::{keys::Keys, retry::Failure, store::Store};

/// How long a reading is used.
const READING_TTL: Duration = Duration::from_secs(10 * 60);

/// How often a node looks whether it needs a new reading.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// A reading that took longer is too vague to be used.
const MAX_ROUND_TRIP: Duration = Duration::from_secs(2);

/// By how much a machine's two clocks may drift apart before a reading is in doubt: it slept, or was set.
const MAX_DRIFT: Duration = Duration::from_secs(1);

/// The server's clock.
#[derive(Debug)]
pub(crate) struct ServerClock {
    store: Arc<Store>,
    /// The object that is written to see when.
    key: Path,
    reading: Mutex<Reading>,
}

/// What the three clocks showed at one moment.
#[derive(Clone, Copy, Debug)]
struct Reading {
    server: SystemTime,
    here: Instant,
    wall: SystemTime,
    /// Whether the server was asked. The machine's own time has to do until it is.
    is_measured: bool,
}

impl Reading {
    fn of(server: SystemTime, is_measured: bool) -> Self {
        Self { server, here: Instant::now(), wall: SystemTime::now(), is_measured }
    }

    /// What has passed since by the clock that stands still while the machine sleeps, and by the one that
    /// can be set.
    fn elapsed(&self) -> (Duration, Duration) {
        (self.here.elapsed(), self.wall.elapsed().unwrap_or_default())
    }
}

impl ServerClock {
    /// A clock that shows the machine's own time until it is first measured.
    pub(crate) fn new(store: Arc<Store>, keys: &Keys) -> Self {
        let reading = Mutex::new(Reading::of(SystemTime::now(), false));
        Self { store, key: keys.meta("clock"), reading }
    }

    /// What the server's clock shows, within [`CLOCK_ERROR`](super::policy::CLOCK_ERROR). After the machine
    /// slept it is rather ahead than behind, so that things are rather renewed than lost.
    pub(crate) fn now(&self) -> SystemTime {
        let reading = self.reading();
        let (here, wall) = reading.elapsed();
        reading.server + if wall > here + MAX_DRIFT { wall } else { here }
    }

    /// How long ago that was, by the server's clock.
    pub(crate) fn age(&self, last_modified: SystemTime) -> Duration {
        self.now().duration_since(last_modified).unwrap_or_default()
    }

    /// Reads the server's clock.
    ///
    /// # Errors
    /// What the bucket says, or that it took too long to tell the time by.
    pub(crate) async fn measure(&self) -> Result<(), Failure> {
        let begun = Instant::now();
        self.store.put(&self.key, "what time is it?".into()).await?;
        let meta = self.store.head(&self.key).await?;
        if begun.elapsed() > MAX_ROUND_TRIP {
            return Err(Failure::unknown("the bucket is too slow to tell the time by"));
        }
        let reading = Reading::of(meta.last_modified.into(), true);
        *self.reading.lock().unwrap_or_else(PoisonError::into_inner) = reading;
        Ok(())
    }

    /// Reads the server's clock whenever that is due.
    pub(crate) async fn run(&self, stop: &Stop) {
        while !stop.is_requested() {
            if self.is_doubtful()
                && let Err(error) = self.measure().await
            {
                tracing::debug!(%error, "cannot read the bucket's clock");
            }
            stop.until_requested(time::sleep(CHECK_INTERVAL)).await;
        }
    }

    fn is_doubtful(&self) -> bool {
        let reading = self.reading();
        let (here, wall) = reading.elapsed();
        !reading.is_measured || here > READING_TTL || wall > here + MAX_DRIFT
    }

    fn reading(&self) -> Reading {
        *self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
