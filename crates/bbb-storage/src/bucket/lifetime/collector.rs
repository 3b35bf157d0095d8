//! Deletes what has been dead for long enough.
//!
//! One node at a time walks over the shards, round after round, each spread over a part of E. What lies in
//! the bucket is listed, a thousand objects a request, and nothing else is asked of those that live. Dead
//! ones are looked at once more right before they are deleted, all within a window (see the module's
//! head). How far the round is stands in the bucket, so that another node goes on from there.
//!
//! What the object store library cannot list, it cannot delete: parts of multipart uploads that were never
//! completed. A lifecycle rule of the bucket has to drop those.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use bbb_lifecycle::Stop;
use futures::{
    Stream, StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use object_store::{Error, ObjectMeta, ObjectStoreExt as _, Result, path::Path};
use tokio::time::{self, Instant};

use super::{
    super::keys::Kind,
    Lifetime,
    clock::ServerClock,
    failure,
    lease::{LEASE_INTERVAL, Lease},
    policy::{Stage, Window},
    refresh::ASIDE,
};

/// How many shards there are.
const SHARDS: u16 = 256;

/// How many shards share a wait for a window.
const GROUP: u16 = 16;

const GROUPS: u16 = SHARDS / GROUP;

/// How many candidates are held at once. S3 deletes as many in one request.
const BATCH: usize = 1000;

/// How many candidates are looked at at once.
const LOOKS: usize = 64;

/// How much of a window is kept for the delete after the looks.
const DELETE_TIME: Duration = Duration::from_secs(4);

/// What is left of a window is not used if there is less time than this for the looks before.
const LOOK_TIME: Duration = Duration::from_secs(2);

/// How long a page of a listing may take.
const LIST_TIMEOUT: Duration = Duration::from_secs(60);

/// How long to wait after a fault.
const RETRY_INTERVAL: Duration = Duration::from_secs(60);

/// How long the lease may take to be released at the end.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

/// After this, what was put down for a moment was left behind.
const MOMENT: Duration = Duration::from_secs(3600);

/// What a node has collected.
#[derive(Debug, Default)]
pub(crate) struct CollectorStats {
    listed: AtomicU64,
    deleted: AtomicU64,
    spared: AtomicU64,
    failed: AtomicU64,
    rounds: AtomicU64,
}

/// [`CollectorStats`] at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Collected {
    /// How many objects were listed.
    pub(crate) listed: u64,
    /// How many were deleted.
    pub(crate) deleted: u64,
    /// How many were to be deleted, and were found used at the last look.
    pub(crate) spared: u64,
    /// How many could not be looked at or deleted.
    pub(crate) failed: u64,
    /// How many rounds this node ended.
    pub(crate) rounds: u64,
}

impl CollectorStats {
    pub(crate) fn get(&self) -> Collected {
        Collected {
            listed: self.listed.load(Relaxed),
            deleted: self.deleted.load(Relaxed),
            spared: self.spared.load(Relaxed),
            failed: self.failed.load(Relaxed),
            rounds: self.rounds.load(Relaxed),
        }
    }
}

/// How far the round is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Progress {
    begun: SystemTime,
    /// The group that comes next.
    group: u16,
}

impl Progress {
    /// When the next group is due in a round that takes so long.
    fn due(&self, round: Duration) -> SystemTime {
        self.begun + round * u32::from(self.group) / u32::from(GROUPS)
    }

    /// As it is, or with the pace taken up again after a time in which nobody collected.
    fn caught_up(self, now: SystemTime, round: Duration) -> Self {
        let late = now.duration_since(self.due(round)).unwrap_or_default();
        if late < round { self } else { Self { begun: self.begun + late, ..self } }
    }

    fn encode(&self) -> String {
        let begun = self.begun.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        format!("group {} of round begun {}\n", self.group, begun.as_secs())
    }

    /// None if it cannot be read: then a round begins.
    fn decode(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?.trim_end().strip_prefix("group ")?;
        let (group, begun) = text.split_once(" of round begun ")?;
        let begun = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(begun.parse().ok()?))?;
        let group = group.parse().ok().filter(|group| *group < GROUPS)?;
        Some(Self { begun, group })
    }
}

/// What may be deleted, if a last look confirms it.
type Candidate = (Kind, Path);

/// The collector of one node.
#[derive(Debug)]
pub(super) struct Collector {
    life: Arc<Lifetime>,
    lease: Lease,
    progress_key: Path,
}

impl Collector {
    pub(super) fn new(life: Arc<Lifetime>, honours: bool) -> Self {
        let lease = Lease::new(Arc::clone(&life.store), &life.keys, honours);
        let progress_key = life.keys.meta("collector");
        Self { life, lease, progress_key }
    }

    /// Collects whenever it is this node's turn, until it is asked to stop.
    pub(super) async fn run(mut self, stop: &Stop) {
        let collect = async {
            loop {
                let pause = self.turn().await.unwrap_or_else(|error| {
                    tracing::warn!(%error, "cannot collect");
                    RETRY_INTERVAL
                });
                time::sleep(pause).await;
            }
        };
        // Wherever it is cut off, it does no harm.
        tokio::select! {
            () = stop.requested() => {}
            () = collect => {}
        }
        let _ = time::timeout(RELEASE_TIMEOUT, self.lease.release()).await;
    }

    /// Collects one group of shards if that is due and this node's turn. Tells how long to wait.
    async fn turn(&mut self) -> Result<Duration> {
        if !self.lease.hold(self.life.clock.now()).await? {
            return Ok(LEASE_INTERVAL);
        }
        let (now, round) = (self.life.clock.now(), self.life.policy.round());
        let mut progress = self.progress().await?.unwrap_or(Progress { begun: now, group: 0 });
        progress = progress.caught_up(now, round);
        if let Ok(wait) = progress.due(round).duration_since(now)
            && !wait.is_zero()
        {
            return Ok(wait.min(LEASE_INTERVAL));
        }
        // What fails is left to the next round, so that one bad shard does not stop the others.
        if let Err(error) = self.sweep(progress.group).await {
            tracing::warn!(%error, group = progress.group, "cannot collect some shards");
        }
        progress.group += 1;
        if progress.group == GROUPS {
            self.end_round().await;
            progress = Progress { begun: progress.begun + round, group: 0 };
        }
        self.life.store.put(&self.progress_key, progress.encode().into()).await?;
        Ok(Duration::ZERO)
    }

    async fn progress(&self) -> Result<Option<Progress>> {
        match self.life.store.get(&self.progress_key).await {
            Ok(found) => Ok(Progress::decode(&found.bytes().await?)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Deletes what may go of one group of shards.
    async fn sweep(&mut self, group: u16) -> Result<()> {
        let listed = list_group(&self.life, group);
        let mut candidates = std::pin::pin!(listed.try_chunks(BATCH));
        while let Some(batch) = candidates.next().await {
            self.delete(batch.map_err(|error| error.1)?).await?;
        }
        Ok(())
    }

    /// Deletes those candidates that still may go, in as many windows as that takes.
    async fn delete(&mut self, mut candidates: Vec<Candidate>) -> Result<()> {
        while !candidates.is_empty() {
            let closes = window(&self.life.clock).await?;
            // Waiting may have taken long.
            if !self.lease.hold(self.life.clock.now()).await? {
                return Err(failure("another node collects now"));
            }
            let looked_at = self.delete_within(&candidates, closes).await;
            if looked_at == 0 {
                return Err(failure("the bucket is too slow to look at anything within a window"));
            }
            candidates.drain(..looked_at);
        }
        Ok(())
    }

    /// Looks at as many candidates as there is time for, and deletes those of them that may go. Tells how
    /// many it looked at.
    async fn delete_within(&self, candidates: &[Candidate], closes: Instant) -> usize {
        let stats = &self.life.collected;
        let looks = stream::iter(candidates.to_vec())
            .map(|candidate| may_go(Arc::clone(&self.life), candidate));
        let looks = looks.buffered(LOOKS).take_until(time::sleep_until(closes - DELETE_TIME));
        let looks: Vec<Option<Path>> = looks.collect().await;
        let looked_at = looks.len();
        let doomed: Vec<Path> = looks.into_iter().flatten().collect();
        let (all, mut done) = (doomed.len() as u64, 0);
        // One that was started late would end outside of the window.
        if all > 0 && Instant::now() + DELETE_TIME / 2 < closes {
            let mut deleted = self.life.store.delete_stream(stream::iter(doomed).map(Ok).boxed());
            let delete = async {
                while let Some(gone) = deleted.next().await {
                    match gone {
                        Ok(_) | Err(Error::NotFound { .. }) => done += 1,
                        Err(error) => tracing::debug!(%error, "cannot delete a dead object"),
                    }
                }
            };
            let _ = time::timeout_at(closes, delete).await;
        }
        stats.deleted.fetch_add(done, Relaxed);
        stats.failed.fetch_add(all - done, Relaxed);
        looked_at
    }

    /// Drops what the nodes put down beside the entries and left, and tells of the round.
    async fn end_round(&self) {
        let life = &self.life;
        let left =
            [(ASIDE, MOMENT), ("probe", MOMENT), ("quarantine", life.policy.deletable(Kind::Blob))];
        for (name, ttl) in left {
            let listed = life.store.list(Some(&life.keys.meta(name)));
            let old = listed.try_filter_map(|meta| {
                let is_old = life.clock.age(meta.last_modified.into()) > ttl;
                std::future::ready(Ok(is_old.then_some(meta.location)))
            });
            let old: Result<Vec<_>> = old.take(BATCH).try_collect().await;
            let old = old.unwrap_or_default();
            let mut deleted = life.store.delete_stream(stream::iter(old).map(Ok).boxed());
            while deleted.next().await.is_some() {}
        }
        let stats = &life.collected;
        stats.rounds.fetch_add(1, Relaxed);
        let Collected { listed, deleted, spared, failed, .. } = stats.get();
        tracing::info!(listed, deleted, spared, failed, "went through the bucket for dead objects");
    }
}

/// The candidates for deletion of one group of shards: results first, so that none is left whose blobs are
/// gone.
fn list_group(life: &Arc<Lifetime>, group: u16) -> impl Stream<Item = Result<Candidate>> + use<> {
    let shards = group * GROUP..(group + 1) * GROUP;
    let of_kind = move |kind| shards.clone().map(move |shard| (kind, shard as u8));
    let life = Arc::clone(life);
    stream::iter([Kind::Result, Kind::Blob]).flat_map(move |kind| {
        let life = Arc::clone(&life);
        stream::iter(of_kind(kind)).flat_map(move |(kind, shard)| {
            let listed = unstalled(life.store.list(Some(&life.keys.shard(shard, kind))));
            let life = Arc::clone(&life);
            listed.try_filter_map(move |meta| {
                life.collected.listed.fetch_add(1, Relaxed);
                // What is not ours stays, whatever its age.
                let is_ours =
                    life.keys.parse(&meta.location).is_some_and(|(found, _)| found == kind);
                let may_go = is_ours && is_deletable(&life, kind, &meta);
                std::future::ready(Ok(may_go.then_some((kind, meta.location))))
            })
        })
    })
}

/// A listing that ends in an error when the bucket has nothing to say for too long.
fn unstalled(
    listed: BoxStream<'static, Result<ObjectMeta>>,
) -> impl Stream<Item = Result<ObjectMeta>> {
    stream::try_unfold(listed, async |mut listed| {
        let next = time::timeout(LIST_TIMEOUT, listed.try_next()).await.map_err(failure)?;
        Ok(next?.map(|meta| (meta, listed)))
    })
}

/// Looks at a candidate once more. Its key, if it still may go.
async fn may_go(life: Arc<Lifetime>, (kind, key): Candidate) -> Option<Path> {
    let stats = &life.collected;
    match life.store.head(&key).await {
        Ok(meta) if is_deletable(&life, kind, &meta) => return Some(key),
        Ok(_) => stats.spared.fetch_add(1, Relaxed),
        Err(Error::NotFound { .. }) => 0,
        Err(_) => stats.failed.fetch_add(1, Relaxed),
    };
    None
}

fn is_deletable(life: &Lifetime, kind: Kind, meta: &ObjectMeta) -> bool {
    life.policy.stage(kind, life.clock.age(meta.last_modified.into())) == Stage::Deletable
}

/// Waits for a window with enough time left. Tells when it closes.
async fn window(clock: &ServerClock) -> Result<Instant> {
    let mut from = clock.now();
    loop {
        clock.measure().await?;
        let now = clock.now();
        let window = Window::at_or_after(now.max(from));
        let left = window.closes.duration_since(now).unwrap_or_default();
        match window.opens.duration_since(now) {
            Ok(wait) if !wait.is_zero() => time::sleep(wait).await,
            _ if left >= LOOK_TIME + DELETE_TIME => return Ok(Instant::now() + left),
            // This one is almost over.
            _ => from = window.closes,
        }
    }
}
