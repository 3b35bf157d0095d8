//! The flags of TLS for clients. What is in the files is for those to say who read them.

use std::path::PathBuf;

use super::{raw::Flags, refusal::Refusal};

/// TLS for clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFlags {
    /// The certificate and those between it and its authority, PEM.
    pub cert: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// The authorities whose certificates clients must have, PEM; none asks for no certificate.
    pub client_ca: Option<PathBuf>,
}

/// # Errors
/// When one is given without those that belong to it.
pub(super) fn resolve(flags: &Flags) -> Result<Option<TlsFlags>, Refusal> {
    let refuse = |what: &str| Err(Refusal::Contradiction(what.to_owned()));
    match (flags.tls_cert.as_deref(), flags.tls_key.as_deref(), flags.tls_client_ca.as_deref()) {
        (Some(cert), Some(key), client_ca) => Ok(Some(TlsFlags {
            cert: cert.into(),
            key: key.into(),
            client_ca: client_ca.map(PathBuf::from),
        })),
        (None, None, None) => Ok(None),
        (None, None, Some(_)) => {
            refuse("--tls_client_ca needs --tls_cert and --tls_key: give all three")
        }
        _ => refuse("--tls_cert and --tls_key belong together: give both or neither"),
    }
}
