//! What an action takes of a worker beside a slot: its platform properties `cpus` and `memory`.

use bbb_reapi::{
    Invalid, Properties,
    decimal::{self, Scaled},
};
use bbb_scheduler::{Demand, steering};

/// The most processors and the most memory that a demand can name; what is more is no number that was meant.
const MAX_MILLICPUS: u64 = 1_000_000_000;
const MAX_MEMORY_BYTES: u64 = 1 << 50;

/// The demand that is written in properties.
///
/// # Errors
/// If a value is not what such a property may have; it names the property.
pub(super) fn demand(properties: &Properties) -> Result<Demand, Invalid> {
    let value = |name, parse: fn(&str) -> Option<u64>, like: &str| match properties.get(name) {
        None => Ok(0),
        Some(text) => parse(text).ok_or_else(|| {
            let shown = &text[..text.floor_char_boundary(100)];
            Invalid::new(format!("platform.{name}"), format!("{shown:?} is none: use {like}"))
        }),
    };
    Ok(Demand {
        millicpus: value(steering::CPUS, millicpus, "a number like 2 or 0.5")?,
        memory_bytes: value(
            steering::MEMORY,
            bytes,
            "a size like 2GiB, 512M or a number of bytes",
        )?,
    })
}

fn millicpus(text: &str) -> Option<u64> {
    asked(decimal::scaled(text.trim(), 1000)?, MAX_MILLICPUS)
}

fn bytes(text: &str) -> Option<u64> {
    asked(decimal::bytes(text)?, MAX_MEMORY_BYTES)
}

/// Rounded up: what was asked for is there.
fn asked(scaled: Scaled, most: u64) -> Option<u64> {
    u64::try_from(scaled.ceil()).ok().filter(|asked| (1..=most).contains(asked))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Result<Demand, Invalid> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        demand(&pairs.iter().map(owned).collect())
    }

    #[test]
    fn demands_are_read() {
        assert_eq!(of(&[("OSFamily", "linux")]).unwrap(), Demand::default());
        for (text, millicpus) in [("2", 2000), ("0.5", 500), ("1.0001", 1001), (" 64 ", 64_000)] {
            assert_eq!(of(&[("cpus", text)]).unwrap().millicpus, millicpus, "{text}");
        }
        for (text, bytes) in [
            ("1048576", 1 << 20),
            ("512M", 512 << 20),
            ("2GiB", 2 << 30),
            ("1.5g", 3 << 29),
            ("3 MB", 3_000_000),
            ("0.5b", 1),
        ] {
            assert_eq!(of(&[("memory", text)]).unwrap().memory_bytes, bytes, "{text}");
        }
    }

    #[test]
    fn what_is_no_demand_is_refused_by_its_name() {
        let bad = [
            "",
            "0",
            "-1",
            "1.",
            ".5",
            "1e3",
            "two",
            "1,5",
            "99999999999999999999",
            "1.0000000001",
        ];
        for name in ["cpus", "memory"] {
            for text in bad {
                let refused = of(&[(name, text)]).unwrap_err();
                assert_eq!(refused.field, format!("platform.{name}"), "{text}");
            }
        }
        assert!(of(&[("cpus", "1G")]).is_err());
        assert!(of(&[("memory", "1Gi")]).is_err() && of(&[("memory", "M")]).is_err());
    }
}
