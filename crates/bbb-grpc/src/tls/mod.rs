//! TLS for clients: the certificate that they see, and the authorities whose certificates they must have.
//!
//! Promises: what is wrong with a file is said in one line that names its flag and its path. Files that are renewed are
//! taken within [`CHECK_EVERY`], without a restart; while new ones are bad the old ones stay. TLS 1.2 and 1.3 (RFC 8446).
//!
//! The room knows nothing of how nodes prove themselves to each other.

use std::{
    fmt, fs,
    io::{self, Read as _},
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use tokio::time::sleep;
use tokio_rustls::rustls::{
    self, InconsistentKeys, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{ResolvesServerCert, VerifierBuilderError, WebPkiClientVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
};

use crate::causes::with_causes;

mod validity;

/// How often the files are looked at.
const CHECK_EVERY: Duration = Duration::from_secs(15);

/// The largest file that is read, in bytes. Bundles of all public authorities are a tenth of it.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// The protocols that clients are offered (ALPN), the better one first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Where TLS for clients is kept; all of it PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate and those between it and its authority.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authorities whose certificates clients must have; none asks for no certificate.
    pub client_ca: Option<PathBuf>,
}

/// One of the files, as its flag is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFile {
    flag: &'static str,
    path: PathBuf,
}

impl fmt::Display for TlsFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--{}={}", self.flag, self.path.display())
    }
}

/// What is wrong with the files.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// It cannot be read.
    #[error("{0}: cannot be read")]
    Unreadable(TlsFile, #[source] io::Error),
    /// There is none in it.
    #[error("{0}: has no certificate in it (PEM: -----BEGIN CERTIFICATE-----)")]
    NoCertificate(TlsFile),
    /// There is none in it.
    #[error("{0}: has no private key in it (PEM: -----BEGIN PRIVATE KEY-----)")]
    NoKey(TlsFile),
    /// It has a pass phrase, for which nobody is there to ask.
    #[error("{0}: is encrypted; write it without a pass phrase (openssl pkey -in OLD -out NEW)")]
    Encrypted(TlsFile),
    /// The two do not belong together.
    #[error("{0}: is not the key of the certificate in {1}")]
    OtherKey(TlsFile, TlsFile),
    /// It is too old.
    #[error("{0}: its certificate expired {1} ago; renew it")]
    Expired(TlsFile, String),
    /// What is in it is none of its kind.
    #[error("{0}: cannot be used")]
    Unusable(TlsFile, #[source] rustls::Error),
    /// What is in it is no authority.
    #[error("{0}: cannot be used")]
    NoAuthority(TlsFile, #[source] VerifierBuilderError),
}

/// TLS for clients, as its files say now.
pub struct ClientTls {
    files: TlsFiles,
    current: RwLock<Current>,
}

struct Current {
    texts: Texts,
    config: Arc<ServerConfig>,
}

/// What stands in the files.
#[derive(Clone, PartialEq, Eq)]
struct Texts {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl ClientTls {
    /// Reads the files; waits for the disk.
    ///
    /// # Errors
    /// If something is wrong with them.
    pub fn open(files: TlsFiles) -> Result<Self, TlsError> {
        let texts = files.read()?;
        let config = Arc::new(files.config(&texts, SystemTime::now())?);
        Ok(Self { files, current: RwLock::new(Current { texts, config }) })
    }

    /// What a handshake goes by now.
    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner).config)
    }

    /// Looks at the files again and again, for ever.
    pub(crate) async fn keep_current(self: Arc<Self>) {
        let mut complaint = String::new();
        loop {
            sleep(CHECK_EVERY).await;
            let tls = Arc::clone(&self);
            // It waits for the disk.
            let checked = tokio::task::spawn_blocking(move || tls.check(SystemTime::now())).await;
            let Ok(checked) = checked else { continue };
            match checked {
                Ok(Checked::Same) => complaint.clear(),
                Ok(Checked::Renewed) => {
                    complaint.clear();
                    tracing::info!(cert = %self.files.cert.display(), "took the renewed certificate for clients");
                }
                Err(error) => {
                    let error = with_causes(&error);
                    if error != complaint {
                        tracing::warn!(error, "keeping the old certificate for clients");
                        complaint = error;
                    }
                }
            }
        }
    }

    /// Takes what stands in the files now, if it is another and good; `now` is for the certificate's end.
    fn check(&self, now: SystemTime) -> Result<Checked, TlsError> {
        let texts = self.files.read()?;
        let config = Arc::new(self.files.config(&texts, now)?);
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if current.texts == texts {
            return Ok(Checked::Same);
        }
        *current = Current { texts, config };
        Ok(Checked::Renewed)
    }
}

/// What came of looking at the files.
#[derive(Debug, PartialEq, Eq)]
enum Checked {
    Same,
    Renewed,
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ClientTls").field(&self.files).finish()
    }
}

impl TlsFiles {
    fn cert_file(&self) -> TlsFile {
        TlsFile { flag: "tls_cert", path: self.cert.clone() }
    }

    fn key_file(&self) -> TlsFile {
        TlsFile { flag: "tls_key", path: self.key.clone() }
    }

    fn client_ca_file(&self) -> Option<TlsFile> {
        self.client_ca.clone().map(|path| TlsFile { flag: "tls_client_ca", path })
    }

    fn read(&self) -> Result<Texts, TlsError> {
        Ok(Texts {
            cert: self.cert_file().read()?,
            key: self.key_file().read()?,
            client_ca: self.client_ca_file().map(|file| file.read()).transpose()?,
        })
    }

    fn config(&self, texts: &Texts, now: SystemTime) -> Result<ServerConfig, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let certified = self.certified(texts, now, &provider)?;
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::Unusable(self.cert_file(), error))?;
        let builder = match (self.client_ca_file(), &texts.client_ca) {
            (Some(file), Some(text)) => {
                let roots = Arc::new(authorities(&file, text)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
                builder.with_client_cert_verifier(
                    verifier.map_err(|error| TlsError::NoAuthority(file, error))?,
                )
            }
            _ => builder.with_no_client_auth(),
        };
        let resolver: Arc<dyn ResolvesServerCert> = Arc::new(SingleCertAndKey::from(certified));
        let mut config = builder.with_cert_resolver(resolver);
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        Ok(config)
    }

    fn certified(
        &self,
        texts: &Texts,
        now: SystemTime,
        provider: &CryptoProvider,
    ) -> Result<CertifiedKey, TlsError> {
        let (cert, key) = (self.cert_file(), self.key_file());
        let chain = certificates(&cert, &texts.cert)?;
        if let Some(age) = chain.first().and_then(|leaf| validity::expired_for(leaf, now)) {
            return Err(TlsError::Expired(cert, rough(age)));
        }
        let encrypted = texts.key.windows(9).any(|word| word == b"ENCRYPTED");
        let private = PrivateKeyDer::from_pem_slice(&texts.key).map_err(|_| match encrypted {
            true => TlsError::Encrypted(key.clone()),
            false => TlsError::NoKey(key.clone()),
        })?;
        CertifiedKey::from_der(chain, private, provider).map_err(|error| match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                TlsError::OtherKey(key, cert)
            }
            rustls::Error::InvalidCertificate(_) => TlsError::Unusable(cert, error),
            error => TlsError::Unusable(key, error),
        })
    }
}

impl TlsFile {
    fn read(&self) -> Result<Vec<u8>, TlsError> {
        let mut text = Vec::new();
        let read = fs::File::open(&self.path)
            .and_then(|file| file.take(MAX_FILE_BYTES).read_to_end(&mut text));
        read.map_err(|error| TlsError::Unreadable(self.clone(), error))?;
        Ok(text)
    }
}

/// The certificates of a file: at least one.
fn certificates(file: &TlsFile, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all = CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>();
    all.ok().filter(|all| !all.is_empty()).ok_or_else(|| TlsError::NoCertificate(file.clone()))
}

fn authorities(file: &TlsFile, text: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file, text)? {
        roots.add(certificate).map_err(|error| TlsError::Unusable(file.clone(), error))?;
    }
    Ok(roots)
}

/// A duration in the largest unit that it has.
fn rough(duration: Duration) -> String {
    const UNITS: [(u64, &str); 4] =
        [(86_400, "days"), (3_600, "hours"), (60, "minutes"), (1, "seconds")];
    let seconds = duration.as_secs();
    let (unit, name) =
        UNITS.into_iter().find(|(unit, _)| seconds >= *unit).unwrap_or((1, "seconds"));
    match seconds / unit {
        1 => format!("1 {}", name.trim_end_matches('s')),
        count => format!("{count} {name}"),
    }
}

#[cfg(test)]
mod tests;
