//! The `buildbuildbuild` binary: a node of a remote build cluster, set up by flags alone.

use std::{
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
};

use anyhow::Context as _;
use buildbuildbuild::{
    flags::{self, Invocation, LogFormat, Machine, Refusal, Settings, Tool},
    follow, node,
};
use tokio::runtime;
use tracing_subscriber::EnvFilter;

/// The command line is wrong; nothing was started.
const REFUSED: u8 = 2;

fn main() -> ExitCode {
    // Before anything else, above all before there is a second thread: the launcher is this binary too.
    bbb_sandbox::launcher::main_if_launcher();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // `{:#}` puts the whole chain of causes into one line.
            eprintln!("buildbuildbuild: {error:#}");
            ExitCode::from(if error.is::<Refusal>() { REFUSED } else { 1 })
        }
    }
}

fn run() -> anyhow::Result<()> {
    let machine = || Machine::of_host().map_err(|error| Refusal::Other(error.to_string()));
    match flags::parse(std::env::args_os())? {
        Invocation::Print(text) => print(&text),
        Invocation::Tool(Tool::Sockaddr { template }) => {
            let text = bbb_sockaddr::evaluate(&template, &machine()?.interfaces);
            print(&(text.map_err(|error| Refusal::Other(format!("sockaddr: {error}")))? + "\n"));
        }
        Invocation::Tool(Tool::Log { server, name }) => {
            block_on(async { follow::follow(&server, &name, &mut io::stdout()).await })?;
        }
        Invocation::Tool(Tool::Bench(args)) => block_on(bbb_bench::run(*args))?,
        Invocation::Node(flags) => {
            let settings = Settings::resolve(&flags, &machine()?)?;
            start_log(&settings)?;
            block_on(node::run(settings))?;
        }
    }
    Ok(())
}

fn print(text: &str) {
    // Who closes our output has read enough.
    let _closed = io::stdout().write_all(text.as_bytes());
}

fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let mut builder = runtime::Builder::new_multi_thread();
    let runtime = builder.enable_all().build().context("cannot start the runtime")?;
    let done = runtime.block_on(work);
    // What did not stop in its time is not waited for.
    runtime.shutdown_background();
    done
}

/// Logs go to standard error, so that what a node prints for people stays apart.
fn start_log(settings: &Settings) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&settings.log_filter).context("--loglevel")?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    match settings.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}
