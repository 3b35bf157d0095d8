//! The certificate authority of a key: the same bytes on every node, since all of it is derived or fixed.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ED25519, SerialNumber, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use crate::keys::RootKey;

/// What stands before the seed of an Ed25519 key in PKCS#8 (RFC 8410, section 7).
const PKCS8_HEAD: [u8; 16] =
    [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

/// What signs the certificates of nodes.
pub(super) struct Authority {
    pub(super) certificate: CertificateDer<'static>,
    pub(super) issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// The authority of a key.
    pub(super) fn derive(root: &RootKey) -> Result<Self, rcgen::Error> {
        let seed = root.derive::<32>(b"node TLS");
        let mut pkcs8 = Zeroizing::new(PKCS8_HEAD.to_vec());
        pkcs8.extend_from_slice(&*seed);
        let key = KeyPair::from_pkcs8_der_and_sign_algo(
            &PrivatePkcs8KeyDer::from(pkcs8.as_slice()),
            &PKCS_ED25519,
        )?;
        let mut params = CertificateParams::default();
        // Its key's id makes the authorities of two keys differ in name, too.
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, format!("bbb cluster authority {}", root.id));
        params.serial_number = Some(SerialNumber::from(1));
        // The key is the authority for as long as it is on the ring.
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(4000, 1, 1);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key)?.der().clone();
        Ok(Self { certificate, issuer: Issuer::new(params, key) })
    }
}
