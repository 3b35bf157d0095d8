//! Who collects: one node at a time, as far as the bucket can tell.
//!
//! An object names the holder; its age, by the server's clock, tells whether the holder is alive. Where the
//! bucket honours conditional writes, two nodes cannot take it over at once; elsewhere one writes, waits and
//! looks who was last. Two holders for a while do no harm.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use object_store::{PutPayload, UpdateVersion, path::Path};
use tokio::time::{self, Instant};

use super::super::{
    keys::Keys,
    retry::Failure,
    store::{Part, Store},
};

/// More is not read of a lease.
const MAX_BYTES: u64 = 256;

/// How long a holder may be silent.
pub(super) const LEASE_TTL: Duration = Duration::from_secs(20 * 60);

/// How often the holder speaks.
pub(super) const LEASE_INTERVAL: Duration = LEASE_TTL.checked_div(4).expect("four is not zero");

/// How long to wait for others that write the lease at the same time.
const SETTLE: Duration = Duration::from_secs(3);

/// The lease, as one node sees it.
#[derive(Debug)]
pub(super) struct Lease {
    store: Arc<Store>,
    key: Path,
    /// What names this node in the lease.
    holder: String,
    honours: bool,
    held_since: Option<Instant>,
}

impl Lease {
    pub(super) fn new(store: Arc<Store>, keys: &Keys, honours: bool) -> Self {
        let holder = uuid::Uuid::new_v4().simple().to_string();
        Self { store, key: keys.meta("lease"), holder, honours, held_since: None }
    }

    /// Takes, keeps or renews the lease, at `now` by the server's clock. Tells whether it is held.
    ///
    /// # Errors
    /// What the bucket says.
    pub(super) async fn hold(&mut self, now: SystemTime) -> Result<bool, Failure> {
        if self.held_since.is_some_and(|since| since.elapsed() < LEASE_INTERVAL) {
            return Ok(true);
        }
        self.held_since = None;
        let (version, ours) = match self.store.get(&self.key, Part::All, MAX_BYTES, None).await {
            Err(Failure::Missing) => (None, false),
            Err(failure) => return Err(failure),
            Ok(found) => {
                let ours = found.bytes == self.holder.as_bytes();
                let silent = now.duration_since(found.meta.last_modified.into());
                if !ours && silent.unwrap_or_default() < LEASE_TTL {
                    return Ok(false);
                }
                let version =
                    UpdateVersion { e_tag: found.meta.e_tag, version: found.meta.version };
                (Some(version), ours)
            }
        };
        if self.write(version, ours).await? {
            self.held_since = Some(Instant::now());
        }
        Ok(self.held_since.is_some())
    }

    /// What names this node.
    pub(super) fn holder(&self) -> &str {
        &self.holder
    }

    /// Lets another node take over at once.
    pub(super) async fn release(&mut self) {
        if self.held_since.take().is_some()
            && let Err(error) = self.store.delete(&self.key).await
        {
            tracing::debug!(%error, "cannot release the collector's lease");
        }
    }

    async fn write(&mut self, version: Option<UpdateVersion>, ours: bool) -> Result<bool, Failure> {
        if self.honours {
            let written = match version {
                None => self.store.create(&self.key, self.payload()).await,
                Some(version) => self.store.replace(&self.key, self.payload(), version).await,
            };
            match written {
                Ok(()) => return Ok(true),
                Err(Failure::Condition | Failure::Missing) => return Ok(false),
                // Folders know only half of the conditions.
                Err(Failure::Refused(_)) => self.honours = false,
                Err(failure) => return Err(failure),
            }
        }
        self.store.put(&self.key, self.payload()).await?;
        if ours {
            return Ok(true);
        }
        time::sleep(SETTLE).await;
        let found = self.store.get(&self.key, Part::All, MAX_BYTES, None).await?;
        Ok(found.bytes == self.holder.as_bytes())
    }

    fn payload(&self) -> PutPayload {
        self.holder.clone().into()
    }
}
