//! Sizes, durations, shares and booleans as they are written on a command line.

use std::time::Duration;

use bbb_reapi::decimal::{self, Scaled};

/// Go's: `1`, `t`, `true` and their opposites, in any case.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "t" | "true" => Some(true),
        "0" | "f" | "false" => Some(false),
        _ => None,
    }
}

/// Bytes: `8GiB`, `1.5G` (powers of 1,024), `500MB` (powers of 1,000), or a plain number.
pub(crate) fn parse_bytes(text: &str) -> Option<u64> {
    u64::try_from(decimal::bytes(text)?.floor()).ok()
}

/// A share in percent of `whole`, none where the text has no percent sign: `Some(None)` is a bad
/// share.
pub(crate) fn parse_share(text: &str, whole: u64) -> Option<Option<u64>> {
    let number = text.trim().strip_suffix('%')?.trim_end();
    let share = scaled(number, u128::from(whole)).map(|scaled| scaled / 100);
    Some(share.and_then(|share| u64::try_from(share).ok()).filter(|share| *share <= whole))
}

/// Go's durations, and days: `1h`, `1h30m`, `1.5h`, `300s`, `250ms`, `7d`, `0`.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, u64); 5] =
        [("ms", 1), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];
    let mut rest = text.trim();
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut total_ms = 0u64;
    loop {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, behind) = rest.split_at(digits);
        let (name, unit) = UNITS.iter().find(|(name, _)| behind.starts_with(name))?;
        let part = u64::try_from(scaled(number, u128::from(*unit))?).ok()?;
        total_ms = total_ms.checked_add(part)?;
        rest = &behind[name.len()..];
        if rest.is_empty() {
            return Some(Duration::from_millis(total_ms));
        }
    }
}

/// A decimal number times a unit, rounded down.
fn scaled(number: &str, unit: u128) -> Option<u128> {
    decimal::scaled(number, unit).map(Scaled::floor)
}

/// Bytes for people: `12.5 GiB`.
pub fn format_bytes(bytes: u64) -> String {
    let units = [("TiB", 1u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    for (name, unit) in units {
        if bytes >= unit {
            let tenths = u128::from(bytes) * 10 / u128::from(unit);
            return match tenths % 10 {
                0 => format!("{} {name}", tenths / 10),
                tenth => format!("{}.{tenth} {name}", tenths / 10),
            };
        }
    }
    format!("{bytes} bytes")
}

/// A duration as it is written on a command line: `30d`, `1h30m`, `0s`; what is below a second is left out.
pub fn format_duration(duration: Duration) -> String {
    let mut rest = duration.as_secs();
    let mut text = String::new();
    for (unit, seconds) in [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)] {
        if rest >= seconds {
            text += &format!("{}{unit}", rest / seconds);
            rest %= seconds;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}
