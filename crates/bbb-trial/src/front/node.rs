//! A node behind a front: whether it answers.

use std::{net::SocketAddr, str::FromStr, sync::Arc, time::Duration};

use anyhow::Context as _;
use bbb_lifecycle::Stop;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::watch,
    time::{self, Instant},
};

use super::{Event, Tell};

/// How often a node is asked.
const ASKED_EVERY: Duration = Duration::from_millis(300);
/// How long a watched node may take to answer: one that is merely busy is not dead.
const BUSY_FOR_AT_MOST: Duration = Duration::from_secs(1);
/// What it is asked, and how each answer in HTTP begins.
const QUESTION: &[u8] = b"GET /cluster HTTP/1.1\r\nHost: front\r\nConnection: close\r\n\r\n";
const ANSWER: &[u8; 5] = b"HTTP/";

/// A node as it is named to a front: `NAME=ADDRESS:PORT`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Backend {
    /// What it is called in what the front says.
    pub name: Arc<str>,
    /// Where it takes clients' connections.
    pub address: SocketAddr,
}

impl FromStr for Backend {
    type Err = anyhow::Error;

    fn from_str(word: &str) -> anyhow::Result<Self> {
        let (name, address) = word.split_once('=').context("a node is NAME=ADDRESS:PORT")?;
        Ok(Self { name: name.into(), address: address.parse()? })
    }
}

/// A node and what is known of it.
pub(super) struct Node {
    backend: Backend,
    up: watch::Sender<bool>,
}

impl Node {
    pub(super) fn new(backend: Backend) -> Self {
        Self { backend, up: watch::Sender::new(false) }
    }

    pub(super) fn name(&self) -> Arc<str> {
        Arc::clone(&self.backend.name)
    }

    pub(super) fn is_up(&self) -> bool {
        *self.up.borrow()
    }

    /// Returns once the node is known to be down. One that answered just now has a moment to be known to be up.
    pub(super) async fn lost(&self) {
        let mut up = self.up.subscribe();
        // The sender is this node's: it does not go away meanwhile.
        let _known = time::timeout(2 * BUSY_FOR_AT_MOST, up.wait_for(|up| *up)).await.is_ok();
        let _down = up.wait_for(|up| !*up).await.is_ok();
    }

    pub(super) async fn connect(&self, within: Duration) -> Option<TcpStream> {
        time::timeout(within, TcpStream::connect(self.backend.address)).await.ok()?.ok()
    }

    /// Whether it answers a question in that time.
    pub(super) async fn answers(&self, within: Duration) -> bool {
        let asked = async {
            let mut stream = TcpStream::connect(self.backend.address).await?;
            stream.write_all(QUESTION).await?;
            let mut begin = [0; ANSWER.len()];
            stream.read_exact(&mut begin).await?;
            Ok::<_, std::io::Error>(begin == *ANSWER)
        };
        matches!(time::timeout(within, asked).await, Ok(Ok(true)))
    }

    /// Asks it again and again. Once it has been silent for `dead_after` it is down, until it answers.
    pub(super) async fn watch(self: Arc<Self>, dead_after: Duration, tell: Tell, stop: Stop) {
        let mut heard = Instant::now();
        loop {
            let asked = Instant::now();
            let answers = tokio::select! {
                answers = self.answers(BUSY_FOR_AT_MOST.min(dead_after)) => answers,
                () = stop.requested() => return,
            };
            if answers {
                heard = Instant::now();
            }
            let silent = heard.elapsed();
            if answers && !self.up.send_replace(true) {
                tell(Event::Up { node: self.name() });
            } else if silent >= dead_after && self.up.send_replace(false) {
                tell(Event::Down { node: self.name(), silent });
            }
            tokio::select! {
                () = time::sleep_until(asked + ASKED_EVERY) => {}
                () = stop.requested() => return,
            }
        }
    }
}
