//! Who watches whom: each node watches the next ones in a ring of all members.
//!
//! The library probes a member at random in each period, so that now and then nobody probes a dead one for long: of ten
//! nodes, the last of two hundred simulated deaths was noticed after seven seconds. Neighbours never forget each other:
//! they greet each other all the time, and whoever hears nothing for [`SILENCE`] says so, and asks in each round. Only
//! one that stays silent for [`SUSPICION`] more, and did not refute what gossip said of it either, is taken for gone.

use std::time::Duration;

use foca::{Member, State};

use super::Node;
use crate::MemberId;

/// How many of the next ones a node watches, and by how many it is watched.
const WATCHED: usize = 2;

/// How often they are greeted.
const WATCHED_EVERY: Duration = Duration::from_millis(400);

/// How long a neighbour may be silent before it is suspected: three greetings or their answers were lost.
const SILENCE: Duration = Duration::from_millis(1_200);

/// How long a suspected neighbour has to speak up, asked in each round.
const SUSPICION: Duration = Duration::from_millis(2_000);

/// The neighbours that a node watches.
#[derive(Debug)]
pub(super) struct Neighbours {
    watched: Vec<Watched>,
    /// When they are greeted next.
    due: Duration,
}

#[derive(Debug)]
struct Watched {
    node: Node,
    heard: Duration,
    /// Which incarnation of it was suspected, and since when.
    suspected: Option<(u16, Duration)>,
}

impl Neighbours {
    pub(super) const fn new(now: Duration) -> Self {
        Self { watched: Vec::new(), due: now }
    }

    /// Takes the neighbours out of all members; says whom to greet now.
    pub(super) fn take_due<'a>(
        &mut self,
        me: &Node,
        members: impl Iterator<Item = &'a Node>,
        now: Duration,
    ) -> Vec<Node> {
        if now < self.due {
            return Vec::new();
        }
        self.due = now + WATCHED_EVERY;
        let place = place(me.id());
        let mut ring: Vec<(u64, &Node)> =
            members.map(|node| (self::place(node.id()).wrapping_sub(place), node)).collect();
        let next = WATCHED.min(ring.len());
        if next < ring.len() {
            ring.select_nth_unstable_by_key(next, |(distance, node)| (*distance, node.id().gossip));
        }
        let mut before = std::mem::take(&mut self.watched);
        for (_, node) in &ring[..next] {
            let known = before
                .iter()
                .position(|watched| watched.node == **node)
                .map(|at| before.swap_remove(at));
            self.watched.push(known.unwrap_or_else(|| Watched {
                node: (*node).clone(),
                heard: now,
                suspected: None,
            }));
        }
        self.watched.iter().map(|watched| watched.node.clone()).collect()
    }

    /// A node was heard.
    pub(super) fn heard(&mut self, node: &Node, now: Duration) {
        if let Some(watched) = self.watched.iter_mut().find(|watched| watched.node == *node) {
            watched.heard = now;
            watched.suspected = None;
        }
    }

    /// This node stood still itself: nobody is to blame for what it did not hear.
    pub(super) fn pardon(&mut self, now: Duration) {
        for watched in &mut self.watched {
            watched.heard = now;
            watched.suspected = None;
        }
    }

    /// What is to be said of those that are silent, given what is known of them.
    pub(super) fn judge(
        &mut self,
        known: impl Fn(&Node) -> Option<(State, u16)>,
        now: Duration,
    ) -> Vec<Member<Node>> {
        let mut verdicts = Vec::new();
        for watched in &mut self.watched {
            let Some((state, incarnation)) = known(&watched.node) else { continue };
            if state == State::Down || now.saturating_sub(watched.heard) < SILENCE {
                continue;
            }
            match watched.suspected {
                Some((suspected, since)) if suspected == incarnation && state == State::Suspect => {
                    if now.saturating_sub(since) >= SUSPICION {
                        verdicts.push(Member::new(watched.node.clone(), incarnation, State::Down));
                    }
                }
                _ => {
                    watched.suspected = Some((incarnation, now));
                    verdicts.push(Member::new(watched.node.clone(), incarnation, State::Suspect));
                }
            }
        }
        verdicts
    }
}

/// Where a node stands in the ring: by its name and address scattered, since those that stand in one rack, and may fail
/// together, have names and addresses that are close.
fn place(id: &MemberId) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in id.name.bytes().chain(id.gossip.port().to_le_bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    // FNV alone moves its high bits too little for the last bytes.
    (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
