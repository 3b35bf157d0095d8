//! The front of `bbb_trial::front` as a program.

use std::{
    io::Write as _,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use bbb_lifecycle::{Signals, TaskGroup};
use bbb_trial::front::{Backend, Event, Front};
use clap::Parser;

/// How long connections may take to end.
const GRACE: Duration = Duration::from_secs(1);

/// Gives the clients of many nodes one address: each connection goes to a node that answers. Prints what it does, with the
/// seconds since its start.
#[derive(Parser, Debug)]
struct Args {
    /// The nodes, as `one=127.0.0.1:1234`.
    #[arg(required = true)]
    nodes: Vec<Backend>,
    /// Where to take connections; port 0 is any.
    #[arg(long, default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))]
    listen: SocketAddr,
    /// A node that does not answer for so long loses its connections.
    #[arg(long = "dead_after_ms", default_value_t = 1500)]
    dead_after_ms: u64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let (tasks, mut signals) = (TaskGroup::new("front"), Signals::listen()?);
    let began = Instant::now();
    let tell = move |event: Event| {
        // There is nobody left to tell that nobody listens.
        let _told = writeln!(std::io::stdout(), "{:8.2} {event}", began.elapsed().as_secs_f64());
    };
    let dead_after = Duration::from_millis(args.dead_after_ms);
    let front = Front::start(args.listen, args.nodes, dead_after, Arc::new(tell), &tasks).await?;
    writeln!(std::io::stdout(), "front listens on {}", front.address)?;
    let _signal = signals.next().await;
    let _left = tasks.shut_down(GRACE).await;
    Ok(())
}
