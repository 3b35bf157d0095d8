//! Tests of what happens while something waits for a blocking thread: there is one, and it can be held up.

use std::sync::mpsc;

/// Runs a test where no more than one thread blocks at a time.
pub(crate) fn run<T>(test: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.max_blocking_threads(1).enable_all().build().unwrap().block_on(test)
}

/// Has all that is to block from now on wait until this is dropped; then it goes on in the order in which it came.
#[must_use]
pub(crate) fn hold_up() -> mpsc::Sender<()> {
    let (let_go, held) = mpsc::channel();
    tokio::task::spawn_blocking(move || held.recv());
    let_go
}
