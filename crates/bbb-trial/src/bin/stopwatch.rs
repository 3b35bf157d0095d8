//! The client of `bbb_trial::stopwatch` as a program.

use std::{fs, io::Write as _, path::PathBuf, process::ExitCode, str::FromStr};

use anyhow::Context as _;
use bbb_trial::stopwatch::{self, Amount, Asked, Fault, Note, Words};
use clap::Parser;

/// Runs actions of known length, and measures what each took beyond it.
#[derive(Parser, Debug)]
enum Args {
    /// Keep actions under way; a line for each, then one of sums.
    Load {
        #[command(flatten)]
        asked: Asked,
        #[command(flatten)]
        amount: Amount,
    },
    /// Say what faults cost.
    Cost {
        /// The lines that a load printed.
        #[arg(long)]
        notes: PathBuf,
        /// A line for each fault: milliseconds since 1970, a space, what it was.
        #[arg(long)]
        faults: PathBuf,
        /// How long the actions slept.
        #[arg(long = "length_ms")]
        length_ms: u64,
    },
    /// Execute an action, and print its operation's name once a worker has it.
    Start {
        #[command(flatten)]
        asked: Asked,
    },
    /// Run a command, and print how it ended and what it used.
    Run(Words),
    /// Wait for an operation's end.
    Wait(Named),
    /// Cancel an operation.
    Cancel(Named),
    /// Print where an operation stands.
    Stage(Named),
}

#[derive(clap::Args, Debug)]
struct Named {
    /// A node, as grpc://127.0.0.1:1234.
    #[arg(long)]
    server: String,
    /// The operation's name.
    #[arg(long)]
    name: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let said = match Args::parse() {
        Args::Load { asked, amount } => {
            let (ran, failed) = stopwatch::load(&asked, &amount).await?;
            writeln!(std::io::stdout(), "actions={ran} failures={failed}")?;
            return Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Args::Cost { notes, faults, length_ms } => {
            let notes: Vec<Note> = lines(&notes, "action=")?;
            let costs = stopwatch::costs(&notes, &lines::<Fault>(&faults, "")?, length_ms);
            costs.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        }
        Args::Start { asked } => stopwatch::start(&asked).await?.to_string(),
        Args::Run(words) => stopwatch::run(&words).await?,
        Args::Wait(named) => stopwatch::wait(&named.server, &named.name).await?,
        Args::Cancel(named) => {
            stopwatch::cancel(&named.server, &named.name).await?;
            return Ok(ExitCode::SUCCESS);
        }
        Args::Stage(named) => stopwatch::stage(&named.server, &named.name).await?,
    };
    writeln!(std::io::stdout(), "{said}")?;
    Ok(ExitCode::SUCCESS)
}

/// The lines of a file that begin so.
fn lines<T: FromStr<Err = anyhow::Error>>(file: &PathBuf, begin: &str) -> anyhow::Result<Vec<T>> {
    let text =
        fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    text.lines().filter(|line| line.starts_with(begin)).map(str::parse).collect()
}
