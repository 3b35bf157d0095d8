//! Origins behind TLS, with certificates of every kind.

use std::{
    ops::RangeInclusive,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bbb_lifecycle::TaskGroup;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio::{io::AsyncWriteExt as _, net::TcpListener};

use super::read_head;

/// Who vouches for servers.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A server on a port of loopback.
pub(crate) struct Sealed {
    pub(crate) port: u16,
    connections: Arc<AtomicUsize>,
}

impl Sealed {
    /// How often somebody has connected to it.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Authority {
    /// One of its own name: of two with the same name it would not be known which is meant.
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// For those who trust nobody else.
    pub(crate) fn roots(&self) -> rustls::RootCertStore {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        roots
    }

    /// For `SSL_CERT_FILE`.
    pub(crate) fn pem(&self) -> String {
        let base64 = STANDARD.encode(self.0.der());
        format!("-----BEGIN CERTIFICATE-----\n{base64}\n-----END CERTIFICATE-----\n")
    }

    /// A server of one answer, whose certificate is good for `name`.
    pub(crate) async fn serve(&self, name: &str, answer: Vec<u8>) -> Sealed {
        self.serve_in(2000..=2100, name, answer).await
    }

    /// The same, with a certificate that is good in these years.
    pub(crate) async fn serve_in(
        &self,
        years: RangeInclusive<i32>,
        name: &str,
        answer: Vec<u8>,
    ) -> Sealed {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(*years.start(), 1, 1);
        params.not_after = rcgen::date_time_ymd(*years.end(), 12, 31);
        let key = KeyPair::generate().unwrap();
        let chain = vec![params.signed_by(&key, &self.0).unwrap().der().clone()];
        let key = rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (tasks, answer) = (TaskGroup::new("https"), Arc::new(answer));
        let connections: Arc<AtomicUsize> = Arc::default();
        let (group, count) = (tasks.clone(), Arc::clone(&connections));
        tasks.spawn("accept", async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                let (acceptor, answer) = (acceptor.clone(), Arc::clone(&answer));
                group.spawn("answer", async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    if read_head(&mut stream).await.is_some() {
                        // Whoever has hung up does not read it.
                        let _ = stream.write_all(&answer).await;
                        let _ = stream.shutdown().await;
                    }
                });
            }
        });
        Sealed { port, connections }
    }
}
