//! The proxy of `bbb_trial::proxy` as a program.

use std::{io::Write as _, time::Duration};

use bbb_lifecycle::{Signals, TaskGroup};
use bbb_trial::proxy::Proxy;
use clap::Parser;
use http::uri::Authority;

/// How long connections may take to end.
const GRACE: Duration = Duration::from_secs(1);

/// Stands between a node and an S3 server, on loopback, and makes the server as bad as it is told to over a second port.
#[derive(Parser, Debug)]
struct Args {
    /// The S3 server, as `127.0.0.1:3900`; it speaks HTTP.
    upstream: Authority,
    /// Where to speak S3; 0 is any port.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Where to be told what to do; 0 is any port.
    #[arg(long = "control_port", default_value_t = 0)]
    control_port: u16,
    /// Where chance comes from; by default another one each time.
    #[arg(long)]
    seed: Option<u64>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let seed = args.seed.unwrap_or_else(rand::random);
    let tasks = TaskGroup::new("s3-proxy");
    let mut signals = Signals::listen()?;
    let proxy = Proxy::start(args.upstream, args.port, args.control_port, seed, &tasks).await?;
    let (address, control) = (proxy.address, proxy.control);
    writeln!(
        std::io::stdout(),
        "s3-proxy listens on {address}, is told on {control}, seed {seed}"
    )?;
    let _signal = signals.next().await;
    let _left = tasks.shut_down(GRACE).await;
    Ok(())
}
