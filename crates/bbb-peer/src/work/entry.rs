//! One operation in the [`Table`](super::table::Table) of this node.

use std::{sync::Arc, time::Duration};

use bbb_scheduler::{ActionKey, End, Known, OperationId, OperationState, Stage, Submission};

use super::ToScheduler;

/// How many earlier attempts are told of; the scheduler refuses an operation that had more.
const MAX_STORY: usize = 8;

/// One operation.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: OperationId,
    pub(super) knowledge: Knowledge,
    /// Since when nobody watches it here; none while somebody does.
    pub(super) unwatched_at: Option<Duration>,
    pub(super) is_cancelled: bool,
    pub(super) is_forgotten: bool,
    /// When it is handed in or asked for again; nothing is said of it before.
    pub(super) retry_at: Option<Duration>,
    /// How often it was not taken.
    pub(super) retries: u32,
    /// When it is looked at again.
    pub(super) due: Option<Duration>,
    /// Whether it waits for its turn to have something said of it.
    pub(super) is_unsaid: bool,
    told: Told,
    /// What became of its earlier attempts, as far as it shows.
    story: Vec<String>,
    /// Who had it last, and which try that was.
    last_run: Option<(Arc<str>, u32)>,
}

/// What is known of an operation.
#[derive(Debug)]
pub(super) enum Knowledge {
    /// Nothing yet: others are asked.
    Sought {
        /// Since when.
        since: Duration,
    },
    /// It has not ended.
    Open {
        /// How it stands.
        state: Arc<OperationState>,
        /// What it takes to hand it in; none if another node accepted it.
        work: Option<Box<Submission>>,
    },
    /// It has ended.
    Ended {
        /// How.
        state: Arc<OperationState>,
        /// When that was heard.
        at: Duration,
        /// What its outcome takes.
        bytes: usize,
    },
}

/// What the scheduler of the moment was told of an operation.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    interest: Interest,
    cancelled: bool,
    forgotten: bool,
}

/// Whether the scheduler knows that somebody here watches an operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Interest {
    /// It was not even told that there is such an operation.
    #[default]
    Untold,
    Watched,
    Unwatched,
}

impl Entry {
    pub(super) fn new(id: OperationId, knowledge: Knowledge) -> Self {
        Self {
            id,
            knowledge,
            unwatched_at: None,
            is_cancelled: false,
            is_forgotten: false,
            retry_at: None,
            retries: 0,
            due: None,
            is_unsaid: false,
            told: Told::default(),
            story: Vec::new(),
            last_run: None,
        }
    }

    /// Its work, as far as it is known and has not ended.
    pub(super) fn key(&self) -> Option<Arc<ActionKey>> {
        match &self.knowledge {
            Knowledge::Open { state, .. } => Some(Arc::clone(&state.key)),
            _ => None,
        }
    }

    pub(super) fn is_ended(&self) -> bool {
        matches!(self.knowledge, Knowledge::Ended { .. })
    }

    pub(super) fn can_be_handed_in(&self) -> bool {
        matches!(self.knowledge, Knowledge::Open { work: Some(_), .. })
    }

    /// Whether it is to be forgotten, and everyone knows.
    pub(super) fn is_done_with(&self) -> bool {
        self.is_ended() && self.is_forgotten && self.told.forgotten
    }

    /// Equal work was submitted here: it counts as watched, and is as urgent as the more urgent of both.
    pub(super) fn join(&mut self, other: &Submission) {
        self.unwatched_at = None;
        if let Knowledge::Open { work: Some(work), .. } = &mut self.knowledge
            && other.priority < work.priority
        {
            work.priority = other.priority;
            // Handing it in again tells how urgent it is.
            self.told.interest = Interest::Untold;
        }
    }

    /// The scheduler of the moment knows nothing of it.
    pub(super) fn begin_anew(&mut self) {
        self.told = Told::default();
        self.retry_at = None;
    }

    /// What it takes to hand it in has come from the node that accepted it.
    pub(super) fn adopt(&mut self, submission: Option<Box<Submission>>) {
        if let Knowledge::Open { work, .. } = &mut self.knowledge {
            *work = submission;
            self.begin_anew();
        }
    }

    /// Takes note of how it stands. Gives the bytes of its outcome if it has ended.
    pub(super) fn learn(&mut self, now: Duration, state: Arc<OperationState>) -> Option<usize> {
        self.retries = 0;
        match &state.stage {
            Stage::Completed { end, .. } => {
                let bytes = match end {
                    End::Decided(response) => response.len(),
                    End::Failed(_) => 0,
                };
                self.knowledge = Knowledge::Ended { state, at: now, bytes };
                return Some(bytes);
            }
            Stage::Executing { worker, attempt, .. } => {
                if let Some((before, last)) = &self.last_run
                    && last < attempt
                    && self.story.len() < MAX_STORY
                {
                    self.story.push(format!("worker {before} did not finish it"));
                }
                self.last_run = Some((Arc::clone(worker), *attempt));
            }
            Stage::Queued(_) => {}
        }
        match &mut self.knowledge {
            Knowledge::Open { state: before, .. } => *before = state,
            _ => self.knowledge = Knowledge::Open { state, work: None },
        }
        None
    }

    /// What is to be said of it next, after which it counts as said.
    pub(super) fn say(&mut self, is_member: impl Fn(&str) -> bool) -> Option<ToScheduler> {
        if self.retry_at.is_some() {
            return None;
        }
        let (id, is_watched) = (self.id, self.unwatched_at.is_none());
        let message = match (&self.knowledge, self.told.interest) {
            (Knowledge::Ended { .. }, _) => None,
            (Knowledge::Open { state, work: Some(work) }, Interest::Untold) => {
                let known = Some(Box::new(self.known(state, is_member)));
                let submission = Submission { known, ..Submission::clone(work) };
                Some((ToScheduler::Submit(Box::new(submission)), Interest::Watched))
            }
            (_, Interest::Untold) => Some((ToScheduler::Watch(id), Interest::Watched)),
            (_, Interest::Unwatched) if is_watched => {
                Some((ToScheduler::Watch(id), Interest::Watched))
            }
            (_, Interest::Watched) if !is_watched => {
                Some((ToScheduler::Unwatch(id), Interest::Unwatched))
            }
            _ => None,
        };
        if let Some((message, interest)) = message {
            self.told.interest = interest;
            return Some(message);
        }
        if self.is_cancelled && !self.told.cancelled && !self.is_ended() {
            self.told.cancelled = true;
            return Some(ToScheduler::Cancel(id));
        }
        if self.is_forgotten && !self.told.forgotten {
            self.told.forgotten = true;
            return Some(ToScheduler::Forget(id));
        }
        None
    }

    fn known(&self, state: &OperationState, is_member: impl Fn(&str) -> bool) -> Known {
        let held_by = match &state.stage {
            Stage::Executing { worker, .. } if is_member(worker) => Some(Arc::clone(worker)),
            _ => None,
        };
        Known { id: self.id, queued_at: state.queued_at, held_by, attempts: self.story.clone() }
    }
}
