//! The client of `bbb_trial::ledger` as a program.

use std::{io::Write as _, path::PathBuf, process::ExitCode};

use bbb_trial::ledger::{self, Amount, Asked};
use clap::Parser;

/// Writes down what a node acknowledged, and holds any node on the same bucket to it. Ends with a line of sums.
#[derive(Parser, Debug)]
enum Args {
    /// Store blobs and results, and write down what was acknowledged.
    Write {
        #[command(flatten)]
        asked: Asked,
        #[command(flatten)]
        amount: Amount,
    },
    /// Ask for all that stands in the ledger; fails when anything is missing or wrong.
    Verify {
        #[command(flatten)]
        asked: Asked,
    },
    /// Read a listing of the bucket's keys; fails when a result of the ledger is there without all of its blobs.
    Audit {
        /// The file of what was acknowledged.
        #[arg(long)]
        ledger: PathBuf,
        /// The file of the keys, a line each.
        #[arg(long)]
        keys: PathBuf,
    },
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    // A node that is killed or full fails calls; that is for whoever reads the sums to judge.
    let may_fail = matches!(args, Args::Write { .. });
    let sums = match args {
        Args::Write { asked, amount } => ledger::write(&asked, &amount).await?,
        Args::Verify { asked } => ledger::verify(&asked).await?,
        Args::Audit { ledger, keys } => ledger::audit(&ledger, &keys)?,
    };
    writeln!(std::io::stdout(), "{sums}")?;
    Ok(if may_fail || sums.failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
