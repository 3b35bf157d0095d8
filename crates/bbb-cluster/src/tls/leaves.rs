//! The certificate of this node: made in memory, and anew when half of its life is over.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::{
    SignatureScheme,
    client::ResolvesClientCert,
    crypto::CryptoProvider,
    pki_types::PrivatePkcs8KeyDer,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
    time_provider::TimeProvider,
};

use super::{NODE_NAME, TlsError, authority::Authority};

/// How long a certificate is valid. Its key never leaves the process, so this bounds little more than how long a
/// stolen one is of use.
pub(super) const LIFE: Duration = Duration::from_hours(24);

/// For nodes whose clocks are behind.
pub(super) const BACKDATED: Duration = Duration::from_mins(5);

/// The last second that a certificate can name (RFC 5280, section 4.1.2.5): 9999-12-31.
const LAST_SECOND: u64 = 253_402_300_799;

/// The certificates of this node, one after the other; one at a time.
pub(super) struct Leaves {
    issuer: Issuer<'static, KeyPair>,
    clock: Arc<dyn TimeProvider>,
    provider: Arc<CryptoProvider>,
    leaf: Mutex<Leaf>,
}

struct Leaf {
    made_secs: u64,
    key: Arc<CertifiedKey>,
}

impl Leaf {
    /// Whether others take it for some time, also if our clock was changed since.
    fn is_fresh(&self, now_secs: u64) -> bool {
        let from = self.made_secs.saturating_sub(BACKDATED.as_secs());
        let until = self.made_secs + LIFE.as_secs() / 2;
        (from..until).contains(&now_secs)
    }
}

impl Leaves {
    pub(super) fn new(
        authority: Authority,
        clock: Arc<dyn TimeProvider>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, TlsError> {
        let issuer = authority.issuer;
        let now = clock.current_time().ok_or(rustls::Error::FailedToGetCurrentTime)?;
        let leaf = Mutex::new(make(&issuer, &provider, now.as_secs())?);
        Ok(Self { issuer, clock, provider, leaf })
    }

    /// The certificate of now. To make one takes well under a millisecond, twice a day, and whoever comes meanwhile
    /// waits for it.
    fn current(&self) -> Arc<CertifiedKey> {
        let mut leaf = self.leaf.lock().unwrap_or_else(PoisonError::into_inner);
        let now_secs = self.clock.current_time().map(|now| now.as_secs());
        if let Some(now_secs) = now_secs.filter(|now| !leaf.is_fresh(*now)) {
            match make(&self.issuer, &self.provider, now_secs) {
                Ok(made) => *leaf = made,
                // It may be good for half a day yet; if not, the others say so.
                Err(error) => tracing::warn!(%error, "certificate of this node is not renewed"),
            }
        }
        Arc::clone(&leaf.key)
    }
}

/// A new key and its certificate.
fn make(
    issuer: &Issuer<'static, KeyPair>,
    provider: &CryptoProvider,
    now_secs: u64,
) -> Result<Leaf, TlsError> {
    // P-256: every provider of rustls signs with it, and fast.
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::new([NODE_NAME.to_owned()])?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "bbb node");
    let at = |secs: u64| date_time_ymd(1970, 1, 1) + Duration::from_secs(secs.min(LAST_SECOND));
    params.not_before = at(now_secs.saturating_sub(BACKDATED.as_secs()));
    params.not_after = at(now_secs.saturating_add(LIFE.as_secs()));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let certificate = params.signed_by(&key, issuer)?;
    let secret = PrivatePkcs8KeyDer::from(key.serialize_der());
    let key = CertifiedKey::from_der(vec![certificate.der().clone()], secret.into(), provider)?;
    Ok(Leaf { made_secs: now_secs, key: Arc::new(key) })
}

impl ResolvesServerCert for Leaves {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

impl ResolvesClientCert for Leaves {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl fmt::Debug for Leaves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaves").finish_non_exhaustive()
    }
}
