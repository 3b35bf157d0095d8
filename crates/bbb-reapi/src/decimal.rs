//! Decimal numbers and sizes as people write them: in platform properties, and by the same rules in flags. Exact, without
//! floating point.

/// How many decimal places count.
const MAX_PLACES: usize = 9;

/// With and without `i` and `B` these are powers of 1,024, with `B` alone of 1,000.
const SIZE_UNITS: [(&str, u64); 13] = [
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("k", 1 << 10),
    ("m", 1 << 20),
    ("g", 1 << 30),
    ("t", 1 << 40),
    ("b", 1),
];

/// A decimal number times a unit, to be rounded either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scaled {
    whole: u128,
    has_rest: bool,
}

impl Scaled {
    /// Rounded down.
    pub const fn floor(self) -> u128 {
        self.whole
    }

    /// Rounded up.
    pub const fn ceil(self) -> u128 {
        self.whole.saturating_add(self.has_rest as u128)
    }
}

/// A number like `2` or `0.5` times a unit; none if it is no such number, or too large.
pub fn scaled(number: &str, unit: u128) -> Option<Scaled> {
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(part) || part.len() > MAX_PLACES {
        return None;
    }
    let scale = 10_u128.checked_pow(u32::try_from(part.len()).ok()?)?;
    let whole = whole.parse::<u128>().ok()?.checked_mul(unit)?;
    let part = part.parse::<u128>().ok()?.checked_mul(unit)?;
    Some(Scaled { whole: whole.checked_add(part / scale)?, has_rest: part % scale != 0 })
}

/// Bytes: `8GiB`, `1.5G` (powers of 1,024), `500MB` (powers of 1,000), or a plain number, in any case.
pub fn bytes(text: &str) -> Option<Scaled> {
    let lower = text.trim().to_ascii_lowercase();
    let unit = SIZE_UNITS.iter().find(|(name, _)| lower.ends_with(name));
    let (number, unit) = match unit {
        Some((name, unit)) => (lower[..lower.len() - name.len()].trim_end(), *unit),
        None => (lower.as_str(), 1),
    };
    scaled(number, unit.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_either_way() {
        for (text, floor, ceil) in [("0.5b", 0, 1), ("1.5 K", 1536, 1536), ("0.0001kib", 0, 1)] {
            let scaled = bytes(text).unwrap();
            assert_eq!((scaled.floor(), scaled.ceil()), (floor, ceil), "{text}");
        }
        for bad in ["", "1.", ".5", "-1", "1.0000000001", "x", "1 2", "0x10"] {
            assert_eq!(scaled(bad, 1), None, "{bad}");
        }
    }
}
