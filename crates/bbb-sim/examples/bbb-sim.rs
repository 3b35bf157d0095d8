//! Runs simulations, thousands if wanted, until one breaks a promise:
//!
//!     cargo run --release -p bbb-sim --example bbb-sim -- --seeds=0..1000
//!     cargo run --release -p bbb-sim --example bbb-sim -- --seed=17 --trace

use std::{process::ExitCode, str::FromStr, time::Instant};

use anyhow::Context as _;
use bbb_sim::{Verdict, simulate};
use clap::Parser;
use tracing_subscriber::EnvFilter;

/// Simulates clusters, one for each seed.
#[derive(Debug, Parser)]
struct Flags {
    /// The seeds, as FROM..TO without TO itself.
    #[arg(long, default_value = "0..100", conflicts_with = "seed")]
    seeds: Seeds,
    /// One seed alone.
    #[arg(long)]
    seed: Option<u64>,
    /// Prints all that happens.
    #[arg(long)]
    trace: bool,
    /// Prints what the nodes log, as far as this filter lets it through: such as `debug`.
    #[arg(long)]
    log: Option<EnvFilter>,
    /// Prints a line for each seed.
    #[arg(long)]
    list: bool,
    /// Goes on after a seed that failed.
    #[arg(long)]
    keep_going: bool,
}

#[derive(Clone, Copy, Debug)]
struct Seeds {
    from: u64,
    to: u64,
}

impl FromStr for Seeds {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (from, to) = text.split_once("..").context("is not FROM..TO")?;
        Ok(Self { from: from.parse()?, to: to.parse()? })
    }
}

fn main() -> anyhow::Result<ExitCode> {
    let flags = Flags::parse();
    let seeds = match flags.seed {
        Some(seed) => seed..seed + 1,
        None => flags.seeds.from..flags.seeds.to,
    };
    if let Some(filter) = flags.log {
        tracing_subscriber::fmt().with_env_filter(filter).without_time().with_ansi(false).init();
    }
    let (began, mut failed, mut count) = (Instant::now(), 0, 0);
    for seed in seeds {
        let verdict = run(seed, flags.trace)?;
        count += 1;
        show(&verdict, flags.list || flags.seed.is_some(), flags.trace);
        if !verdict.wrongs.is_empty() {
            failed += 1;
            if !flags.keep_going {
                break;
            }
        }
    }
    println!("{count} seeds, {failed} failed, {:.1} s", began.elapsed().as_secs_f64());
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run(seed: u64, prints: bool) -> anyhow::Result<Verdict> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    Ok(runtime.block_on(simulate(seed, prints)))
}

fn show(verdict: &Verdict, is_listed: bool, is_printed: bool) {
    let Verdict { seed, wrongs, hash, events, lasted, tally, .. } = verdict;
    if is_listed || !wrongs.is_empty() {
        let lasted = lasted.as_secs_f64();
        println!("seed {seed}: {events} events in {lasted:.1} s, hash {hash:016x}, {tally:?}");
    }
    if !wrongs.is_empty() {
        if !is_printed {
            verdict.last.iter().for_each(|event| println!("{event}"));
        }
        wrongs.iter().for_each(|wrong| println!("seed {seed} FAILED: {wrong}"));
    }
}
