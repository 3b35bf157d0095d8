//! Whether this still is the bucket that was opened.
//!
//! A folder that is not mounted any more looks like an empty bucket, and so does, to a HEAD, a bucket that
//! was deleted. Everything would be missing, and what is only out of reach would be built and uploaded
//! anew. So a miss is believed only where the object that says the layout's version was seen a short while
//! ago.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{Error, Result};

use super::{Bucket, existence::Id, probe::VERSION_NAME, retry::Failure};

/// For how long misses are believed after the anchor was seen.
const BELIEVED_FOR: Duration = Duration::from_secs(10);

/// When the anchor was seen last.
#[derive(Debug, Default)]
pub(super) struct Anchor(Mutex<Option<Instant>>);

impl Anchor {
    fn is_fresh(&self) -> bool {
        let seen = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.is_some_and(|seen| seen.elapsed() < BELIEVED_FOR)
    }

    fn saw(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }
}

impl Bucket {
    /// To be called before a miss is told: fine if it can be believed.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the bucket is not what it was, or does not answer.
    pub(super) async fn believe_miss(self: &Arc<Self>) -> Result<()> {
        let Some(anchor) = &self.anchor else { return Ok(()) };
        if anchor.is_fresh() {
            return Ok(());
        }
        let key = self.keys.meta(VERSION_NAME);
        let (bucket, id) = (Arc::clone(self), Id::of(&key));
        let look = async move {
            match bucket.store.head(&key).await {
                Ok(_) => Ok(true),
                Err(Failure::Missing) => Ok(false),
                Err(failure) => {
                    let what = format!("looking for {key}");
                    Err(Error::unavailable(what, io::Error::other(failure)))
                }
            }
        };
        let (is_there, _is_late) = self.existence.look(id, look).await?;
        match is_there {
            true => {
                anchor.saw();
                Ok(())
            }
            false => {
                let what =
                    format!("{self} has lost meta/{VERSION_NAME}: is it still there, and mounted?");
                tracing::warn!(what, "nothing is believed to be missing");
                Err(Error::unavailable(what, io::ErrorKind::NotFound.into()))
            }
        }
    }
}
