//! The `buildbuildbuild` binary: a node of a remote build cluster, set up by flags alone.

use std::io::Write as _;
use std::process::ExitCode;

use buildbuildbuild::flags::{self, Invocation, Machine, Refusal, Settings, Tool};
use buildbuildbuild::greeting::greeting;

/// The command line is wrong; nothing was started.
const REFUSED: u8 = 2;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(refusal) => {
            eprintln!("buildbuildbuild: {refusal}");
            ExitCode::from(REFUSED)
        }
    }
}

fn run() -> Result<(), Refusal> {
    let machine = || Machine::of_host().map_err(|error| Refusal::Other(error.to_string()));
    let text = match flags::parse(std::env::args_os())? {
        Invocation::Print(text) => text,
        Invocation::Tool(Tool::Sockaddr { template }) => {
            let text = bbb_sockaddr::evaluate(&template, &machine()?.interfaces);
            text.map_err(|error| Refusal::Other(format!("sockaddr: {error}")))? + "\n"
        }
        Invocation::Node(flags) => {
            let settings = Settings::resolve(&flags, &machine()?)?;
            let greeting = greeting(&settings, settings.listen);
            let lines = greeting.lines.into_iter().chain(greeting.warnings);
            lines.map(|line| line + "\n").collect()
        }
    };
    // Who closes our output has read enough.
    let _closed = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}
