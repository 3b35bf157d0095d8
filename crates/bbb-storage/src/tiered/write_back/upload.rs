//! The task that writes far what waits.

use std::{io, sync::Arc, time::Duration};

use bbb_digest::InstanceName;
use bbb_lifecycle::Stop;
use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::{Instant, sleep_until};

use crate::{ActionCache, Cas, Error, Result};

use super::{
    Queue,
    journal::{Entry, Kind},
};

/// How long nothing is written after a fault, at first; twice as long after each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// ...and at the most.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Where what waits in an instance is written to.
#[derive(Clone)]
pub(in super::super) struct Target {
    /// Blobs go here.
    pub(in super::super) cas: Arc<dyn Cas>,
    /// Results go here. It refuses those whose blobs are not far.
    pub(in super::super) results: Arc<dyn ActionCache>,
}

/// What became of an entry.
enum Outcome {
    Written,
    /// It can never be written.
    Dropped(String),
    /// Try again.
    Failed(Error),
}

impl Queue {
    /// Writes far what waits until it is asked to stop, and a while longer if there is more.
    pub(in super::super) async fn run(
        self: Arc<Self>,
        target: impl Fn(&InstanceName) -> Target + Send + Sync + 'static,
        stop: Stop,
    ) {
        let mut running = FuturesUnordered::new();
        let (mut pause, mut paused_until) = (Duration::ZERO, Instant::now());
        let mut stop_at = None;
        loop {
            // Read once: were the pause over between two looks, nobody would wait for its end.
            let is_paused = paused_until > Instant::now();
            if !is_paused {
                while running.len() < self.settings.concurrency
                    && let Some(entry) = self.take()
                {
                    let target = target(&entry.instance);
                    let queue = Arc::clone(&self);
                    running.push(async move { (queue.write(&entry, target).await, entry) });
                }
            }
            if stop_at.is_some() && self.is_empty() {
                return;
            }
            tokio::select! {
                Some((outcome, entry)) = running.next() => {
                    if let Outcome::Failed(error) = &outcome {
                        pause = (2 * pause).clamp(FIRST_PAUSE, LONGEST_PAUSE);
                        paused_until = Instant::now() + jittered(pause);
                        tracing::warn!(digest = %entry.digest, %error, ?pause, "cannot write far yet");
                    } else {
                        (pause, paused_until) = (Duration::ZERO, Instant::now());
                    }
                    self.settle(entry, &outcome).await;
                }
                () = self.added.notified() => {}
                () = sleep_until(paused_until), if is_paused => {}
                () = stop.requested(), if stop_at.is_none() => {
                    self.close();
                    stop_at = Some(Instant::now() + self.settings.drain);
                }
                () = sleep_until(stop_at.unwrap_or_else(Instant::now)), if stop_at.is_some() => {
                    tracing::warn!(waiting = ?self.waiting(), "stopping; the rest goes on at the next start");
                    return;
                }
            }
        }
    }

    fn take(&self) -> Option<Entry> {
        self.state().take()
    }

    fn is_empty(&self) -> bool {
        let state = self.state();
        state.items.is_empty() && state.claims == 0
    }

    /// From now on writes go far at once.
    fn close(&self) {
        self.state().is_closing = true;
    }

    async fn write(self: &Arc<Self>, entry: &Entry, target: Target) -> Outcome {
        let written = match entry.kind {
            Kind::Blob => self.write_blob(entry, &*target.cas).await,
            Kind::Result => self.write_result(entry, &*target.results).await,
        };
        match written {
            Ok(()) => Outcome::Written,
            Err(error @ (Error::Unavailable { .. } | Error::Full { .. })) => Outcome::Failed(error),
            Err(error) => Outcome::Dropped(error.to_string()),
        }
    }

    async fn write_blob(self: &Arc<Self>, entry: &Entry, far: &dyn Cas) -> Result<()> {
        let Entry { digest, .. } = entry;
        match super::super::write::open(*digest, self.journal.path(entry)).await {
            Ok(source) => match far.put(*digest, source).await {
                // It was cut off since it was opened.
                Err(Error::BrokenOff { digest, source }) if is_damage(&source) => {
                    Err(Error::Unreadable { digest, what: source.to_string() })
                }
                // A fault of the disk may pass, and what waits was acknowledged.
                Err(Error::BrokenOff { source, .. }) => {
                    Err(Error::unavailable("reading what waits", source))
                }
                put => put,
            },
            Err(error) if is_damage(&error) => {
                Err(Error::Unreadable { digest: *digest, what: error.to_string() })
            }
            Err(error) => Err(Error::unavailable("reading what waits", error)),
        }
    }

    async fn write_result(self: &Arc<Self>, entry: &Entry, far: &dyn ActionCache) -> Result<()> {
        let (queue, entry) = (Arc::clone(self), entry.clone());
        let digest = entry.digest;
        let damaged = move |what: String| Error::Unreadable { digest, what };
        let result = super::run(move || match queue.journal.result(&entry) {
            Ok(Some(result)) => Ok(result),
            Ok(None) => Err(damaged("its checksum is not right".to_owned())),
            Err(error) if is_damage(&error) => Err(damaged(error.to_string())),
            Err(error) => Err(Error::unavailable("reading what waits", error)),
        });
        far.put(digest, result.await?).await
    }

    async fn settle(self: &Arc<Self>, entry: Entry, outcome: &Outcome) {
        match outcome {
            Outcome::Failed(_) => return self.state().put_back(&entry),
            Outcome::Written => {}
            Outcome::Dropped(why) => {
                let (kind, digest) = (entry.kind, entry.digest);
                tracing::error!(?kind, %digest, why, "what waited can never be written far: dropped");
            }
        }
        let queue = Arc::clone(self);
        let is_written = matches!(outcome, Outcome::Written);
        let removed = super::run(move || {
            let mut state = queue.state();
            let item = state.settle(&entry);
            match is_written {
                true => state.written += 1,
                false => state.dropped += 1,
            }
            drop(state);
            // The file last: to write it once more after a sudden end does no harm.
            queue.journal.remove(&entry);
            drop(item);
            Ok(())
        });
        if let Err(error) = removed.await {
            tracing::error!(%error, "cannot take out of the queue");
        }
    }
}

/// Whether a file that waits is not what it was; other faults may pass.
fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof)
}

/// Between half of a pause and the whole.
fn jittered(pause: Duration) -> Duration {
    use std::hash::{BuildHasher as _, RandomState};
    let part = RandomState::new().hash_one(()) % 512;
    pause.mul_f64((512 + part) as f64 / 1024.0)
}
