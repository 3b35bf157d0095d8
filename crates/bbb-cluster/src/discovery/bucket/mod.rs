//! `--autojoin_s3`: a list of members in the bucket.
//!
//! Each node keeps an object of its own under `KEY/CLUSTER`, writes it again and again, and removes it when it leaves;
//! who is looking for others lists them and reads some that it does not know. Nobody writes what another wrote, so any
//! number of nodes can do so at once, and the store needs nothing but PUT, GET, DELETE and a listing.
//!
//! Entries are sealed. Whether one is stale is told by the bucket's clock, whatever the nodes' clocks say.
//!
//! # Requests
//! Of a node, an hour: 120 PUT, and 60 LIST in company or 360 alone (30 more in the minute after its start). Entries of
//! known members are never read; of others, at most [`MAX_READ`] after each listing: none when all is well.

mod entry;

use std::{
    fmt,
    future::Future,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, future, stream};
use object_store::{
    GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutPayload, path::Path,
};
use rand::seq::IteratorRandom as _;
use tokio::{
    sync::Notify,
    time::{Instant, error::Elapsed, timeout},
};

use super::{Discovery, Meeting, contact::Contact, sparse::Sparse};
use crate::{KeyRing, Purpose, Sealer};

#[cfg(any(test, feature = "hostile"))]
pub use entry::check_entry_name;
use entry::{Chores, EntryName, MAX_ENTRY_BYTES, chores};

/// How often a node writes its entry.
const WRITE_PAUSE: Duration = Duration::from_secs(30);
/// How soon it tries again when that failed.
const WRITE_AGAIN: Duration = Duration::from_secs(5);
/// How long after its start a node that is alone lists often: others may be starting, too.
const EAGER: Duration = Duration::from_secs(60);
/// How often it lists then.
const EAGER_PAUSE: Duration = Duration::from_secs(2);
/// How often a node that is alone lists later.
const ALONE: Duration = Duration::from_secs(10);
/// How often a node in company lists: for halves of the cluster that were split off.
const IN_COMPANY: Duration = Duration::from_secs(60);
/// How long a request may take.
const REQUEST_WAIT: Duration = Duration::from_secs(10);
/// How long the removal of the own entry may keep a node that leaves.
const FAREWELL_WAIT: Duration = Duration::from_secs(2);
/// How many objects are listed in one round; the next one goes on where it ended.
const MAX_LISTED: usize = 2_000;
/// How many entries are read in one round: one that is found of another half suffices.
pub(crate) const MAX_READ: usize = 8;
/// How many entries of those that are long gone are removed in one round.
const MAX_REMOVED: usize = 16;

/// Keeps an entry for this node in the bucket, and reads those of others.
pub struct BucketList {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    sealer: Sealer,
}

/// Why a round did not succeed.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Store(#[from] object_store::Error),
    #[error("no answer within {REQUEST_WAIT:?}")]
    Slow(#[from] Elapsed),
}

/// Where this node's listings are.
#[derive(Debug, Default)]
struct Reader {
    /// After which key the next listing begins, when the last one did not see all.
    after: Option<Path>,
    listing: Sparse,
    refused: Sparse,
}

impl BucketList {
    /// The list of a cluster under `key` in `store`, sealed with the cluster's keys.
    pub fn new(store: Arc<dyn ObjectStore>, key: &str, ring: &KeyRing) -> Self {
        let prefix = Path::from(key).join(ring.tag().to_string());
        Self { store, prefix, sealer: Sealer::new(ring, Purpose::BucketList) }
    }

    /// Writes this node's entry for as long as it lives. `written` is that entry, also when it may not be there.
    /// `tried` is told when it was tried to write it.
    async fn write_on(&self, mut meeting: Meeting, written: &mut Option<Path>, tried: &Notify) {
        let mut fault = Sparse::default();
        loop {
            let outcome = self.write(&meeting, written).await;
            tried.notify_one();
            let pause = if outcome.is_ok() { WRITE_PAUSE } else { WRITE_AGAIN };
            report(outcome, &mut fault, "write this node's entry to the bucket");
            if meeting.rest(pause, pause).await.is_break() {
                return;
            }
        }
    }

    async fn write(&self, meeting: &Meeting, written: &mut Option<Path>) -> Result<(), Fault> {
        let me = meeting.me();
        let contact = Contact::of(&me, false);
        let Some(contact) = contact.gossip().and_then(|_| contact.encode()) else { return Ok(()) };
        let key = EntryName::of(&me.name, me.generation).key(&self.prefix);
        // A node that took a new generation has an old entry.
        let old = written.replace(key.clone()).filter(|old| *old != key);
        let sealed = self.sealer.seal(SystemTime::now(), &contact);
        within(self.store.put(&key, PutPayload::from(sealed))).await?;
        if let Some(old) = old {
            within(self.store.delete(&old)).await?;
        }
        Ok(())
    }

    /// Looks for others for as long as this node lives.
    async fn read_on(&self, mut meeting: Meeting, tried: &Notify) {
        // At first the entry, then the listing: of two nodes that start at once, one sees the other.
        tried.notified().await;
        let started = Instant::now();
        let mut reader = Reader::default();
        loop {
            let outcome = self.read(&meeting, &mut reader).await;
            report(outcome, &mut reader.listing, "read the list of members in the bucket");
            let alone = if started.elapsed() < EAGER { EAGER_PAUSE } else { ALONE };
            if meeting.rest(alone, IN_COMPANY).await.is_break() {
                return;
            }
        }
    }

    /// Lists entries, offers some of those that are not known, and removes some of those that are long gone.
    async fn read(&self, meeting: &Meeting, reader: &mut Reader) -> Result<(), Fault> {
        let listed = self.list(&mut reader.after).await?;
        let Chores { unknown, doomed } = chores(&self.prefix, &listed, &meeting.view());
        let unknown = unknown.into_iter().sample(&mut rand::rng(), MAX_READ);
        let doomed = doomed.into_iter().sample(&mut rand::rng(), MAX_REMOVED);
        let reads: Vec<_> = unknown.iter().map(|key| self.fetch(key)).collect();
        let mut reads = stream::iter(reads).buffer_unordered(MAX_READ);
        while let Some((key, sealed)) = reads.next().await {
            // One that is removed, or slow, does not keep others out.
            match sealed {
                Ok(sealed) => self.take(key, &sealed, meeting, reader).await,
                Err(error) => {
                    tracing::debug!(%key, %error, "cannot read an entry of the list of members");
                }
            }
        }
        for key in &doomed {
            tracing::debug!(%key, "removing the entry of a node that has been gone for long");
            match within(self.store.delete(key)).await {
                Ok(()) | Err(Fault::Store(object_store::Error::NotFound { .. })) => {}
                Err(fault) => return Err(fault),
            }
        }
        Ok(())
    }

    async fn list(&self, after: &mut Option<Path>) -> Result<Vec<ObjectMeta>, Fault> {
        let objects = match after.take() {
            Some(after) => self.store.list_with_offset(Some(&self.prefix), &after),
            None => self.store.list(Some(&self.prefix)),
        };
        let listed: Vec<ObjectMeta> = within(objects.take(MAX_LISTED).try_collect()).await?;
        if listed.len() == MAX_LISTED {
            *after = listed.iter().map(|meta| &meta.location).max().cloned();
        }
        Ok(listed)
    }

    async fn fetch<'a>(&self, key: &'a Path) -> (&'a Path, Result<Bytes, Fault>) {
        let bounded = GetOptions {
            range: Some(GetRange::Bounded(0..MAX_ENTRY_BYTES)),
            ..GetOptions::default()
        };
        let fetched = within(async { self.store.get_opts(key, bounded).await?.bytes().await });
        (key, fetched.await)
    }

    /// Offers the node of an entry, if it is of this cluster, lies where it should and says where the node is.
    async fn take(&self, key: &Path, sealed: &[u8], meeting: &Meeting, reader: &mut Reader) {
        let opened = match self.sealer.open(SystemTime::now(), sealed) {
            Ok(opened) => opened,
            Err(refusal) => {
                if reader.refused.due() {
                    tracing::warn!(%key, "an entry of the list of members in the bucket was refused: it {refusal}");
                }
                return;
            }
        };
        let contact = Contact::decode(&opened.payload).filter(|contact| {
            EntryName::of(contact.name(), contact.generation()).key(&self.prefix) == *key
        });
        let me = meeting.me();
        match contact.and_then(|contact| contact.gossip()) {
            Some(gossip) if gossip != me.gossip => meeting.offer(gossip).await,
            _ => tracing::debug!(%key, "an entry of the list of members says nothing of use"),
        }
    }
}

#[async_trait]
impl Discovery for BucketList {
    async fn run(&self, meeting: Meeting) {
        if meeting.me().gossip.ip().is_unspecified() {
            tracing::warn!("this node advertises no address: others do not find it by the bucket");
        }
        let mut written = None;
        {
            let tried = Notify::new();
            let writing = self.write_on(meeting.clone(), &mut written, &tried);
            let reading = self.read_on(meeting.clone(), &tried);
            meeting.stop.until_requested(future::join(writing, reading)).await;
        }
        if let Some(own) = written
            && !matches!(timeout(FAREWELL_WAIT, self.store.delete(&own)).await, Ok(Ok(())))
        {
            tracing::info!(%own, "could not remove this node's entry from the bucket: it will grow stale");
        }
    }
}

impl fmt::Display for BucketList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "list of members in the bucket under {}", self.prefix)
    }
}

impl fmt::Debug for BucketList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BucketList").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// The result of a request, or that it takes too long.
async fn within<T>(request: impl Future<Output = object_store::Result<T>>) -> Result<T, Fault> {
    Ok(timeout(REQUEST_WAIT, request).await??)
}

/// Says a fault once in a while, and when it is over.
fn report(outcome: Result<(), Fault>, said: &mut Sparse, what: &str) {
    match outcome {
        Ok(()) if said.clear() => tracing::info!("can {what} again"),
        Ok(()) => {}
        Err(error) if said.due() => tracing::warn!(%error, "cannot {what}, will go on trying"),
        Err(error) => tracing::debug!(%error, "still cannot {what}"),
    }
}

#[cfg(test)]
mod tests;
