//! The way off the reactor.

use std::io;

use tokio::task;

use crate::{Error, Result};

/// Does what blocks, or takes more than half a millisecond, where it holds nobody up.
///
/// # Errors
/// Those of `work`; [`Error::Unavailable`] if it panicked, or the runtime stops.
pub(crate) async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = task::spawn_blocking(work).await;
    done.map_err(|error| Error::unavailable(what, io::Error::other(error)))?
}
