//! The task of gossip: the pure core with a socket, a clock and an envelope.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bbb_lifecycle::Stop;
use tokio::{
    net::UdpSocket,
    sync::{mpsc, oneshot, watch},
    time::{self, Instant},
};

use super::{Envelope, Live, MAX_DATAGRAM_BYTES, rivals::Rivals};
use crate::gossip::Gossip;

/// The most datagrams that are taken before the clock is looked at again. All that wait are taken before a timer counts
/// as run out, so that a node which was busy does not take for silence what it has not read yet; but whoever floods it
/// does not stop its clock.
const MAX_BURST: usize = 256;

/// How often members are told that this node leaves, each time others, and the pause between.
const FAREWELLS: u32 = 5;
const FAREWELL_PAUSE: Duration = Duration::from_millis(40);

/// The pause after the socket failed to receive: nothing to be done, but not in a busy loop.
const RECEIVE_PAUSE: Duration = Duration::from_millis(100);

/// What the task of gossip owns.
pub(super) struct Driver<E> {
    pub(super) gossip: Gossip,
    pub(super) socket: UdpSocket,
    pub(super) envelope: E,
    /// Addresses that were found.
    pub(super) candidates: mpsc::Receiver<SocketAddr>,
    /// Asks to leave; answered when it is done.
    pub(super) leave: mpsc::Receiver<oneshot::Sender<()>>,
    pub(super) live: watch::Sender<Arc<Live>>,
    pub(super) start: Instant,
}

impl<E: Envelope> Driver<E> {
    /// Gossips until the node leaves or is stopped.
    pub(super) async fn run(mut self, stop: Stop) {
        let mut rivals = Rivals::default();
        loop {
            let wake = self.start + self.gossip.next_tick();
            tokio::select! {
                () = stop.requested() => {
                    // Nobody waited for a proper leave: one word has to do.
                    self.gossip.leave(self.start.elapsed());
                    self.flush();
                    return;
                }
                Some(done) = self.leave.recv() => {
                    self.say_farewell().await;
                    // Whoever asked may have given up waiting.
                    let _ = done.send(());
                    return;
                }
                Some(address) = self.candidates.recv() => self.gossip.found(address, self.start.elapsed()),
                readable = self.socket.readable() => {
                    if let Err(error) = readable {
                        pause_after(&error).await;
                    }
                }
                () = time::sleep_until(wake) => {}
            }
            if let Err(error) = self.receive_all() {
                pause_after(&error).await;
            }
            let now = self.start.elapsed();
            if self.gossip.next_tick() <= now {
                self.gossip.tick(now);
                rivals.look(self.gossip.me(), self.gossip.rivals(), now);
            }
            self.flush();
            self.publish();
        }
    }

    /// Takes the datagrams that wait.
    fn receive_all(&mut self) -> io::Result<()> {
        // One byte more than any of ours has, so that larger ones show.
        let mut buffer = [0; MAX_DATAGRAM_BYTES + 1];
        for _ in 0..MAX_BURST {
            let (bytes, source) = match self.socket.try_recv_from(&mut buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            if bytes > MAX_DATAGRAM_BYTES {
                tracing::debug!(%source, "dropped a datagram that is larger than any of ours");
            } else if let Some(packet) = self.envelope.open(source, &buffer[..bytes]) {
                self.gossip.receive(source, &packet, self.start.elapsed());
            }
        }
        Ok(())
    }

    /// Sends what there is to send. A packet that does not go out now is as good as lost on its way: all of gossip is
    /// made to live with that.
    fn flush(&mut self) {
        for (to, packet) in self.gossip.take_outbox() {
            let datagram = self.envelope.seal(&packet);
            if let Err(error) = self.socket.try_send_to(&datagram, to) {
                tracing::debug!(%to, %error, "packet not sent");
            }
        }
    }

    /// Tells who lives if it has changed.
    fn publish(&mut self) {
        if !self.gossip.take_changed() {
            return;
        }
        let others = self.gossip.live().into_values().cloned().collect();
        let live = Live { me: self.gossip.me().clone(), others };
        self.live.send_if_modified(|known| {
            let is_new = **known != live;
            if is_new {
                *known = Arc::new(live);
            }
            is_new
        });
    }

    async fn say_farewell(&mut self) {
        for _ in 0..FAREWELLS {
            self.gossip.leave(self.start.elapsed());
            self.flush();
            time::sleep(FAREWELL_PAUSE).await;
        }
    }
}

async fn pause_after(error: &io::Error) {
    tracing::warn!(%error, "cannot receive gossip");
    time::sleep(RECEIVE_PAUSE).await;
}
