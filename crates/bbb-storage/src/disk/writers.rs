//! The threads that write small files: as many as there are processors, since more would only wait for
//! each other in the kernel. Each takes up what waits before it rests, because to wake a thread costs as
//! much as to write a small file.
//!
//! It promises that what was handed over is done, in the order in which it came, whoever panics. It knows
//! nothing of files.

use std::{
    collections::VecDeque,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use tokio::{
    sync::{Semaphore, SemaphorePermit, oneshot},
    task,
};

use crate::{Error, Result};

/// How many writes wait at once. Past that they wait without holding any room.
const MAX_WAITING: usize = 256;

type Write = Box<dyn FnOnce() + Send>;

pub(super) struct Writers {
    waiting: Mutex<Waiting>,
    turns: Semaphore,
    max_threads: usize,
}

#[derive(Default)]
struct Waiting {
    writes: VecDeque<Write>,
    threads: usize,
}

impl Writers {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            waiting: Mutex::default(),
            turns: Semaphore::new(MAX_WAITING),
            max_threads: thread::available_parallelism().map_or(4, usize::from),
        })
    }

    /// Waits for the turn to hand over a write. Taken before room is, so that those who wait hold none.
    pub(super) async fn turn(&self) -> Result<SemaphorePermit<'_>> {
        let turn = self.turns.acquire().await;
        turn.map_err(|error| Error::unavailable("writing", io::Error::other(error)))
    }

    /// Has a write done. It is done even if nobody waits for it any more.
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        what: &'static str,
        write: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        // Nobody may wait for the answer any more.
        self.hand_over(Box::new(move || drop(answer.send(write()))));
        answered.await.map_err(|error| Error::unavailable(what, io::Error::other(error)))?
    }

    fn hand_over(self: &Arc<Self>, write: Write) {
        let mut waiting = self.waiting();
        waiting.writes.push_back(write);
        if waiting.threads < self.max_threads {
            waiting.threads += 1;
            drop(waiting);
            let writers = Arc::clone(self);
            drop(task::spawn_blocking(move || writers.work()));
        }
    }

    /// Writes until nothing waits.
    fn work(&self) {
        while let Some(write) = self.next() {
            // The panic was reported when it happened, and whoever waits finds that there is no answer.
            let _ = catch_unwind(AssertUnwindSafe(write));
        }
    }

    fn next(&self) -> Option<Write> {
        let mut waiting = self.waiting();
        let next = waiting.writes.pop_front();
        if next.is_none() {
            waiting.threads -= 1;
        }
        next
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_takes_nothing_with_it() {
        let writers = Writers::new();
        for _ in 0..2 * writers.max_threads {
            let failed = writers.run("writing", || -> Result<()> { panic!("on purpose") }).await;
            assert!(matches!(failed, Err(Error::Unavailable { .. })), "{failed:?}");
        }
        let writes = (0..1_000).map(|number| writers.run("writing", move || Ok(number)));
        let written: Result<Vec<_>> = futures::future::join_all(writes).await.into_iter().collect();
        assert_eq!(written.unwrap(), (0..1_000).collect::<Vec<_>>());
    }
}
