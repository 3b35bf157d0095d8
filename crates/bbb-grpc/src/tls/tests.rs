//! Files that are right, wrong, and renewed.

use std::time::UNIX_EPOCH;

use super::*;

#[allow(dead_code, unreachable_pub, reason = "shared with the tests of the doors")]
#[path = "../../tests/doors/certificates.rs"]
mod certificates;

use certificates::Authority;

/// The second day of 2026.
fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_767_312_000)
}

fn files([cert, key, client_ca]: [PathBuf; 3]) -> TlsFiles {
    TlsFiles { cert, key, client_ca: Some(client_ca) }
}

fn told(files: &TlsFiles) -> String {
    match files.read().and_then(|texts| files.config(&texts, now())) {
        Ok(_) => "nothing is wrong".to_owned(),
        Err(error) => with_causes(&error),
    }
}

#[test]
fn what_is_wrong_names_the_flag_and_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("authority");
    let path = |name: &str| folder.path().join(name);
    let good = || files(authority.leaf().write(folder.path(), &authority));
    assert_eq!(told(&good()), "nothing is wrong");
    let encrypted =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let broken = "-----BEGIN CERTIFICATE-----\nMAAwAA==\n-----END CERTIFICATE-----\n";
    let leaf = authority.leaf();
    let both = leaf.key_pem() + &leaf.cert_pem();
    for (name, text, flag, what) in [
        ("cert.pem", "", "tls_cert", "has no certificate in it"),
        ("cert.pem", leaf.key_pem().as_str(), "tls_cert", "has no certificate in it"),
        ("cert.pem", broken, "tls_cert", "cannot be used: invalid peer certificate"),
        (
            "cert.pem",
            authority.leaf_until(2024).cert_pem().as_str(),
            "tls_cert",
            "its certificate expired 367 days ago",
        ),
        ("key.pem", "", "tls_key", "has no private key in it"),
        ("key.pem", leaf.cert_pem().as_str(), "tls_key", "has no private key in it"),
        ("key.pem", encrypted, "tls_key", "is encrypted; write it without a pass phrase"),
        (
            "key.pem",
            authority.leaf().key_pem().as_str(),
            "tls_key",
            "is not the key of the certificate in --tls_cert=",
        ),
        ("client_ca.pem", "", "tls_client_ca", "has no certificate in it"),
        ("client_ca.pem", broken, "tls_client_ca", "cannot be used"),
    ] {
        let files = good();
        fs::write(path(name), text).unwrap();
        let told = told(&files);
        let expected = format!("--{flag}={}: {what}", path(name).display());
        assert!(told.starts_with(&expected), "{told}\n  and not\n{expected}");
        assert_eq!(told.lines().count(), 1, "{told}");
    }
    let files = good();
    fs::remove_file(path("key.pem")).unwrap();
    let expected = format!("--tls_key={}: cannot be read: No such file", path("key.pem").display());
    assert!(told(&files).starts_with(&expected), "{}", told(&files));
    // One file for both is usual.
    fs::write(path("both.pem"), both).unwrap();
    let files = TlsFiles { cert: path("both.pem"), key: path("both.pem"), client_ca: None };
    assert_eq!(told(&files), "nothing is wrong");
}

#[test]
fn a_certificate_is_good_until_its_last_second() {
    let leaf = Authority::new("authority").leaf_until(2025);
    let der = CertificateDer::from_pem_slice(leaf.cert_pem().as_bytes()).unwrap();
    let end = UNIX_EPOCH + Duration::from_secs(1_767_139_200);
    assert_eq!(validity::expired_for(&der, end), None);
    let late = Duration::from_secs(1);
    assert_eq!(validity::expired_for(&der, end + late), Some(late));
}

#[test]
fn renewed_files_are_taken_and_bad_ones_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("authority");
    let tls = ClientTls::open(files(authority.leaf().write(folder.path(), &authority))).unwrap();
    let first = tls.config();
    assert_eq!(tls.check(now()).unwrap(), Checked::Same);
    assert!(Arc::ptr_eq(&tls.config(), &first));
    let renewed = authority.leaf();
    fs::write(&tls.files.cert, renewed.cert_pem()).unwrap();
    // The key is still the old one.
    assert!(matches!(tls.check(now()), Err(TlsError::OtherKey(..))));
    assert!(Arc::ptr_eq(&tls.config(), &first));
    fs::write(&tls.files.key, renewed.key_pem()).unwrap();
    assert_eq!(tls.check(now()).unwrap(), Checked::Renewed);
    assert!(!Arc::ptr_eq(&tls.config(), &first));
    let later = now() + Duration::from_secs(100 * 366 * 86_400);
    assert!(matches!(tls.check(later), Err(TlsError::Expired(..))));
}

#[test]
fn durations_are_rough() {
    for (seconds, expected) in
        [(0, "0 seconds"), (1, "1 second"), (7_199, "1 hour"), (200_000, "2 days")]
    {
        assert_eq!(rough(Duration::from_secs(seconds)), expected);
    }
}
