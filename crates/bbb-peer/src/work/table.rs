//! What this node knows of operations, those above all that it accepted: events and the time in, effects out.
//!
//! Promises: an operation that was accepted is handed in to each scheduler that comes, until it has ended or nobody cares any
//! more; what is to be said to the scheduler is derived from how an operation stands when it is said, so that nothing piles
//! up; everything is bounded by [`Limits`].
//!
//! It has no clock, no channel and no await, and knows nothing of who the scheduler is.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::{Duration, SystemTime},
};

use bbb_scheduler::{ActionKey, OperationId, OperationState, Place, Stage, Submission};

use super::{
    Found, FromScheduler, ToScheduler,
    entry::{Entry, Knowledge},
};

/// How long an operation stays known here after its end, as it does at the scheduler.
const ENDED_KEPT_FOR: Duration = Duration::from_secs(300);

/// How long an operation is handed in to further schedulers when nobody watches it here: as long as a scheduler goes on with
/// one that nobody watches.
const UNWATCHED_KEPT_FOR: Duration = Duration::from_secs(60);

/// How long after the scheduler did not take an operation it is handed in again; twice as long after each further time.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LONGEST_RETRY: Duration = Duration::from_secs(10);

/// How long a new scheduler may take to hear of all operations: what it does not know before is asked for again.
pub(super) const SETTLING: Duration = Duration::from_secs(5);

/// The same for an operation whose accepting node is gone, or knows nothing of it any more: only a worker can bring it, and workers
/// follow the scheduler at once.
const SETTLING_ALONE: Duration = Duration::from_secs(1);

/// How long after the scheduler did not know an operation it is asked again while it settles.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// How long an operation is looked for.
const SOUGHT_FOR: Duration = Duration::from_secs(10);

/// How much is remembered.
#[derive(Clone, Copy, Debug)]
pub struct TableLimits {
    /// Operations that have not ended. Past that none is accepted.
    pub unfinished: usize,
    /// Operations that are looked for at a time.
    pub sought: usize,
    /// Operations that have ended. Past that the oldest are forgotten.
    pub ended: usize,
    /// Bytes of their outcomes. Past that the oldest are forgotten.
    pub ended_bytes: usize,
}

impl Default for TableLimits {
    fn default() -> Self {
        Self { unfinished: 200_000, sought: 1_024, ended: 10_000, ended_bytes: 64 << 20 }
    }
}

/// What is to be done, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Show how an operation stands.
    Publish(Arc<OperationState>),
    /// The operation is not known any more, or was not found.
    Forget(OperationId),
    /// Nobody could say in time whether there is such an operation.
    GiveUp(OperationId),
    /// The scheduler does not know an operation, and what it takes to hand it in is not here: ask the node that accepted it.
    Ask(OperationId),
}

/// A bound is met; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full(pub(super) &'static str);

/// Where an operation stands among all, in the order in which they came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Seq(u64);

/// How many operations there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Those that have not ended.
    pub unfinished: usize,
    /// Those that have ended and are still known.
    pub ended: usize,
}

/// All operations that this node knows.
#[derive(Debug)]
pub(super) struct Table {
    limits: TableLimits,
    entries: BTreeMap<Seq, Entry>,
    by_id: HashMap<OperationId, Seq>,
    /// Unfinished operations that equal submissions join.
    mergeable: HashMap<Arc<ActionKey>, Seq>,
    ended: BTreeSet<(Duration, Seq)>,
    ended_bytes: usize,
    sought: usize,
    timers: BTreeSet<(Duration, Seq)>,
    /// Those of which something may be to be said, each once.
    unsaid: VecDeque<Seq>,
    /// Since when there is a stream to a scheduler.
    connected_at: Option<Duration>,
    effects: Vec<Effect>,
    last_seq: u64,
}

impl Table {
    pub(super) fn new(limits: TableLimits) -> Self {
        Self {
            limits,
            entries: BTreeMap::new(),
            by_id: HashMap::new(),
            mergeable: HashMap::new(),
            ended: BTreeSet::new(),
            ended_bytes: 0,
            sought: 0,
            timers: BTreeSet::new(),
            unsaid: VecDeque::new(),
            connected_at: None,
            effects: Vec::new(),
            last_seq: 0,
        }
    }

    /// Accepts work under the name `id`, which is new, or joins it to equal work that was accepted here. Gives the name of
    /// the operation.
    pub(super) fn accept(
        &mut self,
        wall: SystemTime,
        id: OperationId,
        submission: Submission,
    ) -> Result<OperationId, Full> {
        if submission.mergeable
            && let Some(&seq) = self.mergeable.get(&submission.key)
            && let Some(entry) = self.entries.get_mut(&seq)
        {
            entry.join(&submission);
            let id = entry.id;
            self.touch(seq);
            return Ok(id);
        }
        if self.unfinished() >= self.limits.unfinished {
            return Err(Full("too many operations were accepted that have not ended"));
        }
        let key = Arc::new(submission.key.clone());
        let state = OperationState {
            id,
            key: Arc::clone(&key),
            invocation: Arc::clone(&submission.invocation),
            priority: submission.priority,
            queued_at: wall,
            stage: Stage::Queued(Place::default()),
        };
        let state = Arc::new(state);
        let is_mergeable = submission.mergeable;
        let work = Some(Box::new(submission));
        let seq = self.insert(id, Knowledge::Open { state: Arc::clone(&state), work });
        if is_mergeable {
            self.mergeable.insert(key, seq);
        }
        self.effects.push(Effect::Publish(state));
        Ok(id)
    }

    /// Somebody wants to see an operation. If nothing is known of it yet it is looked for, and either published or forgotten
    /// later.
    pub(super) fn look(&mut self, now: Duration, id: OperationId) -> Result<(), Full> {
        if let Some(&seq) = self.by_id.get(&id)
            && let Some(entry) = self.entries.get_mut(&seq)
        {
            entry.unwatched_at = None;
            self.touch(seq);
            return Ok(());
        }
        if self.sought >= self.limits.sought || self.unfinished() >= self.limits.unfinished {
            return Err(Full("too many operations are looked for"));
        }
        self.sought += 1;
        self.insert(id, Knowledge::Sought { since: now });
        Ok(())
    }

    /// An operation for another node that asks for it: one that has ended, or that can be handed in.
    pub(super) fn found(&self, id: OperationId) -> Option<Found> {
        let entry = self.entry(id)?;
        match &entry.knowledge {
            Knowledge::Open { state, work: Some(work) } => {
                Some(Found { state: Arc::clone(state), submission: Some(work.clone()) })
            }
            Knowledge::Ended { state, .. } => {
                Some(Found { state: Arc::clone(state), submission: None })
            }
            _ => None,
        }
    }

    /// Nobody watches an operation here any more.
    pub(super) fn unwatched(&mut self, now: Duration, id: OperationId) {
        self.change(id, |entry| entry.unwatched_at = Some(now));
    }

    /// The operation is to end. Gives whether it is known.
    pub(super) fn cancel(&mut self, id: OperationId) -> bool {
        if let Some(&seq) = self.by_id.get(&id)
            && let Some(key) = self.entry(id).and_then(Entry::key)
        {
            // Nobody joins what is about to end.
            self.unmerge(&key, seq);
        }
        self.change(id, |entry| entry.is_cancelled = true)
    }

    /// The operation is to be forgotten once it has ended. Gives whether it is known.
    pub(super) fn forget(&mut self, id: OperationId) -> bool {
        self.change(id, |entry| entry.is_forgotten = true)
    }

    /// There is a stream to a scheduler that knows nothing of this node yet.
    pub(super) fn connected(&mut self, now: Duration) {
        self.disconnected();
        self.connected_at = Some(now);
        let all: Vec<Seq> = self.entries.keys().copied().collect();
        for seq in all {
            if let Some(entry) = self.entries.get_mut(&seq) {
                entry.begin_anew();
            }
            self.touch(seq);
        }
    }

    /// The stream has broken.
    pub(super) fn disconnected(&mut self) {
        self.connected_at = None;
        for seq in std::mem::take(&mut self.unsaid) {
            if let Some(entry) = self.entries.get_mut(&seq) {
                entry.is_unsaid = false;
            }
        }
    }

    /// Whether there may be something to say.
    pub(super) fn has_something_to_say(&self) -> bool {
        !self.unsaid.is_empty()
    }

    /// What is to be said to the scheduler next. `is_member` tells whether a worker's node is there.
    pub(super) fn next_message(&mut self, is_member: impl Fn(&str) -> bool) -> Option<ToScheduler> {
        while let Some(&seq) = self.unsaid.front() {
            let message = self.entries.get_mut(&seq).and_then(|entry| entry.say(&is_member));
            if message.is_some() {
                return message;
            }
            self.unsaid.pop_front();
            if let Some(entry) = self.entries.get_mut(&seq) {
                entry.is_unsaid = false;
                if entry.is_done_with() {
                    self.remove(seq);
                }
            }
        }
        None
    }

    /// The scheduler says something.
    pub(super) fn heard(&mut self, now: Duration, what: FromScheduler) {
        match what {
            FromScheduler::Alive => {}
            FromScheduler::State(id, state) => self.learnt(now, id, &state),
            FromScheduler::Unknown(id) => self.unknown(now, id),
            FromScheduler::Refused(id, why) => {
                tracing::debug!(%id, why, "the scheduler does not take an operation");
                self.again(now, id);
            }
        }
    }

    /// What the node says that accepted an operation; nothing if it does not know it, says nothing, or is gone. `may_hand_in` tells
    /// whether it may still hand it in itself.
    pub(super) fn answered(
        &mut self,
        now: Duration,
        id: OperationId,
        found: Option<Found>,
        may_hand_in: bool,
    ) {
        let settling = if may_hand_in { SETTLING } else { SETTLING_ALONE };
        let Some(&seq) = self.by_id.get(&id) else { return };
        let Some(entry) = self.entries.get_mut(&seq) else { return };
        if entry.is_ended() {
            return;
        }
        let found =
            found.filter(|found| found.state.stage.is_completed() || found.submission.is_some());
        match found {
            Some(Found { state, submission }) => {
                self.learnt(now, id, &state);
                if let Some(entry) = self.entries.get_mut(&seq) {
                    entry.adopt(submission);
                    self.touch(seq);
                }
            }
            // Others may be about to tell a new scheduler of it.
            None if self.connected_at.is_none_or(|at| now < at + settling) => {
                entry.begin_anew();
                entry.retry_at = Some(now + ASK_AGAIN);
                self.set_due(seq);
            }
            None => self.remove(seq),
        }
    }

    /// Does all whose time has come.
    pub(super) fn tick(&mut self, now: Duration) {
        while let Some(&(due, seq)) = self.timers.first()
            && due <= now
        {
            let Some(entry) = self.entries.get_mut(&seq) else {
                self.timers.pop_first();
                continue;
            };
            if entry.retry_at.is_some_and(|at| at <= now) {
                entry.retry_at = None;
                self.touch(seq);
            } else {
                if matches!(entry.knowledge, Knowledge::Sought { .. }) {
                    self.effects.push(Effect::GiveUp(entry.id));
                }
                self.remove(seq);
            }
        }
    }

    /// When [`Self::tick`] has something to do.
    pub(super) fn next_deadline(&self) -> Option<Duration> {
        self.timers.first().map(|&(due, _)| due)
    }

    /// What is to be done since this was last asked.
    pub(super) fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    pub(super) fn counts(&self) -> Counts {
        Counts { unfinished: self.unfinished(), ended: self.ended.len() }
    }

    fn unfinished(&self) -> usize {
        self.entries.len() - self.ended.len() - self.sought
    }

    fn entry(&self, id: OperationId) -> Option<&Entry> {
        self.entries.get(self.by_id.get(&id)?)
    }

    fn insert(&mut self, id: OperationId, knowledge: Knowledge) -> Seq {
        self.last_seq += 1;
        let seq = Seq(self.last_seq);
        self.entries.insert(seq, Entry::new(id, knowledge));
        self.by_id.insert(id, seq);
        self.touch(seq);
        seq
    }

    /// Changes what is wanted of an operation. Gives whether it is known.
    fn change(&mut self, id: OperationId, change: impl FnOnce(&mut Entry)) -> bool {
        let Some(&seq) = self.by_id.get(&id) else { return false };
        let Some(entry) = self.entries.get_mut(&seq) else { return false };
        change(entry);
        self.touch(seq);
        true
    }

    /// Something about an operation has changed.
    fn touch(&mut self, seq: Seq) {
        self.set_due(seq);
        let Some(entry) = self.entries.get_mut(&seq) else { return };
        if self.connected_at.is_some() && !entry.is_unsaid && entry.retry_at.is_none() {
            entry.is_unsaid = true;
            self.unsaid.push_back(seq);
        }
    }

    fn set_due(&mut self, seq: Seq) {
        let Some(entry) = self.entries.get_mut(&seq) else { return };
        let due = match entry.knowledge {
            Knowledge::Ended { at, .. } => Some(at + ENDED_KEPT_FOR),
            Knowledge::Sought { since } => {
                let given_up = since + SOUGHT_FOR;
                Some(entry.retry_at.map_or(given_up, |at| at.min(given_up)))
            }
            Knowledge::Open { .. } => {
                let let_go = entry.unwatched_at.map(|at| at + UNWATCHED_KEPT_FOR);
                entry.retry_at.into_iter().chain(let_go).min()
            }
        };
        let before = std::mem::replace(&mut entry.due, due);
        if before != due {
            before.map(|before| self.timers.remove(&(before, seq)));
            due.map(|due| self.timers.insert((due, seq)));
        }
    }

    /// How an operation stands now.
    fn learnt(&mut self, now: Duration, id: OperationId, state: &Arc<OperationState>) {
        let Some(&seq) = self.by_id.get(&id) else { return };
        let Some(entry) = self.entries.get_mut(&seq) else { return };
        if entry.is_ended() {
            return;
        }
        let state = match state.id == id {
            true => Arc::clone(state),
            false => Arc::new(OperationState { id, ..OperationState::clone(state) }),
        };
        if matches!(entry.knowledge, Knowledge::Sought { .. }) {
            self.sought -= 1;
        }
        let bytes = entry.learn(now, Arc::clone(&state));
        if let Some(bytes) = bytes {
            self.ended.insert((now, seq));
            self.ended_bytes += bytes;
            self.unmerge(&state.key, seq);
        }
        self.effects.push(Effect::Publish(state));
        self.set_due(seq);
        if self.entries.get(&seq).is_some_and(Entry::is_done_with) {
            self.remove(seq);
        }
        self.make_room();
    }

    /// The scheduler does not know an operation.
    fn unknown(&mut self, now: Duration, id: OperationId) {
        match self.entry(id) {
            Some(entry) if entry.is_ended() => {}
            Some(entry) if entry.can_be_handed_in() => self.again(now, id),
            Some(_) => self.effects.push(Effect::Ask(id)),
            None => {}
        }
    }

    /// Hands an operation in again after a while.
    fn again(&mut self, now: Duration, id: OperationId) {
        let Some(&seq) = self.by_id.get(&id) else { return };
        let Some(entry) = self.entries.get_mut(&seq) else { return };
        entry.begin_anew();
        let rest = FIRST_RETRY.saturating_mul(1 << entry.retries.min(16)).min(LONGEST_RETRY);
        entry.retries += 1;
        entry.retry_at = Some(now + rest);
        self.set_due(seq);
    }

    /// Forgets what ended first while there is too much of it.
    fn make_room(&mut self) {
        while (self.ended.len() > self.limits.ended || self.ended_bytes > self.limits.ended_bytes)
            && let Some(&(_, seq)) = self.ended.first()
        {
            self.remove(seq);
        }
    }

    fn remove(&mut self, seq: Seq) {
        let Some(entry) = self.entries.remove(&seq) else { return };
        self.by_id.remove(&entry.id);
        if let Some(due) = entry.due {
            self.timers.remove(&(due, seq));
        }
        match &entry.knowledge {
            Knowledge::Sought { .. } => self.sought -= 1,
            Knowledge::Open { state, .. } => self.unmerge(&Arc::clone(&state.key), seq),
            Knowledge::Ended { at, bytes, .. } => {
                self.ended.remove(&(*at, seq));
                self.ended_bytes -= bytes;
            }
        }
        self.effects.push(Effect::Forget(entry.id));
    }

    fn unmerge(&mut self, key: &Arc<ActionKey>, seq: Seq) {
        if self.mergeable.get(key) == Some(&seq) {
            self.mergeable.remove(key);
        }
    }
}

#[cfg(test)]
mod tests;
