//! When a certificate ends: the one field of X.509 (RFC 5280, section 4.1) that is read here, since the verifier tells it
//! to those alone who verify.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// How long ago the certificate has expired; none if it has not, or is no certificate.
pub(super) fn expired_for(certificate: &[u8], now: SystemTime) -> Option<Duration> {
    let end = UNIX_EPOCH + Duration::from_secs(not_after(certificate)?);
    now.duration_since(end).ok().filter(|age| !age.is_zero())
}

/// The last second in which it is valid, in Unix time.
fn not_after(certificate: &[u8]) -> Option<u64> {
    let (certificate, _) = element(certificate, SEQUENCE)?;
    let (mut fields, _) = element(certificate, SEQUENCE)?;
    if let Some((_, rest)) = element(fields, VERSION) {
        fields = rest;
    }
    // The serial number, the algorithm and the issuer come before it.
    for _ in 0..3 {
        (_, _, fields) = any_element(fields)?;
    }
    let (validity, _) = element(fields, SEQUENCE)?;
    let (_, _, not_after) = any_element(validity)?;
    let (tag, time, _) = any_element(not_after)?;
    match tag {
        UTC_TIME => {
            let (year, rest) = digits(time, 2)?;
            unix_time(if year < 50 { 2_000 + year } else { 1_900 + year }, rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = digits(time, 4)?;
            unix_time(year, rest)
        }
        _ => None,
    }
}

/// The content of the first element, which must have this tag, and what follows it (DER: X.690, section 8.1).
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    any_element(bytes).filter(|(found, ..)| *found == tag).map(|(_, content, rest)| (content, rest))
}

/// The tag and the content of the first element, and what follows it.
fn any_element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, len], rest) = bytes.split_first_chunk()?;
    let (len, rest) = match len {
        ..=0x7f => (usize::from(len), rest),
        0x81..=0x84 => {
            let (len, rest) = rest.split_at_checked(usize::from(len - 0x80))?;
            (len.iter().fold(0, |len, byte| len << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(len)?;
    Some((tag, content, rest))
}

/// A number of so many digits, and what follows it.
fn digits(text: &[u8], count: usize) -> Option<(u64, &[u8])> {
    let (digits, rest) = text.split_at_checked(count)?;
    let number = digits.iter().try_fold(0, |number, digit| {
        digit.is_ascii_digit().then(|| number * 10 + u64::from(digit - b'0'))
    });
    Some((number?, rest))
}

/// What follows a year is `MMDDHHMMSSZ`.
fn unix_time(year: u64, rest: &[u8]) -> Option<u64> {
    let (month, rest) = digits(rest, 2)?;
    let (day, rest) = digits(rest, 2)?;
    let (hour, rest) = digits(rest, 2)?;
    let (minute, rest) = digits(rest, 2)?;
    let (second, rest) = digits(rest, 2)?;
    let right =
        rest == b"Z" && (1..=12).contains(&month) && (1..=31).contains(&day) && year >= 1970;
    right.then(|| ((days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second)
}

/// The days from 1970-01-01 to a date, by the Gregorian calendar.
fn days(year: u64, month: u64, day: u64) -> u64 {
    // A year begins with March here, so that the day that comes every four years is its last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    const TO_1970: u64 = 719_468;
    let leaps = year / 4 - year / 100 + year / 400;
    year * 365 + leaps + (153 * month + 2) / 5 + day - 1 - TO_1970
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn dates_become_unix_time() {
        for (year, rest, expected) in [
            (1970, "0101000000Z", 0),
            (1999, "1231235959Z", 946_684_799),
            (2000, "0229120000Z", 951_825_600),
            (2024, "0301000000Z", 1_709_251_200),
            (2100, "0301000000Z", 4_107_542_400),
        ] {
            assert_eq!(unix_time(year, rest.as_bytes()), Some(expected), "{year}{rest}");
        }
        for bad in ["", "0101000000", "1301000000Z", "0100000000Z", "01010000xxZ"] {
            assert_eq!(unix_time(2000, bad.as_bytes()), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, changes: Vec<(prop::sample::Index, u8)>, end: prop::sample::Index) {
            not_after(&bytes);
            let mut certificate = CERTIFICATE.clone();
            for (at, byte) in changes {
                let at = at.index(certificate.len());
                certificate[at] = byte;
            }
            not_after(&certificate);
            not_after(&certificate[..end.index(certificate.len())]);
        }
    }

    static CERTIFICATE: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["a".to_owned()]).unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    });
}
