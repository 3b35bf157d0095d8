//! A histogram of durations: fixed memory, an error of at most 1/128, exact minimum and maximum.

use std::time::Duration;

/// Each power of two is cut into this many buckets of equal width.
const STEPS: u64 = 128;
const STEP_BITS: u32 = STEPS.trailing_zeros();
/// Buckets needed for every `u64`: one linear part, then one part for each further bit.
const BUCKETS: usize = (STEPS as usize) * (64 - STEP_BITS as usize + 1);

/// Counts of durations in nanoseconds, in buckets of logarithmic width.
#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0, max_ns: 0 }
    }
}

impl Histogram {
    /// Counts one duration.
    pub(crate) fn add(&mut self, duration: Duration) {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(ns)] += 1;
        self.total += 1;
        self.max_ns = self.max_ns.max(ns);
    }

    /// Takes in what another histogram has counted.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.total += other.total;
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    /// How many durations were counted.
    pub(crate) fn count(&self) -> u64 {
        self.total
    }

    /// The duration in milliseconds that a share of `quantile` (0 to 1) does not exceed; `None` of nothing.
    pub(crate) fn quantile_ms(&self, quantile: f64) -> Option<f64> {
        if self.total == 0 {
            return None;
        }
        // The product may be a little above the whole number that it should be.
        let exact = quantile * self.total as f64;
        let rank = ((exact * (1.0 - 1e-12)).ceil() as u64).clamp(1, self.total);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Some(highest(index).min(self.max_ns) as f64 / 1e6);
            }
        }
        Some(self.max_ns as f64 / 1e6)
    }
}

/// The bucket of a value.
fn bucket(ns: u64) -> usize {
    if ns < STEPS {
        return ns as usize;
    }
    let shift = ns.ilog2() - STEP_BITS;
    (u64::from(shift + 1) * STEPS + ((ns >> shift) - STEPS)) as usize
}

/// The highest value of a bucket.
fn highest(bucket: usize) -> u64 {
    let (part, step) = (bucket as u64 / STEPS, bucket as u64 % STEPS);
    match part {
        0 => step,
        part => {
            let shift = (part - 1) as u32;
            ((STEPS + step) << shift) + ((1u64 << shift) - 1)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_value_lies_in_its_bucket(ns in any::<u64>()) {
            let index = bucket(ns);
            prop_assert!(index < BUCKETS);
            prop_assert!(ns <= highest(index));
            prop_assert!(index == 0 || ns > highest(index - 1));
            prop_assert!((highest(index) - ns) as f64 <= ns as f64 / 127.0);
        }

        #[test]
        fn quantiles_are_within_a_hundredth_of_the_truth(
            mut values in prop::collection::vec(1u64..10_000_000_000, 1..300),
            percent in 1usize..=100,
        ) {
            let mut histogram = Histogram::default();
            for ns in &values {
                histogram.add(Duration::from_nanos(*ns));
            }
            values.sort_unstable();
            let rank = (percent * values.len()).div_ceil(100).max(1);
            let truth = values[rank - 1] as f64 / 1e6;
            let found = histogram.quantile_ms(percent as f64 / 100.0).unwrap();
            prop_assert!((found - truth).abs() <= truth * 0.01, "{found} {truth}");
        }
    }

    #[test]
    fn merging_is_adding() {
        let (mut one, mut two) = (Histogram::default(), Histogram::default());
        one.add(Duration::from_millis(1));
        two.add(Duration::from_millis(100));
        one.merge(&two);
        assert_eq!(one.count(), 2);
        assert_eq!(one.quantile_ms(1.0), Some(100.0));
        assert_eq!(Histogram::default().quantile_ms(0.5), None);
    }
}
