//! Membership by gossip: who lives, by the SWIM protocol (Das, Gupta, Motivala, 2002) of the library foca.
//!
//! The pure core: packets, found addresses and the time go in, packets to send come out. It has no clock, no socket and
//! no task, so that a simulation can put hundreds of clusters through loss, delay, partitions and crashes.
//!
//! Promises: a member that does not answer is gone within seconds, one that is slow or behind a bad network is not;
//! halves of a cluster that lost each other find each other again by themselves; of two that claim one address or one
//! name, the newer generation is the member; no packet makes it panic or grow without bound.
//!
//! It adds three things to the library: greetings, through which a node is met of which no more than an address is
//! known; questions to suspects, so that they hear of it; and bounds on how often the node takes a new generation.

use std::{collections::BTreeMap, fmt, net::SocketAddr, time::Duration};

use foca::{Foca, Member, NoCustomBroadcast, Notification, PostcardCodec, Runtime, State, Timer};
use rand::{SeedableRng as _, rngs::StdRng, seq::IteratorRandom as _};

pub(crate) use self::{
    identity::{Node, Unsound},
    packet::MAX_PACKET_BYTES,
};
use self::{
    neighbours::Neighbours,
    packet::{Hello, Known, Packet, Suspected},
    renewals::Renewals,
    strangers::Strangers,
    suspects::Suspects,
    timers::Timers,
    timing::ROUND,
};
use crate::MemberId;

mod identity;
mod neighbours;
mod packet;
mod renewals;
mod strangers;
mod suspects;
mod timers;
mod timing;

#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;

/// The most members, living and gone ones together, that are heard out. Packets of others are dropped beyond.
const MAX_KNOWN: usize = 4_096;

/// How late a tick may be before the node is taken to have stood still, not the others: one that was stopped, or starved
/// of its processor by what it builds, must not blame others for what it did not hear meanwhile.
const STALL: Duration = Duration::from_millis(500);

/// The most suspects that are asked in a round.
const QUESTIONS_PER_ROUND: usize = 16;

/// In how many rounds after a change a member is asked whom it knows.
const QUESTIONS_AFTER_CHANGE: u32 = 4;

/// What a node knows of who lives. `now` is the time since any one moment, the same for all calls.
pub(crate) struct Gossip {
    foca: Foca<Node, PostcardCodec, StdRng, NoCustomBroadcast>,
    effects: Effects,
    neighbours: Neighbours,
    strangers: Strangers,
    suspects: Suspects,
    renewals: Renewals,
    /// The first generation, and when it was taken.
    began: (u64, Duration),
    next_round: Duration,
    /// In how many more rounds a member is asked whom it knows.
    questions_left: u32,
    rng: StdRng,
    is_leaving: bool,
    /// Whether who lives, or what this node is called, may be another than before.
    has_changed: bool,
}

/// What a call has brought about.
#[derive(Debug, Default)]
struct Effects {
    now: Duration,
    /// Packets to send.
    outbox: Vec<(SocketAddr, Vec<u8>)>,
    timers: Timers,
    /// Members that went.
    gone: Vec<SocketAddr>,
    /// Whether others take this node for gone, so that it can only come back in a new generation.
    is_defunct: bool,
    /// Whether members came or went, or this node is called otherwise.
    has_changed: bool,
}

impl Gossip {
    /// A node that is alone.
    pub(crate) fn new(me: Node, seed: u64, now: Duration) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let began = (me.id().generation, now);
        Self {
            began,
            foca: Foca::new(me, timing::config(), rng.fork(), PostcardCodec),
            effects: Effects { now, ..Effects::default() },
            neighbours: Neighbours::new(now),
            strangers: Strangers::default(),
            suspects: Suspects::default(),
            renewals: Renewals::new(now),
            next_round: now,
            questions_left: 0,
            rng,
            is_leaving: false,
            has_changed: false,
        }
    }

    /// This node, in its present generation.
    pub(crate) fn me(&self) -> &MemberId {
        self.foca.identity().id()
    }

    /// The others that live, by name; of those that claim one name, the newest generation.
    pub(crate) fn live(&self) -> BTreeMap<&str, &MemberId> {
        let mut live = BTreeMap::new();
        for id in self.active().filter(|id| id.name != self.me().name) {
            let newest = live.entry(&*id.name).or_insert(id);
            // Two that started in the same millisecond are told apart by their addresses: the same way everywhere.
            if *newest < id {
                *newest = id;
            }
        }
        live
    }

    /// Others that live and claim this node's name.
    pub(crate) fn rivals(&self) -> impl Iterator<Item = &MemberId> {
        self.active().filter(|id| id.name == self.me().name)
    }

    /// Takes a packet that came from `source`.
    pub(crate) fn receive(&mut self, source: SocketAddr, packet: &[u8], now: Duration) {
        self.effects.now = now;
        match Packet::parse(packet) {
            Some(Packet::Swim(swim)) if self.foca.iter_membership_state().len() < MAX_KNOWN => {
                let outcome = self.foca.handle_data(swim, &mut self.effects);
                note("packet", source, outcome);
            }
            Some(Packet::Hello(hello)) => self.hear_hello(source, hello),
            Some(Packet::Suspected(suspected)) => self.hear_suspicion(&suspected),
            Some(Packet::Swim(_)) | None => {
                tracing::debug!(%source, bytes = packet.len(), "dropped a packet");
            }
        }
        self.settle();
    }

    /// There may be a node at this address.
    pub(crate) fn found(&mut self, address: SocketAddr, now: Duration) {
        if address != self.me().gossip && !self.is_active(address) {
            self.strangers.found(address, now);
            self.next_round = self.next_round.min(now);
        }
    }

    /// When [`tick`](Self::tick) is to be called next.
    pub(crate) fn next_tick(&self) -> Duration {
        self.effects.timers.next().map_or(self.next_round, |timer| timer.min(self.next_round))
    }

    /// Does what is due. Packets that arrived before have to be received before.
    pub(crate) fn tick(&mut self, now: Duration) {
        self.effects.now = now;
        let late = now.saturating_sub(self.next_tick());
        if late > STALL {
            self.effects.timers.postpone(late);
            self.neighbours.pardon(now);
            self.suspects.pardon();
        }
        while let Some(timer) = self.effects.timers.take_due(now) {
            if self.is_refuted(&timer) {
                continue;
            }
            let outcome = self.foca.handle_timer(timer, &mut self.effects);
            note("timer", self.me().gossip, outcome);
        }
        if self.next_round <= now {
            self.next_round = now + ROUND;
            self.round();
        }
        self.settle();
    }

    /// Whether it is about a suspicion that is none any more. The library does nothing then either, but tells the member that
    /// it is gone (foca 2.0 sends `TurnUndead` whatever became of the suspect), which then comes back in a new generation.
    fn is_refuted(&self, timer: &Timer<Node>) -> bool {
        let Timer::ChangeSuspectToDown { member_id, incarnation, .. } = timer else { return false };
        !self.foca.iter_members().any(|member| {
            member.id() == member_id
                && member.incarnation() == *incarnation
                && member.state() == State::Suspect
        })
    }

    /// Tells some members that this node leaves. Called again, it tells others.
    pub(crate) fn leave(&mut self, now: Duration) {
        self.effects.now = now;
        let outcome = if self.is_leaving {
            self.foca.gossip(&mut self.effects)
        } else {
            self.is_leaving = true;
            self.foca.leave_cluster(&mut self.effects)
        };
        note("farewell", self.me().gossip, outcome);
    }

    /// Takes the packets that are to be sent.
    pub(crate) fn take_outbox(&mut self) -> Vec<(SocketAddr, Vec<u8>)> {
        std::mem::take(&mut self.effects.outbox)
    }

    /// Whether who lives, or what this node is called, may have changed since this was asked last.
    pub(crate) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.has_changed)
    }

    /// What is done again and again, beside what the library does.
    fn round(&mut self) {
        let now = self.effects.now;
        if self.is_leaving {
            return;
        }
        self.judge();
        self.ask_suspects();
        self.ask_around();
        for address in self.strangers.take_due(now) {
            if self.is_active(address) {
                self.strangers.forget(address);
            } else {
                self.greet(address, true);
            }
        }
        let members = self.foca.iter_members().map(Member::id);
        for neighbour in self.neighbours.take_due(self.foca.identity(), members, now) {
            self.greet(neighbour.id().gossip, true);
        }
    }

    /// Tells what silence says of neighbours and suspects.
    fn judge(&mut self) {
        let members = &self.foca;
        let known = |node: &Node| {
            let member = members.iter_membership_state().find(|member| member.id() == node)?;
            Some((member.state(), member.incarnation()))
        };
        let mut verdicts = self.neighbours.judge(known, self.effects.now);
        let suspects = members.iter_members().filter(|member| member.state() == State::Suspect);
        verdicts.extend(self.suspects.look(suspects, self.effects.now));
        let outcome = self.foca.apply_many(verdicts.into_iter(), true, &mut self.effects);
        note("verdict", self.me().gossip, outcome);
    }

    /// Another node says who it is.
    fn hear_hello(&mut self, source: SocketAddr, hello: Hello) {
        let from = hello.from.id().clone();
        if from.gossip == self.me().gossip || self.is_leaving {
            return;
        }
        if source != from.gossip {
            // It was found by an address that it does not call its own.
            self.strangers.forget(source);
        }
        self.neighbours.heard(&hello.from, self.effects.now);
        // A greeting of another node that a stranger sends on is no news of this one.
        if let Some(known) = hello.known.filter(|known| known.gossip == self.me().gossip)
            && (known.generation > self.me().generation
                || known.is_down && known.generation == self.me().generation)
        {
            self.renew(known.generation);
        }
        if hello.wants_answer {
            self.greet(from.gossip, false);
        }
        match self.known(from.gossip) {
            Some(known) if known.generation == from.generation && !known.is_down => {}
            // It has not heard yet that it needs a new generation: the next greeting tells it.
            Some(known) if known.generation >= from.generation => {
                self.strangers.found(from.gossip, self.effects.now);
            }
            _ => {
                // It is greeted until it is a member: the announcement may get lost.
                self.strangers.told(from.gossip, source.ip(), self.effects.now);
                let outcome = self.foca.announce(hello.from, &mut self.effects);
                note("announcement", from.gossip, outcome);
            }
        }
    }

    /// Another node asks whether this one still lives.
    fn hear_suspicion(&mut self, suspected: &Suspected) {
        let (who, me) = (suspected.who.id(), self.me());
        if who.gossip != me.gossip || suspected.from.id().gossip == me.gossip || self.is_leaving {
            return;
        }
        if who == me {
            let suspect = Member::new(suspected.who.clone(), suspected.incarnation, State::Suspect);
            let refuted = self.foca.apply_many(std::iter::once(suspect), true, &mut self.effects);
            note("refutation", address_of(&suspected.from), refuted);
            // Any packet carries the refutation; this one goes to those that need it, and asks what was missed.
            let answered = self.foca.announce(suspected.from.clone(), &mut self.effects);
            note("answer", address_of(&suspected.from), answered);
        } else {
            // It asks for one that was here before.
            if who.generation >= me.generation {
                self.renew(who.generation);
            }
            self.greet(suspected.from.id().gossip, false);
        }
    }

    /// Asks all suspects directly whether they live: gossip about them may not reach them, or not in time.
    fn ask_suspects(&mut self) {
        let suspects = self.foca.iter_members().filter(|member| member.state() == State::Suspect);
        let from = self.foca.identity();
        for suspect in suspects.take(QUESTIONS_PER_ROUND) {
            let question = Suspected {
                from: from.clone(),
                who: suspect.id().clone(),
                incarnation: suspect.incarnation(),
            };
            let packet = Packet::Suspected(question).encode();
            self.effects.outbox.push((suspect.id().id().gossip, packet));
        }
    }

    /// Asks a member whom it knows, for some rounds after each change: news is lost now and then, above all where many
    /// nodes join at once.
    fn ask_around(&mut self) {
        if self.questions_left == 0 {
            return;
        }
        self.questions_left -= 1;
        let member =
            self.foca.iter_members().choose(&mut self.rng).map(|member| member.id().clone());
        if let Some(member) = member {
            let address = address_of(&member);
            let outcome = self.foca.announce(member, &mut self.effects);
            note("question", address, outcome);
        }
    }

    /// Presents this node to an address.
    fn greet(&mut self, address: SocketAddr, wants_answer: bool) {
        let hello =
            Hello { from: self.foca.identity().clone(), known: self.known(address), wants_answer };
        self.effects.outbox.push((address, Packet::Hello(hello).encode()));
    }

    /// Takes a new generation above `seen`, if it did not do so too often lately.
    ///
    /// It tells when the node came back, as the first one tells when it started: who was gone is younger than those that
    /// stayed.
    fn renew(&mut self, seen: u64) {
        let (first, at) = self.began;
        let lived_ms = u64::try_from(self.effects.now.saturating_sub(at).as_millis());
        let now =
            first.saturating_add(lived_ms.unwrap_or(u64::MAX)).min(identity::MAX_GENERATION - 1);
        let above = seen.max(self.me().generation).max(now);
        let renewed = self.foca.identity().renewed(above.saturating_add(1));
        if Node::try_from(renewed.id().clone()).is_err() || !self.renewals.allow(self.effects.now) {
            return;
        }
        tracing::info!(
            generation = renewed.id().generation,
            "the cluster took this node for gone: it comes back"
        );
        let outcome = self.foca.change_identity(renewed, &mut self.effects);
        note("new generation", self.me().gossip, outcome);
        self.effects.is_defunct = false;
        self.effects.has_changed = true;
    }

    /// Draws the conclusions of what the library said.
    fn settle(&mut self) {
        for address in std::mem::take(&mut self.effects.gone) {
            if !self.is_active(address) {
                self.strangers.gone(address, self.effects.now);
            }
        }
        if self.effects.is_defunct && !self.is_leaving {
            self.renew(0);
        }
        if std::mem::take(&mut self.effects.has_changed) {
            self.has_changed = true;
            self.questions_left = QUESTIONS_AFTER_CHANGE;
        }
    }

    /// All others that live.
    fn active(&self) -> impl Iterator<Item = &MemberId> {
        self.foca.iter_members().map(|member| member.id().id())
    }

    fn is_active(&self, address: SocketAddr) -> bool {
        self.active().any(|id| id.gossip == address)
    }

    fn known(&self, address: SocketAddr) -> Option<Known> {
        let member =
            self.foca.iter_membership_state().find(|member| member.id().id().gossip == address)?;
        Some(Known {
            gossip: address,
            generation: member.id().id().generation,
            is_down: member.state() == State::Down,
        })
    }
}

impl Runtime<Node> for Effects {
    fn notify(&mut self, notification: Notification<'_, Node>) {
        match notification {
            Notification::MemberUp(_) | Notification::Rename(_, _) => self.has_changed = true,
            Notification::MemberDown(node) => {
                self.has_changed = true;
                self.gone.push(node.id().gossip);
            }
            Notification::Defunct => self.is_defunct = true,
            Notification::Active | Notification::Idle | Notification::Rejoin(_) => {}
        }
    }

    fn send_to(&mut self, to: Node, data: &[u8]) {
        self.outbox.push((to.id().gossip, Packet::Swim(data).encode()));
    }

    fn submit_after(&mut self, timer: Timer<Node>, after: Duration) {
        self.timers.set(timer, self.now + after);
    }
}

impl fmt::Debug for Gossip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gossip").field("me", self.me()).finish_non_exhaustive()
    }
}

/// The address to name in a log.
fn address_of(node: &Node) -> SocketAddr {
    node.id().gossip
}

/// The library refuses what does not fit: stale, foreign and broken packets are part of its life.
fn note(what: &'static str, peer: SocketAddr, outcome: Result<(), foca::Error>) {
    if let Err(error) = outcome {
        tracing::debug!(%peer, what, %error, "gossip refused it");
    }
}
