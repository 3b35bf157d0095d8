//! Some seeds in each run: those that once failed, and some that nobody has seen. `BBB_SIM_SEEDS` says how many of these.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::time::{SystemTime, UNIX_EPOCH};

use bbb_sim::{Verdict, simulate};

/// How many fresh seeds, unless it is said otherwise.
const FRESH: u64 = 4;

fn run(seed: u64) -> Verdict {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(simulate(seed, false))
}

fn passes(seed: u64) -> Verdict {
    let verdict = run(seed);
    let (wrongs, last) = (verdict.wrongs.join("\n"), verdict.last.join("\n"));
    assert!(verdict.wrongs.is_empty(), "{last}\nseed {seed}: {wrongs}");
    verdict
}

#[test]
fn the_same_seed_does_the_same() {
    for seed in 0..3 {
        let (first, second) = (run(seed), run(seed));
        let differs = first.last.iter().zip(&second.last).find(|(one, other)| one != other);
        assert_eq!(first.hash, second.hash, "seed {seed}, at {differs:?}");
        assert_eq!(first, second, "seed {seed}");
        assert!(first.events > 50, "seed {seed} does nothing");
    }
}

#[test]
fn different_seeds_differ() {
    assert_ne!(run(1).hash, run(2).hash);
}

#[test]
fn what_is_promised_is_kept() {
    let mut decided = 0;
    for seed in 0..8 {
        decided += passes(seed).tally.decided;
    }
    assert!(decided > 50, "only {decided} operations were decided");
}

#[test]
fn what_is_promised_is_kept_whatever_the_seed() {
    let count = std::env::var("BBB_SIM_SEEDS").ok().and_then(|count| count.parse().ok());
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    // Large ones, so that nobody takes them for one of the fixed ones.
    let from = since.as_millis() as u64;
    for seed in from..from + count.unwrap_or(FRESH) {
        passes(seed);
    }
}
