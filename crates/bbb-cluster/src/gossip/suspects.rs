//! Since when a node believes others suspect.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use foca::{Member, State};

use super::Node;

/// How long a suspect may stay one: whoever suspected it first has spoken by then, and that word got lost. In between it
/// was asked in each round.
const OVERDUE_AFTER: Duration = Duration::from_millis(4_000);

/// The suspects of the last look. As many as there are members at most.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    since: HashMap<SocketAddr, (u16, Duration)>,
}

impl Suspects {
    /// Takes note of all suspects; says which of them have been so for too long.
    pub(super) fn look<'a>(
        &mut self,
        suspects: impl Iterator<Item = &'a Member<Node>>,
        now: Duration,
    ) -> Vec<Member<Node>> {
        let before = std::mem::take(&mut self.since);
        let mut overdue = Vec::new();
        for suspect in suspects {
            let (address, incarnation) = (suspect.id().id().gossip, suspect.incarnation());
            let known = before.get(&address).filter(|(known, _)| *known == incarnation);
            let since = known.map_or(now, |(_, since)| *since);
            self.since.insert(address, (incarnation, since));
            if now.saturating_sub(since) >= OVERDUE_AFTER {
                overdue.push(Member::new(suspect.id().clone(), incarnation, State::Down));
            }
        }
        overdue
    }

    /// This node stood still itself: all have as much time as at first.
    pub(super) fn pardon(&mut self) {
        self.since.clear();
    }
}
