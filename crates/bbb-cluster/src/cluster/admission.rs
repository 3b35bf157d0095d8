//! Who of those that gossip believes alive is a member.
//!
//! The pure core: who lives, what introductions gave and the time go in; whom to introduce, and the others of the view
//! come out. A live node is a member once it was introduced. It stays one while it is asked again every few seconds,
//! although that may fail: gossip says that it lives. Only when it has not answered for [`DROPPED_AFTER`], it is no
//! member any more, as it would be of no use to anyone.

use std::{collections::BTreeMap, error::Error, time::Duration};

use crate::{IntroduceError, Member, MemberId, Properties};

/// How often a member is asked about itself again.
const REFRESHED_EVERY: Duration = Duration::from_secs(5);

/// How soon a node that did not answer is asked again, at first.
const RETRIED_FIRST: Duration = Duration::from_millis(250);

/// How soon a node that did not answer is asked again, at last.
const RETRIED_LAST: Duration = Duration::from_secs(5);

/// How soon a node that is not of this cluster is asked again: whoever runs it may have put it right.
const REFUSED_FOR: Duration = Duration::from_secs(30);

/// For how long a member may give no answer while gossip believes it alive.
const DROPPED_AFTER: Duration = Duration::from_secs(30);

/// For how long a node that was no member yet may give no answer before the log says so.
const MISSED_AFTER: Duration = Duration::from_secs(10);

/// How many introductions run at a time.
const MAX_INTRODUCTIONS: usize = 32;

/// Who lives, and what is known of them. `now` is the time since any one moment, the same for all calls.
#[derive(Debug, Default)]
pub(super) struct Admission {
    nodes: BTreeMap<MemberId, Node>,
}

#[derive(Debug)]
struct Node {
    /// What it said last, if it is a member.
    properties: Option<Properties>,
    /// When it answered last.
    answered: Duration,
    /// When it is asked next.
    due: Duration,
    /// How long to wait if it does not answer next time.
    retry: Duration,
    is_asked: bool,
    /// Whether it is to be told something that came up after it was asked.
    is_behind: bool,
    /// Whether the log has said already that it is not of this cluster, or that it does not answer.
    is_logged: bool,
}

impl Admission {
    /// Takes note of who lives.
    pub(super) fn set_live(&mut self, live: &[MemberId], now: Duration) {
        self.nodes.retain(|id, node| {
            let stays = live.contains(id);
            if !stays && node.properties.is_some() {
                tracing::info!(member = %id, "member gone");
            }
            stays
        });
        for id in live {
            self.nodes.entry(id.clone()).or_insert_with(|| Node::new(now));
        }
    }

    /// Those that are to be asked now. Each is not asked again before [`introduced`](Self::introduced) was told.
    pub(super) fn take_due(&mut self, now: Duration) -> Vec<MemberId> {
        let running = self.nodes.values().filter(|node| node.is_asked).count();
        let mut due: Vec<(Duration, &MemberId)> = self
            .nodes
            .iter()
            .filter(|(_, node)| !node.is_asked && node.due <= now)
            .map(|(id, node)| (node.due, id))
            .collect();
        due.sort_unstable();
        let due: Vec<MemberId> = due
            .into_iter()
            .take(MAX_INTRODUCTIONS.saturating_sub(running))
            .map(|(_, id)| id.clone())
            .collect();
        for id in &due {
            if let Some(node) = self.nodes.get_mut(id) {
                node.is_asked = true;
            }
        }
        due
    }

    /// When the next one is due; never if there is none, or if only the end of one that runs makes a place.
    pub(super) fn next_due(&self) -> Option<Duration> {
        let is_full = self.nodes.values().filter(|node| node.is_asked).count() >= MAX_INTRODUCTIONS;
        self.nodes.values().filter(|node| !node.is_asked && !is_full).map(|node| node.due).min()
    }

    /// Takes what an introduction gave. `jitter`, between 0 and 1, keeps nodes from asking in step.
    pub(super) fn introduced(
        &mut self,
        id: &MemberId,
        outcome: Result<Properties, IntroduceError>,
        now: Duration,
        jitter: f64,
    ) {
        let Some(node) = self.nodes.get_mut(id) else { return };
        node.is_asked = false;
        match outcome {
            Ok(properties) => node.admit(id, properties, now, jitter),
            Err(IntroduceError::Unreachable(error)) => node.miss(id, &*error, now),
            Err(IntroduceError::Refused(reason)) => {
                if !node.is_logged || node.properties.is_some() {
                    tracing::error!(node = %id, port = %id.port, %reason, "refused a node: it is not of this cluster");
                }
                node.is_logged = true;
                node.properties = None;
                node.due = now + REFUSED_FOR;
            }
        }
        if std::mem::take(&mut node.is_behind) {
            node.due = now;
        }
    }

    /// Takes what a node said unasked. One that is no member yet is asked at once.
    pub(super) fn heard(&mut self, id: &MemberId, properties: Properties, now: Duration) {
        let Some(node) = self.nodes.get_mut(id) else { return };
        match &mut node.properties {
            // That it reaches this node does not say that this node reaches it.
            Some(known) => *known = properties,
            None => node.due = node.due.min(now),
        }
    }

    /// Asks everyone now: there is something to tell them.
    pub(super) fn ask_all(&mut self, now: Duration) {
        for node in self.nodes.values_mut() {
            node.due = node.due.min(now);
            // What is on its way to it was said before.
            node.is_behind = node.is_asked;
        }
    }

    /// The members.
    pub(super) fn members(&self) -> impl Iterator<Item = Member> {
        self.nodes.iter().filter_map(|(id, node)| {
            Some(Member { id: id.clone(), properties: node.properties.clone()? })
        })
    }
}

/// An error and where it all began; what stands between says the same in other words.
fn with_root(error: &(dyn Error + Send + Sync + 'static)) -> String {
    let mut root: &dyn Error = error;
    while let Some(source) = root.source() {
        root = source;
    }
    let (what, why) = (error.to_string(), root.to_string());
    if what == why { what } else { format!("{what}: {why}") }
}

impl Node {
    const fn new(now: Duration) -> Self {
        Self {
            properties: None,
            answered: now,
            due: now,
            retry: RETRIED_FIRST,
            is_asked: false,
            is_behind: false,
            is_logged: false,
        }
    }

    fn admit(&mut self, id: &MemberId, properties: Properties, now: Duration, jitter: f64) {
        if self.properties.is_none() {
            tracing::info!(member = %id, port = %id.port, version = properties.version, "member joined");
        }
        self.properties = Some(properties);
        self.answered = now;
        self.due = now + REFRESHED_EVERY.mul_f64(0.8 + 0.4 * jitter);
        self.retry = RETRIED_FIRST;
        self.is_logged = false;
    }

    /// It did not answer.
    fn miss(&mut self, id: &MemberId, error: &(dyn Error + Send + Sync + 'static), now: Duration) {
        self.due = now + self.retry;
        self.retry = (self.retry * 2).min(RETRIED_LAST);
        let patience = if self.properties.is_some() { DROPPED_AFTER } else { MISSED_AFTER };
        let error = with_root(error);
        if now.saturating_sub(self.answered) < patience {
            tracing::debug!(node = %id, error, "introduction failed");
            return;
        }
        self.properties = None;
        if !self.is_logged {
            self.is_logged = true;
            tracing::warn!(
                node = %id, port = %id.port, error,
                "a node is no member: gossip sees it, but its port gave no answer for {patience:?}. Is TCP to it let through?",
            );
        }
    }
}

#[cfg(test)]
mod tests;
