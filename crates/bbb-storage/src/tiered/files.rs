//! The blobs of one instance as files of the near tier, brought there if they are not.

use std::{fmt, path::Path, sync::Arc};

use async_trait::async_trait;
use bbb_digest::Digest;

use crate::{Error, LocalFile, LocalFiles, Result, Wanted};

use super::blobs::Blobs;

/// How often a blob is brought near that is gone again before it could be pinned.
const ATTEMPTS: usize = 4;

pub(super) struct Files {
    near: Arc<dyn LocalFiles>,
    blobs: Blobs,
}

impl Files {
    pub(super) fn new(near: Arc<dyn LocalFiles>, blobs: Blobs) -> Self {
        Self { near, blobs }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl LocalFiles for Files {
    async fn pin(&self, digest: Digest, executable: bool) -> Result<Arc<dyn LocalFile>> {
        let full = |what: &str| {
            Err(Error::Full { size_bytes: digest.size_bytes(), what: what.to_owned() })
        };
        let mut was_late = false;
        for attempt in 0..ATTEMPTS {
            let landed = (attempt == 0).then(|| self.blobs.fetches.landed());
            match self.near.pin(digest, executable).await {
                Err(Error::Missing(_)) => {}
                Ok(file) if attempt > 0 => return Ok(Arc::new(Brought(file))),
                pinned => return pinned,
            }
            let Some(reader) = self.blobs.begin(digest, Wanted::ALL, landed) else { continue };
            let is_late = reader.is_late;
            match reader.ended().await {
                Ok(true) => {}
                Ok(false) => return full("the near tier has none"),
                // It may have been written since that fetch asked; the next one asks anew.
                Err(Error::Missing(_)) if is_late && !was_late => was_late = true,
                Err(error) => return Err(error),
            }
        }
        full("the near tier does not keep what is brought there")
    }
}

/// A file that was far.
#[derive(Debug)]
struct Brought(Arc<dyn LocalFile>);

#[deny(clippy::missing_trait_methods)]
impl LocalFile for Brought {
    fn link(&self, to: &Path) -> Result<()> {
        self.0.link(to)
    }

    fn was_brought(&self) -> bool {
        true
    }
}

impl fmt::Display for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tiered({}, {})", self.near, self.blobs.far)
    }
}

impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
