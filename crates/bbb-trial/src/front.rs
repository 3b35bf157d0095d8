//! One address for the clients of many nodes: what a load balancer gives a company.
//!
//! It promises that each new connection goes to a node that answers, in turn, as long as there is one; that a connection ends soon
//! after its node has gone silent, so that the client comes back and gets another; and that it says what it did. What passes over
//! a connection it refuses to know: it carries bytes. A node is asked by a cheap `GET`, whose answer may be anything in HTTP.

mod event;
mod node;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use bbb_lifecycle::TaskGroup;
use tokio::{
    io,
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

pub use event::{Event, Tell};
pub use node::Backend;

use node::Node;

/// How long a node may take to answer before a new connection goes to the next one.
const ANSWER_WITHIN: Duration = Duration::from_millis(300);
/// Connections at once; further clients wait.
const MAX_CONNECTIONS: usize = 1024;

/// A front that runs.
#[derive(Debug)]
pub struct Front {
    /// Where it takes clients' connections.
    pub address: SocketAddr,
}

impl Front {
    /// Listens at `listen` in front of these nodes. One that does not answer for `dead_after` loses its connections. Its tasks are
    /// those of `tasks`.
    ///
    /// # Errors
    /// When there is no node, or the address cannot be had.
    pub async fn start(
        listen: SocketAddr,
        backends: Vec<Backend>,
        dead_after: Duration,
        tell: Tell,
        tasks: &TaskGroup,
    ) -> anyhow::Result<Self> {
        anyhow::ensure!(!backends.is_empty(), "a front needs a node behind it");
        let listener = TcpListener::bind(listen).await;
        let listener = listener.with_context(|| format!("cannot listen on {listen}"))?;
        let address = listener.local_addr()?;
        let nodes: Arc<[Arc<Node>]> =
            backends.into_iter().map(|backend| Arc::new(Node::new(backend))).collect();
        for node in &*nodes {
            let (node, tell) = (Arc::clone(node), Arc::clone(&tell));
            tasks.spawn("watch of a node", node.watch(dead_after, tell, tasks.stop()));
        }
        let door = Door { nodes, turn: AtomicUsize::new(0), tell };
        tasks.spawn("door", Arc::new(door).accept(listener, tasks.clone()));
        Ok(Self { address })
    }
}

/// Where clients come in.
struct Door {
    nodes: Arc<[Arc<Node>]>,
    /// Whose turn it is.
    turn: AtomicUsize,
    tell: Tell,
}

impl Door {
    async fn accept(self: Arc<Self>, listener: TcpListener, tasks: TaskGroup) {
        let (stop, room) = (tasks.stop(), Arc::new(Semaphore::new(MAX_CONNECTIONS)));
        loop {
            let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.requested() => return,
            };
            // A connection that broke before it was taken is not ours to mourn.
            let Ok((client, from)) = accepted else { continue };
            let (door, stop) = (Arc::clone(&self), tasks.stop());
            tasks.spawn("connection", async move {
                tokio::select! {
                    () = door.carry(client, from) => {}
                    () = stop.requested() => {}
                }
                drop(place);
            });
        }
    }

    async fn carry(&self, mut client: TcpStream, from: SocketAddr) {
        let Some((node, mut stream)) = self.connect().await else {
            return (self.tell)(Event::NoNode { client: from });
        };
        (self.tell)(Event::Carried { client: from, node: node.name() });
        // Small messages must not wait for each other.
        let _slower = (client.set_nodelay(true), stream.set_nodelay(true));
        tokio::select! {
            // However it ends, both ends are closed.
            _ended = io::copy_bidirectional(&mut client, &mut stream) => {}
            () = node.lost() => (self.tell)(Event::Closed { client: from, node: node.name() }),
        }
    }

    /// A connection to the next node that answers.
    async fn connect(&self) -> Option<(&Node, TcpStream)> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let count = self.nodes.len();
        let in_turn = || (0..count).map(|step| &*self.nodes[(turn + step) % count]);
        // Those that are known to be silent come last: they may have come back since.
        let (up, down): (Vec<_>, Vec<_>) = in_turn().partition(|node| node.is_up());
        for node in up.into_iter().chain(down) {
            if !node.answers(ANSWER_WITHIN).await {
                (self.tell)(Event::SteppedOver { node: node.name() });
            } else if let Some(stream) = node.connect(ANSWER_WITHIN).await {
                return Some((node, stream));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
