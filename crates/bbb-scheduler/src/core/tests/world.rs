//! The world around a core: workers that keep their tasks over broken links and lost schedulers, and clients that hand
//! in again what has not ended. It checks each effect.

use std::collections::{BTreeMap, BTreeSet};

use bbb_digest::{Digest, Function, InstanceName};
use bytes::Bytes;

use super::super::{
    limits::{PATIENCE, RETURN_GRACE},
    worker::Room,
    *,
};
use crate::{
    End, FromWorker, Holding, HoldingState, Known, Outcome, Progress, Stage, Submission, Task,
    WorkerOffer,
};

/// Properties as bits: bit 0 and bit 1 are two names.
pub(super) fn platform(bits: u8) -> Platform {
    let names = ["a", "b"].into_iter().enumerate();
    let set = names.filter(|(index, _)| bits & (1 << index) != 0);
    set.map(|(_, name)| (name.to_owned(), "1".to_owned())).collect()
}

pub(super) fn submission(key: u8, priority: i32, build: u8) -> Submission {
    Submission {
        timeout: Duration::from_secs(1),
        priority,
        invocation: format!("build {build}").into(),
        ..Submission::of(ActionKey {
            instance: InstanceName::default(),
            action: Digest::of(Function::Sha256, &[key]),
        })
    }
}

pub(super) fn decided() -> Outcome {
    Outcome::Decided(Bytes::from_static(b"done"))
}

/// A task as a worker has it.
#[derive(Clone, Debug)]
pub(super) struct Carried {
    pub(super) lease: Lease,
    pub(super) task: Task,
    pub(super) progress: Progress,
    pub(super) revoked: bool,
    pub(super) recalled: bool,
    /// Another worker came with the same and went on with it.
    superseded: bool,
    /// It ended while no scheduler could hear of it.
    pub(super) ended: Option<Outcome>,
}

/// A worker, with a link or without.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) offer: WorkerOffer,
    pub(super) tasks: Vec<Carried>,
    left_at: Duration,
    /// It came with tasks, which it goes on with whatever else it has.
    has_brought: bool,
}

/// What a client handed in.
#[derive(Debug)]
pub(super) struct Accepted {
    submission: Submission,
    queued_at: SystemTime,
    pub(super) state: Option<Arc<OperationState>>,
    /// The name that the scheduler has for it.
    shown_as: OperationId,
    /// Whether the present scheduler has heard of it.
    handed_in: bool,
}

pub(super) struct World {
    pub(super) core: Core,
    pub(super) at: Duration,
    began: Duration,
    last_name: u128,
    last_link: u64,
    /// Workers by their links.
    pub(super) peers: BTreeMap<WorkerId, Peer>,
    /// Workers without.
    pub(super) away: Vec<Peer>,
    /// What the present scheduler shows.
    pub(super) known: BTreeMap<OperationId, Arc<OperationState>>,
    ended: BTreeSet<OperationId>,
    pub(super) accepted: BTreeMap<OperationId, Accepted>,
    greatest_lease: Lease,
    /// What was given to workers, in order.
    pub(super) granted: Vec<(WorkerId, OperationId)>,
}

impl World {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            core: Core::new(limits),
            at: Duration::ZERO,
            began: Duration::ZERO,
            last_name: 0,
            last_link: 0,
            peers: BTreeMap::new(),
            away: Vec::new(),
            known: BTreeMap::new(),
            ended: BTreeSet::new(),
            accepted: BTreeMap::new(),
            greatest_lease: Lease(0),
            granted: Vec::new(),
        }
    }

    pub(super) fn now(&self) -> Now {
        Now { since_start: self.at - self.began, wall: SystemTime::UNIX_EPOCH + self.at }
    }

    /// Hands in work without a name.
    pub(super) fn submit(&mut self, submission: Submission) -> Option<OperationId> {
        self.last_name += 1;
        self.submit_as(OperationId(self.last_name), submission)
    }

    /// Hands in work under a name of the submitter's, for the first time.
    pub(super) fn submit_known(&mut self, submission: Submission) -> Option<OperationId> {
        self.last_name += 1;
        let id = OperationId(self.last_name);
        let known = Known { id, queued_at: self.now().wall, held_by: None, attempts: Vec::new() };
        self.submit_as(id, Submission { known: Some(Box::new(known)), ..submission })
    }

    fn submit_as(&mut self, fresh: OperationId, submission: Submission) -> Option<OperationId> {
        let now = self.now();
        let shown_as = self.core.submit(now, fresh, submission.clone()).ok()?;
        let id = if submission.known.is_some() { fresh } else { shown_as };
        self.accepted.entry(id).or_insert(Accepted {
            submission,
            queued_at: now.wall,
            state: None,
            shown_as,
            handed_in: true,
        });
        self.settle();
        self.look_up(id);
        Some(id)
    }

    /// A watch begins with the state that there is.
    fn look_up(&mut self, id: OperationId) {
        if let Some(accepted) = self.accepted.get_mut(&id)
            && let Some(state) = self.known.get(&accepted.shown_as)
            && accepted.handed_in
        {
            accepted.state = Some(Arc::clone(state));
        }
    }

    /// Hands in once more what has not ended, as its client knows it.
    pub(super) fn resubmit(&mut self, id: OperationId) {
        let now = self.now();
        let Some(accepted) = self.accepted.get_mut(&id) else { return };
        let held_by = accepted.state.as_ref().and_then(|state| match &state.stage {
            Stage::Executing { worker, .. } => Some(Arc::clone(worker)),
            _ => None,
        });
        let known = Known { id, queued_at: accepted.queued_at, held_by, attempts: Vec::new() };
        let submission = Submission { known: Some(Box::new(known)), ..accepted.submission.clone() };
        if let Ok(shown_as) = self.core.submit(now, id, submission) {
            accepted.shown_as = shown_as;
            accepted.handed_in = true;
        }
        self.settle();
        self.look_up(id);
    }

    /// What its client has not seen the end of, and the present scheduler has not heard of.
    pub(super) fn to_hand_in(&self) -> Vec<OperationId> {
        let missing = self
            .accepted
            .iter()
            .filter(|(_, accepted)| !accepted.handed_in && !accepted.has_ended());
        missing.map(|(id, _)| *id).collect()
    }

    /// The scheduler is gone, and another one begins, which knows nothing.
    pub(super) fn fail_over(&mut self) {
        for id in self.peers.keys().copied().collect::<Vec<_>>() {
            self.unlink(id);
        }
        self.core = Core::new(self.core.limits);
        self.began = self.at;
        self.known.clear();
        self.ended.clear();
        self.greatest_lease = Lease(0);
        for accepted in self.accepted.values_mut() {
            accepted.handed_in = false;
        }
    }

    pub(super) fn join(&mut self, slots: u32, offers: u8) -> WorkerId {
        let offer = self.worker(slots);
        self.join_as(WorkerOffer { platform: platform(offers), ..offer })
    }

    /// A worker with a name that no other has.
    pub(super) fn worker(&self, slots: u32) -> WorkerOffer {
        WorkerOffer::of(format!("w{}", self.last_link + 1), slots)
    }

    pub(super) fn join_as(&mut self, offer: WorkerOffer) -> WorkerId {
        let left_at = self.at;
        self.attach(Peer { offer, tasks: Vec::new(), left_at, has_brought: false })
    }

    /// A worker attaches, with all that it has.
    pub(super) fn attach(&mut self, peer: Peer) -> WorkerId {
        self.last_link += 1;
        let id = WorkerId(self.last_link);
        let holdings = peer.tasks.iter().map(|carried| Holding {
            task: carried.task.clone(),
            state: match &carried.ended {
                Some(outcome) => HoldingState::Ended(outcome.clone()),
                None => HoldingState::Held(carried.progress),
            },
        });
        let (offer, holdings) = (peer.offer.clone(), holdings.collect());
        self.peers.insert(id, peer);
        if self.core.join_worker(self.now(), id, offer, holdings).is_err() {
            let peer = self.peers.remove(&id).unwrap();
            self.away.push(peer);
        } else {
            self.settle();
            let answered = |carried: &Carried| carried.lease != Lease(0);
            let peer = &self.peers[&id];
            assert!(peer.tasks.iter().all(answered), "a holding was not answered: {peer:?}");
        }
        id
    }

    /// A worker that is away comes back.
    pub(super) fn return_worker(&mut self, which: usize) -> Option<WorkerId> {
        if self.away.is_empty() {
            return None;
        }
        let peer = self.away.remove(which % self.away.len());
        Some(self.attach(peer))
    }

    /// The connection of a worker breaks; it goes on with what it has.
    pub(super) fn leave(&mut self, id: WorkerId) {
        self.unlink(id);
        self.core.leave_worker(self.now(), id);
        self.settle();
    }

    /// The same, and the worker dies of it.
    pub(super) fn kill(&mut self, id: WorkerId) {
        self.leave(id);
        self.away.pop();
    }

    fn unlink(&mut self, id: WorkerId) {
        let Some(mut peer) = self.peers.remove(&id) else { return };
        peer.tasks.retain(|carried| !carried.revoked);
        for carried in &mut peer.tasks {
            carried.lease = Lease(0);
            carried.recalled = false;
        }
        peer.left_at = self.at;
        peer.has_brought = !peer.tasks.is_empty();
        self.away.push(peer);
    }

    pub(super) fn hear(&mut self, id: WorkerId, what: FromWorker) {
        self.core.hear(self.now(), id, what);
        self.settle();
    }

    pub(super) fn done(&mut self, worker: WorkerId, lease: Lease, outcome: Outcome) {
        self.take(worker, lease);
        self.hear(worker, FromWorker::Done(lease, outcome));
    }

    /// A worker gives a task back.
    pub(super) fn give_back(&mut self, worker: WorkerId, lease: Lease) {
        self.take(worker, lease);
        self.hear(worker, FromWorker::Returned(lease));
    }

    fn take(&mut self, worker: WorkerId, lease: Lease) {
        if let Some(peer) = self.peers.get_mut(&worker) {
            peer.tasks.retain(|carried| carried.lease != lease);
        }
    }

    /// A task of a worker.
    pub(super) fn carried(&mut self, worker: WorkerId, lease: Lease) -> &mut Carried {
        let tasks = &mut self.peers.get_mut(&worker).unwrap().tasks;
        tasks.iter_mut().find(|carried| carried.lease == lease).unwrap()
    }

    /// What workers with links have, by lease.
    pub(super) fn held(&self) -> Vec<(WorkerId, Lease)> {
        let tasks = self
            .peers
            .iter()
            .flat_map(|(id, peer)| peer.tasks.iter().map(|carried| (*id, carried.lease)));
        tasks.collect()
    }

    pub(super) fn wait(&mut self, span: Duration) {
        // As the driver does: at each deadline, and at least once in a second.
        let end = self.at + span;
        while self.at < end {
            let next = self.core.next_deadline().map_or(end, |at| at + self.began).max(self.at);
            self.at = next.min(self.at + Duration::from_secs(1)).min(end);
            let now = self.now();
            self.core.tick(now);
            self.settle();
            let due = self.core.next_deadline();
            if next <= self.at && due.is_some_and(|due| due <= now.since_start) {
                panic!("a deadline stays in the past");
            }
        }
    }

    pub(super) fn settle(&mut self) {
        for effect in self.core.take_effects() {
            self.check(effect);
        }
        self.check_core();
    }

    fn check(&mut self, effect: Effect) {
        match effect {
            Effect::Tell(worker, told) => self.check_told(worker, told),
            Effect::Dismiss(id) => {
                self.unlink(id);
                // It was given up: it is not waited for.
                self.away.last_mut().expect("it is away now").left_at = Duration::ZERO;
            }
            Effect::Publish(state) => {
                assert!(!self.ended.contains(&state.id), "shown after its end");
                if state.stage.is_completed() {
                    self.ended.insert(state.id);
                }
                for accepted in self.accepted.values_mut() {
                    if accepted.shown_as == state.id && accepted.handed_in {
                        accepted.state = Some(Arc::clone(&state));
                    }
                }
                self.known.insert(state.id, state);
            }
            Effect::Forget(id) => {
                assert!(self.ended.remove(&id), "forgotten before its end, or twice");
                self.known.remove(&id);
            }
        }
    }

    fn check_told(&mut self, worker: WorkerId, told: ToWorker) {
        match told {
            ToWorker::Run(lease, task) => {
                self.check_lease(lease);
                self.check_single(task.operation);
                self.check_order(task.operation);
                self.granted.push((worker, task.operation));
                let peer = self.peers.get_mut(&worker).expect("told, so linked");
                peer.tasks.push(Carried {
                    lease,
                    task: *task,
                    progress: Progress::Fetching,
                    revoked: false,
                    recalled: false,
                    superseded: false,
                    ended: None,
                });
                let most = (peer.offer.slots + peer.offer.prefetch) as usize;
                assert!(peer.tasks.len() <= most, "{worker:?} is oversubscribed");
            }
            ToWorker::Keep(lease, id) => {
                self.check_lease(lease);
                let peer = self.peers.get_mut(&worker).expect("told, so linked");
                let carried = peer.tasks.iter_mut().find(|carried| carried.task.operation == id);
                let carried = carried.expect("kept, so brought");
                assert!(carried.lease == Lease(0) && carried.ended.is_none());
                carried.lease = lease;
                carried.superseded = false;
                peer.tasks.sort_by_key(|carried| carried.lease);
                for other in self.away.iter_mut().flat_map(|peer| &mut peer.tasks) {
                    other.superseded |= other.task.operation == id;
                }
            }
            ToWorker::Abandon(id) => {
                let peer = self.peers.get_mut(&worker).expect("told, so linked");
                let before = peer.tasks.len();
                peer.tasks
                    .retain(|carried| carried.lease != Lease(0) || carried.task.operation != id);
                assert!(peer.tasks.len() < before, "abandoned, so brought");
            }
            ToWorker::Recall(lease) => {
                let carried = self.carried(worker, lease);
                assert!(!carried.recalled && !carried.revoked, "recalled twice or too late");
                carried.recalled = true;
            }
            ToWorker::Revoke(lease) => {
                let carried = self.carried(worker, lease);
                assert!(!carried.revoked, "revoked twice");
                carried.revoked = true;
            }
            ToWorker::Alive => panic!("that is the driver's to say"),
        }
    }

    fn check_lease(&mut self, lease: Lease) {
        assert!(lease > self.greatest_lease, "a lease was used twice");
        self.greatest_lease = lease;
    }

    /// Nobody else has the operation, or may come back with it in time.
    fn check_single(&self, id: OperationId) {
        let has = |peer: &Peer| {
            peer.tasks.iter().any(|carried| {
                let goes_on = !carried.revoked && !carried.superseded && carried.ended.is_none();
                carried.task.operation == id && goes_on
            })
        };
        assert!(!self.peers.values().any(has), "{id} was leased twice");
        let returning = |peer: &&Peer| {
            // Of a scheduler that has just begun others may know more.
            peer.left_at + RETURN_GRACE > self.at && peer.left_at > self.began
        };
        assert!(!self.away.iter().filter(returning).any(has), "{id} was not waited for");
    }

    /// What is granted is the most urgent of its pool, of the build that has the fewest tasks on workers, and the oldest of
    /// that; or it has waited too long. Judged by what is shown, which is in step with what is granted.
    fn check_order(&self, granted: OperationId) {
        let pool = |state: &OperationState| {
            let seq = self.core.by_id.get(&state.id)?;
            Some((*seq, self.core.operations.get(seq)?.pool))
        };
        let Some(state) = self.known.get(&granted) else { panic!("granted, yet not shown") };
        let Some((seq, own)) = pool(state) else { return };
        let age = self.now().wall.duration_since(state.queued_at).unwrap_or_default();
        if age >= PATIENCE {
            return;
        }
        let mut running: BTreeMap<&str, BTreeSet<Seq>> = BTreeMap::new();
        let mut waiting = Vec::new();
        for other in self.known.values() {
            let Some((other_seq, _)) = pool(other).filter(|(_, pool)| *pool == own) else {
                continue;
            };
            match &other.stage {
                Stage::Executing { .. } => {
                    running.entry(&other.invocation).or_default().insert(other_seq);
                }
                Stage::Queued(_) if other_seq != seq => waiting.push((other_seq, other)),
                Stage::Queued(_) | Stage::Completed { .. } => {}
            }
        }
        let count =
            |state: &OperationState| running.get(&*state.invocation).map_or(0, BTreeSet::len);
        for (other_seq, other) in waiting {
            let rank = |state: &OperationState| (state.priority, count(state));
            assert!(rank(state) <= rank(other), "{state:?} was granted before {other:?}");
            if rank(state) == rank(other) && state.invocation == other.invocation {
                assert!(seq < other_seq, "a younger one was granted");
            }
        }
    }

    /// What the core knows agrees with itself, and is within its bounds.
    fn check_core(&self) {
        let core = &self.core;
        let limits = core.limits;
        let (queued, executing, finished) = core.counts();
        assert!(queued + executing <= limits.unfinished && core.workers.len() <= limits.workers);
        assert!(finished <= limits.finished);
        assert!(core.finished_bytes <= limits.finished_bytes || finished == 1);
        assert!(core.idle_pools.len() <= limits::MAX_IDLE_POOLS);
        let names: usize = core.operations.values().map(|operation| operation.names.len()).sum();
        assert_eq!(core.by_id.len(), names);
        assert_eq!(self.known.len(), names);
        assert!(core.decided.len() <= finished);
        let waiting: usize = core.pools.values().map(|pool| pool.queue.len()).sum();
        assert_eq!(waiting, queued);
        let unfinished: usize = core.pools.values().map(|pool| pool.operations).sum();
        assert_eq!(unfinished, queued + executing);
        assert_eq!(core.workers.keys().collect::<Vec<_>>(), self.peers.keys().collect::<Vec<_>>());
        for (id, pool) in &core.pools {
            let idle = pool.queue.len() == 0 || pool.free.is_empty() && pool.spare.is_empty();
            assert!(idle, "a slot is idle, yet work waits");
            assert!(pool.members > 0 || pool.queue.len() == 0 || pool.refuses_at.is_some());
            let members = core.workers.values().filter(|worker| worker.pools.contains(id));
            assert_eq!(members.count(), pool.members);
        }
        self.check_workers();
        let tasks = self.peers.values().flat_map(|peer| &peer.tasks);
        let valid = tasks.filter(|carried| !carried.revoked).count();
        assert_eq!(valid + core.awaited.len(), executing);
    }

    fn check_workers(&self) {
        let core = &self.core;
        for (id, worker) in &core.workers {
            let peer = &self.peers[id];
            assert_eq!(worker.grants.len(), peer.tasks.len());
            for pool_id in &worker.pools {
                let pool = &core.pools[pool_id];
                let room = worker.room(*pool_id, pool.demand);
                let load = worker.load(*id);
                assert_eq!(pool.free.contains(&load), room == Some(Room::Slot), "{worker:?}");
                assert_eq!(pool.spare.contains(&load), room == Some(Room::Prefetch));
            }
            let recalled = core.workers.values().flat_map(|other| other.grants.values());
            let recalled = recalled.filter(|grant| grant.recalled_for == Some(*id)).count();
            assert_eq!(worker.recalls as usize, recalled);
            let reserved = core
                .pools
                .iter()
                .find(|(_, pool)| pool.reserved.is_some_and(|(_, reserved)| reserved == *id));
            assert_eq!(worker.reserved, reserved.map(|(pool_id, _)| *pool_id));
            if !peer.has_brought {
                let slots = peer.offer.slots as usize;
                let running = peer.tasks.iter().take(slots);
                let taken = running.map(|carried| carried.task.submission.demand);
                let taken = taken.fold(Demand::default(), Demand::plus);
                assert!(peer.offer.capacity.covers(taken), "more than it has: {peer:?}");
            }
        }
        for pool in core.pools.values() {
            for (lease, holder) in &pool.recallable {
                assert!(core.workers[holder].waits(*lease), "{lease:?} has a slot");
            }
            if let Some((seq, _)) = pool.reserved {
                assert!(pool.queue.iter().any(|other| other == seq), "reserved for nothing");
            }
        }
    }

    /// Whether a worker lets a task begin: it has a slot for it.
    pub(super) fn has_turn(&self, worker: WorkerId, lease: Lease) -> bool {
        let peer = &self.peers[&worker];
        let before = peer.tasks.iter().position(|carried| carried.lease == lease);
        before.is_some_and(|before| before < peer.offer.slots as usize)
    }

    pub(super) fn nth_operation(&self, which: u8) -> Option<OperationId> {
        let count = self.known.len().max(1);
        self.known.keys().nth(usize::from(which) % count).copied()
    }

    pub(super) fn nth_worker(&self, which: u8) -> Option<WorkerId> {
        let count = self.peers.len().max(1);
        self.peers.keys().nth(usize::from(which) % count).copied()
    }

    pub(super) fn nth_held(&self, which: u8) -> Option<(WorkerId, Lease)> {
        let held = self.held();
        held.get(usize::from(which) % held.len().max(1)).copied()
    }

    /// Lets all workers come back, live and finish what they have, and clients hand in what is missing, for a while.
    pub(super) fn finish(&mut self) {
        for _ in 0..200 {
            while self.core.workers.len() < self.core.limits.workers
                && self.return_worker(0).is_some()
            {}
            for id in self.to_hand_in() {
                self.resubmit(id);
            }
            for (worker, lease) in self.held() {
                self.done(worker, lease, decided());
            }
            for worker in self.peers.keys().copied().collect::<Vec<_>>() {
                self.hear(worker, FromWorker::Alive);
            }
            self.wait(Duration::from_millis(500));
        }
    }

    /// How an operation ended, as its client saw it.
    pub(super) fn end(&self, id: OperationId) -> Option<&End> {
        match &self.accepted.get(&id)?.state.as_ref()?.stage {
            Stage::Completed { end, .. } => Some(end),
            _ => None,
        }
    }
}

impl Accepted {
    pub(super) fn stage(&self) -> Option<&Stage> {
        self.state.as_ref().map(|state| &state.stage)
    }

    pub(super) fn has_ended(&self) -> bool {
        self.state.as_ref().is_some_and(|state| state.stage.is_completed())
    }
}
