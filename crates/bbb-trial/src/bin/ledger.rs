//! The client of `bbb_trial::ledger` as a program.

use std::{io::Write as _, process::ExitCode};

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
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let (sums, good) = match Args::parse() {
        Args::Write { asked, amount } => (ledger::write(&asked, &amount).await?, true),
        Args::Verify { asked } => {
            let sums = ledger::verify(&asked).await?;
            (sums, sums.failures == 0)
        }
    };
    writeln!(std::io::stdout(), "{sums}")?;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
