//! The order in which operations of one pool are taken: by priority, then fairly between flows, then by
//! age. A flow is what belongs to one build.
//!
//! Fair means: the flow with the fewest tasks on workers goes first. That holds for short and long tasks
//! alike, and needs no guess of how long one will last. All steps are logarithmic in the queue's length.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use bbb_digest::InstanceName;

use super::limits::PLACE_COUNTED;

/// An operation by the order in which it came. It keeps it when it comes back from a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Seq(pub(crate) u64);

/// Who shares fairly with others: one build in one instance.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Flow {
    pub(crate) instance: InstanceName,
    pub(crate) invocation: Arc<str>,
}

/// What waits, in the order in which it will be taken.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    levels: BTreeMap<i32, Level>,
    flows: HashMap<Arc<Flow>, FlowState>,
    by_age: BTreeSet<Seq>,
}

/// The flows that wait at one priority.
#[derive(Debug, Default)]
struct Level {
    /// By how many tasks of the flow are on workers, then by the age of its first operation here.
    order: BTreeMap<(u32, Seq), Arc<Flow>>,
    operations: usize,
}

#[derive(Debug, Default)]
struct FlowState {
    running: u32,
    waiting: BTreeSet<(i32, Seq)>,
}

/// What is taken next, comparable between queues: the least goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Head {
    pub(crate) priority: i32,
    pub(crate) running: u32,
    pub(crate) seq: Seq,
}

impl Queue {
    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.by_age.len()
    }

    /// The flow, shared with what else belongs to it.
    pub(crate) fn interned(&self, flow: Flow) -> Arc<Flow> {
        match self.flows.get_key_value(&flow) {
            Some((known, _)) => Arc::clone(known),
            None => Arc::new(flow),
        }
    }

    /// Lets an operation wait.
    pub(crate) fn push(&mut self, priority: i32, flow: &Arc<Flow>, seq: Seq) {
        self.by_age.insert(seq);
        self.levels.entry(priority).or_default().operations += 1;
        self.change(flow, |state| {
            state.waiting.insert((priority, seq));
        });
    }

    /// Takes an operation out.
    pub(crate) fn remove(&mut self, priority: i32, flow: &Arc<Flow>, seq: Seq) {
        if !self.by_age.remove(&seq) {
            return;
        }
        self.change(flow, |state| {
            state.waiting.remove(&(priority, seq));
        });
        if let Some(level) = self.levels.get_mut(&priority) {
            level.operations -= 1;
            if level.operations == 0 {
                self.levels.remove(&priority);
            }
        }
    }

    /// A task of the flow went to a worker.
    pub(crate) fn started(&mut self, flow: &Arc<Flow>) {
        self.change(flow, |state| state.running += 1);
    }

    /// A task of the flow came back from a worker.
    pub(crate) fn ended(&mut self, flow: &Arc<Flow>) {
        self.change(flow, |state| state.running = state.running.saturating_sub(1));
    }

    /// What is taken next.
    pub(crate) fn head(&self) -> Option<Head> {
        let (&priority, level) = self.levels.first_key_value()?;
        let (&(running, seq), _) = level.order.first_key_value()?;
        Some(Head { priority, running, seq })
    }

    /// What has waited longest.
    pub(crate) fn oldest(&self) -> Option<Seq> {
        self.by_age.first().copied()
    }

    /// About how many are taken before an operation that waits: those that are more urgent, and as many of
    /// each flow at its own level as of its own.
    pub(crate) fn ahead(&self, priority: i32, flow: &Arc<Flow>, seq: Seq) -> u64 {
        let urgent: usize = self.levels.range(..priority).map(|(_, level)| level.operations).sum();
        let Some(level) = self.levels.get(&priority) else { return urgent as u64 };
        let own = self.flows.get(flow).map_or(0, |state| state.before(priority, seq));
        let fair = own.saturating_mul(level.order.len());
        (urgent + fair.min(level.operations.saturating_sub(1))) as u64
    }

    /// Everything that waits, oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Seq> {
        self.by_age.iter().copied()
    }

    /// Changes a flow and its place at each level where it waits.
    fn change(&mut self, flow: &Arc<Flow>, change: impl FnOnce(&mut FlowState)) {
        let state = self.flows.entry(Arc::clone(flow)).or_default();
        for (priority, key) in state.places() {
            if let Some(level) = self.levels.get_mut(&priority) {
                level.order.remove(&key);
            }
        }
        change(state);
        for (priority, key) in state.places() {
            self.levels.entry(priority).or_default().order.insert(key, Arc::clone(flow));
        }
        if state.running == 0 && state.waiting.is_empty() {
            self.flows.remove(flow);
        }
    }
}

impl FlowState {
    /// How many wait before an operation at its priority: counted where they are few, else guessed from
    /// where its number lies between the first and the last.
    fn before(&self, priority: i32, seq: Seq) -> usize {
        let level = (priority, Seq(0))..=(priority, Seq(u64::MAX));
        let counted = self.waiting.range(level.clone()).take_while(|(_, other)| *other < seq);
        let counted = counted.take(PLACE_COUNTED).count();
        if counted < PLACE_COUNTED {
            return counted;
        }
        let mut ends = self.waiting.range(level);
        let (first, last) = (ends.next(), ends.next_back());
        let (Some((_, first)), Some((_, last))) = (first, last) else { return counted };
        let (from, to) = (seq.0.saturating_sub(first.0), last.0.saturating_sub(first.0).max(1));
        let guess = u128::from(from) * self.waiting.len() as u128 / u128::from(to);
        usize::try_from(guess).unwrap_or(usize::MAX).max(counted)
    }

    /// The flow's key at each priority where it waits.
    fn places(&self) -> impl Iterator<Item = (i32, (u32, Seq))> {
        let first = self.waiting.first().copied();
        let next = |&(priority, _): &(i32, Seq)| {
            self.waiting.range((priority + 1, Seq(0))..).next().copied()
        };
        std::iter::successors(first, next).map(|(priority, seq)| (priority, (self.running, seq)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(name: &str) -> Arc<Flow> {
        Arc::new(Flow { instance: InstanceName::default(), invocation: name.into() })
    }

    fn take(queue: &mut Queue, flows: &[(Seq, Arc<Flow>)]) -> Option<u64> {
        let head = queue.head()?;
        let flow = &flows.iter().find(|(seq, _)| *seq == head.seq).unwrap().1;
        queue.remove(head.priority, flow, head.seq);
        queue.started(flow);
        Some(head.seq.0)
    }

    #[test]
    fn priority_then_fairness_then_age() {
        let (big, small) = (flow("big"), flow("small"));
        let mut queue = Queue::default();
        let mut flows = Vec::new();
        let entries = [
            (0, &big, 1),
            (0, &big, 2),
            (0, &big, 3),
            (0, &small, 4),
            (-5, &big, 5),
            (7, &small, 6),
        ];
        for (priority, flow, seq) in entries {
            queue.push(priority, flow, Seq(seq));
            flows.push((Seq(seq), Arc::clone(flow)));
        }
        assert_eq!(queue.ahead(0, &big, Seq(2)), 1 + 2);
        assert_eq!(queue.oldest(), Some(Seq(1)));
        let order: Vec<_> = std::iter::from_fn(|| take(&mut queue, &flows)).collect();
        assert_eq!(order, [5, 4, 1, 2, 3, 6]);
        assert_eq!(queue.len(), 0);
        for (_, flow) in &flows {
            queue.ended(flow);
        }
        assert!(queue.flows.is_empty() && queue.levels.is_empty());
    }
}
