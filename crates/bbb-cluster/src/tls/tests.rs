use std::{
    error::Error,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustls::{
    client::ResolvesClientCert,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime},
    sign::{CertifiedKey, SingleCertAndKey},
};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::{leaves::BACKDATED, *};
use crate::SecretKey;

const A: &str = "Zm9vYmFyIGlzIG5vdCBhIGtleSwgYnV0IHRoaXM/Xx8=";
const B: &str = "8c2f0e51b7d94a6638f1c5027be9ad34";
const NOW_SECS: u64 = 1_800_000_000;

/// A clock that a test turns.
#[derive(Debug, Clone)]
struct Clock(Arc<AtomicU64>);

impl Clock {
    fn new() -> Self {
        Self(Arc::new(AtomicU64::new(NOW_SECS)))
    }

    fn set(&self, after: Duration) {
        self.0.store(NOW_SECS + after.as_secs(), Ordering::SeqCst);
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0.load(Ordering::SeqCst))))
    }
}

fn ring(keys: &[&str]) -> KeyRing {
    named("x", keys)
}

fn named(name: &str, keys: &[&str]) -> KeyRing {
    if keys.is_empty() {
        return KeyRing::open(name);
    }
    let keys: Vec<SecretKey> = keys.iter().map(|key| key.parse().unwrap()).collect();
    KeyRing::new(name, &keys).unwrap()
}

fn tls(ring: &KeyRing) -> NodeTls {
    NodeTls::with_clock(ring, Arc::new(Clock::new())).unwrap()
}

/// What a connection came to, on both sides.
#[derive(Debug)]
struct Met {
    client: Result<client::TlsStream<DuplexStream>, io::Error>,
    server: Result<server::TlsStream<DuplexStream>, io::Error>,
}

impl Met {
    /// The certificate that the client and the server showed.
    fn certificates(&self) -> [CertificateDer<'static>; 2] {
        let first = |certificates: Option<&[CertificateDer<'_>]>| {
            certificates.unwrap().first().unwrap().clone().into_owned()
        };
        let of_client = self.server.as_ref().unwrap().get_ref().1.peer_certificates();
        let of_server = self.client.as_ref().unwrap().get_ref().1.peer_certificates();
        [first(of_client), first(of_server)]
    }

    fn is_connected(&self) -> bool {
        self.client.is_ok() && self.server.is_ok()
    }

    fn client_error(&self) -> &io::Error {
        self.client.as_ref().unwrap_err()
    }

    fn server_error(&self) -> &io::Error {
        self.server.as_ref().unwrap_err()
    }
}

/// Has a client and a server shake hands, and say a word each: in TLS 1.3 a client learns that it was refused when it
/// reads.
async fn meet(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> Met {
    let (near, far) = tokio::io::duplex(1 << 16);
    let connect = async {
        let connector = TlsConnector::from(client);
        let mut stream = connector.connect(NodeTls::server_name(), near).await?;
        stream.write_all(b"hello").await?;
        let mut word = [0; 5];
        stream.read_exact(&mut word).await?;
        Ok(stream)
    };
    let accept = async {
        let mut stream = TlsAcceptor::from(server).accept(far).await?;
        let mut word = [0; 5];
        stream.read_exact(&mut word).await?;
        stream.write_all(b"hello").await?;
        stream.flush().await?;
        Ok(stream)
    };
    let (client, server) = tokio::join!(connect, accept);
    Met { client, server }
}

async fn nodes_meet(client: &NodeTls, server: &NodeTls) -> Met {
    meet(client.client(), server.server()).await
}

#[tokio::test]
async fn nodes_of_a_cluster_meet() {
    for keys in [&[][..], &[A], &[A, B]] {
        let (one, other) = (tls(&ring(keys)), tls(&ring(keys)));
        let met = nodes_meet(&one, &other).await;
        assert!(met.is_connected(), "{met:?}");
        let [of_client, of_server] = met.certificates();
        assert_ne!(of_client, of_server, "each has its own");
        let session = met.client.as_ref().unwrap().get_ref().1;
        assert_eq!(session.alpn_protocol(), Some(NODE_ALPN));
        assert_eq!(session.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    }
}

#[tokio::test]
async fn others_are_refused_and_told_why() {
    for (client, server) in [
        (ring(&[A]), ring(&[B])),
        (ring(&[]), ring(&[A])),
        (ring(&[A]), ring(&[])),
        (named("x", &[A]), named("y", &[A])),
        (named("x", &[]), named("y", &[])),
    ] {
        let (client, server) = (tls(&client), tls(&server));
        let met = nodes_meet(&client, &server).await;
        let seen = client.explain(met.client_error());
        assert!(seen.contains("--secret_key") && seen.contains("give both"), "{seen}");
        let told = server.explain(met.server_error());
        assert!(told.contains("--secret_key") && told.contains("give both"), "{told}");
    }
}

/// A certificate of a node of a ring, made at a time.
fn leaf(ring: &KeyRing, after: Duration) -> Arc<CertifiedKey> {
    let clock = Clock::new();
    clock.set(after);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let authority = Authority::derive(&ring.roots()[0]).unwrap();
    let leaves = Leaves::new(authority, Arc::new(clock), provider).unwrap();
    ResolvesClientCert::resolve(&leaves, &[], &[]).unwrap()
}

fn self_signed() -> Arc<CertifiedKey> {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed([NODE_NAME.to_owned()]).unwrap();
    let secret = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let provider = rustls::crypto::ring::default_provider();
    Arc::new(CertifiedKey::from_der(vec![cert.der().clone()], secret, &provider).unwrap())
}

/// Shows no certificate.
#[derive(Debug)]
struct Nothing;

impl ResolvesClientCert for Nothing {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

/// A client that takes the server for a node meets a server that does not take the client for one.
#[tokio::test]
async fn a_server_refuses_who_is_no_node() {
    let ring_a = ring(&[A]);
    let (honest, server) = (tls(&ring_a), tls(&ring_a));
    let shows = |key: Arc<CertifiedKey>| Arc::new(SingleCertAndKey::from(key)) as Arc<_>;
    let none: Arc<dyn ResolvesClientCert> = Arc::new(Nothing);
    for (shown, for_server, for_client) in [
        (
            none,
            "shows no certificate: it is no node",
            "broke off the handshake (CertificateRequired)",
        ),
        (shows(self_signed()), "another --secret_key", "another --secret_key"),
        (shows(leaf(&ring(&[B]), Duration::ZERO)), "another --secret_key", "another --secret_key"),
        (shows(leaf(&ring(&[]), Duration::ZERO)), "or no key", "another --secret_key"),
    ] {
        let mut config = (*honest.client()).clone();
        config.client_auth_cert_resolver = shown;
        let met = meet(Arc::new(config), server.server()).await;
        let (seen, told) = (server.explain(met.server_error()), honest.explain(met.client_error()));
        assert!(seen.contains(for_server), "{seen}");
        assert!(told.contains(for_client), "{told}");
    }
}

#[tokio::test]
async fn a_client_refuses_who_is_no_node() {
    let ring_a = ring(&[A]);
    let (client, honest) = (tls(&ring_a), tls(&ring_a));
    for shown in [self_signed(), leaf(&ring(&[B]), Duration::ZERO)] {
        let mut config = (*honest.server()).clone();
        config.cert_resolver = Arc::new(SingleCertAndKey::from(shown));
        let met = meet(client.client(), Arc::new(config)).await;
        let seen = client.explain(met.client_error());
        assert!(seen.contains("another --secret_key"), "{seen}");
    }
}

/// Each side refuses the other's certificate once it has expired, and as long as it is not valid yet.
#[tokio::test]
async fn stale_certificates_are_refused() {
    let ring = ring(&[A]);
    let (client, server) = (tls(&ring), tls(&ring));
    let day = Duration::from_hours(24);
    let minute = Duration::from_mins(1);
    for (made, seen, told) in [
        (Duration::ZERO, None, ""),
        (BACKDATED - minute, None, ""),
        (BACKDATED + minute, Some("valid in 60 s only: set the clocks"), "not yet valid"),
    ] {
        let met = with_leaf(&client, &server, leaf(&ring, made)).await;
        let Some(seen) = seen else {
            assert!(met.iter().all(Met::is_connected), "{met:?}");
            continue;
        };
        assert_refused(&client, &met, seen, told);
    }
    let clock = Clock::new();
    clock.set(day + minute);
    let later = NodeTls::with_clock(&ring, Arc::new(clock)).unwrap();
    let met = with_leaf(&later, &later, leaf(&ring, Duration::ZERO)).await;
    assert_refused(&client, &met, "expired 60 s ago: set the clocks", "for expired");
}

/// A client with that certificate meets the server, and the client meets a server with it.
async fn with_leaf(client: &NodeTls, server: &NodeTls, leaf: Arc<CertifiedKey>) -> [Met; 2] {
    let mut as_client = (*client.client()).clone();
    as_client.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(Arc::clone(&leaf)));
    let mut as_server = (*server.server()).clone();
    as_server.cert_resolver = Arc::new(SingleCertAndKey::from(leaf));
    [
        meet(Arc::new(as_client), server.server()).await,
        meet(client.client(), Arc::new(as_server)).await,
    ]
}

fn assert_refused(tls: &NodeTls, met: &[Met; 2], seen: &str, told: &str) {
    let [as_client, as_server] = met;
    for (error, expected) in [
        (as_client.server_error(), seen),
        (as_client.client_error(), told),
        (as_server.client_error(), seen),
        (as_server.server_error(), told),
    ] {
        let text = tls.explain(error);
        assert!(text.contains(expected), "{text}");
    }
}

/// The documented order of a rotation: at each step, nodes of it and of the step before meet both ways.
#[tokio::test]
async fn keys_are_changed_while_all_nodes_talk() {
    let steps = [&[A][..], &[A, B], &[B, A], &[B]].map(|keys| tls(&ring(keys)));
    for step in steps.windows(2) {
        for (from, to) in [(0, 1), (1, 0), (1, 1)] {
            assert!(nodes_meet(&step[from], &step[to]).await.is_connected());
        }
    }
    assert!(!nodes_meet(&steps[2], &steps[0]).await.is_connected(), "a step was left out");
}

#[tokio::test]
async fn certificates_are_made_anew_after_half_their_life() {
    let clock = Clock::new();
    let node = NodeTls::with_clock(&ring(&[A]), Arc::new(clock.clone())).unwrap();
    let mut shown = Vec::new();
    for hours in [0, 11, 13, 24, 26, 0] {
        clock.set(Duration::from_hours(hours));
        let met = nodes_meet(&node, &node).await;
        assert!(met.is_connected(), "after {hours} h: {met:?}");
        let [of_client, of_server] = met.certificates();
        assert_eq!(of_client, of_server, "one for both sides");
        shown.push(of_client);
    }
    let is_kept: Vec<bool> = shown.windows(2).map(|pair| pair[0] == pair[1]).collect();
    assert_eq!(is_kept, [true, false, true, false, false], "the last: the clock was set back");
}

#[tokio::test]
async fn nothing_older_than_tls_1_3() {
    let node = tls(&ring(&[A]));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(Authority::derive(&ring(&[A]).roots()[0]).unwrap().certificate).unwrap();
    let mut old = ClientConfig::builder_with_details(provider, Arc::new(Clock::new()))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(leaf(
            &ring(&[A]),
            Duration::ZERO,
        ))));
    old.alpn_protocols = vec![NODE_ALPN.to_vec()];
    let met = meet(Arc::new(old), node.server()).await;
    let seen = node.explain(met.server_error());
    assert!(seen.contains("speaks no TLS 1.3"), "{seen}");
}

#[tokio::test]
async fn other_protocols_are_refused() {
    let node = tls(&ring(&[A]));
    let mut other = (*node.client()).clone();
    other.alpn_protocols = vec![b"h2".to_vec()];
    let met = meet(Arc::new(other), node.server()).await;
    for error in [met.server_error(), met.client_error()] {
        let text = node.explain(error);
        assert!(text.contains("run the same version"), "{text}");
    }
}

/// A connection that is made again shakes hands in full, so that a certificate is looked at each time.
#[tokio::test]
async fn sessions_are_not_taken_up_again() {
    let (client, server) = (tls(&ring(&[A])), tls(&ring(&[A])));
    for _ in 0..3 {
        let met = nodes_meet(&client, &server).await;
        let kind = met.client.unwrap().get_ref().1.handshake_kind();
        assert_eq!(kind, Some(rustls::HandshakeKind::Full));
    }
}

#[test]
fn errors_are_found_wherever_they_are() {
    let node = tls(&ring(&[A]));
    let tls = || rustls::Error::NoCertificatesPresented;
    let wrapped = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, tls()));
    let config: TlsError = tls().into();
    for error in [&tls() as &(dyn Error + 'static), &wrapped, &config] {
        assert!(node.explain(error).starts_with("shows no certificate"), "{error:?}");
    }
    let reset = io::Error::from(io::ErrorKind::ConnectionReset);
    assert_eq!(node.explain(&reset), "connection reset");
}

/// Nodes of any version trust each other because these bytes are the same on all.
#[test]
fn the_authority_is_the_same_everywhere() {
    let digest = |ring: &KeyRing| {
        let authority = Authority::derive(&ring.roots()[0]).unwrap();
        let hash = Sha256::digest(&authority.certificate);
        hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    assert_eq!(
        [digest(&named("prod", &[A])), digest(&named("prod", &[]))],
        [
            "e7b5508b73b44926ca43c4dddc4c4639d81026b125a60d827728fb557840b435",
            "9ca8e46a77014754c7d8294d0ceaf8051375926fae2bb055ebfe22163ce56ad6"
        ]
    );
}

#[tokio::test]
#[ignore = "a measurement: prints microseconds"]
async fn costs() {
    let ring = ring(&[A]);
    let per = |begun: std::time::Instant, count| begun.elapsed() / count;
    let begun = std::time::Instant::now();
    (0..100).for_each(|_| drop(tls(&ring)));
    println!("node TLS {:?}", per(begun, 100));
    let begun = std::time::Instant::now();
    (0..100).for_each(|_| drop(leaf(&ring, Duration::ZERO)));
    println!("authority and certificate {:?}", per(begun, 100));
    let (client, server) = (tls(&ring), tls(&ring));
    let begun = std::time::Instant::now();
    for _ in 0..100 {
        assert!(nodes_meet(&client, &server).await.is_connected());
    }
    println!("handshake, both sides {:?}", per(begun, 100));
}
