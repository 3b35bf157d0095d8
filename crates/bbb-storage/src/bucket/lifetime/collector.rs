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
use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use object_store::{ObjectMeta, path::Path};
use tokio::time::{self, Instant};

use super::{
    super::{
        existence::Id,
        journal::JOURNAL,
        keys::Kind,
        retry::Failure,
        stats::BucketStats,
        store::{LIST_PAGE, Part},
    },
    Lifetime,
    doomed::{LISTS, MAX_DOOMED, sleep_until},
    lease::{LEASE_INTERVAL, Lease},
    policy::{Stage, Window},
    refresh::ASIDE,
};

/// How many shards there are.
const SHARDS: u16 = 256;

/// How many shards share a list and a window.
const GROUP: u16 = 16;

const GROUPS: u16 = SHARDS / GROUP;

/// How many candidates are looked at at once.
const LOOKS: usize = 64;

/// How much of a window is kept for the delete after the looks.
const DELETE_TIME: Duration = Duration::from_secs(4);

/// How often a list may come too late for its window before the bucket is left alone for a while.
const MAX_PUBLISHES: usize = 3;

/// More is not read of the progress.
const MAX_PROGRESS_BYTES: u64 = 256;

/// How long to wait after a fault.
const RETRY_INTERVAL: Duration = Duration::from_secs(60);

/// How long the lease may take to be released at the end.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

/// How many of each kind of such things are dropped in a round.
const MAX_DROPPED: usize = 32 * LIST_PAGE;

/// After this, what was put down for a moment was left behind.
const MOMENT: Duration = Duration::from_secs(3600);

/// What a node has collected.
#[derive(Debug, Default)]
pub(super) struct CollectorStats {
    listed: AtomicU64,
    deleted: AtomicU64,
    spared: AtomicU64,
    failed: AtomicU64,
    rounds: AtomicU64,
}

impl CollectorStats {
    pub(super) fn add_to(&self, stats: &mut BucketStats) {
        stats.listed = self.listed.load(Relaxed);
        stats.expired = self.deleted.load(Relaxed);
        stats.spared = self.spared.load(Relaxed);
        stats.left = self.failed.load(Relaxed);
        stats.rounds = self.rounds.load(Relaxed);
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
        stop.until_requested(collect).await;
        let _ = time::timeout(RELEASE_TIMEOUT, self.lease.release()).await;
    }

    /// Collects one group of shards if that is due and this node's turn. Tells how long to wait.
    async fn turn(&mut self) -> Result<Duration, Failure> {
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

    async fn progress(&self) -> Result<Option<Progress>, Failure> {
        match self.life.store.get(&self.progress_key, Part::All, MAX_PROGRESS_BYTES, None).await {
            Ok(found) => Ok(Progress::decode(&found.bytes)),
            Err(Failure::Missing) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Deletes what may go of one group of shards.
    async fn sweep(&mut self, group: u16) -> Result<(), Failure> {
        let listed = list_group(&self.life, group);
        let mut candidates = std::pin::pin!(listed.try_chunks(MAX_DOOMED));
        while let Some(batch) = candidates.next().await {
            self.delete(batch.map_err(|error| error.1)?).await?;
        }
        Ok(())
    }

    /// Deletes those candidates that still may go, in as many windows as that takes.
    async fn delete(&mut self, mut candidates: Vec<Candidate>) -> Result<(), Failure> {
        while !candidates.is_empty() {
            let (window, list) = self.doom(&candidates).await?;
            sleep_until(&self.life.clock, window.opens).await;
            // The window is kept by a clock that was just read.
            self.life.clock.measure().await?;
            let left = window.closes().duration_since(self.life.clock.now()).unwrap_or_default();
            let looked_at = self.delete_within(&candidates, Instant::now() + left).await;
            let _ = self.life.store.delete(&list).await;
            if looked_at == 0 {
                return Err(Failure::unknown("a window is too short to look at anything"));
            }
            candidates.drain(..looked_at);
            if !candidates.is_empty() && !self.lease.hold(self.life.clock.now()).await? {
                return Err(Failure::unknown("another node collects now"));
            }
        }
        Ok(())
    }

    /// Tells all nodes what is going to be deleted, and when.
    async fn doom(&self, candidates: &[Candidate]) -> Result<(Window, Path), Failure> {
        let life = &self.life;
        for _ in 0..MAX_PUBLISHES {
            life.clock.measure().await?;
            let window = Window::open_to_lists(life.clock.now());
            let ids = candidates.iter().map(|(_, key)| Id::of(key));
            let list = life.doomed.publish(window, self.lease.holder(), ids).await?;
            if life.clock.now() <= window.published_by() {
                return Ok((window, list));
            }
            let _ = life.store.delete(&list).await;
        }
        Err(Failure::unknown("the bucket is too slow to be told beforehand what will be deleted"))
    }

    /// Looks at as many candidates as there is time for, and deletes those of them that may go. Tells how
    /// many it looked at.
    async fn delete_within(&self, candidates: &[Candidate], closes: Instant) -> usize {
        let mut looked_at = 0;
        for page in candidates.chunks(LIST_PAGE) {
            let looks = stream::iter(page.to_vec());
            let looks = looks.map(|candidate| may_go(Arc::clone(&self.life), candidate));
            let looks = looks.buffered(LOOKS).take_until(time::sleep_until(closes - DELETE_TIME));
            let looks: Vec<Option<Path>> = looks.collect().await;
            looked_at += looks.len();
            let is_last = looks.len() < page.len();
            self.delete_page(looks.into_iter().flatten().collect(), closes).await;
            if is_last || Instant::now() + DELETE_TIME >= closes {
                break;
            }
        }
        looked_at
    }

    async fn delete_page(&self, doomed: Vec<Path>, closes: Instant) {
        let (all, mut done) = (doomed.len() as u64, 0);
        // What begins late would end outside of the window.
        if all > 0 && Instant::now() + DELETE_TIME / 2 < closes {
            let mut deleted = self.life.store.delete_all(doomed);
            let delete = async {
                while let Some(gone) = deleted.next().await {
                    match gone {
                        Ok(_) | Err(object_store::Error::NotFound { .. }) => done += 1,
                        Err(error) => tracing::debug!(%error, "cannot delete a dead object"),
                    }
                }
            };
            let _ = time::timeout_at(closes, delete).await;
        }
        let stats = &self.life.collected;
        stats.deleted.fetch_add(done, Relaxed);
        stats.failed.fetch_add(all - done, Relaxed);
    }

    /// Drops what the nodes put down beside the entries and left, and tells of the round.
    async fn end_round(&self) {
        let life = &self.life;
        let left = [
            (ASIDE, MOMENT),
            (LISTS, MOMENT),
            ("probe", MOMENT),
            ("quarantine", life.policy.deletable(Kind::Blob)),
            (JOURNAL, life.policy.deletable(Kind::Log)),
        ];
        for (name, ttl) in left {
            let listed = life.store.list(life.keys.meta(name));
            let old = listed.try_filter_map(|meta| {
                let is_old = life.clock.age(meta.last_modified.into()) > ttl;
                std::future::ready(Ok(is_old.then_some(meta.location)))
            });
            let old: Result<Vec<_>, _> = old.take(MAX_DROPPED).try_collect().await;
            if let Ok(old) = old
                && !old.is_empty()
            {
                let _: Vec<_> = life.store.delete_all(old).collect().await;
            }
        }
        life.collected.rounds.fetch_add(1, Relaxed);
        let mut stats = BucketStats::default();
        life.collected.add_to(&mut stats);
        let BucketStats { listed, expired, spared, left, .. } = stats;
        tracing::info!(listed, expired, spared, left, "went through the bucket for dead objects");
    }
}

/// The order in which things die: what names blobs before the blobs.
const BY_DEATH: [Kind; 4] = [Kind::Result, Kind::Log, Kind::Asset, Kind::Blob];

/// The candidates for deletion of one group of shards: results first, so that none is left whose blobs are
/// gone.
fn list_group(
    life: &Arc<Lifetime>,
    group: u16,
) -> impl Stream<Item = Result<Candidate, Failure>> + use<> {
    let shards = group * GROUP..(group + 1) * GROUP;
    let of_kind = move |kind| shards.clone().map(move |shard| (kind, shard as u8));
    let life = Arc::clone(life);
    stream::iter(BY_DEATH.into_iter().flat_map(of_kind)).flat_map(move |(kind, shard)| {
        let life = Arc::clone(&life);
        life.store.list(life.keys.shard(shard, kind)).try_filter_map(move |meta| {
            life.collected.listed.fetch_add(1, Relaxed);
            // What is not ours stays, whatever its age.
            let is_ours = life.keys.parse(&meta.location).is_some_and(|(of, _)| of == kind);
            let may_go = is_ours && is_deletable(&life, kind, &meta);
            std::future::ready(Ok(may_go.then_some((kind, meta.location))))
        })
    })
}

/// Looks at a candidate once more. Its key, if it still may go.
async fn may_go(life: Arc<Lifetime>, (kind, key): Candidate) -> Option<Path> {
    let stats = &life.collected;
    match life.store.head(&key).await {
        Ok(meta) if is_deletable(&life, kind, &meta) => return Some(key),
        Ok(_) => stats.spared.fetch_add(1, Relaxed),
        Err(Failure::Missing) => 0,
        Err(_) => stats.failed.fetch_add(1, Relaxed),
    };
    None
}

fn is_deletable(life: &Lifetime, kind: Kind, meta: &ObjectMeta) -> bool {
    life.policy.stage(kind, life.clock.age(meta.last_modified.into())) == Stage::Deletable
}
