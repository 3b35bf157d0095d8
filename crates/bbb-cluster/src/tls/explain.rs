//! What a failed handshake between nodes means, and what to do.

use std::{error::Error, io};

use rustls::{AlertDescription, CertificateError, Error as Tls, pki_types::UnixTime};

/// One line about the other node.
pub(super) fn explain(error: &(dyn Error + 'static), we_are_open: bool) -> String {
    let Some(tls) = find(error) else { return chain(error) };
    match tls {
        Tls::InvalidCertificate(certificate) => explain_certificate(certificate, we_are_open),
        Tls::NoCertificatesPresented => {
            "shows no certificate: it is no node of this cluster".to_owned()
        }
        Tls::AlertReceived(alert) => explain_alert(*alert, we_are_open),
        Tls::NoApplicationProtocol => {
            "speaks no protocol of nodes that this node knows: run the same version on all"
                .to_owned()
        }
        Tls::PeerIncompatible(_) => format!("speaks no TLS 1.3 as nodes do ({tls})"),
        Tls::InvalidMessage(_) => format!("does not speak TLS: is it a node's port? ({tls})"),
        _ => chain(error),
    }
}

/// The certificate of the other node is not taken.
fn explain_certificate(error: &CertificateError, we_are_open: bool) -> String {
    let apart = |a: UnixTime, b: UnixTime| a.as_secs().abs_diff(b.as_secs());
    match error {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => other_key(we_are_open),
        CertificateError::ExpiredContext { time, not_after } => format!(
            "shows a certificate that expired {} s ago: set the clocks of both machines",
            apart(*time, *not_after)
        ),
        CertificateError::NotValidYetContext { time, not_before } => format!(
            "shows a certificate that is valid in {} s only: set the clocks of both machines",
            apart(*time, *not_before)
        ),
        CertificateError::Expired | CertificateError::NotValidYet => {
            "shows a certificate that is not valid now: set the clocks of both machines".to_owned()
        }
        other => format!("shows a certificate that is not one of a node ({other})"),
    }
}

/// The other node does not take ours, or something else of this node.
fn explain_alert(alert: AlertDescription, we_are_open: bool) -> String {
    match alert {
        AlertDescription::UnknownCA
        | AlertDescription::DecryptError
        | AlertDescription::BadCertificate => other_key(we_are_open),
        AlertDescription::CertificateExpired => {
            "takes this node's certificate for expired or for not yet valid: set the clocks of both machines"
                .to_owned()
        }
        AlertDescription::NoApplicationProtocol => {
            "does not know this node's protocol: run the same version on all nodes".to_owned()
        }
        other => format!("broke off the handshake ({other:?})"),
    }
}

fn other_key(we_are_open: bool) -> String {
    if we_are_open {
        "has a --secret_key or another --cluster_name, and this node has no key: give both the same"
            .to_owned()
    } else {
        "has another --secret_key or --cluster_name, or no key: give both nodes the same".to_owned()
    }
}

/// The error of TLS among the causes of another.
fn find<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Tls> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref() {
            return Some(tls);
        }
        // The cause that an error of io is made of is not its source, but the source's consequence.
        let within = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = within.map(|error| error as _).or_else(|| error.source());
    }
    None
}

/// An error and its causes in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
