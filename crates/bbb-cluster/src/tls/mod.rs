//! TLS between nodes: mutual, under certificate authorities that follow from the keys of the cluster.
//!
//! A node needs no certificate from anywhere: it derives the authority of the first key of its [`KeyRing`], the same on
//! all nodes, and signs a certificate of its own for a day, which is made anew when half of that is over. It talks to who
//! shows a certificate of the authority of any key of its ring; so both sides have to know a key of the other.
//!
//! Promises: TLS 1.3 only; nobody gets as far as a request without a certificate that is valid at that time. A
//! connection is checked when it is made, not again later. Which requests are served, and to whom, is for others.

mod authority;
mod explain;
mod leaves;

use std::{fmt, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::Resumption,
    crypto::CryptoProvider,
    pki_types::ServerName,
    server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier},
    time_provider::{DefaultTimeProvider, TimeProvider},
    version::TLS13,
};

use crate::KeyRing;

use authority::Authority;
use leaves::Leaves;

/// The protocol (ALPN) of connections between nodes.
pub const NODE_ALPN: &[u8] = b"bbb-node/1";

/// The name that certificates of nodes are for, wherever the nodes are: which node it is, they say themselves.
pub const NODE_NAME: &str = "node.bbb.internal";

/// Both sides of TLS between nodes. Cheap to clone.
#[derive(Clone)]
pub struct NodeTls {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    is_open: bool,
}

/// TLS between nodes cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A certificate cannot be made.
    #[error("certificate of a node cannot be made")]
    Certificate(#[from] rcgen::Error),
    /// Its parts do not fit together.
    #[error("TLS between nodes cannot be set up")]
    Config(#[from] rustls::Error),
    /// An authority is not taken.
    #[error("certificate authority of the cluster is not accepted")]
    Authority(#[from] VerifierBuilderError),
}

impl NodeTls {
    /// TLS under the keys of a ring, by the clock of the system.
    ///
    /// # Errors
    /// If the system gives no random bytes; for no key.
    pub fn new(ring: &KeyRing) -> Result<Self, TlsError> {
        Self::with_clock(ring, Arc::new(DefaultTimeProvider))
    }

    /// TLS under the keys of a ring, by another clock.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn with_clock(ring: &KeyRing, clock: Arc<dyn TimeProvider>) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut authorities =
            ring.roots().iter().map(Authority::derive).collect::<Result<Vec<_>, _>>()?;
        let mut roots = RootCertStore::empty();
        for authority in &authorities {
            roots.add(authority.certificate.clone())?;
        }
        // The first key seals, and so it signs; there is always one.
        let first = authorities.swap_remove(0);
        let leaves = Arc::new(Leaves::new(first, Arc::clone(&clock), Arc::clone(&provider))?);
        Ok(Self {
            server: Arc::new(server(roots.clone(), &leaves, &clock, &provider)?),
            client: Arc::new(client(roots, leaves, clock, provider)?),
            is_open: ring.is_open(),
        })
    }

    /// For connections that other nodes make to this one.
    pub fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    /// For connections that this node makes to others, all by the name [`NODE_NAME`].
    pub fn client(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.client)
    }

    /// [`NODE_NAME`], as a connector takes it.
    #[expect(clippy::expect_used, reason = "a constant, seen by each test")]
    pub fn server_name() -> ServerName<'static> {
        ServerName::try_from(NODE_NAME).expect("a name of letters and dots")
    }

    /// Why a connection to or from another node was refused, and what to do, in one line about the other node. Its
    /// error may be anywhere among the causes of the one given.
    ///
    /// Who makes a connection may learn only at its first read that the other side refused its certificate (RFC 8446,
    /// section 4.4.2.4); the error is explained in the same way.
    pub fn explain(&self, error: &(dyn std::error::Error + 'static)) -> String {
        explain::explain(error, self.is_open)
    }
}

impl fmt::Debug for NodeTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeTls").field("is_open", &self.is_open).finish_non_exhaustive()
    }
}

fn server(
    roots: RootCertStore,
    leaves: &Arc<Leaves>,
    clock: &Arc<dyn TimeProvider>,
    provider: &Arc<CryptoProvider>,
) -> Result<ServerConfig, TlsError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(provider))
        .clear_root_hint_subjects()
        .build()?;
    let mut config = ServerConfig::builder_with_details(Arc::clone(provider), Arc::clone(clock))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::clone(leaves) as _);
    config.alpn_protocols = vec![NODE_ALPN.to_vec()];
    // A session taken up again would not be asked for its certificate, which may be stale by now.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn client(
    roots: RootCertStore,
    leaves: Arc<Leaves>,
    clock: Arc<dyn TimeProvider>,
    provider: Arc<CryptoProvider>,
) -> Result<ClientConfig, TlsError> {
    let mut config = ClientConfig::builder_with_details(provider, clock)
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots)
        .with_client_cert_resolver(leaves);
    config.alpn_protocols = vec![NODE_ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

#[cfg(test)]
mod tests;
