//! Telling owners what this node holds: in batches, one on its way to each owner while the next one gathers.

use std::{
    collections::HashMap,
    fmt, mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bbb_cluster::MemberId;
use bbb_digest::{Digest, InstanceName};
use bbb_lifecycle::TaskGroup;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};

use crate::{
    CallError, Connections,
    call::WaitsFor,
    proto,
    stats::{Counters, add},
    wire,
};

/// How many hints go in one message: some hundred kilobytes.
const MAX_BATCH: usize = 4096;

/// How many hints wait for one owner. Past that they are dropped.
const MAX_WAITING: usize = 4 * MAX_BATCH;

/// What tells owners.
pub(crate) struct Teller {
    name: Arc<str>,
    connections: Arc<Connections>,
    counters: Arc<Counters>,
    group: TaskGroup,
    /// Owners to whom a batch is on its way, and what waits for the next one.
    waiting: Mutex<HashMap<MemberId, Vec<Waiting>>>,
}

/// That this node holds a blob which is in the bucket.
#[derive(Clone)]
pub(crate) struct Hint {
    pub(crate) instance: InstanceName,
    pub(crate) digest: Digest,
    /// Whether it was written there a moment ago, or seen there, and not known to be there from before.
    pub(crate) is_written: bool,
}

/// A hint that waits to be told, and whom to tell that it was.
struct Waiting {
    hint: Hint,
    told: oneshot::Sender<()>,
}

impl Teller {
    pub(crate) fn new(
        name: Arc<str>,
        connections: Arc<Connections>,
        counters: Arc<Counters>,
        group: &TaskGroup,
    ) -> Arc<Self> {
        let group = group.clone();
        Arc::new(Self { name, connections, counters, group, waiting: Mutex::default() })
    }

    /// Tells some owners. Waits until they know, but not for long.
    pub(crate) async fn tell(
        self: &Arc<Self>,
        owners: impl IntoIterator<Item = &MemberId>,
        hint: Hint,
    ) {
        let by = Instant::now() + self.connections.bounds().tell;
        let told: Vec<_> =
            owners.into_iter().filter_map(|owner| self.queue(owner, hint.clone())).collect();
        for told in told {
            // Told, given up, or too late: a hint is no promise.
            let _known = timeout_at(by, told).await;
        }
    }

    /// Has a hint wait for the next batch, and sends that if none is on its way. Nothing if too many wait.
    fn queue(self: &Arc<Self>, owner: &MemberId, hint: Hint) -> Option<oneshot::Receiver<()>> {
        let (told, known) = oneshot::channel();
        let hint = Waiting { hint, told };
        let mut waiting = self.waiting();
        match waiting.get_mut(owner) {
            Some(batch) if batch.len() >= MAX_WAITING => {
                add(&self.counters.hints_dropped, 1);
                return None;
            }
            Some(batch) => batch.push(hint),
            None => {
                waiting.insert(owner.clone(), vec![hint]);
                drop(waiting);
                let (teller, owner) = (Arc::clone(self), owner.clone());
                let stop = self.group.stop();
                let tell = async move {
                    stop.until_requested(teller.send_all(owner)).await;
                };
                self.group.spawn("hints", tell);
            }
        }
        Some(known)
    }

    /// Sends batches to an owner until none waits.
    async fn send_all(self: Arc<Self>, owner: MemberId) {
        // Also when it is ended from outside: the next hint begins anew.
        let mut leave = Leave { teller: &self, owner: &owner, is_left: false };
        while let Some(batch) = self.next_batch(&owner) {
            let count = batch.len() as u64;
            let request = self.message(&batch);
            match self.send(&owner, request).await {
                Ok(proto::HoldResponse {}) => add(&self.counters.hints_told, count),
                Err(error) => {
                    tracing::debug!(%owner, count, %error, "an owner does not learn what is here");
                    add(&self.counters.hints_dropped, count);
                }
            }
            for hint in batch {
                // Whoever wrote it may have waited long enough.
                let _left = hint.told.send(());
            }
        }
        leave.is_left = true;
    }

    async fn send(
        &self,
        owner: &MemberId,
        request: proto::HoldRequest,
    ) -> Result<proto::HoldResponse, CallError> {
        let peer = self.connections.to(owner);
        let turns = peer.enter(WaitsFor::Node)?;
        add(&self.counters.hint_calls, 1);
        peer.call(turns, "/bbb.peer.v1.Node/Hold", request, self.connections.bounds().hold).await
    }

    /// What goes next; nothing, and the owner out of the table, if nothing waits.
    fn next_batch(&self, owner: &MemberId) -> Option<Vec<Waiting>> {
        let mut waiting = self.waiting();
        let batch = waiting.get_mut(owner)?;
        if batch.is_empty() {
            waiting.remove(owner);
            return None;
        }
        let rest = batch.split_off(batch.len().min(MAX_BATCH));
        Some(mem::replace(batch, rest))
    }

    fn message(&self, batch: &[Waiting]) -> proto::HoldRequest {
        let mut holdings: HashMap<(&InstanceName, bool), Vec<proto::Digest>> = HashMap::new();
        for Waiting { hint, .. } in batch {
            let of_its_kind = holdings.entry((&hint.instance, hint.is_written)).or_default();
            of_its_kind.push(wire::digest(hint.digest));
        }
        let holding = |((instance, is_written), digests): ((&InstanceName, bool), _)| {
            proto::Holding { instance_name: instance.to_string(), digests, is_written }
        };
        proto::HoldRequest {
            holder: self.name.to_string(),
            holdings: holdings.into_iter().map(holding).collect(),
        }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<MemberId, Vec<Waiting>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes an owner out of the table when nobody sends to it any more.
struct Leave<'a> {
    teller: &'a Teller,
    owner: &'a MemberId,
    /// Whether it is out of the table; it may be in it again by now, for another.
    is_left: bool,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        if !self.is_left {
            self.teller.waiting().remove(self.owner);
        }
    }
}

impl fmt::Debug for Teller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Teller").field("busy", &self.waiting().len()).finish_non_exhaustive()
    }
}
