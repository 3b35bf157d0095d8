//! What is said in the log again and again, but not each time.

use std::{
    io,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{OnRefusedNode, arrival::Refused};
use crate::causes::with_causes;

/// How often one thing is said at the most.
const EVERY: Duration = Duration::from_secs(60);

/// All that the port complains of, each with what to do.
#[derive(Default)]
pub(super) struct Complaints {
    accept: Complaint,
    too_many: Complaint,
    plain: Complaint,
    no_tls: Complaint,
    client: Complaint,
    node: Complaint,
    on_refused_node: Option<Box<OnRefusedNode>>,
}

impl Complaints {
    pub(super) fn new(on_refused_node: Option<Box<OnRefusedNode>>) -> Self {
        Self { on_refused_node, ..Self::default() }
    }

    /// Connections cannot be accepted for now.
    pub(super) fn accept(&self, error: &io::Error) {
        self.accept.make(|left_out| {
            tracing::warn!(%error, left_out, "cannot accept connections");
        });
    }

    /// More connections came than there is room for.
    pub(super) fn too_many(&self, from: SocketAddr) {
        self.too_many.make(|left_out| {
            tracing::warn!(%from, left_out, "hung up on a connection: too many are open (more --memory makes room for more)");
        });
    }

    /// A client spoke plain text where it has to use TLS.
    pub(super) fn plain(&self, from: SocketAddr) {
        self.plain.make(|left_out| {
            tracing::info!(%from, left_out, "a client does not use TLS: it has to use grpcs:// or https://");
        });
    }

    /// A connection was not let in.
    pub(super) fn refused(&self, from: SocketAddr, refused: &Refused) {
        let error = with_causes(refused);
        match refused {
            Refused::Broken(_) => tracing::debug!(%from, error, "connection not let in"),
            Refused::NoTls => self.no_tls.make(|left_out| {
                tracing::info!(%from, left_out, "a client uses TLS, for which there is no --tls_cert: it has to use grpc:// or http://");
            }),
            Refused::Client(_) => self.client.make(|left_out| {
                tracing::info!(%from, left_out, error, "client not let in");
            }),
            Refused::Node(cause) => match &self.on_refused_node {
                Some(tell) => tell(from, cause),
                None => self.node.make(|left_out| {
                    tracing::warn!(%from, left_out, error, "node not let in");
                }),
            },
        }
    }
}

/// One kind of thing that anybody on the network can make happen as often as they like.
#[derive(Debug, Default)]
struct Complaint {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    said: Option<Instant>,
    left_out: u64,
}

impl Complaint {
    /// Says it with how often it was not said since the last time, unless that was a moment ago.
    fn make(&self, say: impl FnOnce(u64)) {
        let left_out = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            if state.said.is_some_and(|said| now - said < EVERY) {
                state.left_out += 1;
                return;
            }
            state.said = Some(now);
            std::mem::take(&mut state.left_out)
        };
        say(left_out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn is_made_once_a_minute_and_counts_the_rest() {
        let complaint = Complaint::default();
        let mut said = Vec::new();
        for second in 0..130 {
            complaint.make(|left_out| said.push((second, left_out)));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(said, [(0, 0), (60, 59), (120, 59)]);
    }
}
