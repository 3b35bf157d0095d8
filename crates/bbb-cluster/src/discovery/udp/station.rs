//! Sockets for all targets, as far as the networks of the host allow now.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    io,
    net::{IpAddr, SocketAddr},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{io::ReadBuf, net::UdpSocket, task, time};

use super::{
    super::sparse::Sparse,
    networks::{Networks, Reach},
    socket::{Ear, Mouth, groups},
    target::UdpTarget,
};

/// How long the operating system may take to list its networks; then they are as they were.
const LOOK_WAIT: Duration = Duration::from_secs(1);

/// A target and what was said of it.
#[derive(Debug)]
struct Spot {
    target: UdpTarget,
    /// Whom it reached when it was looked at last.
    reach: Option<Reach>,
    deaf: Sparse,
    mute: Sparse,
}

/// All sockets. Those that cannot be had now are tried again with each look at the networks.
#[derive(Debug)]
pub(super) struct Station {
    spots: Vec<Spot>,
    networks: Networks,
    ears: BTreeMap<Socket, Ear>,
    mouths: BTreeMap<Family, Mouth>,
    /// Which socket is asked first for a packet.
    turn: usize,
}

/// Whether it is that of IPv6.
type Family = bool;
type Socket = (Family, u16);

impl Station {
    /// No sockets yet.
    pub(super) fn new(targets: &[UdpTarget]) -> Self {
        let spots = targets.iter().map(|target| Spot {
            target: *target,
            reach: None,
            deaf: Sparse::default(),
            mute: Sparse::default(),
        });
        Self {
            spots: spots.collect(),
            networks: Networks::default(),
            ears: BTreeMap::new(),
            mouths: BTreeMap::new(),
            turn: 0,
        }
    }

    /// Looks which networks there are, and listens in them.
    pub(super) async fn look(&mut self) {
        match time::timeout(LOOK_WAIT, task::spawn_blocking(Networks::of_host)).await {
            Ok(Ok(Ok(networks))) => self.networks = networks,
            Ok(Ok(Err(error))) => tracing::debug!(%error, "cannot list network interfaces"),
            Err(_) => tracing::debug!("listing network interfaces takes too long"),
            // The runtime ends.
            Ok(Err(_)) => return,
        }
        let mut wanted: BTreeMap<Socket, BTreeSet<(IpAddr, u32)>> = BTreeMap::new();
        for spot in &mut self.spots {
            let (target, ears) = (spot.target, &mut self.ears);
            spot.judge(&self.networks);
            let socket = (target.address().is_ipv6(), target.address().port());
            if let Err(error) = ensure(ears, socket, || Ear::bind(&target))
                .and_then(|()| ensure(&mut self.mouths, socket.0, || Mouth::bind(&target)))
            {
                spot.say_deaf(&error);
            }
            wanted.entry(socket).or_default().extend(groups(&target, &self.networks));
        }
        for (socket, groups) in wanted {
            let Some(ear) = self.ears.get_mut(&socket) else { continue };
            let (heard, fault) = ear.hear(&groups);
            for spot in self.spots.iter_mut().filter(|spot| spot.target.is_group()) {
                let is_here =
                    (spot.target.address().is_ipv6(), spot.target.address().port()) == socket;
                match &fault {
                    _ if !is_here => {}
                    None if heard > 0 => _ = spot.deaf.clear(),
                    None => spot.say_deaf(&io::Error::other(
                        "no interface is up that takes part in multicast",
                    )),
                    // One interface that fails is no news where others hear.
                    Some(error) if heard == 0 => spot.say_deaf(error),
                    Some(error) => tracing::debug!(%error, "cannot join a group on an interface"),
                }
            }
        }
    }

    /// Sends an announcement to all targets.
    pub(super) async fn announce(&mut self, packet: &[u8]) {
        for spot in &mut self.spots {
            let Some(mouth) = self.mouths.get(&spot.target.address().is_ipv6()) else { continue };
            match mouth.announce(&spot.target, &self.networks, packet).await {
                (0, Some(error)) => spot.say_mute(&error),
                (0, None) => spot.say_mute(&io::Error::other("no interface is up that reaches it")),
                _ => _ = spot.mute.clear(),
            }
        }
    }

    /// Sends an answer to one node.
    pub(super) async fn answer(&self, to: SocketAddr, packet: &[u8]) {
        if let Some(mouth) = self.mouths.get(&to.is_ipv6())
            && let Err(error) = mouth.socket.send_to(packet, to).await
        {
            tracing::debug!(%to, %error, "cannot answer an announcement");
        }
    }

    /// The next packet of any socket: how long it is and from whom. Pends where there are no sockets.
    pub(super) async fn hear(&mut self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.turn = self.turn.wrapping_add(1);
        let sockets: Vec<&UdpSocket> = self
            .ears
            .values()
            .map(|ear| &ear.socket)
            .chain(self.mouths.values().map(|m| &m.socket))
            .collect();
        let first = self.turn.checked_rem(sockets.len()).unwrap_or(0);
        let (before, after) = sockets.split_at(first);
        std::future::poll_fn(|cx| {
            let mut each = after.iter().chain(before);
            each.find_map(|socket| match poll(socket, cx, buffer) {
                Poll::Ready(heard) => Some(Poll::Ready(heard)),
                Poll::Pending => None,
            })
            .unwrap_or(Poll::Pending)
        })
        .await
    }
}

impl Spot {
    /// Says what is odd about a target when that changes.
    fn judge(&mut self, networks: &Networks) {
        let reach = match self.target.address().ip() {
            IpAddr::V4(ip) if !self.target.is_group() && !self.target.is_limited_broadcast() => {
                networks.reach(ip)
            }
            _ => Reach::Network,
        };
        if self.reach.replace(reach) == Some(reach) {
            return;
        }
        let target = &self.target;
        match reach {
            Reach::Network => tracing::info!(%target, "announcing this node to its networks"),
            Reach::Loopback => {
                tracing::info!(%target, "announcing this node to others on this host only");
            }
            Reach::OneHost => tracing::warn!(
                %target,
                "announcements reach this host only: give a broadcast address or a multicast group, or use --join"
            ),
            Reach::Unknown => tracing::warn!(
                %target,
                "not the broadcast address of a network that this host is in now: nobody may be reached"
            ),
        }
    }

    fn say_deaf(&mut self, error: &io::Error) {
        if self.deaf.due() {
            tracing::warn!(target = %self.target, %error, "cannot listen to announcements, will go on trying");
        }
    }

    fn say_mute(&mut self, error: &io::Error) {
        if self.mute.due() {
            tracing::warn!(target = %self.target, %error, "cannot announce this node, will go on trying");
        }
    }
}

/// Makes what is not there.
fn ensure<K: Ord, V>(
    map: &mut BTreeMap<K, V>,
    key: K,
    make: impl FnOnce() -> io::Result<V>,
) -> io::Result<()> {
    if let Entry::Vacant(vacant) = map.entry(key) {
        vacant.insert(make()?);
    }
    Ok(())
}

fn poll(
    socket: &UdpSocket,
    cx: &mut Context<'_>,
    buffer: &mut [u8],
) -> Poll<io::Result<(usize, SocketAddr)>> {
    let mut buffer = ReadBuf::new(buffer);
    let from = ready!(socket.poll_recv_from(cx, &mut buffer));
    Poll::Ready(from.map(|from| (buffer.filled().len(), from)))
}
