//! A breaker: remembers that a node did not answer, so that the next ones do not wait for it as well.
//!
//! After a failure the node is stepped over for a moment. Then one call is let through; what becomes of it decides whether
//! the others follow or the node is stepped over for longer.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// For how long a node is stepped over after it failed; twice as long after each further time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// ...and at the most.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The breaker of one node.
#[derive(Debug, Default)]
pub(crate) struct Breaker(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// How often it has changed its mind. What was begun before that says nothing any more.
    turn: u64,
    /// None while the node is well.
    closed_until: Option<Instant>,
    pause: Duration,
    /// Whether a single call is out that is to tell how the node is.
    is_on_trial: bool,
}

/// The right to call, and the duty to tell what came of it. Dropped without a word, it says nothing.
#[derive(Debug)]
pub(crate) struct Turn {
    breaker: Arc<Breaker>,
    turn: u64,
    is_trial: bool,
}

impl Breaker {
    /// The right to call at `now`; none while the node is stepped over.
    pub(crate) fn enter(self: &Arc<Self>, now: Instant) -> Option<Turn> {
        let mut state = self.state();
        let is_trial = match state.closed_until {
            None => false,
            Some(until) if now < until || state.is_on_trial => return None,
            Some(_) => true,
        };
        state.is_on_trial = is_trial;
        Some(Turn { breaker: Arc::clone(self), turn: state.turn, is_trial })
    }

    /// The same for a call that takes its time: it is no trial, for nobody is to wait for what becomes of it.
    pub(crate) fn enter_beside(self: &Arc<Self>, now: Instant) -> Option<Turn> {
        let state = self.state();
        let is_open = state.closed_until.is_none_or(|until| now >= until);
        let turn = state.turn;
        is_open.then(|| Turn { breaker: Arc::clone(self), turn, is_trial: false })
    }

    /// The same for a call that is made however the node is.
    pub(crate) fn enter_anyway(self: &Arc<Self>) -> Turn {
        Turn { breaker: Arc::clone(self), turn: self.state().turn, is_trial: false }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// The node has answered, whatever it said.
    pub(crate) fn answered(&self) {
        let mut state = self.breaker.state();
        if state.turn == self.turn && state.closed_until.is_some() {
            *state = State { turn: state.turn + 1, ..State::default() };
        }
    }

    /// The node was not reached, or has not answered in time. Of many calls that fail together the first one counts.
    pub(crate) fn failed(&self, now: Instant) {
        let mut state = self.breaker.state();
        if state.turn == self.turn {
            let pause = (2 * state.pause).clamp(FIRST_PAUSE, LONGEST_PAUSE);
            let (turn, closed_until) = (state.turn + 1, Some(now + pause));
            *state = State { turn, closed_until, pause, is_on_trial: false };
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.breaker.state();
        if self.is_trial && state.turn == self.turn {
            state.is_on_trial = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_call_finds_out_for_all() {
        let (breaker, start) = (Arc::new(Breaker::default()), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        let turns: Vec<Turn> = (0..3).map(|_| breaker.enter(start).unwrap()).collect();
        // All that were on their way fail: that is one failure.
        turns.iter().for_each(|turn| turn.failed(start));
        assert!(breaker.enter(at(999)).is_none());
        let trial = breaker.enter(at(1000)).unwrap();
        assert!(breaker.enter(at(1000)).is_none(), "a second trial");
        drop(trial);
        let trial = breaker.enter(at(1000)).unwrap();
        trial.failed(at(1500));
        assert!(breaker.enter(at(3499)).is_none());
        // What comes late from before says nothing.
        turns[0].answered();
        assert!(breaker.enter(at(3499)).is_none());
        breaker.enter(at(3500)).unwrap().answered();
        assert!(breaker.enter(at(3500)).is_some() && breaker.enter(at(3500)).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_a_call_that_takes_its_time() {
        let (breaker, start) = (Arc::new(Breaker::default()), Instant::now());
        let well = breaker.enter_beside(start).unwrap();
        well.failed(start);
        assert!(breaker.enter_beside(start + FIRST_PAUSE / 2).is_none());
        let slow = breaker.enter_beside(start + FIRST_PAUSE).unwrap();
        let trial = breaker.enter(start + FIRST_PAUSE).unwrap();
        assert!(breaker.enter_beside(start + FIRST_PAUSE).is_some());
        trial.answered();
        slow.failed(start + FIRST_PAUSE);
        assert!(breaker.enter(start + FIRST_PAUSE).is_some(), "it says nothing any more");
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_are_bounded_and_a_call_made_anyway_ends_them() {
        let (breaker, start) = (Arc::new(Breaker::default()), Instant::now());
        for _ in 0..20 {
            breaker.enter_anyway().failed(start);
        }
        assert!(breaker.enter(start + LONGEST_PAUSE - Duration::from_millis(1)).is_none());
        breaker.enter_anyway().answered();
        assert!(breaker.enter(start).is_some());
    }
}
