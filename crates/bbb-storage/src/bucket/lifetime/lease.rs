//! Who collects: one node at a time, as far as the bucket can tell.
//!
//! An object names the holder; its age, by the server's clock, tells whether the holder is alive. Where the
//! bucket honours conditional writes, two nodes cannot take it over at once; elsewhere one writes, waits and
//! looks who was last. Two holders for a while do no harm.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use object_store::{
    Error, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload, Result,
    UpdateVersion, path::Path,
};
use tokio::time::{self, Instant};

use super::super::keys::Keys;

/// How long a holder may be silent.
pub(super) const LEASE_TTL: Duration = Duration::from_secs(20 * 60);

/// How often the holder speaks.
pub(super) const LEASE_INTERVAL: Duration = LEASE_TTL.checked_div(4).expect("four is not zero");

/// How long to wait for others that write the lease at the same time.
const SETTLE: Duration = Duration::from_secs(3);

/// The lease, as one node sees it.
#[derive(Debug)]
pub(super) struct Lease {
    store: Arc<dyn ObjectStore>,
    key: Path,
    /// What names this node in the lease.
    holder: String,
    honours: bool,
    held_since: Option<Instant>,
}

impl Lease {
    pub(super) fn new(store: Arc<dyn ObjectStore>, keys: &Keys, honours: bool) -> Self {
        let holder = uuid::Uuid::new_v4().simple().to_string();
        Self { store, key: keys.meta("lease"), holder, honours, held_since: None }
    }

    /// Takes, keeps or renews the lease, at `now` by the server's clock. Tells whether it is held.
    ///
    /// # Errors
    /// What the bucket says.
    pub(super) async fn hold(&mut self, now: SystemTime) -> Result<bool> {
        if self.held_since.is_some_and(|since| since.elapsed() < LEASE_INTERVAL) {
            return Ok(true);
        }
        self.held_since = None;
        let (mode, ours) = match self.store.get(&self.key).await {
            Err(Error::NotFound { .. }) => (PutMode::Create, false),
            Err(error) => return Err(error),
            Ok(found) => {
                let meta = found.meta.clone();
                let ours = found.bytes().await? == self.holder.as_bytes();
                let silent = now.duration_since(meta.last_modified.into()).unwrap_or_default();
                if !ours && silent < LEASE_TTL {
                    return Ok(false);
                }
                let version = UpdateVersion { e_tag: meta.e_tag, version: meta.version };
                (PutMode::Update(version), ours)
            }
        };
        if self.write(mode, ours).await? {
            self.held_since = Some(Instant::now());
        }
        Ok(self.held_since.is_some())
    }

    /// Lets another node take over at once.
    pub(super) async fn release(&mut self) {
        if self.held_since.take().is_some()
            && let Err(error) = self.store.delete(&self.key).await
        {
            tracing::debug!(%error, "cannot release the collector's lease");
        }
    }

    async fn write(&mut self, mode: PutMode, ours: bool) -> Result<bool> {
        if self.honours {
            let options = PutOptions { mode, ..PutOptions::default() };
            match self.store.put_opts(&self.key, self.payload(), options).await {
                Ok(_) => return Ok(true),
                Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => return Ok(false),
                Err(Error::NotImplemented { .. } | Error::NotSupported { .. }) => {
                    self.honours = false;
                }
                Err(error) => return Err(error),
            }
        }
        self.store.put(&self.key, self.payload()).await?;
        if ours {
            return Ok(true);
        }
        time::sleep(SETTLE).await;
        let found = self.store.get(&self.key).await?.bytes().await?;
        Ok(found == self.holder.as_bytes())
    }

    fn payload(&self) -> PutPayload {
        self.holder.clone().into()
    }
}
