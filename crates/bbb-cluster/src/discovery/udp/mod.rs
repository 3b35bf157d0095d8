//! `--autojoin_udp`: announcements to everyone in the networks of this host.
//!
//! A node calls into its networks who it is, every second at first and every few seconds later on; who hears a call of
//! a node that it does not know answers it directly, so that it suffices if one of two hears the other.
//!
//! Announcements are sealed. What is not sealed by a node of the cluster changes nothing and costs little: no more
//! packets are opened, and no more are read, than some rates allow.

mod gate;
mod networks;
mod socket;
mod station;
mod target;

use std::{
    fmt,
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use tokio::time::{Instant, sleep_until};

use super::{
    Discovery, Meeting,
    contact::{Contact, MAX_CONTACT_BYTES},
    jitter,
};
use crate::{KeyRing, Purpose, RefusalLog, Sealer};

use gate::Gate;
use station::Station;

pub use target::{UdpTarget, UdpTargetError};

/// How long a node calls often after its start.
const EAGER: Duration = Duration::from_secs(10);
/// How often it calls then.
const EAGER_PAUSE: Duration = Duration::from_secs(1);
/// How often it calls later.
const PAUSE: Duration = Duration::from_secs(5);
/// How old its knowledge of the host's networks may be when it calls.
const LOOK_AGAIN: Duration = Duration::from_secs(4);
/// How long it does not listen after a socket failed.
const FAULT_PAUSE: Duration = Duration::from_millis(500);
/// The longest packet that is looked at.
const MAX_PACKET_BYTES: usize = MAX_CONTACT_BYTES + Sealer::OVERHEAD_BYTES;

/// Announces this node to broadcast addresses and multicast groups, and hears others.
#[derive(Debug)]
pub struct Udp {
    targets: Vec<UdpTarget>,
    sealer: Sealer,
    refused: RefusalLog,
}

impl Udp {
    /// Announces to `targets`, sealed with the keys of the cluster.
    pub fn new(targets: Vec<UdpTarget>, ring: &KeyRing) -> Self {
        let sealer = Sealer::new(ring, Purpose::Udp);
        Self { targets, sealer, refused: RefusalLog::new("UDP announcement") }
    }

    /// What this node says now, sealed.
    fn packet(&self, meeting: &Meeting, is_call: bool) -> Option<Vec<u8>> {
        let contact = Contact::of(&meeting.me(), is_call).encode()?;
        Some(self.sealer.seal(SystemTime::now(), &contact))
    }

    /// What someone of this cluster said.
    fn open(&self, packet: &[u8], from: SocketAddr) -> Option<Contact> {
        match self.sealer.open(SystemTime::now(), packet) {
            Ok(opened) => Contact::decode(&opened.payload),
            Err(refusal) => {
                self.refused.packet(from, refusal);
                None
            }
        }
    }

    /// Takes a packet: a node that is not known is offered. Whether it called, and so is to be answered.
    fn take(&self, packet: &[u8], from: SocketAddr, meeting: &Meeting) -> bool {
        let Some(contact) = self.open(packet, from) else { return false };
        let view = meeting.view();
        let gossip = contact.gossip_from(from);
        let mut known = view.members().iter().map(|member| &member.id);
        if known.any(|id| contact.is_of(id)) || gossip == view.me().gossip {
            return false;
        }
        meeting.offer_now(gossip);
        contact.is_call
    }
}

#[async_trait]
impl Discovery for Udp {
    async fn run(&self, meeting: Meeting) {
        let started = Instant::now();
        let (mut call_at, mut look_at, mut deaf_until) = (started, started, started);
        let mut station = Station::new(&self.targets);
        let mut gate = Gate::new(started);
        // One byte more: what fills it is too long.
        let mut buffer = [0; MAX_PACKET_BYTES + 1];
        loop {
            let heard = async {
                sleep_until(deaf_until).await;
                station.hear(&mut buffer).await
            };
            let heard = tokio::select! {
                biased;
                () = meeting.stop.requested() => return,
                () = sleep_until(call_at) => None,
                heard = heard => Some(heard),
            };
            let now = Instant::now();
            match heard {
                None => {
                    if now >= look_at {
                        station.look().await;
                        look_at = now + LOOK_AGAIN;
                    }
                    if let Some(packet) = self.packet(&meeting, true) {
                        station.announce(&packet).await;
                    }
                    call_at = now + pause_after(now - started).mul_f64(jitter());
                }
                Some(Err(error)) => {
                    tracing::debug!(%error, "cannot hear announcements");
                    deaf_until = now + FAULT_PAUSE;
                }
                Some(Ok((length, from))) => {
                    if !gate.reads_on(now) {
                        deaf_until = now + Gate::DEAF;
                    }
                    if length <= MAX_PACKET_BYTES
                        && gate.opens(now, from.ip())
                        && self.take(&buffer[..length], from, &meeting)
                        && gate.answers(now)
                        && let Some(packet) = self.packet(&meeting, false)
                    {
                        station.answer(from, &packet).await;
                    }
                }
            }
        }
    }
}

/// How long after a call the next one comes, when the node runs for so long.
fn pause_after(age: Duration) -> Duration {
    if age < EAGER { EAGER_PAUSE } else { PAUSE }
}

impl fmt::Display for Udp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UDP ")?;
        for (i, target) in self.targets.iter().enumerate() {
            write!(f, "{}{target}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
