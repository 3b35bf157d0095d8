//! The network: hosts, what it takes from one to another, and what is cut.
//!
//! It promises order within a connection, as TCP does. What is under way while its way is cut waits; a connection whose
//! way was cut for [`BREAKS_AFTER`], in either direction, ends for both sides.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bbb_peer::work::Ends;
use tokio::{
    sync::{mpsc, watch},
    time,
};
use tokio_util::sync::CancellationToken;

use crate::world::World;

/// How long a way may be cut before the connections on it break: as long as keepalives take to notice.
pub(crate) const BREAKS_AFTER: Duration = Duration::from_secs(4);

/// How many messages may be under way in each direction of a connection.
const ROOM: usize = 256;

/// How many messages arrive at once at the most.
const BATCH: usize = 64;

/// A machine, by its number.
pub(crate) type Host = usize;

/// Where clients are. They are many, but nothing is cut between them.
pub(crate) const CLIENTS: Host = usize::MAX;

/// The network. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Net {
    world: World,
    /// How many faults cut the way from one host to another.
    cuts: Arc<watch::Sender<BTreeMap<(Host, Host), u32>>>,
}

/// A way is cut, or what was at its end is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Broken;

impl Net {
    pub(crate) fn new(world: &World) -> Self {
        Self { world: world.clone(), cuts: Arc::new(watch::Sender::default()) }
    }

    /// Cuts the way from one host to another, one more time.
    pub(crate) fn cut(&self, from: Host, to: Host) {
        self.cuts.send_modify(|cuts| *cuts.entry((from, to)).or_default() += 1);
    }

    /// Undoes one [`cut`](Self::cut).
    pub(crate) fn mend(&self, from: Host, to: Host) {
        self.cuts.send_modify(|cuts| {
            if let Some(count) = cuts.get_mut(&(from, to)) {
                *count -= 1;
                if *count == 0 {
                    cuts.remove(&(from, to));
                }
            }
        });
    }

    /// Whether nothing gets from one host to another.
    pub(crate) fn is_cut(&self, from: Host, to: Host) -> bool {
        self.cuts.borrow().contains_key(&(from, to))
    }

    /// One message's way from one host to another.
    pub(crate) async fn travel(&self, from: Host, to: Host) -> Result<(), Broken> {
        time::sleep(self.latency()).await;
        let open = self.until(move |cuts| !cuts.contains_key(&(from, to)));
        time::timeout(BREAKS_AFTER, open).await.map_err(|_| Broken)
    }

    /// Joins what `far` offers on host `to` with new ends for host `from`, by a connection between the two.
    pub(crate) fn join<Out, In>(&self, from: Host, to: Host, far: Ends<Out, In>) -> Ends<Out, In>
    where
        Out: Send + 'static,
        In: Send + 'static,
    {
        let (near, middle) = Ends::pair(ROOM, ROOM);
        let broken = CancellationToken::new();
        self.world.spawn("keepalive", self.clone().keep_alive(from, to, broken.clone()));
        let there = self.clone().carry(from, to, middle.from, far.to, broken.clone());
        let back = self.clone().carry(to, from, far.from, middle.to, broken.clone());
        self.world.spawn("connection", async move {
            tokio::join!(there, back);
            broken.cancel();
        });
        near
    }

    async fn carry<T>(
        self,
        from: Host,
        to: Host,
        mut sent: mpsc::Receiver<T>,
        arrive: mpsc::Sender<T>,
        broken: CancellationToken,
    ) {
        let all = async {
            let mut messages = Vec::new();
            loop {
                let count = tokio::select! {
                    biased;
                    () = arrive.closed() => 0,
                    count = sent.recv_many(&mut messages, BATCH) => count,
                };
                time::sleep(self.latency()).await;
                self.until(|cuts| !cuts.contains_key(&(from, to))).await;
                for message in messages.drain(..) {
                    if arrive.send(message).await.is_err() {
                        return;
                    }
                }
                if count == 0 {
                    return;
                }
            }
        };
        tokio::select! {
            biased;
            () = broken.cancelled() => {}
            () = all => {}
        }
    }

    async fn keep_alive(self, one: Host, other: Host, broken: CancellationToken) {
        let is_cut = move |cuts: &BTreeMap<_, _>| {
            cuts.contains_key(&(one, other)) || cuts.contains_key(&(other, one))
        };
        let silence = async {
            loop {
                self.until(is_cut).await;
                if time::timeout(BREAKS_AFTER, self.until(|cuts| !is_cut(cuts))).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            biased;
            () = broken.cancelled() => {}
            () = silence => broken.cancel(),
        }
    }

    async fn until(&self, is_so: impl Fn(&BTreeMap<(Host, Host), u32>) -> bool) {
        // Its sender lives in `self`.
        let _ = self.cuts.subscribe().wait_for(|cuts| is_so(cuts)).await;
    }

    /// Mostly what a machine room has, at times much more.
    fn latency(&self) -> Duration {
        match self.world.below(20) {
            0 => self.world.millis(5, 80),
            _ => self.world.millis(1, 4),
        }
    }
}
