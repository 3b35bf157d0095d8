//! Ways to meet: where a node hears of others before it is a member of anything.
//!
//! A way finds addresses at which gossip may be listening and hands them on; it decides nothing. Whoever announces
//! itself there is still asked for the cluster's key, so that a wrong, old or forged address costs a packet.
//!
//! Promises: each way alone suffices, all at once are harmless; each goes on after the node has company, only slower,
//! so that two halves which know nothing of each other meet again; none fails for good, blocks another, or logs a
//! fault more than once in a while; what a way keeps, asks, reads and sends has a bound.
//!
//! The room knows nothing of how members are told apart from the dead, and of what they do with each other.

mod bucket;
mod contact;
mod join;
mod resolve;
mod sparse;
mod udp;

use std::{
    fmt,
    net::SocketAddr,
    ops::{ControlFlow, RangeInclusive},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bbb_lifecycle::Stop;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use crate::{ClusterView, MemberId};

pub use bucket::BucketList;
#[cfg(any(test, feature = "hostile"))]
pub use bucket::check_entry_name;
#[cfg(any(test, feature = "hostile"))]
pub use contact::check_contact;
pub use join::{JoinError, JoinList};
pub use resolve::{HostPort, Resolve, SystemResolver};
pub use udp::{Udp, UdpTarget, UdpTargetError};

/// Pauses are this many percent of what they should be, so that nodes which start together do not stay in step.
const JITTER_PERCENT: RangeInclusive<u32> = 80..=120;

/// A way to meet: `--join`, `--autojoin_udp`, `--autojoin_s3`.
#[async_trait]
pub trait Discovery: fmt::Display + Send + Sync {
    /// Looks for other nodes, and lets them find this one, until it is asked to stop; then removes what it left
    /// elsewhere, which takes a few seconds at most.
    async fn run(&self, meeting: Meeting);
}

/// What a way to meet works with: what is known, whom to tell, when to end.
#[derive(Clone, Debug)]
pub struct Meeting {
    view: watch::Receiver<Arc<ClusterView>>,
    found: mpsc::Sender<SocketAddr>,
    stop: Stop,
}

impl Meeting {
    /// A meeting of those in `view`, which hands on in `found` where others may be.
    pub const fn new(
        view: watch::Receiver<Arc<ClusterView>>,
        found: mpsc::Sender<SocketAddr>,
        stop: Stop,
    ) -> Self {
        Self { view, found, stop }
    }

    /// The cluster now.
    fn view(&self) -> Arc<ClusterView> {
        Arc::clone(&self.view.borrow())
    }

    /// This node, as others are to know it.
    fn me(&self) -> MemberId {
        self.view.borrow().me().clone()
    }

    /// Hands an address on and waits for room, but not longer than the node lives.
    async fn offer(&self, address: SocketAddr) {
        self.stop.until_requested(self.found.send(address)).await;
    }

    /// Hands an address on if there is room: what does not wait is found again.
    fn offer_now(&self, address: SocketAddr) {
        let _ = self.found.try_send(address);
    }

    /// Rests after a round: `alone` long while this node is alone, else `in_company`, give or take
    /// [`JITTER_PERCENT`]. Breaks when the node stops.
    async fn rest(&mut self, alone: Duration, in_company: Duration) -> ControlFlow<()> {
        let (from, share) = (Instant::now(), jitter());
        loop {
            let pause = if self.view.borrow_and_update().is_alone() { alone } else { in_company };
            tokio::select! {
                biased;
                () = self.stop.requested() => return ControlFlow::Break(()),
                () = tokio::time::sleep_until(from + pause.mul_f64(share)) => return ControlFlow::Continue(()),
                changed = self.view.changed() => if changed.is_err() {
                    return ControlFlow::Break(());
                },
            }
        }
    }
}

/// What share of a pause to rest this time.
fn jitter() -> f64 {
    f64::from(rand::random_range(JITTER_PERCENT)) / 100.0
}

#[cfg(test)]
mod tests;
